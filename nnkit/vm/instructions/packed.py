"""Instructions on the halves or the bytes of a 32-bit word, each for itself."""

from nnkit.ptx.ir import SIZES, Instruction
from nnkit.vm.forms.sections import INTEGER, MOVEMENT, VIDEO
from nnkit.vm.forms.table import pure
from nnkit.vm.text.builder import Lanes


def _part(x: Lanes, value: str, number: int, bits: int, signed: bool) -> str:
    """Part `number` (0 is the lowest) of `bits` bits, widened to 32."""
    up = x.binary("shl", "i32", value, x.constant("i32", 32 - bits * (number + 1)))
    return x.binary("ashr" if signed else "lshr", "i32", up, x.constant("i32", 32 - bits))


def _packed(x: Lanes, parts: list[str], bits: int) -> str:
    """The low bits of every part beside each other."""
    whole = x.constant("i32", 0)
    for number, part in enumerate(parts):
        low = x.binary("and", "i32", part, x.constant("i32", (1 << bits) - 1))
        whole = x.binary("or", "i32", whole, x.binary("shl", "i32", low, x.constant("i32", bits * number)))
    return whole


def _signs(item: Instruction) -> list[bool]:
    """Of every type in the instruction's name, whether it is signed."""
    return [m[0] == "s" for m in item.modifiers if m in SIZES]


@pure(INTEGER, r"add\.[us]16x2", "t t", meaning="arithmetic")
@pure(INTEGER, r"min|max(\.relu)?\.[us]16x2(\.relu)?", "t t", meaning="arithmetic")
def _halves(x: Lanes, item: Instruction, a: str, b: str) -> str:
    (signed,) = _signs(item)
    parts = []
    for number in (0, 1):
        first, second = (_part(x, value, number, 16, signed) for value in (a, b))
        if item.opcode == "add":
            parts.append(x.binary("add", "i32", first, second))
            continue
        part = x.call(f"s{item.opcode}", "i32", first, second)
        parts.append(x.call("smax", "i32", part, x.constant("i32", 0)) if "relu" in item.modifiers else part)
    return _packed(x, parts, 16)


@pure(MOVEMENT, r"cvt\.pack\.sat\.[us]16\.s32", "s32 s32", "b32")
def _pack(x: Lanes, item: Instruction, a: str, b: str) -> str:
    """Each number becomes the nearest one that 16 bits can hold; the second is the lower half."""
    signed, _ = _signs(item)
    least, most = (-(1 << 15), (1 << 15) - 1) if signed else (0, (1 << 16) - 1)
    halves = []
    for value in (b, a):
        above = x.call("smax", "i32", value, x.constant("i32", least))
        halves.append(x.call("smin", "i32", above, x.constant("i32", most)))
    return _packed(x, halves, 16)


@pure(INTEGER, r"dp4a\.[us]32\.[us]32", "b32 b32 t", "t")
def _dot_bytes(x: Lanes, item: Instruction, a: str, b: str, c: str) -> str:
    return _dot(x, item, [(a, n, 8) for n in range(4)], b, range(4), c)


@pure(INTEGER, r"dp2a\.(lo|hi)\.[us]32\.[us]32", "b32 b32 t", "t")
def _dot_halves(x: Lanes, item: Instruction, a: str, b: str, c: str) -> str:
    first = 2 if "hi" in item.modifiers else 0
    return _dot(x, item, [(a, n, 16) for n in range(2)], b, range(first, first + 2), c)


def _dot(
    x: Lanes, item: Instruction, lefts: list[tuple[str, int, int]], b: str, places: range, total: str
) -> str:
    """total + the products of the parts on the left and the bytes of b at those places."""
    a_signed, b_signed = _signs(item)
    for (value, number, bits), place in zip(lefts, places, strict=True):
        left, right = _part(x, value, number, bits, a_signed), _part(x, b, place, 8, b_signed)
        total = x.binary("add", "i32", total, x.binary("mul", "i32", left, right))
    return total


@pure(VIDEO, r"vabsdiff2|vabsdiff4\.[us]32\.[us]32\.[us]32(\.add)?", "b32 b32 b32", "b32")
def _distances(x: Lanes, item: Instruction, a: str, b: str, c: str) -> str:
    """|a - b| of every part; or, with .add, c and the sum of them."""
    _, a_signed, b_signed = _signs(item)
    count = int(item.opcode[-1])
    bits = 32 // count
    parts = []
    for number in range(count):
        difference = x.binary(
            "sub", "i32", _part(x, a, number, bits, a_signed), _part(x, b, number, bits, b_signed)
        )
        parts.append(x.call("abs", "i32", difference, tail="i1 false"))
    if "add" not in item.modifiers:
        return _packed(x, parts, bits)
    for part in parts:
        c = x.binary("add", "i32", c, part)
    return c
