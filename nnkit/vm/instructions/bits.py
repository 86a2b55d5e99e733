"""Counting, finding and moving bits: fields, permutations of bytes, logic by a table."""

from nnkit.ptx.ir import Instruction
from nnkit.vm.forms.sections import INTEGER, LOGIC, MOVEMENT
from nnkit.vm.forms.table import pure
from nnkit.vm.instructions.integer import base, is_signed
from nnkit.vm.text.builder import BITS, Lanes


@pure(INTEGER, r"popc\.b(32|64)", "t", "u32", meaning="count")
def _popc(x: Lanes, item: Instruction, a: str) -> str:
    return x.resize(base(item), x.call("ctpop", base(item), a), "i32")


@pure(INTEGER, r"clz\.b(32|64)", "t", "u32", meaning="count")
def _clz(x: Lanes, item: Instruction, a: str) -> str:
    return x.resize(base(item), x.call("ctlz", base(item), a, tail="i1 false"), "i32")


@pure(INTEGER, r"brev\.b(32|64)", "t")
def _brev(x: Lanes, item: Instruction, a: str) -> str:
    return x.call("bitreverse", base(item), a)


@pure(INTEGER, r"bfind(\.shiftamt)?\.[us](32|64)", "t", "u32", meaning="count")
def _bfind(x: Lanes, item: Instruction, a: str) -> str:
    """The highest bit that differs from the sign; all ones where there is none."""
    kind = base(item)
    bits = BITS[kind]
    if is_signed(item):
        a = x.binary("xor", kind, a, x.binary("ashr", kind, a, x.constant(kind, bits - 1)))
    zeros = x.resize(kind, x.call("ctlz", kind, a, tail="i1 false"), "i32")
    none = x.compare("eq", kind, a, x.constant(kind, 0))
    place = x.binary("sub", "i32", x.constant("i32", bits - 1), zeros)
    found = zeros if "shiftamt" in item.modifiers else place
    return x.select(none, "i32", x.constant("i32", -1), found)


@pure(INTEGER, r"bfe\.[us](32|64)", "t u32 u32", operands=">t t u32<256 u32<256")
def _bfe(x: Lanes, item: Instruction, a: str, position: str, length: str) -> str:
    """`length` bits from `position`; beyond the top the sign (or 0) is repeated."""
    kind = base(item)
    bits = BITS[kind]
    position = x.binary("and", "i32", position, x.constant("i32", 255))
    length = x.binary("and", "i32", length, x.constant("i32", 255))
    top = x.call("umin", "i32", x.binary("add", "i32", position, length), x.constant("i32", bits))
    position = x.call("umin", "i32", position, x.constant("i32", bits))
    # Shift the field's top to the top of the word, then back down: both shifts in twice the width.
    wide = f"i{2 * bits}"
    extended = x.resize(kind, a, wide, is_signed(item))
    up = x.resize("i32", x.binary("sub", "i32", x.constant("i32", 2 * bits), top), wide)
    up = x.call("umin", wide, up, x.constant(wide, 2 * bits - 1))
    down = x.resize(
        "i32",
        x.binary("add", "i32", x.binary("sub", "i32", x.constant("i32", 2 * bits), top), position),
        wide,
    )
    down = x.call("umin", wide, down, x.constant(wide, 2 * bits - 1))
    shift = "ashr" if is_signed(item) else "lshr"
    field = x.binary(shift, wide, x.binary("shl", wide, extended, up), down)
    result = x.cast("trunc", wide, field, kind)
    empty = x.compare("eq", "i32", length, x.constant("i32", 0))
    beyond = x.compare("uge", "i32", position, x.constant("i32", bits))
    sign = x.binary("ashr", kind, a, x.constant(kind, bits - 1)) if is_signed(item) else x.constant(kind, 0)
    result = x.select(beyond, kind, sign, result)
    return x.select(empty, kind, x.constant(kind, 0), result)


@pure(INTEGER, r"bfi\.b(32|64)", "t t u32 u32", operands=">t t t u32<256 u32<256")
def _bfi(x: Lanes, item: Instruction, field: str, into: str, position: str, length: str) -> str:
    """`length` bits of `field` put into `into` at `position`."""
    kind = base(item)
    bits = BITS[kind]
    position = x.binary("and", "i32", position, x.constant("i32", 255))
    length = x.binary("and", "i32", length, x.constant("i32", 255))
    wide = f"i{2 * bits}"
    count = x.resize("i32", x.call("umin", "i32", length, x.constant("i32", bits)), wide)
    start = x.resize("i32", x.call("umin", "i32", position, x.constant("i32", bits)), wide)
    ones = x.binary("sub", wide, x.binary("shl", wide, x.constant(wide, 1), count), x.constant(wide, 1))
    mask = x.cast("trunc", wide, x.binary("shl", wide, ones, start), kind)
    moved = x.cast("trunc", wide, x.binary("shl", wide, x.resize(kind, field, wide), start), kind)
    kept = x.binary("and", kind, into, x.binary("xor", kind, mask, x.constant(kind, -1)))
    return x.binary("or", kind, kept, x.binary("and", kind, moved, mask))


@pure(INTEGER, r"bmsk\.(clamp|wrap)\.b32", "u32 u32")
def _bmsk(x: Lanes, item: Instruction, position: str, length: str) -> str:
    if "wrap" in item.modifiers:
        position = x.binary("and", "i32", position, x.constant("i32", 31))
        length = x.binary("and", "i32", length, x.constant("i32", 31))
    position, length = (x.call("umin", "i32", value, x.constant("i32", 32)) for value in (position, length))
    position, length = (x.cast("zext", "i32", value, "i64") for value in (position, length))
    ones = x.binary("sub", "i64", x.binary("shl", "i64", x.constant("i64", 1), length), x.constant("i64", 1))
    return x.cast("trunc", "i64", x.binary("shl", "i64", ones, position), "i32")


@pure(INTEGER, r"szext\.(clamp|wrap)\.[us]32", "t u32")
def _szext(x: Lanes, item: Instruction, a: str, count: str) -> str:
    if "wrap" in item.modifiers:
        count = x.binary("and", "i32", count, x.constant("i32", 31))
    count = x.cast("zext", "i32", x.call("umin", "i32", count, x.constant("i32", 32)), "i64")
    by = x.binary("sub", "i64", x.constant("i64", 64), count)
    by = x.call("umin", "i64", by, x.constant("i64", 63))
    up = x.binary("shl", "i64", x.cast("zext", "i32", a, "i64"), by)
    down = x.binary("ashr" if is_signed(item) else "lshr", "i64", up, by)
    none = x.compare("eq", "i64", count, x.constant("i64", 0))
    return x.select(none, "i32", x.constant("i32", 0), x.cast("trunc", "i64", down, "i32"))


@pure(LOGIC, r"lop3\.b32", "t t t u32", operands=">t t t t #b32")
def _lop3(x: Lanes, item: Instruction, a: str, b: str, c: str, table: str) -> str:
    """Any function of three bits: bit (a b c) of the table, which LLVM reduces where it is constant."""
    result = x.constant("i32", 0)
    ones = x.constant("i32", -1)
    negated = [x.binary("xor", "i32", value, ones) for value in (a, b, c)]
    for index in range(8):
        term = ones
        for place, value in enumerate((a, b, c)):
            chosen = value if index >> (2 - place) & 1 else negated[place]
            term = x.binary("and", "i32", term, chosen)
        shifted = x.binary("shl", "i32", table, x.constant("i32", 31 - index))
        wanted = x.binary("ashr", "i32", shifted, x.constant("i32", 31))
        result = x.binary("or", "i32", result, x.binary("and", "i32", term, wanted))
    return result


# prmt's modes: the picks for each value of the selector's two lowest bits, 16 bits each, value 3 first.
_PICKS = {
    "f4e": 0x6543_5432_4321_3210,
    "b4e": 0x0123_7012_6701_5670,
    "rc8": 0x3333_2222_1111_0000,
    "ecl": 0x3333_3222_3211_3210,
    "ecr": 0x3210_2210_1110_0000,
    "rc16": 0x3232_1010_3232_1010,
}


@pure(MOVEMENT, rf"prmt\.b32\.({'|'.join(_PICKS)})", "t t u32")
def _prmt_by_mode(x: Lanes, item: Instruction, a: str, b: str, selector: str) -> str:
    """The mode and the selector's two lowest bits stand for a selector of the general form."""
    by = x.binary("shl", "i32", x.binary("and", "i32", selector, x.constant("i32", 3)), x.constant("i32", 4))
    picks = x.constant("i64", _PICKS[item.modifiers[-1]])
    moved = x.binary("lshr", "i64", picks, x.cast("zext", "i32", by, "i64"))
    return _prmt(x, item, a, b, x.cast("trunc", "i64", moved, "i32"))


@pure(MOVEMENT, r"prmt\.b32", "t t u32")
def _prmt(x: Lanes, item: Instruction, a: str, b: str, selector: str) -> str:
    """Four bytes picked from the eight of b:a; bit 3 of a pick repeats the byte's sign."""
    wide = x.binary(
        "or",
        "i64",
        x.binary("shl", "i64", x.cast("zext", "i32", b, "i64"), x.constant("i64", 32)),
        x.cast("zext", "i32", a, "i64"),
    )
    result = x.constant("i32", 0)
    for place in range(4):
        pick = x.binary("lshr", "i32", selector, x.constant("i32", 4 * place))
        byte_number = x.binary("and", "i32", pick, x.constant("i32", 7))
        by = x.cast("zext", "i32", x.binary("shl", "i32", byte_number, x.constant("i32", 3)), "i64")
        byte = x.cast("trunc", "i64", x.binary("lshr", "i64", wide, by), "i8")
        repeats = x.binary("and", "i32", pick, x.constant("i32", 8))
        is_sign = x.compare("ne", "i32", repeats, x.constant("i32", 0))
        sign = x.binary("ashr", "i8", byte, x.constant("i8", 7))
        chosen = x.cast("zext", "i8", x.select(is_sign, "i8", sign, byte), "i32")
        placed = x.binary("shl", "i32", chosen, x.constant("i32", 8 * place))
        result = x.binary("or", "i32", result, placed)
    return result


@pure(INTEGER, r"fns\.b32", "b32 b32 s32", "b32")
def _find_set(x: Lanes, item: Instruction, mask: str, start: str, nth: str) -> str:
    """Where the nth set bit from bit `start` on is, upwards or downwards; all ones for nowhere."""
    one, zero = x.constant("i32", 1), x.constant("i32", 0)
    down = x.compare("slt", "i32", nth, zero)
    step = x.select(down, "i32", x.constant("i32", -1), one)
    # 0 asks for the bit at `start` itself: the first, if it is set, and none behind it.
    left = x.call("abs", "i32", nth, tail="i1 false")
    only = x.compare("eq", "i32", nth, zero)
    left = x.select(only, "i32", one, left)
    found, place = x.constant("i32", -1), start
    for number in range(32):
        inside = x.compare("ult", "i32", place, x.constant("i32", 32))
        bit = x.binary(
            "and",
            "i32",
            x.binary("lshr", "i32", mask, x.binary("and", "i32", place, x.constant("i32", 31))),
            one,
        )
        is_set = x.binary("and", "i1", inside, x.compare("ne", "i32", bit, zero))
        left = x.select(is_set, "i32", x.binary("sub", "i32", left, one), left)
        here = x.binary("and", "i1", is_set, x.compare("eq", "i32", left, zero))
        if number:
            here = x.binary("and", "i1", here, x.binary("xor", "i1", only, x.constant("i1", 1)))
        found = x.select(here, "i32", place, found)
        place = x.binary("add", "i32", place, step)
    return found
