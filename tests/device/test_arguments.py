"""Arguments packed for a kernel: every layout and every refusal."""

import array
import ctypes
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nnkit.device.host.array import CpuArray
from nnkit.device.kernels.arguments import Packer
from nnkit.device.kernels.parameters import Parameter, parameters
from nnkit.device.virtual import VirtualArray, VirtualDevice
from nnkit.errors import DeviceError, LaunchError
from nnkit.ptx.interface import Interface


@dataclass
class FakeDevice:
    """A device that only has a name, and takes no arrays of other libraries."""

    name: str = "virtual"

    def borrow(self, argument: object) -> VirtualArray | None:
        return None


@dataclass
class FakeArray:
    """An array that only has an address."""

    device: Any
    address: int = 0x7F00_0000_1000

    def rows(self, start: int, stop: int) -> "FakeArray":
        return self


class ClosedArray:
    """An array whose device was closed."""

    def __init__(self, device: Any):
        self.device = device

    @property
    def address(self) -> int:
        raise DeviceError("the device is closed")


DEVICE = FakeDevice()
ARRAY = FakeArray(DEVICE)
RECORD = np.zeros((), [("x", "f8"), ("n", "i4"), ("pad", "i4")])

# PTX type, ctypes type, the values that fit as (argument, what C would hold).
SCALARS: list[tuple[str, type["ctypes._SimpleCData[Any]"], st.SearchStrategy[Any]]] = [
    ("u8", ctypes.c_uint8, st.integers(0, 255).map(np.uint8)),
    ("s8", ctypes.c_int8, st.integers(-128, 127)),
    ("b8", ctypes.c_uint8, st.booleans()),
    ("u16", ctypes.c_uint16, st.integers(0, 2**16 - 1).map(np.uint16)),
    ("s32", ctypes.c_int32, st.integers(-(2**31), 2**31 - 1).map(np.int32)),
    ("u32", ctypes.c_uint32, st.integers(0, 2**32 - 1)),
    ("b32", ctypes.c_int32, st.integers(-(2**31), 2**31 - 1)),
    ("u64", ctypes.c_int64, st.integers(-(2**63), 2**63 - 1).map(np.int64)),
    ("s64", ctypes.c_int64, st.integers(-(2**63), 2**63 - 1)),
    ("f32", ctypes.c_float, st.floats(width=32, allow_nan=False)),
    ("f64", ctypes.c_double, st.floats(allow_nan=False)),
]


def ptx_of(*declarations: str, name: str = "k", after: str = "") -> str:
    """An entry with these parameters."""
    listed = ",\n\t".join(f".param {text} {name}_param_{i}" for i, text in enumerate(declarations))
    return f".version 8.0\n.target sm_90\n.visible .entry {name}(\n\t{listed}\n)\n{after}{{ ret; }}"


def packer(*declarations: str) -> Packer[VirtualArray]:
    """A packer for a kernel k with these parameters."""
    return Packer("k", parameters(Interface(ptx_of(*declarations)))["k"])


def struct_packer(size: int, align: int) -> Packer[VirtualArray]:
    """A packer for a kernel k that takes a struct."""
    return Packer("k", (Parameter("s", size, align, "struct"),))


def refusal(pack: Packer[VirtualArray], *args: Any, device: Any = DEVICE) -> str:
    """The one line of the LaunchError for these arguments."""
    with pytest.raises(LaunchError) as caught:
        pack.pack(args, device)
    message = str(caught.value)
    assert "\n" not in message
    assert message.startswith("kernel k")
    return message


@given(st.data())
def test_packing_is_the_layout_of_c(data: st.DataObject) -> None:
    chosen = data.draw(st.lists(st.sampled_from(SCALARS), min_size=1, max_size=8))
    values = [data.draw(values) for _, _, values in chosen]
    pack = packer(*(f".{name}" for name, _, _ in chosen))

    class Layout(ctypes.Structure):
        _fields_ = tuple((f"p{i}", kind) for i, (_, kind, _) in enumerate(chosen))

    expected = Layout(*(value.item() if isinstance(value, np.generic) else value for value in values))
    packed = bytes(pack.pack(values, DEVICE))
    assert pack.offsets == [getattr(Layout, f"p{i}").offset for i in range(len(chosen))]
    # C fills the end up to the alignment of the whole, which no kernel reads.
    assert packed == bytes(expected)[: pack.size]
    # The second launch finds no trace of the first.
    assert bytes(pack.pack(values, DEVICE)) == packed


def test_pointers_structs_and_their_padding() -> None:
    pack = packer(".u8", ".u64 .ptr .align 1", ".u8", ".align 16 .b8", ".u64")
    pack = Packer("k", (*pack.parameters[:3], Parameter("s", 16, 16, "struct"), pack.parameters[4]))
    content = bytes(range(16))
    packed = bytes(pack.pack((True, ARRAY, 7, content, None), DEVICE))
    assert pack.offsets == [0, 8, 16, 32, 48]
    assert packed[0] == 1
    assert int.from_bytes(packed[8:16], "little") == ARRAY.address
    assert (packed[16], packed[17:32], packed[32:48], packed[48:]) == (7, bytes(15), content, bytes(8))


def test_the_addresses_of_the_parameters_point_into_the_buffer() -> None:
    pack = packer(".u8", ".f64", ".u32")
    pack.pack((1, 2.5, 3), DEVICE)
    pointers = (ctypes.c_uint64 * 3).from_address(pack.pointers)
    assert pack.address % 64 == 0
    assert ctypes.c_uint8.from_address(pointers[0]).value == 1
    assert ctypes.c_double.from_address(pointers[1]).value == 2.5
    assert ctypes.c_uint32.from_address(pointers[2]).value == 3


def test_no_parameters() -> None:
    assert bytes(packer().pack((), DEVICE)) == b""


@pytest.mark.parametrize(
    ("declared", "argument", "packed"),
    [
        (".u32", np.int32(-1), b"\xff" * 4),
        (".s32", np.uint32(2**32 - 1), b"\xff" * 4),
        (".s32", 2**32 - 1, b"\xff" * 4),
        (".u8", np.bool_(True), b"\1"),
        (".u64", np.uint64(5), b"\5" + bytes(7)),
        (".u64", np.longlong(-1), b"\xff" * 8),
        (".u64", None, bytes(8)),
        (".u64 .ptr", 0, bytes(8)),
        (".b32", np.float32(1), b"\0\0\x80\x3f"),
        (".b32", 1.0, b"\0\0\x80\x3f"),
        (".b16", np.float16(1), b"\0\x3c"),
        (".f16", 1.0, b"\0\x3c"),
        (".f32", float("inf"), b"\0\0\x80\x7f"),
        (".f32", np.float32(1), b"\0\0\x80\x3f"),
    ],
)
def test_arguments_that_fit(declared: str, argument: Any, packed: bytes) -> None:
    assert bytes(packer(declared).pack((argument,), DEVICE)) == packed


class Line(ctypes.Structure):
    """What C has for RECORD."""

    _fields_ = (("x", ctypes.c_double), ("n", ctypes.c_int32))


class BigLine(ctypes.BigEndianStructure):
    """The same, the other way round."""

    _fields_ = (("x", ctypes.c_double), ("n", ctypes.c_int32))


@pytest.mark.parametrize(
    ("declared", "argument", "packed"),
    [
        (".u32", np.array(7, np.int32), b"\7" + bytes(3)),
        (".u32", np.array(7, ">i4"), b"\7" + bytes(3)),
        (".f32", np.array(1, np.float32), b"\0\0\x80\x3f"),
        (".f32", np.array(1, ">f4"), b"\0\0\x80\x3f"),
        (".f64", np.array(1, ">f8"), bytes(6) + b"\xf0\x3f"),
        (".b32", np.array(1, ">f4"), b"\0\0\x80\x3f"),
        (".u8", np.array(True), b"\1"),
        (".s32", ctypes.c_int(-1), b"\xff" * 4),
        (".u64", ctypes.c_size_t(5), b"\5" + bytes(7)),
        (".u64", ctypes.c_void_p(None), bytes(8)),
        (".u64 .ptr", ctypes.c_void_p(None), bytes(8)),
        (".f32", ctypes.c_float(1), b"\0\0\x80\x3f"),
        (".f64", ctypes.c_double(1), bytes(6) + b"\xf0\x3f"),
        (".u8", ctypes.c_bool(True), b"\1"),
    ],
)
def test_numbers_in_other_clothes(declared: str, argument: Any, packed: bytes) -> None:
    pack = packer(".u64", declared, ".u32")
    for _ in range(2):
        got = bytes(pack.pack((ARRAY, argument, 3), DEVICE))
        at = pack.offsets[1]
        assert got[at : at + len(packed)] == packed
        assert got[pack.offsets[2] :] == b"\3\0\0\0"


@pytest.mark.parametrize(
    "argument",
    [
        Line(0.5, -3),
        np.array((0.5, -3, 0), [("x", "f8"), ("n", "i4"), ("pad", "i4")])[()],
        np.array((0.5, -3, 0), [("x", ">f8"), ("n", ">i4"), ("pad", "i4")])[()],
        np.array((0.5, -3, 0), [("x", ">f8"), ("n", ">i4"), ("pad", "i4")]),
        np.array((0.5, -3), np.dtype([("x", "f8"), ("n", "i4")], align=True)),
        memoryview(bytes(Line(0.5, -3))),
        (ctypes.c_char * 16).from_buffer_copy(bytes(Line(0.5, -3))),
    ],
)
def test_structs_in_other_clothes(argument: Any) -> None:
    pack = struct_packer(16, 8)
    assert bytes(pack.pack((argument,), DEVICE))[:12] == bytes(Line(0.5, -3))[:12]


@pytest.mark.parametrize(
    ("declared", "argument", "words"),
    [
        (".u32", np.array(7, np.int64), ("np.int64(7)", "np.int32")),
        (".u32", np.zeros(1, np.int32), ("shape (1,)",)),
        (".f32", np.array(1.0), ("float64",)),
        (".u64", np.array(7), ("array[()]", "array.reshape(1)")),
        (".u64", ctypes.pointer(ctypes.c_float(1)), ("memory of the host",)),
        (".u32", ctypes.c_double(1), ("np.float64(1.0)",)),
        (".u32", Line(0.5, 3), ("Line",)),
    ],
)
def test_other_clothes_that_do_not_fit(declared: str, argument: Any, words: tuple[str, ...]) -> None:
    message = refusal(packer(declared), argument)
    for word in words:
        assert word in message


def test_structs_whose_bytes_are_not_those_of_c() -> None:
    pack = struct_packer(16, 8)
    assert "another byte order" in refusal(pack, BigLine(0.5, 3))
    assert "align=True" in refusal(pack, np.array((0.5, -3), [("x", "f8"), ("n", "i4")])[()])
    assert "tobytes()" in refusal(pack, np.zeros(2))


class Rude:
    """An object that fails whatever it is asked."""

    def __getattr__(self, name: str) -> Any:
        raise RuntimeError(f"do not ask for {name}")

    def __repr__(self) -> str:
        raise RuntimeError("no repr")


@pytest.mark.parametrize("declared", [".u64", ".u64 .ptr", ".u32", ".f32", ".b32", ".u8"])
def test_an_object_that_fails_when_asked(declared: str) -> None:
    assert "a Rude" in refusal(packer(declared), Rude())


@pytest.mark.parametrize("args", [{5: "x"}, "x", {1}, 5, None, iter([1]), np.zeros(1), b"x"])
def test_arguments_that_are_no_list(args: Any) -> None:
    with pytest.raises(LaunchError, match="args must be a tuple or a list"):
        packer(".u32").pack(args, DEVICE)


@pytest.mark.parametrize(
    ("size", "argument"),
    [(16, RECORD), (16, RECORD[()]), (16, bytearray(16)), (2, np.float16(1)), (8, np.complex64(1j))],
)
def test_structs_that_fit(size: int, argument: Any) -> None:
    pack = struct_packer(size, 1)
    assert bytes(pack.pack((argument,), DEVICE)) == bytes(memoryview(argument))


@pytest.mark.parametrize(
    "argument", [b"abcd", bytearray(4), memoryview(b"abcd"), (ctypes.c_float * 1)(), array.array("f", [1])]
)
def test_buffers_of_python_are_no_arrays(argument: Any) -> None:
    device = VirtualDevice(threads=1)
    message = refusal(packer(".u64 .ptr .align 1"), argument, device=device)
    assert "np.frombuffer" in message
    packer(".u64 .ptr .align 1").pack((np.frombuffer(argument, np.uint8),), device)
    device.close()


@pytest.mark.parametrize(("size", "kind"), [(8, np.complex64), (16, np.complex128)])
def test_complex_numbers_of_python(size: int, kind: type) -> None:
    pack = struct_packer(size, 1)
    assert bytes(pack.pack((1.5 - 2j,), DEVICE)) == kind(1.5 - 2j).tobytes()
    for other in (4, 12, 24):
        assert "(1.5-2j)" in refusal(struct_packer(other, 1), 1.5 - 2j)


@pytest.mark.parametrize(
    ("declared", "argument", "words"),
    [
        (".f32", np.float64(1), ("np.float64(1.0)", "np.float32 or a float")),
        (".f32", np.int32(1), ("np.int32(1)", "float(1)")),
        (".f32", 1, ("got 1", "float(1)")),
        (".f32", True, ("True",)),
        (".f32", 1e300, ("more than 32 bits",)),
        (".f64", np.float32(1), ("np.float64 or a float",)),
        (".u32", np.int64(1), ("np.int64(1)", "np.int32, np.uint32 or an int")),
        (".u32", 2**32, ("more than 32 bits",)),
        (".u32", -(2**31) - 1, ("more than 32 bits",)),
        (".u32", 1.0, ("a float",)),
        (".u32", np.float32(1), ("a float",)),
        (".u32", True, ("True",)),
        (".u8", 256, ("more than 8 bits",)),
        (".s64", 2**64, ("more than 64 bits",)),
        (".b32", np.float64(1), ("any 32 bits",)),
        (".b32", 1e300, ("more than 32 bits",)),
        (".b8", 1.0, ("any 8 bits",)),
        (".u32", ARRAY, ("an array",)),
        (".f32", np.zeros(3, np.float32), ("shape (3,)", "upload")),
        (".u64", np.zeros(3, np.float32), ("shape (3,)", "device.upload")),
        (".u64", CpuArray(np.zeros(3)), ("CpuArray", "device.upload")),
        (".u64", FakeArray(FakeDevice("cuda")), ("another device (cuda)",)),
        (".u64", np.int32(1), ("np.int32(1)", "a pointer or a 64-bit integer")),
        (".u64", 1.0, ("an array of this device",)),
        (".u64", ClosedArray(DEVICE), ("the device is closed",)),
        (".u64 .ptr", 1, ("got 1", "an array of this device or None")),
        (".u64 .ptr", np.int64(0), ("np.int64(0)",)),
        (".u64 .ptr", False, ("False",)),
        (".u64 .ptr", "text", ("'text'",)),
    ],
)
def test_arguments_that_do_not_fit(declared: str, argument: Any, words: tuple[str, ...]) -> None:
    message = refusal(packer(".u32", declared), 1, argument)
    assert "argument 2 of 2 (k_param_1" in message
    for word in words:
        assert word in message


@pytest.mark.parametrize(
    ("argument", "word"),
    [
        (bytes(15), "15 bytes"),
        (RECORD[["x"]][()].tobytes()[:8], "8 bytes"),
        (np.zeros(2, "f8"), "shape (2,)"),
        (np.float64(1), "np.float64"),
        (np.complex64(1), "8 bytes"),
        (ARRAY, "an array"),
        (1, "got 1"),
    ],
)
def test_structs_that_do_not_fit(argument: Any, word: str) -> None:
    pack = struct_packer(16, 8)
    message = refusal(pack, argument)
    assert word in message
    assert "16 bytes" in message


def test_the_wrong_number_of_arguments() -> None:
    pack = packer(".u64", ".f32")
    message = refusal(pack, ARRAY)
    assert "takes 2 argument(s), got 1" in message
    assert "a 32-bit float" in message
    assert "got 3" in refusal(pack, ARRAY, 1.0, 1.0)
    with pytest.raises(LaunchError, match="args must be a tuple or a list"):
        pack.pack(ARRAY, DEVICE)  # type: ignore[arg-type]
