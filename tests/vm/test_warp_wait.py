"""`__syncwarp` in divergent code: who waits goes on when the others have come to any, or left."""

import os
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import numpy as np
import pytest

from nnkit.device.virtual import VirtualDevice
from nnkit.errors import KernelError
from tests.support.sources import line_of, report

MOST = 6
"""Barriers of a random program: the code grows with their square."""

PROGRAMS = int(os.environ.get("NNKIT_WARP_PROGRAMS", "12"))

SOURCE = r"""
#define K(name) extern "C" __global__ void name(const int* in, int* out)
#define HEAD __shared__ int s[64]; int t = threadIdx.x; s[t] = in[t]; __syncthreads();
K(ladder) {
    HEAD
    if (t < 16) { s[t] += s[t + 16]; __syncwarp(); }
    if (t < 8) { s[t] += s[t + 8]; __syncwarp(); }
    if (t < 4) { s[t] += s[t + 4]; __syncwarp(); }
    if (t < 2) { s[t] += s[t + 2]; __syncwarp(); }
    if (t == 0) *out = s[0] + s[1];
}
K(loop) {
    HEAD
    #pragma unroll 1
    for (int d = 16; d; d /= 2)
        if (t < d) { s[t] += s[t + d]; __syncwarp(); }
    if (t == 0) *out = s[0];
}
K(both_sides) {
    // Each side tells the other something.
    __shared__ int s[64];
    int t = threadIdx.x;
    if (t & 1) { s[t] = in[t]; __syncwarp(); out[t] = s[t - 1]; }
    else { s[t] = 2 * in[t]; __syncwarp(); out[t] = s[t + 1]; }
}
K(to_and_fro) {
    HEAD
    int v = s[t];
    #pragma unroll 1
    for (int i = 0; i < 5; ++i) {
        if (t & 1) { __syncwarp(); v = s[t - 1] + i; __syncwarp(); s[t] = v; }
        else { __syncwarp(); v = 2 * s[t + 1]; __syncwarp(); s[t] = v; }
    }
    out[t] = v;
}
K(halves) {
    // Each half waits for itself alone, though the other never comes.
    HEAD
    if (t % 32 < 16) { s[t] += 1; __syncwarp(0x0000FFFF); out[t] = s[t ^ 15]; __syncthreads(); }
    else { s[t] += 2; __syncwarp(0xFFFF0000); out[t] = s[t ^ 15]; __syncthreads(); }
}
K(stuck) {
    int t = threadIdx.x;
    if (t % 32 < 30) __syncwarp(); // stuck
    __syncthreads();
    out[t] = 1;
}
K(stuck_later) {
    int t = threadIdx.x;
    if (t % 32 < 30) __syncwarp(); // stuck_later
    out[t] += in[t];
    if (t % 2) out[t] += in[t];
    __syncthreads();
    out[t] = 1;
}
"""


@pytest.fixture(scope="module")
def device() -> Iterator[VirtualDevice]:
    device = VirtualDevice(threads=1)
    yield device
    device.close()


def to_and_fro(x: list[int]) -> list[int]:
    for i in range(5):
        x = [x[t - 1] + i if t & 1 else 2 * x[t + 1] for t in range(len(x))]
    return x


WANTED: dict[str, Callable[[list[int]], list[int]]] = {
    "ladder": lambda x: [sum(x[:32])],
    "loop": lambda x: [sum(x[:32])],
    "both_sides": lambda x: [2 * x[t - 1] if t & 1 else x[t + 1] for t in range(len(x))],
    "to_and_fro": to_and_fro,
}


@pytest.mark.parametrize("name", WANTED)
@pytest.mark.parametrize("block", [32, 64])
def test_all_come_together_or_leave(device: VirtualDevice, name: str, block: int) -> None:
    x = np.random.default_rng(block).integers(-50, 50, 64).astype(np.int32)
    out = device.zeros((64,), np.int32)
    device.compile(SOURCE, name="wait.cu")[name].launch(1, block, (device.upload(x), out))
    wanted = WANTED[name](x[:block].tolist())
    if name in ("ladder", "loop") and block == 64:
        # The second warp goes past; nobody waits for it.
        wanted = WANTED[name](x[:32].tolist())
    assert out.host[: len(wanted)].tolist() == wanted


@pytest.mark.parametrize("name", ["stuck", "stuck_later"])
def test_members_that_wait_for_the_whole_block(device: VirtualDevice, name: str) -> None:
    """Negative control: nobody can go on, so it is told."""
    given = device.zeros((64,), np.int32)
    with pytest.raises(KernelError) as caught:
        device.compile(SOURCE, name="wait.cu")[name].launch(1, 64, (given, given))
    assert "names threads that are not here" in str(caught.value)
    assert report(caught.value).line == line_of(SOURCE, name)


def test_a_mask_of_those_who_come(device: VirtualDevice) -> None:
    x, out = np.arange(32, dtype=np.int32), device.zeros((32,), np.int32)
    kernel = device.compile(SOURCE.replace("__syncthreads(); }", "}"), name="wait.cu")["halves"]
    kernel.launch(1, 32, (device.upload(x), out))
    assert out.host.tolist() == [(t ^ 15) + 1 + t // 16 for t in range(32)]


@dataclass
class _Thread:
    """One thread of a random program, by itself: nothing that it does depends on others."""

    t: int
    phases: int = 0
    left: bool = False
    loops: dict[str, int] = field(default_factory=dict)


Step = tuple[str, Callable[[_Thread], None]]
"""A statement's text, and what it does to a thread."""


def _condition(rng: random.Random) -> tuple[str, Callable[[int], bool]]:
    k = rng.randrange(1, 32)
    return rng.choice(
        [
            (f"t < {k}", lambda t: t < k),
            (f"t & {k}", lambda t: bool(t & k)),
            (f"t % {k % 5 + 2} == 0", lambda t: t % (k % 5 + 2) == 0),
            (f"t == {k}", lambda t: t == k),
        ]
    )


def _sync() -> Step:
    def go(thread: _Thread) -> None:
        thread.phases += 1

    return "SYNC", go


def _block(rng: random.Random, depth: int) -> Step:
    steps = [_statement(rng, depth) for _ in range(rng.randrange(1, 4))]

    def go(thread: _Thread) -> None:
        for _, step in steps:
            if not thread.left:
                step(thread)

    return "{ " + " ".join(text for text, _ in steps) + " }", go


def _statement(rng: random.Random, depth: int) -> Step:
    kind = rng.choice(["sync", "sync", "if", "else", "loop", "return"] if depth else ["sync", "work"])
    if kind == "sync":
        return _sync()
    if kind == "work":
        return "w = w * 3 + t;", lambda thread: None
    text, holds = _condition(rng)
    if kind == "return":

        def leave(thread: _Thread) -> None:
            thread.left = thread.left or (holds(thread.t) and thread.t % 3 == 0)

        return f"if (({text}) && t % 3 == 0) LEAVE", leave
    first, one = _block(rng, depth - 1)
    if kind == "loop":
        most = rng.randrange(2, 4)

        def loop(thread: _Thread) -> None:
            for _ in range(thread.t % most):
                if not thread.left:
                    one(thread)

        return f'_Pragma("unroll 1") for (int i = 0; i < t % {most}; ++i) {first}', loop
    second, two = _block(rng, depth - 1) if kind == "else" else ("", lambda thread: None)

    def branch(thread: _Thread) -> None:
        (one if holds(thread.t) else two)(thread)

    return f"if ({text}) {first}" + (f" else {second}" if second else ""), branch


def program(seed: int) -> tuple[str, Callable[[_Thread], None]]:
    """Every barrier is counted; behind it each thread looks whether others have come as far, or have left."""
    rng = random.Random(seed)
    text, go = _block(rng, 2)
    while not 2 <= text.count("SYNC") <= MOST:
        text, go = _block(rng, 2)
    source = f"""
#define LOOK(j) bad += s[j] < phase;
#define SYNC {{ s[t] = ++phase; __syncwarp(); LOOK(t ^ 1) LOOK(t ^ 16) LOOK((t + 7) & 31) LOOK(31 - t) }}
#define LEAVE {{ s[t] = 1000; out[t] = phase; out[t + 32] = bad; out[t + 64] = w; return; }}
extern "C" __global__ void k(int* out) {{
    __shared__ volatile int s[32];
    int t = threadIdx.x, phase = 0, bad = 0, w = 0;
    s[t] = 0;
    {text}
    LEAVE
}}"""
    return source, go


@pytest.mark.parametrize("seed", range(PROGRAMS))
def test_random_programs(device: VirtualDevice, seed: int) -> None:
    source, go = program(seed)
    out = device.zeros((96,), np.int32)
    device.compile(source, name="random.cu")["k"].launch(1, 32, (out,))
    threads = [_Thread(t) for t in range(32)]
    for thread in threads:
        go(thread)
    assert out.host[:32].tolist() == [thread.phases for thread in threads], source
    assert not out.host[32:64].any(), source
