"""LLVM in a process of its own, where it takes long: a call cannot be left, but a process can be ended.

A thread could be left, but not stopped: it would go on behind the program's back and hold LLVM's lock. What
takes less than a few seconds is compiled in this process.
"""

import os
import signal
import subprocess
import sys

from nnkit.ptx.ir import PtxError

WELL_SECONDS = 20
"""Processor time after which code that was to be made well is made quickly instead."""

_CHILD = """
import resource, sys
from nnkit.vm.build.compile import machine_for, object_code, quick_code
seconds, name, features = sys.argv[1:]
text = sys.stdin.buffer.read().decode()
if seconds != "0":
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_CPU, (int(seconds), int(seconds) + 5))
make, level = (quick_code, 0) if seconds == "0" else (object_code, 1)
sys.stdout.buffer.write(make(text, machine_for(name, features, level)))
"""


def object_code(text: str, well: bool, name: str, features: str) -> bytes:
    """LLVM IR as an object file for a processor, made well, or quickly where that takes too long.

    Raises PtxError where LLVM gives up. Whatever is raised meanwhile, such as KeyboardInterrupt, ends the
    process.
    """
    status, code, said = _run(text, WELL_SECONDS if well else 0, name, features)
    if status == -signal.SIGXCPU:
        status, code, said = _run(text, 0, name, features)
    if status:
        words = (said.decode(errors="replace").strip().splitlines() or ["no reason given"])[-1]
        raise PtxError(f"LLVM cannot compile the kernel (status {status}): {words}")
    return code


def _run(text: str, seconds: int, name: str, features: str) -> tuple[int, bytes, bytes]:
    """Status, object code and messages of the process; 0 seconds say that code is made quickly."""
    try:
        child = subprocess.Popen(
            [sys.executable, "-c", _CHILD, str(seconds), name, features],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
            # Ctrl-C in a terminal goes to a whole group: here it is this process that decides.
            process_group=0,
        )
    except OSError as error:
        where = sys.executable or "Python's executable"
        raise PtxError(f"LLVM's process cannot be started: {where}: {error.strerror}") from error
    with child:
        try:
            code, said = child.communicate(text.encode())
        except BaseException:
            child.kill()
            child.wait()
            raise
    return child.returncode, code, said
