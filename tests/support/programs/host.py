"""Kernels as host code through g++: the same text, one thread after another, from barrier to barrier.

Every thread of a block is a coroutine (ucontext); `__syncthreads()` gives the word to the next one. Nothing
of nnkit is used.
"""

import ctypes
import shutil
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from tests.support.programs.elements import ELEMENTS
from tests.support.programs.neighbour_kernels import HEAD
from tests.support.programs.neighbours import Program

COMPILER = shutil.which("g++")
WHY_NOT = "g++ is not there: these kernels are compared with the Python twin alone"

_TYPES = "\n".join(
    f"struct alignas({e.size}) {e.name} {{ {e.word} {', '.join('xyzw'[: e.count])}; }};"
    for e in ELEMENTS.values()
    if e.count > 1
)

PRELUDE = (
    """
#include <ucontext.h>
#include <cstddef>
#include <functional>
#include <vector>
struct dim3 { unsigned x, y, z; };
dim3 threadIdx, blockIdx, blockDim, gridDim;
alignas(16) char host_dynamic[1 << 18];
ucontext_t host_scheduler, *host_current;
#define __global__
#define __device__
#define __noinline__
#define __shared__ static
#define __constant__ static const
#define GRID_CONSTANT
#define DYNAMIC(E, name) E* name = (E*)host_dynamic
void __syncthreads() { swapcontext(host_current, &host_scheduler); }
void __syncwarp() {}
template <class T> T atomicAdd(T* p, T v) { T old = *p; *p = old + v; return old; }
template <class T> T atomicMax(T* p, T v) { T old = *p; *p = old < v ? v : old; return old; }
template <class T> T atomicMin(T* p, T v) { T old = *p; *p = v < old ? v : old; return old; }
template <class T> T atomicExch(T* p, T v) { T old = *p; *p = v; return old; }
std::function<void()> host_body;
void host_thread() { host_body(); }
void host_run(unsigned grid, dim3 block, const std::function<void()>& body) {
    host_body = body, blockDim = block, gridDim = {grid, 1, 1};
    const unsigned count = block.x * block.y * block.z, room = 1 << 15;
    std::vector<char> stacks((size_t)count * room);
    for (unsigned b = 0; b < grid; ++b) {
        std::vector<ucontext_t> threads(count), ends(count);
        std::vector<char> done(count);
        blockIdx = {b, 0, 0};
        for (unsigned t = 0; t < count; ++t) {
            getcontext(&threads[t]);
            threads[t].uc_stack.ss_sp = &stacks[(size_t)t * room];
            threads[t].uc_stack.ss_size = room;
            threads[t].uc_link = &ends[t];
            makecontext(&threads[t], host_thread, 0);
        }
        for (bool more = true; more;) {
            more = false;
            for (volatile unsigned t = 0; t < count; t = t + 1) {
                if (done[t]) continue;
                threadIdx = {t % block.x, t / block.x % block.y, t / (block.x * block.y)};
                host_current = &threads[t];
                volatile bool back = false;
                getcontext(&ends[t]);
                if (back) { done[t] = 1; continue; }
                back = true, more = true;
                swapcontext(&host_scheduler, &threads[t]);
            }
        }
    }
}
"""
    + _TYPES
)


def _entry(program: Program) -> str:
    own, name = program.element.name, program.name
    given = f", *(const {name}_given*)given" if program.length("param") else ""
    return f"""
extern "C" void host_{name}(unsigned grid, const unsigned* b, const {own}* in, {own}* out, {own}* all, int n,
                            const void* given) {{
    host_run(grid, {{b[0], b[1], b[2]}}, [=] {{ {name}(in, out, all, n{given}); }});
}}"""


def compiled(programs: list[Program], folder: Path) -> ctypes.CDLL:
    """All of them in one library."""
    assert COMPILER, WHY_NOT
    source, library = folder / "host.cpp", folder / "host.so"
    parts = [PRELUDE, HEAD, *(p.cuda + _entry(p) for p in programs)]
    source.write_text("\n".join(parts), "utf-8")
    command = [COMPILER, "-std=c++17", "-O0", "-w", "-fwrapv", "-ffp-contract=off", "-shared", "-fPIC"]
    done = subprocess.run([*command, source, "-o", library], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return ctypes.CDLL(str(library))


def results(library: ctypes.CDLL, program: Program, shape: tuple[int, ...]) -> npt.NDArray[Any]:
    """What every thread computed, as `Program.expected` gives it."""
    element = program.element
    out = np.zeros(shape, element.dtype)
    given = np.ascontiguousarray(program.given())
    block = np.array(program.block, np.uint32)
    inputs = element.array(program.filled("global"))
    everyone = np.zeros((program.length("mine") * program.grid + 1, element.count), element.dtype)
    pointers = [ctypes.c_void_p(a.ctypes.data) for a in (block, inputs, out, everyone, given)]
    getattr(library, f"host_{program.name}")(program.grid, *pointers[:4], program.n, pointers[4])
    return out
