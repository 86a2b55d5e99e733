"""Random programs in processes of their own, in guarded memory: wrong results, errors and crashes are told
with the program that made them.

A worker gets seeds, runs each program in a child of its own, and says line by line, in JSON, which it begins
and which failed: so the program that ends its process is known.
"""

import argparse
import json
import os
import random
import re
import signal
import subprocess
import sys
import tempfile
import traceback
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

HERE = Path(__file__).parent
WIDTHS = (None, None, 32, 16, 8, 1, 64)
ARCH = "compute_100"
"""For 7.5 to 9.0 NVRTC 13 itself compiles guarded reads of local arrays wrongly."""


@dataclass(frozen=True)
class Failure:
    """A program that went wrong, and how."""

    kind: str
    name: str
    """What makes it again: a seed, and the numbers of statements that were left out."""
    what: str
    program: str

    def __str__(self) -> str:
        return f"{self.kind} {self.name}: {self.what}\n{self.program}"


@dataclass(frozen=True)
class Way:
    """How a program is run: lanes of a vector, threads, which ends of memory are guarded to the byte."""

    width: int | None
    threads: int
    ends: tuple[str, ...]
    poison: bool


@dataclass(frozen=True)
class Trial:
    """One program: `run` says what is wrong, or ""."""

    name: str
    program: str
    run: Callable[[], str]


def way_of(name: str, where: str = "") -> Way:
    """A random one, the same for a seed whatever was left out; both ends in turn unless one is given."""
    rng = random.Random(f"way {name.partition('-')[0]}")
    ends = (where,) if where else ("end", "start")
    return Way(rng.choice(WIDTHS), rng.choice((1, 1, 2)), ends, rng.random() < 0.3)


# -- the worker ---------------------------------------------------------------------------------------------


def neighbours(names: list[str], where: str = "") -> Iterator[Trial]:
    """Guarded neighbours: results against the Python twin, and g++'s where it is there."""
    from vm_neighbour_kernels import HEAD

    programs = _programs(names)
    module = _module(HEAD, [p.cuda for p in programs])
    library = _library(programs)
    for name, p in zip(names, programs, strict=True):
        way = way_of(name, where)
        text = f"{way}, block {p.block}, grid {p.grid}, n {p.n}, {p.element.name}\n{p.cuda}"
        yield Trial(name, text, partial(_neighbour, p, way, module, library))


def _programs(names: list[str]) -> list[Any]:
    from vm_neighbour_kernels import program

    found = []
    for name in names:
        seed, *left_out = map(int, name.split("-"))
        found.append(program(random.Random(seed), f"k{seed}", frozenset(left_out)))
    return found


def _library(programs: list[Any]) -> Any:
    import vm_host

    if not vm_host.COMPILER:
        return None
    with tempfile.TemporaryDirectory() as folder:
        return vm_host.compiled(programs, Path(folder))


def _neighbour(p: Any, way: Way, module: str, library: Any) -> str:
    expected = p.expected()
    if library is not None and (said := _twins(p, library, expected)):
        return said
    return "".join(_launched(p, way, end, module, expected) for end in way.ends)


def _launched(p: Any, way: Way, end: str, module: str, expected: Any) -> str:
    with _device(way, end) as device:
        arrays = [
            device.upload(p.element.array(p.filled("global"))),
            device.zeros(expected.shape, p.element.dtype),
            device.zeros((p.length("mine") * p.grid, p.element.count), p.element.dtype),
        ]
        args = (*arrays, np.int32(p.n), *([p.given().tobytes()] if p.length("param") else []))
        _load(device, module)[p.name].launch(p.grid, p.block, args, shared_bytes=p.dynamic_bytes)
        return _difference(arrays[1].download(), expected)


def twins(names: list[str], where: str = "") -> Iterator[Trial]:
    """No device at all: what g++ makes of a program against its Python twin."""
    programs = _programs(names)
    library = _library(programs)
    for name, p in zip(names, programs, strict=True):
        yield Trial(name, p.cuda, lambda p=p: _twins(p, library, p.expected()))  # type: ignore[misc]


def _twins(p: Any, library: Any, expected: Any) -> str:
    import vm_host

    said = _difference(vm_host.results(library, p, expected.shape), expected)
    return said and f"g++ against Python: {said}"


def bounds(names: list[str], where: str = "") -> Iterator[Trial]:
    """One thread out of bounds: it must be named, and without it all must be well."""
    from vm_bounds import stray
    from vm_neighbour_kernels import HEAD

    programs = [stray(name) for name in names]
    module = _module(HEAD, [p.cuda for p in programs])
    for name, p in zip(names, programs, strict=True):
        fitting = "end" if p.first > 0 else "start"
        way = way_of(name, fitting if where == "fitting" else where)
        text = (
            f"{way}, block {p.block}, grid {p.grid}, thread {p.bad} reaches for {p.outside}, "
            f"{p.element.name}, {p.space}\n{p.cuda}"
        )
        yield Trial(name, text, partial(_bound, p, way, module))


def _bound(p: Any, way: Way, module: str) -> str:
    for end in way.ends:
        with _device(way, end) as device:
            for stray in (False, True):
                if said := _strayed(device, module, p, stray):
                    return said
    return ""


def _strayed(device: Any, module: str, p: Any, stray: bool) -> str:
    from nnkit.errors import DeviceMemoryError

    inputs = device.upload(p.cells())
    out = device.zeros((p.grid * p.threads, p.element.count), p.element.dtype)
    given = [p.cells().tobytes()] if p.space == "param" else []
    args = (inputs, out, out, np.int32(p.bad if stray else -1), *given)
    try:
        _load(device, module)[p.name].launch(p.grid, p.block, args, shared_bytes=p.dynamic_bytes)
    except DeviceMemoryError as error:
        if not stray:
            return f"nothing is wrong, but {error}"
        return p.misreported(error, _start(device, p, inputs))
    return "nobody noticed" if stray else ""


def _start(device: Any, p: Any, inputs: Any) -> int:
    """The address of the array's first cell, as a report would name it."""
    if p.space in ("first", "dynamic", "local"):
        return 0
    if p.space == "param":
        # Behind three pointers and an int.
        return -(-28 // p.element.size) * int(p.element.size)
    if p.space == "constant":
        table = device.machine.memory.snapshot().allocations
        return int(next(a.start for a in table if f"{p.name}_constant" in a.label))
    return int(inputs.address)


def expressions(names: list[str], where: str = "") -> Iterator[Trial]:
    """Expressions and control flow against their Python twin, bit for bit."""
    for name in names:
        rng = random.Random(f"expressions {name}")
        block = rng.choice([(32, 1, 1), (37, 1, 1), (8, 8, 1), (5, 7, 1), (3, 4, 5), (1, 1, 1)])
        n, way = rng.randrange(10), way_of(name, where)
        yield Trial(name, f"{way}, block {block}, n {n}", partial(_expression, int(name), block, n, way))


def _expression(seed: int, block: tuple[int, int, int], n: int, way: Way) -> str:
    from vm_differential import check

    with _device(way, way.ends[seed % len(way.ends)]):
        check(seed, block, n)
    return ""


def addresses(names: list[str], where: str = "") -> Iterator[Trial]:
    """Guarded accesses in PTX, by every way to compute an address."""
    from vm_addresses import HEAD, program

    for name in names:
        p, way = program(random.Random(f"addresses {name}"), f"k{name}"), way_of(name, where)
        text = f"{way}, block {p.block}, grid {p.grid}, {p.space}\n{HEAD}{p.text}"
        yield Trial(name, text, partial(_addressed, p, way, HEAD + p.text))


def _addressed(p: Any, way: Way, module: str) -> str:
    said = ""
    for end in way.ends:
        with _device(way, end) as device:
            out = device.zeros(p.expected.shape, np.uint8)
            args = (out, device.upload(p.content), *([p.content.tobytes()] if p.space == "param" else []))
            _load(device, module)[p.name].launch(p.grid, p.block, args, shared_bytes=p.dynamic_bytes)
            said = said or _difference(out.download(), p.expected)
    return said


KINDS = {
    "neighbours": neighbours,
    "addresses": addresses,
    "twins": twins,
    "bounds": bounds,
    "expressions": expressions,
}


def _module(head: str, kernels: list[str]) -> str:
    from nnkit.device.compile import compile_cuda

    # Fused, a product's rounding would be lost.
    return compile_cuda("\n".join([head, *kernels]), "fuzz.cu", ["-fmad=false"], ARCH).ptx


def _load(device: Any, module: str) -> Any:
    """The module; what is constant cannot be written even by a store that no check has seen."""
    from vm_guard import forbid_writing

    from nnkit.vm.memory_table import READ_ONLY

    found = device.load_ptx(module)
    for allocation in device.machine.memory.snapshot().allocations:
        if allocation.flags & READ_ONLY:
            forbid_writing(allocation.start, allocation.size)
    return found


@contextmanager
def _device(way: Way, end: str) -> Iterator[Any]:
    """A device in guarded memory, whose threads share even small grids."""
    from vm_guard import guarded

    from nnkit.device.virtual import VirtualDevice
    from nnkit.vm import launch

    launch.WORTH_A_THREAD = 0.0
    with guarded(end):
        device = VirtualDevice(width=way.width, threads=way.threads)
        device.machine.poison = way.poison
        yield device
        device.close()


def _difference(found: Any, expected: Any) -> str:
    """Where two arrays differ, or ""."""
    places = np.argwhere(found != expected)
    if not len(places):
        return ""
    first = tuple(int(k) for k in places[0])
    return f"{len(places)} of {expected.size} differ: {found[first]} instead of {expected[first]} at {first}"


def break_checks() -> None:
    """For controls: every check passes, whatever it found."""
    from nnkit.vm import compile as compiler

    plain = compiler.object_code

    def planted(text: str, machine: Any) -> bytes:
        broken, count = re.subn(r"br i1 %\S+, (label %(?:checked|fine)\d+,)", r"br i1 true, \1", text)
        assert count or "%slow" not in text, "the checks are written otherwise now"
        return plain(broken, machine)

    compiler.object_code = planted


def _tell(**record: Any) -> None:
    print(json.dumps(record), flush=True)


def _work(trial: Trial) -> None:
    """Run it in a child."""
    about = {"name": trial.name, "program": trial.program}
    _tell(begin=True, **about)
    child = os.fork()
    if not child:
        try:
            said = trial.run()
        except BaseException as error:
            last = traceback.extract_tb(error.__traceback__)[-1]
            said = f"{type(error).__name__}: {error} ({Path(last.filename).name}:{last.lineno})"
        if said:
            _tell(failed=said, **about)
        os._exit(0)
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    if status:
        name = signal.Signals(-status).name if status < 0 else f"status {status}"
        _tell(failed=f"ended by {name}", **about)


def main() -> None:
    """The worker's command line."""
    parser = argparse.ArgumentParser()
    parser.add_argument("kind", choices=list(KINDS))
    parser.add_argument("names", nargs="+")
    parser.add_argument("--where", default="", help="which end of memory is guarded to the byte, for all")
    parser.add_argument("--broken", action="store_true", help="no check finds anything")
    given = parser.parse_args()
    if given.broken:
        break_checks()
    for trial in KINDS[given.kind](given.names, given.where):
        _work(trial)


# -- who starts workers -------------------------------------------------------------------------------------


def numbers(first: int, count: int) -> list[str]:
    """The names of so many programs."""
    return [str(seed) for seed in range(first, first + count)]


def run(kind: str, names: Sequence[str], *options: str, **environment: str) -> tuple[int, list[Failure]]:
    """Run these programs; returns how many were begun, and what failed."""
    command = [sys.executable, str(HERE / "vm_fuzz.py"), kind, *options, *names]
    done = subprocess.run(
        command, capture_output=True, text=True, check=False, env={**os.environ, **environment}
    )
    records = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    failures = [Failure(kind, r["name"], r["failed"], r["program"]) for r in records if "failed" in r]
    begun = sum("begin" in r for r in records)
    if done.returncode or begun < len(names):
        said = f"the worker ended with status {done.returncode}: {done.stderr[-2000:]}"
        failures.append(Failure(kind, " ".join(names[begun:]), said, ""))
    return begun, failures


def shrunk(failure: Failure) -> Failure:
    """The same failure with fewer statements, where leaving one out keeps it."""
    if failure.kind != "neighbours" or not failure.program:
        return failure
    best = failure
    for statement in range(5):
        _, found = run(best.kind, [f"{best.name}-{statement}"])
        if len(found) == 1 and found[0].what[:9] == best.what[:9]:
            best = found[0]
    return best


def many(kind: str, first: int, count: int, batch: int, jobs: int) -> Iterator[tuple[int, list[Failure]]]:
    """Batches of programs, on several processes at once."""
    starts = range(0, count, batch)
    batches = [numbers(first + at, min(batch, count - at)) for at in starts]
    with ThreadPoolExecutor(jobs) as pool:
        yield from pool.map(lambda names: run(kind, names), batches)


if __name__ == "__main__":
    main()
