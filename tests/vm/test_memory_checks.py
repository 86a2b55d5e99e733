"""Negative controls for every check of an access: what is wrong is reported, exactly, and harms nothing."""

import itertools
import re
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pytest

from nnkit.device.virtual import VirtualArray, VirtualDevice
from nnkit.errors import DeviceMemoryError
from tests.support.sources import line_of, report

THREADS, BLOCKS = 64, 3
TABLE = np.random.default_rng(0).permutation(THREADS).astype(np.int32)


@dataclass(frozen=True)
class Shape:
    """How the lanes' addresses relate: elements of a type at an index that C and Python know."""

    type: str
    size: int
    index: str
    at: npt.NDArray[np.int64]

    @property
    def offsets(self) -> npt.NDArray[np.int64]:
        """Every thread's first byte."""
        return self.at * self.size

    @property
    def extent(self) -> int:
        """Bytes from the first to behind the last."""
        return int(self.offsets.max()) + self.size


T = np.arange(THREADS)
SHAPES = {
    "uniform": Shape("int", 4, "0", 0 * T),
    "contiguous": Shape("int", 4, "t", T),
    "strided": Shape("int", 4, "3 * t", 3 * T),
    "reversed": Shape("int", 4, "63 - t", 63 - T),
    "swapped": Shape("int", 4, "(t ^ 1)", T ^ 1),
    "repeated": Shape("int", 4, "t / 4", T // 4),
    "gather": Shape("int", 4, "index[t]", TABLE.astype(np.int64)),
    "v2": Shape("int2", 8, "t", T),
    "v4": Shape("int4", 16, "t", T),
    "v4_gather": Shape("int4", 16, "index[t]", TABLE.astype(np.int64)),
    "u8": Shape("unsigned char", 1, "t", T),
    "u8_gather": Shape("unsigned char", 1, "index[t]", TABLE.astype(np.int64)),
    "u16": Shape("unsigned short", 2, "t", T),
    "u64": Shape("long long", 8, "t", T),
    "f64_strided": Shape("double", 8, "2 * t", 2 * T),
}
WINDOWED = ("uniform", "contiguous", "swapped", "strided", "gather", "v4", "u8", "u16", "u64")
PARAMETERS = "char* p, long long offset, int bad, int n, const int* index, char* out"

SPACES = {
    "global": ("", "p"),
    "static": (
        "__shared__ __align__(16) char here[{extent}]; if (t < {extent}) here[t] = 0; __syncthreads();",
        "here",
    ),
    "dynamic": (
        "extern __shared__ __align__(16) char pool[]; if (t < {extent}) pool[t] = 0; __syncthreads();",
        "pool",
    ),
    "local": (
        "__align__(16) char own[{extent}]; for (int i = 0; i < {extent}; ++i) own[i] = 0; own[n & 15] = bad;",
        "own",
    ),
    "const": ("", "fixed"),
    "param": ("", "(char*)given.bytes"),
}
WRITABLE = ("global", "static", "dynamic", "local")


def kernel(name: str, shape: Shape, space: str, how: str, guarded: bool) -> str:
    """One access in one kernel, on a line of its own that bears the kernel's name."""
    setup, pointer = SPACES[space]
    place = f"*({shape.type}*)(q + {shape.size} * ({shape.index}))"
    result = f"*({shape.type}*)(out + 16 * (64 * blockIdx.x + t))"
    word = "unsigned long long" if shape.size == 8 else "int"
    # Without a reader the compiler would drop the store.
    kept = f"out[t] = ({pointer})[n & 15];"
    access = {
        "load": f"{result} = {place}; // {name}",
        "store": f"{shape.type} v = {result};\n    {place} = v; // {name}\n    {kept}",
        "atomic": f"{shape.type} v = 1;\n    atomicAdd(({word}*)&{place}, v); // {name}",
        "get": f"{shape.type} v = get(&{place});\n    {result} = v;",
        "put": f"{shape.type} v = {result};\n    put(&{place}, v);\n    {kept}",
    }[how]
    given = "const __grid_constant__ Given given, " if space == "param" else ""
    return f"""
extern "C" __global__ void {name}({given}{PARAMETERS}) {{
    int t = threadIdx.x;
    {setup.format(extent=shape.extent)}
    char* q = (char*){pointer} + (blockIdx.x == bad ? offset : 0);
    {"if (t >= n) return;" if guarded else ""}
    {access}
}}"""


HEAD = """
struct Given { char bytes[1024]; };
__constant__ __align__(16) char fixed[1024] = {1, 2, 3};
__device__ __noinline__ int get(const volatile int* place) {
    return *place; // get
}
__device__ __noinline__ void put(volatile int* place, int value) {
    *place = value; // put
}
"""


def cases() -> Iterator[tuple[str, str, str, str, bool]]:
    """(kernel, shape, space, how, guarded)."""
    for name in SHAPES:
        for how in ("load", "store"):
            for guarded in (False, True):
                yield f"global_{how}_{name}{'_guarded' * guarded}", name, "global", how, guarded
    for space in ("static", "dynamic", "local", "const", "param"):
        for name in WINDOWED:
            for how in ("load", "store")[: 1 + (space in WRITABLE)]:
                yield f"{space}_{how}_{name}", name, space, how, False
    for space in ("global", "static", "dynamic"):
        for name in ("uniform", "contiguous", "gather", "u64"):
            yield f"{space}_atomic_{name}", name, space, "atomic", False
    for space in ("global", "static", "local", "const"):
        yield f"{space}_get", "contiguous", space, "get", False
    for space in ("global", "static", "local"):
        yield f"{space}_put", "gather", space, "put", True


CASES = {case[0]: case for case in cases()}
SOURCE = HEAD + "".join(
    kernel(name, SHAPES[shape], space, how, guarded) for name, shape, space, how, guarded in CASES.values()
)


class Bench:
    """The device, the kernels, and one launch of a case with its arrays."""

    def __init__(self) -> None:
        self.device = VirtualDevice(threads=1)
        self.index = self.device.upload(TABLE)
        self.out = self.device.zeros((BLOCKS * THREADS * 16,), np.uint8)
        self.module = self.device.compile(SOURCE, name="checks.cu")

    def limit(self, name: str) -> int:
        """How many bytes the kernel may access where it does."""
        _, shape, space, _, _ = CASES[name]
        if space == "param":
            # All parameters are one piece: the struct, then five of 8, 8, 4, 4, 8 and 8 bytes.
            return 1024 + 40
        if space == "const":
            return 1024
        extent = SHAPES[shape].extent
        # The compiler fills local memory up to the alignment of what is in it, which is asked for here.
        return -(-extent // 16) * 16 if space == "local" else extent

    def launch(
        self, name: str, p: VirtualArray, offset: int, bad: int = 0, n: int = THREADS, blocks: int = 1
    ) -> None:
        _, shape, space, _, _ = CASES[name]
        offset = (offset + (1 << 63)) % (1 << 64) - (1 << 63)
        args: list[object] = [bytes(1024)] if space == "param" else []
        args += [p, np.int64(offset), np.int32(bad), np.int32(n), self.index, self.out]
        dynamic = SHAPES[shape].extent if space == "dynamic" else 0
        self.module[name].launch(blocks, THREADS, args, shared_bytes=dynamic)

    def fails(self, name: str, p: VirtualArray, offset: int, size: int, **more: int) -> None:
        """Launch, and compare the report with a model of the check."""
        _, shape_name, space, how, _ = CASES[name]
        shape, bad = SHAPES[shape_name], more.get("bad", 0)
        start = p.address if space == "global" else 0
        wide = (1 << 64) if space in ("global", "const") else 1 << 32
        if space == "const":
            start = next(
                a.start for a in self.device.machine.memory.snapshot().allocations if "fixed" in a.label
            )
        with pytest.raises(DeviceMemoryError) as caught:
            self.launch(name, p, offset, **more)
        found = report(caught.value)
        for thread in range(more.get("n", THREADS)):
            address = (start + offset + int(shape.offsets[thread])) % wide
            inside = start <= address and address + shape.size <= start + size
            if not inside or address % shape.size:
                break
        else:
            raise AssertionError("the case is not one")
        assert (found.kernel, found.file) == (name, "checks.cu")
        assert found.line == line_of(SOURCE, how if how in ("get", "put") else name)
        assert (found.block, found.thread) == ((bad, 0, 0), (thread, 0, 0))
        what = {"load": "load", "store": "store", "get": "load", "put": "store"}.get(how, "atomic operation")
        where = {"static": "shared", "dynamic": "shared"}.get(space, space)
        if how == "get" and space == "const":
            where = "global"
        assert found.what.startswith(f"{what} of {shape.size} bytes at {where} address {address:#x} is ")
        if inside:
            assert found.what.endswith(f"misaligned: the address must be a multiple of {shape.size}")
            return
        assert "is out of bounds: " in found.what
        if address < start or (wide == 1 << 32 and address >= 1 << 31):
            words = f"it lies {(start - address) % wide} bytes before"
        elif address >= start + size:
            words = f"it lies {address - start - size} bytes behind the end"
        else:
            words = "over the end"
        if abs(offset) < 4096:
            assert words in found.what
            assert f" {size} bytes" in found.what
        reach = 1 << 22
        if space in ("global", "const") and not reach <= address < wide - reach:
            away = (
                f"it lies {min(address, wide - address)} bytes {'behind' if address < reach else 'before'} "
            )
            assert found.what.endswith(f"{away if address else 'it is '}a null pointer")
        else:
            assert re.search(r"it lies \d+ bytes (before|behind)|over the end|was freed", found.what)
            assert "null" not in found.what


@pytest.fixture(scope="module")
def bench() -> Iterator[Bench]:
    made = Bench()
    yield made
    made.device.close()


def guards(bench: Bench, size: int) -> tuple[VirtualArray, list[VirtualArray]]:
    """An array of that size among others that nobody may touch."""
    arrays = [bench.device.zeros((size,), np.uint8) for _ in range(5)]
    arrays.sort(key=lambda a: a.address)
    for array in arrays:
        array.host[...] = 0x5A
    middle = arrays.pop(2)
    middle.host[...] = 0
    return middle, arrays


@pytest.mark.parametrize("name", CASES)
def test_every_access_is_checked(bench: Bench, name: str) -> None:
    _, shape_name, space, _, guarded = CASES[name]
    shape, limit = SHAPES[shape_name], bench.limit(name)
    p, neighbours = guards(bench, shape.extent)
    bench.launch(name, p, 0)
    bench.launch(name, p, 0, blocks=BLOCKS)
    full = limit - shape.extent
    offsets = [-4, -shape.size, full + shape.size, full + 4]
    if shape.size > 1:
        # Half of the last one outside; misaligned; both.
        offsets += [shape.size // 2, 1, full + shape.size - 1, -1]
    if space == "global":
        offsets += [-p.address, -p.address - 64, 1 << 46, -(1 << 63), (1 << 63) - 4096]
    else:
        offsets += [1 << 20, 1 << 30, (1 << 31) - 2048, -(1 << 30)]
    if name.endswith("_get"):
        # Lanes outside of a window are looked at after those within: another misaligned one comes first.
        offsets.remove(-1)
    if shape.size == 1 or shape_name == "uniform":
        offsets = [o for o in offsets if not 0 <= o <= full]
        offsets = [o for o in offsets if shape_name != "uniform" or not 0 <= o <= limit - shape.size or o % 4]
    for offset in offsets:
        bench.fails(name, p, offset, limit)
    bench.fails(name, p, full + shape.size, limit, bad=1, blocks=BLOCKS)
    # The device goes on, and nothing outside has changed.
    bench.launch(name, p, 0)
    for array in neighbours:
        assert (array.host == 0x5A).all()
    if guarded:
        inside = SHAPES[shape_name].offsets[:17].max() + shape.size
        short = bench.device.zeros((int(inside),), np.uint8)
        bench.launch(name, short if space == "global" else p, 0, n=17)
        bench.launch(name, p, 1 << 40, n=0)
        if space == "global":
            bench.fails(name, short, shape.size, int(inside), n=17)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("how", ["load", "store"])
def test_an_array_that_is_too_short_by_a_little(bench: Bench, shape: str, how: str) -> None:
    """The last one reaches over the end, or one more thread than there are elements."""
    size = SHAPES[shape].size
    for missing in {1, size, size // 2 or 1}:
        p, neighbours = guards(bench, SHAPES[shape].extent - missing)
        bench.fails(f"global_{how}_{shape}", p, 0, p.nbytes)
        for array in neighbours:
            assert (array.host == 0x5A).all()


@pytest.mark.parametrize("name", ["global_load_contiguous", "global_store_gather", "global_get"])
def test_freed_memory(bench: Bench, name: str) -> None:
    p, gone = (bench.device.zeros((size,), np.uint8) for size in (256, 9999))
    address = gone.address
    del gone
    with pytest.raises(
        DeviceMemoryError, match=r"it lies in an array of shape .9999,. uint8 of 9999 bytes, which was"
    ):
        bench.launch(name, p, address - p.address)


def test_an_array_of_no_elements(bench: Bench) -> None:
    nothing = bench.device.zeros((0,), np.float32)
    bench.launch("global_load_contiguous_guarded", nothing, 0, n=0)
    with pytest.raises(
        DeviceMemoryError, match=r"0 bytes behind the end of an array of shape .0,. float32 of 0 bytes"
    ):
        bench.launch("global_load_contiguous_guarded", nothing, 0, n=1)


def test_neighbours_are_never_one_piece(bench: Bench) -> None:
    """Arrays of 256 bytes side by side: a byte at least between them; a range over two is refused."""
    arrays = sorted((bench.device.zeros((256,), np.uint8) for _ in range(20)), key=lambda a: a.address)
    for first, second in itertools.pairwise(arrays):
        assert second.address > first.address + 256
        for name in ("global_load_contiguous", "global_store_contiguous", "global_load_v4"):
            with pytest.raises(DeviceMemoryError):
                bench.launch(name, first, 128)
