"""What tools/fuzz tries: how each kind of random program is made, run in guarded memory and judged."""

import random
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from ctypes import CDLL

    from nnkit.device.virtual import VirtualArray, VirtualDevice, VirtualModule
    from tests.support.programs import addresses as of_addresses
    from tests.support.programs import meetings as of_meetings
    from tests.support.programs import neighbours as of_neighbours
    from tests.support.programs.bounds import Reach

WIDTHS = (None, None, 32, 16, 8, 1, 64)
ARCH = "compute_100"
"""For 7.5 to 9.0 NVRTC 13 itself compiles guarded reads of local arrays wrongly."""


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


def neighbours(names: list[str], where: str = "") -> Iterator[Trial]:
    """Guarded neighbours: results against the Python twin, and g++'s where it is there."""
    from tests.support.programs.neighbour_kernels import HEAD

    programs = _programs(names)
    module = _module(HEAD, [p.cuda for p in programs])
    library = _library(programs)
    for name, p in zip(names, programs, strict=True):
        way = way_of(name, where)
        text = f"{way}, block {p.block}, grid {p.grid}, n {p.n}, {p.element.name}\n{p.cuda}"
        yield Trial(name, text, partial(_neighbour, p, way, module, library))


def _programs(names: list[str]) -> "list[of_neighbours.Program]":
    from tests.support.programs.neighbour_kernels import program

    found = []
    for name in names:
        seed, *left_out = map(int, name.split("-"))
        found.append(program(random.Random(seed), f"k{seed}", frozenset(left_out)))
    return found


def _library(programs: "list[of_neighbours.Program]") -> "CDLL | None":
    from tests.support.programs import host

    if not host.COMPILER:
        return None
    with tempfile.TemporaryDirectory() as folder:
        return host.compiled(programs, Path(folder))


def _neighbour(p: "of_neighbours.Program", way: Way, module: str, library: "CDLL | None") -> str:
    expected = p.expected()
    if library is not None and (said := _twins(p, library, expected)):
        return said
    return "".join(_launched(p, way, end, module, expected) for end in way.ends)


def _launched(p: "of_neighbours.Program", way: Way, end: str, module: str, expected: npt.NDArray[Any]) -> str:
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
        yield Trial(name, p.cuda, partial(_twins, p, library))


def _twins(
    p: "of_neighbours.Program", library: "CDLL | None", expected: npt.NDArray[Any] | None = None
) -> str:
    from tests.support.programs import host

    assert library is not None, host.WHY_NOT
    expected = p.expected() if expected is None else expected
    said = _difference(host.results(library, p, expected.shape), expected)
    return said and f"g++ against Python: {said}"


def bounds(names: list[str], where: str = "") -> Iterator[Trial]:
    """One thread out of bounds: it must be named, and without it all must be well."""
    from tests.support.programs.bounds import stray
    from tests.support.programs.neighbour_kernels import HEAD

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


def _bound(p: "Reach", way: Way, module: str) -> str:
    for end in way.ends:
        with _device(way, end) as device:
            # Once: every module has variables of its own.
            loaded = _load(device, module)
            for stray in (False, True):
                if said := _strayed(device, loaded, p, stray):
                    return said
    return ""


def _strayed(device: "VirtualDevice", loaded: "VirtualModule", p: "Reach", stray: bool) -> str:
    from nnkit.errors import DeviceMemoryError

    inputs = device.upload(p.cells())
    out = device.zeros((p.grid * p.threads, p.element.count), p.element.dtype)
    given = [p.cells().tobytes()] if p.space == "param" else []
    args = (inputs, out, out, np.int32(p.bad if stray else -1), *given)
    try:
        loaded[p.name].launch(p.grid, p.block, args, shared_bytes=p.dynamic_bytes)
    except DeviceMemoryError as error:
        if not stray:
            return f"nothing is wrong, but {error}"
        return p.misreported(error, _start(device, p, inputs))
    return "nobody noticed" if stray else ""


def _start(device: "VirtualDevice", p: "Reach", inputs: "VirtualArray") -> int:
    """The address of the array's first cell, as a report would name it."""
    if p.space in ("first", "dynamic", "local"):
        return 0
    if p.space == "param":
        # Behind three pointers and an int.
        return -(-28 // p.element.size) * p.element.size
    if p.space == "constant":
        table = device.machine.memory.snapshot().allocations
        return next(a.start for a in table if f"{p.name}_constant" in a.label)
    return inputs.address


def expressions(names: list[str], where: str = "") -> Iterator[Trial]:
    """Expressions and control flow against their Python twin, bit for bit."""
    for name in names:
        rng = random.Random(f"expressions {name}")
        block = rng.choice([(32, 1, 1), (37, 1, 1), (8, 8, 1), (5, 7, 1), (3, 4, 5), (1, 1, 1)])
        n, way = rng.randrange(10), way_of(name, where)
        yield Trial(name, f"{way}, block {block}, n {n}", partial(_expression, int(name), block, n, way))


def _expression(seed: int, block: tuple[int, int, int], n: int, way: Way) -> str:
    from tests.support.programs.differential import check

    with _device(way, way.ends[seed % len(way.ends)]):
        check(seed, block, n)
    return ""


def addresses(names: list[str], where: str = "") -> Iterator[Trial]:
    """Guarded accesses in PTX, by every way to compute an address."""
    from tests.support.programs.addresses import HEAD, program

    for name in names:
        p, way = program(random.Random(f"addresses {name}"), f"k{name}"), way_of(name, where)
        text = f"{way}, block {p.block}, grid {p.grid}, {p.space}\n{HEAD}{p.text}"
        yield Trial(name, text, partial(_addressed, p, way, HEAD + p.text))


def _addressed(p: "of_addresses.Program", way: Way, module: str) -> str:
    said = ""
    for end in way.ends:
        with _device(way, end) as device:
            out = device.zeros(p.expected.shape, np.uint8)
            args = (out, device.upload(p.content), *([p.content.tobytes()] if p.space == "param" else []))
            _load(device, module)[p.name].launch(p.grid, p.block, args, shared_bytes=p.dynamic_bytes)
            said = said or _difference(out.download(), p.expected)
    return said


def edges(names: list[str], where: str = "") -> Iterator[Trial]:
    """Accesses in PTX whose guard lets one thread too many through: it must be named."""
    from tests.support.programs.addresses import HEAD, program

    for name in names:
        p, way = program(random.Random(f"edges {name}"), f"k{name}", stray=True), way_of(name, where)
        text = f"{way}, block {p.block}, {p.space}, (thread, byte) {p.stray}\n{HEAD}{p.text}"
        yield Trial(name, text, partial(_edge, p, way, HEAD + p.text))


def _edge(p: "of_addresses.Program", way: Way, module: str) -> str:
    from nnkit.errors import DeviceMemoryError

    for end in way.ends:
        with _device(way, end) as device:
            inputs = device.upload(p.content)
            out = device.zeros((8, p.threads, 16), np.uint8)
            args = (out, inputs, *([p.content.tobytes()] if p.space == "param" else []))
            kernel = _load(device, module)[p.name]
            table = device.machine.memory.snapshot().allocations
            known = next((a.start for a in table if f"{p.name}_cells" in a.label), 0)
            start = {"global": inputs.address, "second": 48, "param": 16}.get(p.space, known)
            try:
                kernel.launch(1, p.block, args, shared_bytes=p.dynamic_bytes)
            except DeviceMemoryError as error:
                if said := p.misreported(str(error), start):
                    return said
            else:
                return "nobody noticed"
    return ""


def meetings(names: list[str], where: str = "") -> Iterator[Trial]:
    """Threads of a warp that meet at different barriers of the program."""
    from tests.support.programs.meetings import HEAD, program

    programs = [program(random.Random(f"meetings {name}"), f"k{name}") for name in names]
    module = _module(HEAD, [p.cuda for p in programs])
    for name, p in zip(names, programs, strict=True):
        way = way_of(name, where)
        yield Trial(name, f"{way}, block {p.threads}, grid {p.grid}\n{p.cuda}", partial(_met, p, way, module))


def _met(p: "of_meetings.Program", way: Way, module: str) -> str:
    end = way.ends[-1]
    with _device(way, end) as device:
        out = device.zeros((p.grid, p.threads), np.uint32)
        _load(device, module)[p.name].launch(p.grid, p.threads, (out,))
        return _difference(out.download(), np.array([p.expected()] * p.grid, np.uint32))


KINDS: dict[str, Callable[[list[str], str], Iterator[Trial]]] = {
    **{"neighbours": neighbours, "twins": twins, "addresses": addresses},
    **{"bounds": bounds, "edges": edges, "expressions": expressions},
    **{"meetings": meetings},
}


def _module(head: str, kernels: list[str]) -> str:
    from nnkit.device.compile import compile_cuda

    # Fused, a product's rounding would be lost.
    return compile_cuda("\n".join([head, *kernels]), "fuzz.cu", ["-fmad=false"], ARCH).ptx


def _load(device: "VirtualDevice", module: str) -> "VirtualModule":
    """The module; what is constant cannot be written even by a store that no check has seen."""
    from nnkit.vm.run.memory_table import READ_ONLY
    from tests.support.guard import forbid_writing

    found = device.load_ptx(module)
    for allocation in device.machine.memory.snapshot().allocations:
        if allocation.flags & READ_ONLY:
            forbid_writing(allocation.start, allocation.size)
    return found


@contextmanager
def _device(way: Way, end: str) -> "Iterator[VirtualDevice]":
    """A device in guarded memory, whose threads share even small grids."""
    from nnkit.device.virtual import VirtualDevice
    from nnkit.vm.run import launch
    from tests.support.guard import guarded

    launch.WORTH_A_THREAD = 0.0
    with guarded(end):
        device = VirtualDevice(width=way.width, threads=way.threads)
        device.machine.options = replace(device.machine.options, poison=way.poison)
        yield device
        device.close()


def _difference(found: npt.NDArray[Any], expected: npt.NDArray[Any]) -> str:
    """Where two arrays differ, or ""."""
    places = np.argwhere(found != expected)
    if not len(places):
        return ""
    first = tuple(int(k) for k in places[0])
    return f"{len(places)} of {expected.size} differ: {found[first]} instead of {expected[first]} at {first}"
