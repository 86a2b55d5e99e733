"""The machine's helper threads: they wait for work in native code, without Python's lock, for a while.

A launch of a tenth of a millisecond cannot pay for a thread that must first be woken and then wait for
Python. So a helper that has nothing to do looks for work a moment longer, and only then sleeps. It has a
mailbox: a word that tells its state, and what to run.

    IDLE      it looks for work
    ASLEEP    it waits in Python until it is woken
    CLAIMED   a launch is writing what to run
    context   a launch has posted work; the address of its context tells which
    context+1 the helper is at it
"""

import contextlib
import ctypes
import os
import queue
import threading
from functools import cache
from typing import Any

import numpy as np

from nnkit.vm.build import store
from nnkit.vm.build.compile import host, is_x86, object_code, target_machine
from nnkit.vm.build.native import load_native
from nnkit.vm.text.template import fill

IDLE, ASLEEP, CLAIMED = 0, 1, 2

BUSY, TAKEN, WAKE = 0, 1, 2
"""What posting comes to: not done, done, done but the helper must be woken."""

PATIENCE = 2500
"""Looks at the mailbox before sleeping: some 50 to 100 microseconds."""

_MAILBOX_WORDS = 8
"""State, run, context, worker; a cache line of its own."""

_CODE = """
$declared

; Runs what is posted, until nothing has come for a while.
define void @serve(ptr %box, i64 %patience) {
entry:
  br label %look
look:
  %left = phi i64 [ %patience, %entry ], [ %patience, %done ], [ %less, %idle ], [ %patience, %sleep ]
  %state = load atomic i64, ptr %box acquire, align 8
  %posted = icmp ugt i64 %state, $claimed
  br i1 %posted, label %take, label %idle
take:
  %running = or i64 %state, 1
  %taking = cmpxchg ptr %box, i64 %state, i64 %running acq_rel acquire
  %taken = extractvalue { i64, i1 } %taking, 1
  br i1 %taken, label %work, label %idle
work:
  %run = load ptr, ptr %box[1]
  %context = load ptr, ptr %box[2]
  %worker = load ptr, ptr %box[3]
  %failed = call i32 %run(ptr %context, ptr %worker)
  br label %done
done:
  store atomic i64 $idle, ptr %box release, align 8
  br label %look
idle:
  $pause
  %less = sub i64 %left, 1
  %awake = icmp sgt i64 %less, 0
  br i1 %awake, label %look, label %sleep
sleep:
  %sleeping = cmpxchg ptr %box, i64 $idle, i64 $asleep acq_rel acquire
  %asleep = extractvalue { i64, i1 } %sleeping, 1
  br i1 %asleep, label %leave, label %look
leave:
  ret void
}

; Gives a helper work if it has none; one that sleeps only if `wakes`.
define i64 @post(ptr %box, ptr %run, i64 %context, ptr %worker, i64 %wakes) {
entry:
  %first = cmpxchg ptr %box, i64 $idle, i64 $claimed acq_rel acquire
  %idle = extractvalue { i64, i1 } %first, 1
  br i1 %idle, label %write, label %other
other:
  %may = icmp ne i64 %wakes, 0
  br i1 %may, label %wake, label %busy
wake:
  %second = cmpxchg ptr %box, i64 $asleep, i64 $claimed acq_rel acquire
  %asleep = extractvalue { i64, i1 } %second, 1
  br i1 %asleep, label %write, label %busy
write:
  %result = phi i64 [ $taken, %entry ], [ $wake, %wake ]
  store ptr %run, ptr %box[1]
  store i64 %context, ptr %box[2]
  store ptr %worker, ptr %box[3]
  store atomic i64 %context, ptr %box release, align 8
  ret i64 %result
busy:
  ret i64 $busy
}

; Takes work back that was not begun, or waits a while for its end; 1 when the helper has none of it any more.
define i64 @recall(ptr %box, i64 %context, i64 %patience) {
entry:
  %taking = cmpxchg ptr %box, i64 %context, i64 $idle acq_rel acquire
  %unbegun = extractvalue { i64, i1 } %taking, 1
  %running = or i64 %context, 1
  br i1 %unbegun, label %free, label %look
look:
  %left = phi i64 [ %patience, %entry ], [ %less, %wait ]
  %state = load atomic i64, ptr %box acquire, align 8
  %at.it = icmp eq i64 %state, %running
  br i1 %at.it, label %wait, label %free
wait:
  $pause
  %less = sub i64 %left, 1
  %patient = icmp sgt i64 %less, 0
  br i1 %patient, label %look, label %tired
tired:
  ret i64 0
free:
  ret i64 1
}
"""


class Team:
    """Helper threads, started when they are first wanted, of one machine."""

    def __init__(self) -> None:
        self._helpers: list[Helper] = []

    def helpers(self, wanted: int) -> "list[Helper]":
        """That many; fewer if the system has no more threads."""
        with contextlib.suppress(RuntimeError):
            while len(self._helpers) < wanted:
                self._helpers.append(Helper(len(self._helpers)))
        return self._helpers[:wanted]

    def close(self) -> None:
        """Let the threads end; a second call does nothing."""
        for helper in self._helpers:
            helper.end()
        self._helpers = []


class Helper:
    """One thread and its mailbox."""

    def __init__(self, number: int) -> None:
        words = np.zeros(2 * _MAILBOX_WORDS, np.int64)
        # On a cache line of its own, so that nobody else's writes disturb the one who looks.
        first = -words.ctypes.data % 64 // 8
        self._box = words[first : first + _MAILBOX_WORDS]
        self._address = self._box.ctypes.data
        self._bell: queue.SimpleQueue[bool] = queue.SimpleQueue()
        self._serve, self._post, self._recall = _functions()
        self._cores = self._allowed = _allowed_cores()
        self._thread = threading.Thread(target=self._live, daemon=True, name=f"nnkit-worker-{number}")
        self._thread.start()

    def post(self, run: int, context: int, worker: int, wakes: bool) -> bool:
        """Have it call run(context, worker); False if it is busy, or asleep and not to be woken."""
        found: int = self._post(self._address, run, context, worker, wakes)
        if found == WAKE:
            self._keep_off(_current_core())
            self._bell.put(True)
        return found != BUSY

    def _keep_off(self, core: int) -> None:
        """Not on the core of the thread that wakes it.

        Systems like to put a thread there, or even to pack all on few cores; it would wait for the launch to
        end that wants its help.
        """
        if core in self._cores and len(self._allowed) > 1:
            self._cores = self._allowed - {core}
            with contextlib.suppress(OSError):
                os.sched_setaffinity(self._thread.native_id or 0, self._cores)

    def recall(self, context: int) -> bool:
        """Take back what it has not begun; whether it is through with the work of that context."""
        return bool(self._recall(self._address, context, PATIENCE))

    def end(self) -> None:
        """Let the thread end when it has nothing to do."""
        self._bell.put(False)

    def _live(self) -> None:
        going = True
        while going:
            self._serve(self._address, PATIENCE)
            going = self._bell.get()


def _allowed_cores() -> frozenset[int]:
    """Where this thread may run; empty where the system does not tell."""
    return frozenset(os.sched_getaffinity(0)) if hasattr(os, "sched_setaffinity") else frozenset()


def _current_core() -> int:
    """Where this thread runs at the moment; asked of the C library, as Python has no name for it."""
    return int(_LIBC.sched_getcpu()) if hasattr(_LIBC, "sched_getcpu") else -1


_LIBC = ctypes.CDLL(None)


@cache
def _functions() -> tuple[Any, ...]:
    """serve, post and recall, as functions that Python can call."""
    library, *addresses = load_native(_native_code(), ("serve", "post", "recall"))
    word, pointer = ctypes.c_int64, ctypes.c_void_p
    kinds = (
        ctypes.CFUNCTYPE(None, pointer, word),
        ctypes.CFUNCTYPE(word, pointer, pointer, word, pointer, word),
        ctypes.CFUNCTYPE(word, pointer, word, word),
    )
    _LIBRARIES.append(library)
    return tuple(kind(address) for kind, address in zip(kinds, addresses, strict=True))


_LIBRARIES: list[object] = []
"""Keeps the code loaded."""


def _native_code() -> bytes:
    from llvmlite import __version__

    key = store.key("team", *host(), __version__)
    found = store.store.get(key)
    if found is None:
        pause = "call void @llvm.x86.sse2.pause()" if is_x86() else ""
        declared = "declare void @llvm.x86.sse2.pause()" if is_x86() else ""
        states = {"idle": IDLE, "asleep": ASLEEP, "claimed": CLAIMED}
        results = {"busy": BUSY, "taken": TAKEN, "wake": WAKE}
        text = fill(_CODE, pause=pause, declared=declared, **states, **results)
        found = object_code(text, target_machine())
        store.store.put(key, found)
    return found
