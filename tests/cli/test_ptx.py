"""`nnkit ptx`: the PTX, what kernels use, and how full an SM gets."""

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nnkit.device.compile import compile_cuda
from nnkit.device.compile.nvrtc import Compiled
from nnkit.device.compile.occupancy import LIMITS, occupancy
from nnkit.device.compile.sass import (
    VERBOSE,
    declared_block,
    entry_text,
    kernel_names,
    kernel_resources,
    warnings_of,
)
from nnkit.device.virtual import ARCH
from nnkit.errors import CompileError, UsageError
from tests.support.commands import Command, Result, is_refusal

SOURCE = """
#ifndef TILE
#define TILE 16
#endif
__constant__ float table[TILE];
template <class T> __global__ void __launch_bounds__(128) add(T *a) { a[threadIdx.x] += table[0]; }
template __global__ void add<float>(float *);
extern "C" __global__ void stage(float *a) {
    __shared__ float tile[TILE * TILE];
    asm volatile("{ // } not the end\\n}\\n");
    tile[threadIdx.x] = a[threadIdx.x];
    __syncthreads();
    a[threadIdx.x] = tile[TILE * TILE - 1 - threadIdx.x];
}
extern "C" __global__ void spill(float *a, int n) {
    float r[200];
    for (int i = 0; i < 200; i++) r[i] = a[i * n];
    for (int k = 0; k < n; k++)
        for (int i = 0; i < 200; i++) r[i] = r[i] * r[(i * 7) % 200] + a[k];
    for (int i = 0; i < 200; i++) a[i] = r[i];
}
"""
ADD, NAMES = "_Z3addIfEvPT_", ["_Z3addIfEvPT_", "spill", "stage"]


@pytest.fixture
def source(tmp_path: Path) -> Path:
    path = tmp_path / "two words.cu"
    path.write_text(SOURCE)
    return path


def report(result: Result) -> dict[str, dict[str, Any]]:
    """The kernels of a JSON report by name."""
    assert result.status == 0, result
    return {row["name"]: row for row in json.loads(result.stdout)["kernels"]}


def test_the_ptx_is_printed(main: Command, source: Path) -> None:
    result = main("ptx", source)
    assert (result.status, result.stderr) == (0, "")
    # What the virtual device runs.
    assert result.stdout == compile_cuda(source, arch=ARCH).ptx.rstrip("\n") + "\n"
    assert ".target sm_100\n" in result.stdout


@pytest.mark.parametrize(
    ("arch", "target"),
    [("80", "sm_80"), ("compute_80", "sm_80"), ("sm_80", "sm_80"), ("sm_100a", "sm_100a"), ("90a", "sm_90a")],
)
def test_architectures_by_any_name(main: Command, source: Path, arch: str, target: str) -> None:
    assert f".target {target}\n" in main("ptx", source, "--arch", arch).stdout
    result = main("ptx", source, "--arch", arch, "--json")
    assert json.loads(result.stdout)["arch"] == target


def test_one_kernel_alone(main: Command, source: Path) -> None:
    text = main("ptx", source, "--kernel", "stage").stdout
    assert text.startswith(".visible .entry stage(")
    assert text.endswith("ret;\n\n}\n")
    assert text.count(".entry") == 1
    assert "not the end" in text
    assert main("ptx", source, "--kernel", ADD).stdout.startswith(f".weak .entry {ADD}(")


def test_options_and_macros_are_passed_on(main: Command, source: Path) -> None:
    sizes = [
        report(main("ptx", source, "--json", *given))["stage"]["shared_bytes"]
        for given in ((), ("--option=-DTILE=32",), ("-DTILE=8",), ("-D", "TILE=4", "--option", "-DX"))
    ]
    assert sizes == [1024, 4096, 256, 64]


def test_the_report_says_what_kernels_use(main: Command, source: Path) -> None:
    kernels = report(main("ptx", source, "--json", "--option=--maxrregcount=64"))
    assert list(kernels) == NAMES
    add, stage, spill = kernels[ADD], kernels["stage"], kernels["spill"]
    assert (add["block"], stage["block"]) == (128, 256)
    assert (add["shared_bytes"], add["barriers"], add["stack_bytes"]) == (0, 0, 0)
    assert (stage["shared_bytes"], stage["barriers"], stage["occupancy"]) == (1024, 1, 1.0)
    # The parameters: one pointer; and a pointer and an int.
    assert spill["constant_bytes"] - stage["constant_bytes"] == 4
    assert spill["registers"] <= 64
    assert min(spill["spill_store_bytes"], spill["spill_load_bytes"], spill["stack_bytes"]) > 0
    assert spill["occupancy"] == 0.5
    assert spill["limited_by"] == "registers"
    more = report(main("ptx", source, "--json", "-DTILE=32"))[ADD]
    assert more["constant_bytes"] - add["constant_bytes"] == 64


def test_the_report_as_a_table(main: Command, source: Path) -> None:
    result = main("ptx", source, "--sass-report", "--block", 1024, "--kernel", "stage")
    assert result.stderr == ""
    title, headings, row = result.stdout.splitlines()
    assert title.startswith("sm_100; ")
    assert headings.split()[-1] == "kernel"
    assert row.split()[-1] == "stage"
    assert "1024       100%  warps" in row
    unknown = main("ptx", source, "--sass-report", "--arch", "sm_107")
    assert "unknown" in unknown.stdout
    assert report(main("ptx", source, "--json", "--arch", "107"))["stage"]["occupancy"] is None


def test_warnings_go_to_standard_error(main: Command, tmp_path: Path) -> None:
    path = tmp_path / "warn.cu"
    path.write_text("__global__ void f() { int unused; }\n")
    for arguments in ((), ("--json",)):
        result = main("ptx", path, *arguments)
        assert result.status == 0
        assert "warning #177-D" in result.stderr
        assert "ptxas info" not in result.stderr
    json.loads(result.stdout)


def test_user_errors_are_one_line(main: Command, source: Path, tmp_path: Path) -> None:
    assert is_refusal(main("ptx", tmp_path / "no.cu"), "cannot read the CUDA source", "No such file")
    assert is_refusal(main("ptx", tmp_path), "Is a directory")
    assert is_refusal(main("ptx"), "FILE.cu")
    for arguments in ((), ("--sass-report",), ("--json",)):
        wrong = main("ptx", source, "--kernel", "stagge", *arguments)
        assert is_refusal(wrong, "there is no kernel 'stagge'", "Did you mean 'stage'?")
    assert is_refusal(main("ptx", source, "--arch", "hopper"), "--arch hopper: give 90")
    assert is_refusal(main("ptx", source, "--arch", "sm_12"), "knows compute_NN and sm_NN for NN in 75")
    assert is_refusal(main("ptx", source, "--option=--bogus"), "unrecognized option --bogus")
    assert is_refusal(main("ptx", source, "--option=-arch=sm_80"), "--arch")
    for block in (0, 1025):
        assert is_refusal(main("ptx", source, "--block", block), f"--block {block}: give 1 to 1024")


def test_a_compile_error_is_one_line_above_the_source(main: Command, tmp_path: Path) -> None:
    def message(result: Result) -> Result:
        """Without the line of source and the caret, which must be there."""
        first, code, caret = result.stderr.splitlines()
        assert code[caret.index("^") :] == "missing;"
        return Result(result.status, result.stdout, first)

    path = tmp_path / "bad.cu"
    path.write_text("__global__ void f() {\n  missing;\n}\n")
    assert is_refusal(message(main("ptx", path)), f'{path}:2: error: identifier "missing" is undefined')
    path.write_text("__global__ void f() {\n  missing;\n  gone;\n  lost;\n}\n")
    assert is_refusal(message(main("ptx", path)), '"missing" is undefined (and 2 more errors)')


@pytest.mark.parametrize("arguments", [("--sass-report",), ("--json",), ("--arch", "sm_90")])
def test_inline_assembly_is_checked(main: Command, tmp_path: Path, arguments: tuple[str, ...]) -> None:
    path = tmp_path / "asm.cu"
    path.write_text('__global__ void f() {\n\n  asm volatile("bogus.u32 %r1;");\n}\n')
    assert "bogus.u32" in main("ptx", path).stdout
    result = main("ptx", path, *arguments)
    assert (result.status, result.stdout) == (2, "")
    (first,) = result.stderr.splitlines()
    assert first.startswith(f"nnkit: {path}:3 (PTX line ")
    assert "ptxas error: Not a name of any known instruction: 'bogus'" in first


def test_kernels_are_found_in_any_ptx() -> None:
    ptx = (
        "// .entry comment(\n/* .entry other(\n{ */\n"
        ".visible .entry one(\n.param .u64 p\n)\n.maxntid 8, 4, 2\n"
        "{\n{ // }\n}\n/* } */ ret; }\n.func two() { }\n.entry three() { mov.v2 {%r1, %r2}, %r3; }\n"
    )
    assert kernel_names(ptx) == ["one", "three"]
    assert entry_text(ptx, "one").startswith(".visible .entry one(")
    assert entry_text(ptx, "one").endswith("/* } */ ret; }")
    assert entry_text(ptx, "three") == ".entry three() { mov.v2 {%r1, %r2}, %r3; }"
    assert declared_block(entry_text(ptx, "one")) == 64
    assert declared_block(".entry f()\n.reqntid 96\n{}") == 96
    assert declared_block(entry_text(ptx, "three")) is None
    with pytest.raises(UsageError, match="known: one, three"):
        entry_text(ptx, "two")


def test_a_report_that_cannot_be_read_is_an_error() -> None:
    real = compile_cuda(SOURCE, options=[VERBOSE], arch="sm_90")
    assert [used.name for used in kernel_resources(real)] == NAMES
    assert warnings_of(real.log) == ""
    with pytest.raises(CompileError, match="cannot read what ptxas says of spill"):
        kernel_resources(Compiled(real.ptx, real.cubin, real.log.replace("registers", "Register")))


@pytest.mark.parametrize(
    ("arch", "block", "registers", "shared", "barriers", "blocks", "fraction", "limited_by"),
    [
        # Worked by hand from the rules; 32 registers for each of 2048 threads are all 65536.
        ("sm_80", 256, 32, 0, 1, 8, 1.0, "warps, registers"),
        # 33 x 32 rounds up to 1280: 12 warps in each of 4 partitions, 6 blocks of 8.
        ("sm_80", 256, 33, 0, 1, 6, 0.75, "registers"),
        # (48 + 1) KiB four times in 228 KiB.
        ("sm_90", 128, 32, 48 << 10, 1, 4, 0.25, "shared memory"),
        ("sm_75", 256, 32, 16 << 10, 0, 4, 1.0, "warps, shared memory"),
        ("sm_75", 32, 16, 0, 0, 16, 0.5, "blocks"),
        ("sm_86", 64, 16, 0, 2, 8, 1 / 3, "barriers"),
        ("compute_120", 1024, 32, 0, 0, 1, 2 / 3, "warps"),
        ("sm_100a", 1024, 255, 0, 0, 0, 0.0, "registers"),
        ("sm_90", 1, 0, 0, 0, 32, 0.5, "blocks"),
    ],
)
def test_occupancy_by_hand(
    arch: str,
    block: int,
    registers: int,
    shared: int,
    barriers: int,
    blocks: int,
    fraction: float,
    limited_by: str,
) -> None:
    found = occupancy(arch, block, registers, shared, barriers)
    assert found is not None
    assert (found.blocks, found.limited_by) == (blocks, limited_by)
    assert found.fraction == pytest.approx(fraction)


@given(
    st.sampled_from(sorted(LIMITS)),
    st.integers(1, 1024),
    st.integers(1, 255),
    st.integers(0, 48 << 10),
    st.integers(0, 16),
)
def test_using_more_never_fits_more(
    arch: int, block: int, registers: int, shared: int, barriers: int
) -> None:
    here = occupancy(f"sm_{arch}", block, registers, shared, barriers)
    assert here is not None
    assert 0 <= here.fraction <= 1
    for more in ((registers + 8, shared, barriers), (registers, shared + 128, barriers)):
        there = occupancy(f"sm_{arch}", block, *more)
        assert there is not None
        assert there.blocks <= here.blocks
    # What fits must really fit.
    limits = LIMITS[arch]
    assert here.blocks * -(-block // 32) * registers * 32 <= 65536
    assert here.blocks * shared <= limits.shared_kib * 1024
    assert here.blocks <= limits.blocks


def test_an_unknown_architecture_is_not_guessed() -> None:
    assert occupancy("sm_107", 256, 32, 0) is None
