"""Compiling takes work in proportion to the code, counted and not timed, and can be interrupted."""

import os
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from llvmlite import binding

from nnkit.device.compile import compile_cuda
from nnkit.device.virtual import VirtualDevice
from nnkit.errors import CompileError
from nnkit.ptx.ir import Instruction
from nnkit.ptx.parse import parse
from nnkit.vm.analysis.geometry import Launch
from nnkit.vm.analysis.options import Options
from nnkit.vm.build import apart, compile, large
from nnkit.vm.build.compile import llvm_text
from nnkit.vm.build.source import Source
from nnkit.vm.prepare.inline import inline
from nnkit.vm.prepare.program import MANY, choose_width

HEAD = 'extern "C" __global__ void k(int *o) { int t = threadIdx.x, x = o[t];'


def straight(count: int) -> str:
    body = "".join(f"x = x * {i % 7 + 2} + (x >> {i % 13 + 1});\n" for i in range(count))
    return f"{HEAD} {body} o[t] = x; }}"


def switch(count: int) -> str:
    body = "".join(f"case {i}: x = x * {2 * i + 3} + o[t + {i}]; break;\n" for i in range(count))
    return f"{HEAD} switch (x) {{ {body} }} o[t] = x; }}"


def ifs(count: int) -> str:
    body = "".join(f"if (o[x & 255] > {i}) {{ x += o[x & {i}]; o[{i}] = x; }}\n" for i in range(count))
    return f"{HEAD} {body} o[t] = x; }}"


def calls(count: int) -> str:
    function = (
        "__device__ __noinline__ int f(int x, int *o) { if (x > 5) o[0] = x; return x * 3 + o[x & 255]; }"
    )
    return f"{function} {HEAD} {'x = f(x, o);' * count} o[t] = x; }}"


def compares(count: int) -> str:
    ways = " else ".join(f"if (x == {i * i * 7}) {{ x += o[t + {i}]; o[{i}] = x; }}\n" for i in range(count))
    return f"{HEAD} {ways} o[t] = x; }}"


def barriers(count: int) -> str:
    body = "".join(f"s[t] = x; __syncthreads(); x += s[(t + {i}) & 63];\n" for i in range(count))
    return f"{HEAD} __shared__ int s[64]; {body} o[t] = x; }}"


def barriers_in_ifs(count: int) -> str:
    body = "".join(
        f"if (o[{i}] & 1) {{ s[{i}][t] = x; __syncthreads(); x += s[{i}][(t + {i}) & 63]; }}\n"
        for i in range(count)
    )
    return f"{HEAD} __shared__ int s[{count}][64]; {body} o[t + 64] = x; }}"


def warp_barriers(count: int) -> str:
    body = "".join(
        f"if (w < {32 - i % 31}) {{ s[w] += s[(w + {i}) & 31]; __syncwarp(); }}\n" for i in range(count)
    )
    return f"{HEAD} int w = t & 31; __shared__ int s[32]; s[w] = x; {body} o[t] = s[w]; }}"


KINDS = {
    **{"straight": straight, "switch": switch, "ifs": ifs, "calls": calls},
    **{"compares": compares, "barriers": barriers, "warp barriers": warp_barriers},
    "barriers in ifs": barriers_in_ifs,
}


def lines(source: str) -> int:
    program = Source(compile_cuda(source, "grows.cu").ptx).program("k")
    launch = Launch((64, 1, 1), True, Options(choose_width(program.traits, (64, 1, 1))))
    return llvm_text(program, launch, False)[0].count("\n")


@pytest.mark.parametrize("kind", KINDS)
def test_the_llvm_code_grows_with_the_source(kind: str) -> None:
    few, more, most = (lines(KINDS[kind](count)) for count in (15, 30, 60))
    # What does not depend on the source cancels out; the bound is a third above twice the growth.
    assert most - more <= 1.35 * 2 * (more - few)


def test_shared_searches_leave_masks_in_memory() -> None:
    """Merged where blocks meet they were 10,000 values for 16 lines and 130,000 for 64, then copies."""
    merged = []
    for count in (8, 16, 32):
        program = Source(compile_cuda(warp_barriers(count), "grows.cu").ptx).program("k")
        text, _ = llvm_text(program, Launch((64, 1, 1), True, Options(32)), False)
        code = str(compile.optimised(text, compile.target_machine()))
        merged.append(sum(line.count("[") for line in code.splitlines() if " = phi " in line))
    few, more, most = merged
    assert most - more <= 1.35 * 2 * (more - few)


@pytest.mark.parametrize("poison", ["0", "1"])
def test_code_that_many_regions_share_computes_the_same(poison: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NNKIT_POISON", poison)
    given = np.random.default_rng(1).integers(0, 1 << 20, 128).astype(np.int32)
    device = VirtualDevice(threads=1)
    array = device.upload(given)
    device.compile(barriers_in_ifs(40), name="grows.cu")["k"].launch(1, 64, (array,))
    x, t = given[:64].copy(), np.arange(64)
    for i in range(40):
        if given[i] & 1:
            x = x + x[(t + i) & 63]
    assert (array.host[64:] == x).all()


def test_a_kernel_is_inlined_in_one_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    """Comparisons of instructions are counted: there were some for every call and instruction."""
    compared = [0]

    def equal(a: Instruction, b: object) -> bool:
        compared[0] += 1
        return a is b

    module = parse(compile_cuda(calls(100), "grows.cu").ptx)
    monkeypatch.setattr(Instruction, "__eq__", equal)
    body = inline(module, "k").body
    assert body is not None
    assert compared[0] <= len(body)


def test_large_code_takes_the_quick_way(monkeypatch: pytest.MonkeyPatch) -> None:
    ways: list[bool] = []
    inner = apart.object_code

    def counted(text: str, well: bool, name: str, features: str) -> bytes:
        ways.append(well)
        return inner(text, well, name, features)

    monkeypatch.setattr(apart, "object_code", counted)
    monkeypatch.setattr("nnkit.device.virtual.device._use_cache", lambda: None)
    monkeypatch.setattr(large, "QUICK_ABOVE", 200_000)
    monkeypatch.setattr(large, "WORTH_A_PROCESS", 200_000)
    values = np.arange(4096, dtype=np.int32) % 60
    for source, expected in ((switch(3), []), (switch(40), [False])):
        ways.clear()
        device = VirtualDevice(threads=1)
        monkeypatch.setattr("nnkit.vm.build.store.store", _Nothing())
        array = device.upload(values)
        device.compile(source, name="grows.cu")["k"].launch(1, 64, (array,))
        assert ways == expected


class _Nothing:
    def get(self, key: str) -> bytes | None:
        return None

    def put(self, key: str, data: bytes) -> None:
        pass


@pytest.mark.parametrize("kind", ["straight", "switch", "ifs"])
def test_the_quick_way_gives_the_same(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    found = []
    for quick in (False, True):
        monkeypatch.setattr(large, "QUICK_ABOVE", 0 if quick else 1 << 60)
        monkeypatch.setattr(large, "WORTH_A_PROCESS", 0 if quick else 1 << 60)
        found.append(result(KINDS[kind](4), monkeypatch))
    assert found[0] == found[1]


def result(source: str, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """What a kernel leaves in the array, compiled anew."""
    monkeypatch.setattr("nnkit.device.virtual.device._use_cache", lambda: None)
    monkeypatch.setattr("nnkit.vm.build.store.store", _Nothing())
    device = VirtualDevice(threads=1)
    array = device.upload(np.arange(4096, dtype=np.int32) % 7)
    device.compile(source, name="grows.cu")["k"].launch(1, 64, (array,))
    found: list[int] = array.host.tolist()
    return found


@pytest.mark.parametrize("has_avx512", [True, False])
def test_many_gathers_become_calls_where_there_is_no_instruction(has_avx512: bool) -> None:
    program = Source(compile_cuda(ifs(60), "grows.cu").ptx).program("k")
    text, _ = llvm_text(program, Launch((64, 1, 1), True, Options(64)), has_avx512)
    assert (text.count(" call <64 x i32> @llvm.masked.gather.") > 1) == has_avx512


@pytest.mark.usefixtures("avx2")
def test_gathers_as_calls_give_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    calls, inner = [], large.with_calls

    def counted(text: str) -> str:
        calls.append(text)
        return inner(text)

    monkeypatch.setattr(large, "with_calls", counted)
    found = []
    for most in (1 << 30, 0):
        monkeypatch.setattr(large, "MOST_SCATTERED", most)
        found.append(result(ifs(4), monkeypatch))
    assert len(calls) == 1
    assert found[0] == found[1]


def test_long_code_has_short_vectors() -> None:
    program = Source(compile_cuda(straight(MANY // 2), "grows.cu").ptx).program("k")
    assert choose_width(program.traits, (64, 1, 1)) == 16
    program = Source(compile_cuda(straight(10), "grows.cu").ptx).program("k")
    assert choose_width(program.traits, (64, 1, 1)) == 64


@pytest.mark.parametrize(("version", "options"), [(large.KNOWN_LLVM, large.OPTIONS), (99, ())])
def test_only_a_known_llvm_gets_options(
    version: int, options: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    given: list[str] = []
    monkeypatch.setattr(binding, "llvm_version_info", (version, 0, 0))
    monkeypatch.setattr(binding, "set_option", lambda name, option: given.append(option))
    compile.llvm.__wrapped__()
    assert given == list(options)


def test_what_llvm_refuses_is_told() -> None:
    with pytest.raises(Exception, match=r"LLVM cannot compile the kernel \(status 1\): .*"):
        apart.object_code("this is no IR", True, *compile.host())


def test_what_is_not_made_well_in_time_is_made_quickly(monkeypatch: pytest.MonkeyPatch) -> None:
    """The clock is processor time; making it well never ends here."""
    program = Source(compile_cuda(switch(3), "grows.cu").ptx).program("k")
    text, _ = llvm_text(program, Launch((64, 1, 1), True, Options(64)), compile.has_avx512())
    tried: list[int] = []
    inner = apart._run

    def counted(text: str, seconds: int, name: str, features: str) -> tuple[int, bytes, bytes]:
        tried.append(seconds)
        return inner(text, seconds, name, features)

    monkeypatch.setattr(apart, "_run", counted)
    monkeypatch.setattr(apart, "WELL_SECONDS", 1)
    endless = apart._CHILD.replace("make, level =", "while seconds != '0': pass\nmake, level =")
    assert endless != apart._CHILD
    monkeypatch.setattr(apart, "_CHILD", endless)
    assert apart.object_code(text, True, *compile.host()).startswith(b"\x7fELF")
    assert tried == [1, 0]


def test_stack_is_read_from_the_code() -> None:
    reserve = b"\x90\x48\x81\xec" + (5 << 20).to_bytes(4, "little") + b"\x90"
    assert large.stack_bytes(reserve) == 5 << 20
    assert large.stack_bytes(b"\x90" * 16) == 0


def test_a_kernel_too_large_for_the_stack_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("nnkit.device.virtual.device._use_cache", lambda: None)
    monkeypatch.setattr("nnkit.vm.build.store.store", _Nothing())
    monkeypatch.setattr(large, "WORTH_A_PROCESS", 0)
    monkeypatch.setattr(large, "stack_bytes", lambda code: large.MOST_STACK + 1)
    device = VirtualDevice(threads=1)
    with pytest.raises(CompileError, match="too large for a thread's stack"):
        device.compile(straight(3), name="grows.cu")["k"].launch(1, 64, (device.zeros((64,), np.int32),))


def test_ctrl_c_ends_the_compiler_and_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """While LLVM is at work; afterwards the same kernel compiles and runs, and no process is left."""
    monkeypatch.setenv("NNKIT_CACHE_DIR", str(tmp_path))
    monkeypatch.setattr(large, "WORTH_A_PROCESS", 0)
    started: list[subprocess.Popen[bytes]] = []
    inner: type[subprocess.Popen[bytes]] = subprocess.Popen

    def start(*given: object, **named: Any) -> "subprocess.Popen[bytes]":
        command = [sys.executable, "-c", "import time; time.sleep(600)"]
        child: subprocess.Popen[bytes] = inner(command, **named)
        started.append(child)
        threading.Timer(0.2, os.kill, (os.getpid(), signal.SIGINT)).start()
        return child

    device = VirtualDevice(threads=1)
    kernel = device.compile(straight(3), name="stopped.cu")["k"]
    array = device.upload(np.ones(64, np.int32))
    with monkeypatch.context() as patch:
        patch.setattr(subprocess, "Popen", start)
        with pytest.raises(KeyboardInterrupt):
            kernel.launch(1, 64, (array,))
    assert started[0].returncode == -signal.SIGKILL
    assert not list(tmp_path.rglob("native-*"))
    assert not list(tmp_path.rglob("*.tmp"))
    assert (array.host == 1).all()
    kernel.launch(1, 64, (array,))
    assert (array.host != 1).any()
    assert list(tmp_path.rglob("native-*"))
