"""`nnkit ptx`: the PTX of a source, or the registers and memory that its kernels use."""

import re
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from nnkit.cli import options
from nnkit.errors import UsageError, unknown_name

if TYPE_CHECKING:
    from nnkit.device.compile.nvrtc import Compiled

DEFAULT_BLOCK = 256
"""Threads of a block, for the occupancy, if neither the kernel nor the user gives them."""


def ptx(
    source: Annotated[Path, typer.Argument(metavar="FILE.cu", help="A CUDA C++ source.")],
    kernel: Annotated[str | None, typer.Option(metavar="NAME", help="Show this kernel alone.")] = None,
    arch: Annotated[
        str,
        typer.Option(help="90, compute_90 or sm_90; sm_ checks inline assembly. virtual runs 100."),
    ] = "100",
    option: Annotated[
        list[str] | None, typer.Option(metavar="OPTION", help="Passed to NVRTC, such as --option=-Ifolder.")
    ] = None,
    define: Annotated[
        list[str] | None, typer.Option("--define", "-D", metavar="NAME=VALUE", help="Define a macro.")
    ] = None,
    sass_report: Annotated[
        bool, typer.Option("--sass-report", help="Show what kernels use, and their occupancy, instead.")
    ] = False,
    block: Annotated[
        int | None, typer.Option(metavar="N", help="Threads of a block, for the occupancy.")
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="The --sass-report as one JSON document.")] = False,
) -> None:
    """Compile CUDA C++ and show the PTX, or what its kernels use; needs no GPU."""
    from nnkit.device.compile import compile_cuda
    from nnkit.device.compile.occupancy import MAX_BLOCK
    from nnkit.device.compile.sass import VERBOSE, entry_text, warnings_of

    found = re.fullmatch(r"(?:(compute|sm)_)?(\d+[af]?)", arch)
    if found is None:
        raise UsageError(f"--arch {arch}: give 90, compute_90, sm_90 or sm_100a")
    if block is not None and not 1 <= block <= MAX_BLOCK:
        raise UsageError(f"--block {block}: give 1 to {MAX_BLOCK}")
    passed = [*(option or ()), *(f"-D{macro}" for macro in define or ())]
    if not (sass_report or json):
        compiled = compile_cuda(source, options=passed, arch=f"{found[1] or 'compute'}_{found[2]}")
        text = compiled.ptx.rstrip("\n") if kernel is None else entry_text(compiled.ptx, kernel)
        _note(compiled.log)
        print(text)
        return
    real = f"sm_{found[2]}"
    compiled = compile_cuda(source, options=[*passed, VERBOSE], arch=real)
    rows = _report(compiled, real, kernel, block)
    _note(warnings_of(compiled.log))
    if json:
        options.print_json({"arch": real, "kernels": rows})
    else:
        _print_table(real, rows)


def _report(compiled: "Compiled", arch: str, kernel: str | None, block: int | None) -> list[dict[str, Any]]:
    from nnkit.device.compile.occupancy import occupancy
    from nnkit.device.compile.sass import declared_block, entry_text, kernel_resources

    resources = kernel_resources(compiled)
    names = [used.name for used in resources]
    if kernel is not None and kernel not in names:
        raise unknown_name("kernel", kernel, names)
    rows = []
    for used in resources:
        if kernel not in (None, used.name):
            continue
        threads = block or declared_block(entry_text(compiled.ptx, used.name)) or DEFAULT_BLOCK
        fit = occupancy(arch, threads, used.registers, used.shared_bytes, used.barriers)
        rows.append(
            asdict(used)
            | {
                "block": threads,
                "occupancy": fit and fit.fraction,
                "limited_by": fit and fit.limited_by,
            }
        )
    return rows


def _print_table(arch: str, rows: list[dict[str, Any]]) -> None:
    """One row a kernel. The names come last, in full: those of C++ can be long."""
    print(f"{arch}; bytes: static shared memory per block, stack and spills per thread")
    line = "{:>4}  {:>6}  {:>6}  {:>6}  {:>13}  {:>8}  {:>5}  {:>9}  {:<16}  {}"
    headings = ("regs", "shared", "const", "stack", "spills st/ld", "barriers", "block", "occupancy")
    print(line.format(*headings, "limited by", "kernel"))
    for row in rows:
        fraction, spills = row["occupancy"], f"{row['spill_store_bytes']}/{row['spill_load_bytes']}"
        memory = (row["shared_bytes"], row["constant_bytes"], row["stack_bytes"], spills)
        full = "unknown" if fraction is None else f"{fraction:.0%}"
        fit = (row["barriers"], row["block"], full, row["limited_by"] or "")
        print(line.format(row["registers"], *memory, *fit, row["name"]))


def _note(warnings: str) -> None:
    """Print the compiler's warnings, if there are any."""
    if warnings:
        options.note(warnings)
