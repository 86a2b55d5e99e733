"""Integer arithmetic, shifts and bit operations, with the results that the hardware gives at the edges.

Nothing here may be undefined in LLVM: shifts by the width and more, division by zero, INT_MIN / -1.
"""

from nnkit.ptx.ir import SIZES, Instruction
from nnkit.vm.builder import BITS, Lanes
from nnkit.vm.table import pure

INT = r"[us](16|32|64)"
BIT = r"b(16|32|64)"


def base(item: Instruction) -> str:
    """The LLVM integer type of the instruction's type."""
    return f"i{8 * SIZES[item.type]}"


def is_signed(item: Instruction) -> bool:
    """Whether the instruction's type is signed."""
    return item.type[0] == "s"


@pure(rf"add\.({INT}|u8|s8)", "t t")
@pure(rf"sub\.{INT}", "t t")
def _add(x: Lanes, item: Instruction, a: str, b: str) -> str:
    return x.binary(item.opcode, base(item), a, b)


@pure(r"add|sub\.sat\.s32", "t t")
def _add_saturated(x: Lanes, item: Instruction, a: str, b: str) -> str:
    return x.call(f"s{item.opcode}.sat", "i32", a, b)


@pure(rf"mul\.lo\.{INT}", "t t")
def _mul(x: Lanes, item: Instruction, a: str, b: str) -> str:
    return x.binary("mul", base(item), a, b)


@pure(rf"mad\.lo\.{INT}", "t t t")
def _mad(x: Lanes, item: Instruction, a: str, b: str, c: str) -> str:
    return x.binary("add", base(item), x.binary("mul", base(item), a, b), c)


def _product(x: Lanes, item: Instruction, a: str, b: str) -> tuple[str, str]:
    """The whole product, twice as wide."""
    narrow, wide = base(item), f"i{16 * SIZES[item.type]}"
    a, b = (x.resize(narrow, value, wide, is_signed(item)) for value in (a, b))
    return x.binary("mul", wide, a, b), wide


@pure(r"mul\.wide\.[us](16|32)", "t t", "w")
def _mul_wide(x: Lanes, item: Instruction, a: str, b: str) -> str:
    return _product(x, item, a, b)[0]


@pure(r"mad\.wide\.[us](16|32)", "t t w", "w")
def _mad_wide(x: Lanes, item: Instruction, a: str, b: str, c: str) -> str:
    product, wide = _product(x, item, a, b)
    return x.binary("add", wide, product, c)


@pure(rf"mul\.hi\.{INT}", "t t")
def _mul_hi(x: Lanes, item: Instruction, a: str, b: str) -> str:
    product, wide = _product(x, item, a, b)
    high = x.binary("lshr", wide, product, x.constant(wide, BITS[wide] // 2))
    return x.cast("trunc", wide, high, base(item))


@pure(rf"mad\.hi\.{INT}", "t t t")
@pure(r"mad\.hi\.sat\.s32", "t t t")
def _mad_hi(x: Lanes, item: Instruction, a: str, b: str, c: str) -> str:
    return _plus(x, item, _mul_hi(x, item, a, b), c)


def _plus(x: Lanes, item: Instruction, product: str, c: str) -> str:
    if "sat" in item.modifiers:
        return x.call("sadd.sat", "i32", product, c)
    return x.binary("add", base(item), product, c)


def _low24(x: Lanes, item: Instruction, value: str) -> str:
    shifted = x.binary("shl", "i32", value, x.constant("i32", 8))
    return x.binary("ashr" if is_signed(item) else "lshr", "i32", shifted, x.constant("i32", 8))


@pure(r"mul24\.(lo|hi)\.[us]32", "t t")
def _mul24(x: Lanes, item: Instruction, a: str, b: str) -> str:
    a, b = _low24(x, item, a), _low24(x, item, b)
    if "lo" in item.modifiers:
        return x.binary("mul", "i32", a, b)
    product, wide = _product(x, item, a, b)
    high = x.binary("ashr" if is_signed(item) else "lshr", wide, product, x.constant(wide, 16))
    return x.cast("trunc", wide, high, "i32")


@pure(r"mad24\.(lo|hi)\.[us]32", "t t t")
@pure(r"mad24\.hi\.sat\.s32", "t t t")
def _mad24(x: Lanes, item: Instruction, a: str, b: str, c: str) -> str:
    return _plus(x, item, _mul24(x, item, a, b), c)


@pure(rf"sad\.{INT}", "t t t")
def _sad(x: Lanes, item: Instruction, a: str, b: str, c: str) -> str:
    kind, sign = base(item), "s" if is_signed(item) else "u"
    distance = x.binary("sub", kind, x.call(f"{sign}max", kind, a, b), x.call(f"{sign}min", kind, a, b))
    return x.binary("add", kind, distance, c)


@pure(rf"div|rem\.{INT}", "t t")
def _div(x: Lanes, item: Instruction, a: str, b: str) -> str:
    """Division by zero gives all ones and the remainder a; INT_MIN / -1 gives INT_MIN and 0."""
    kind = base(item)
    zero = x.compare("eq", kind, b, x.constant(kind, 0))
    safe = x.select(zero, kind, x.constant(kind, 1), b)
    if is_signed(item):
        lowest = x.compare("eq", kind, a, x.constant(kind, 1 << (BITS[kind] - 1)))
        minus = x.compare("eq", kind, b, x.constant(kind, -1))
        overflow = x.binary("and", "i1", lowest, minus)
        safe = x.select(overflow, kind, x.constant(kind, 1), safe)
    quotient = _quotient(x, kind, is_signed(item), a, safe)
    if item.opcode == "div":
        return x.select(zero, kind, x.constant(kind, -1), quotient)
    remainder = x.binary("sub", kind, a, x.binary("mul", kind, quotient, safe))
    return x.select(zero, kind, a, remainder)


def _quotient(x: Lanes, kind: str, signed: bool, a: str, b: str) -> str:
    """a / b with b not zero and no overflow. Up to 32 bits through doubles, which vectors can divide.

    A quotient of two 32-bit integers differs from every other integer by at least 1 / b, far more than a
    double's rounding, so truncation is exact.
    """
    if BITS[kind] > 32 or not x.width:
        return x.binary("sdiv" if signed else "udiv", kind, a, b)
    to, back = ("sitofp", "fptosi") if signed else ("uitofp", "fptoui")
    ratio = x.binary("fdiv", "double", x.cast(to, kind, a, "double"), x.cast(to, kind, b, "double"))
    return x.cast(back, "double", ratio, kind)


@pure(r"abs\.s(16|32|64)", "t")
def _abs(x: Lanes, item: Instruction, a: str) -> str:
    return x.call("abs", base(item), a, tail="i1 false")


@pure(r"neg\.s(16|32|64)", "t")
def _neg(x: Lanes, item: Instruction, a: str) -> str:
    return x.binary("sub", base(item), x.constant(base(item), 0), a)


@pure(rf"min|max(\.relu)?\.{INT}", "t t")
def _min(x: Lanes, item: Instruction, a: str, b: str) -> str:
    kind = base(item)
    found = x.call(f"{'s' if is_signed(item) else 'u'}{item.opcode}", kind, a, b)
    return x.call("smax", kind, found, x.constant(kind, 0)) if "relu" in item.modifiers else found


@pure(r"and|or|xor\.(pred|b(8|16|32|64))", "t t")
def _logic(x: Lanes, item: Instruction, a: str, b: str) -> str:
    return x.binary(item.opcode, _bit_base(item), a, b)


@pure(r"not\.(pred|b(16|32|64))", "t")
def _not(x: Lanes, item: Instruction, a: str) -> str:
    kind = _bit_base(item)
    return x.binary("xor", kind, a, x.constant(kind, -1))


@pure(rf"cnot\.{BIT}", "t")
def _cnot(x: Lanes, item: Instruction, a: str) -> str:
    kind = base(item)
    return x.cast("zext", "i1", x.compare("eq", kind, a, x.constant(kind, 0)), kind)


def _bit_base(item: Instruction) -> str:
    return "i1" if item.type == "pred" else base(item)


@pure(r"shl\.b(16|32|64)", "t u32")
@pure(r"shr\.[bus](16|32|64)", "t u32")
def _shift(x: Lanes, item: Instruction, a: str, by: str) -> str:
    """Shifts by the width and more clear everything, or repeat the sign."""
    kind = base(item)
    bits = BITS[kind]
    operation = "shl" if item.opcode == "shl" else "ashr" if is_signed(item) else "lshr"
    amount = x.call("umin", "i32", by, x.constant("i32", bits - 1))
    shifted = x.binary(operation, kind, a, x.resize("i32", amount, kind))
    if operation == "ashr":
        return shifted
    small = x.compare("ult", "i32", by, x.constant("i32", bits))
    return x.select(small, kind, shifted, x.constant(kind, 0))


@pure(r"shf\.[lr]\.(wrap|clamp)\.b32", "t t u32")
def _funnel(x: Lanes, item: Instruction, low: str, high: str, by: str) -> str:
    """The 64 bits high:low shifted; the left shift keeps the upper half, the right shift the lower."""
    left = "l" in item.modifiers
    if "wrap" in item.modifiers:
        return x.call("fshl" if left else "fshr", "i32", high, low, by)
    wide = x.binary(
        "or",
        "i64",
        x.binary("shl", "i64", x.cast("zext", "i32", high, "i64"), x.constant("i64", 32)),
        x.cast("zext", "i32", low, "i64"),
    )
    amount = x.cast("zext", "i32", x.call("umin", "i32", by, x.constant("i32", 32)), "i64")
    if left:
        shifted = x.binary("lshr", "i64", x.binary("shl", "i64", wide, amount), x.constant("i64", 32))
    else:
        shifted = x.binary("lshr", "i64", wide, amount)
    return x.cast("trunc", "i64", shifted, "i32")


@pure(r"popc\.b(32|64)", "t", "u32")
def _popc(x: Lanes, item: Instruction, a: str) -> str:
    return x.resize(base(item), x.call("ctpop", base(item), a), "i32")


@pure(r"clz\.b(32|64)", "t", "u32")
def _clz(x: Lanes, item: Instruction, a: str) -> str:
    return x.resize(base(item), x.call("ctlz", base(item), a, tail="i1 false"), "i32")


@pure(r"brev\.b(32|64)", "t")
def _brev(x: Lanes, item: Instruction, a: str) -> str:
    return x.call("bitreverse", base(item), a)


@pure(r"bfind(\.shiftamt)?\.[us](32|64)", "t", "u32")
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


@pure(r"bfe\.[us](32|64)", "t u32 u32")
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


@pure(r"bfi\.b(32|64)", "t t u32 u32")
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


@pure(r"bmsk\.(clamp|wrap)\.b32", "u32 u32")
def _bmsk(x: Lanes, item: Instruction, position: str, length: str) -> str:
    if "wrap" in item.modifiers:
        position = x.binary("and", "i32", position, x.constant("i32", 31))
        length = x.binary("and", "i32", length, x.constant("i32", 31))
    position, length = (x.call("umin", "i32", value, x.constant("i32", 32)) for value in (position, length))
    position, length = (x.cast("zext", "i32", value, "i64") for value in (position, length))
    ones = x.binary("sub", "i64", x.binary("shl", "i64", x.constant("i64", 1), length), x.constant("i64", 1))
    return x.cast("trunc", "i64", x.binary("shl", "i64", ones, position), "i32")


@pure(r"szext\.(clamp|wrap)\.[us]32", "t u32")
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


@pure(r"lop3\.b32", "t t t u32")
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


@pure(rf"prmt\.b32\.({'|'.join(_PICKS)})", "t t u32")
def _prmt_by_mode(x: Lanes, item: Instruction, a: str, b: str, selector: str) -> str:
    """The mode and the selector's two lowest bits stand for a selector of the general form."""
    by = x.binary("shl", "i32", x.binary("and", "i32", selector, x.constant("i32", 3)), x.constant("i32", 4))
    picks = x.constant("i64", _PICKS[item.modifiers[-1]])
    moved = x.binary("lshr", "i64", picks, x.cast("zext", "i32", by, "i64"))
    return _prmt(x, item, a, b, x.cast("trunc", "i64", moved, "i32"))


@pure(r"prmt\.b32", "t t u32")
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


@pure(r"dp4a\.[us]32\.[us]32", "b32 b32 t", "t")
def _dp4a(x: Lanes, item: Instruction, a: str, b: str, c: str) -> str:
    kinds = [m for m in item.modifiers if m in SIZES]
    total = c
    for place in range(4):
        product = []
        for value, kind in ((a, kinds[0]), (b, kinds[1])):
            up = x.binary("shl", "i32", value, x.constant("i32", 24 - 8 * place))
            product.append(x.binary("ashr" if kind[0] == "s" else "lshr", "i32", up, x.constant("i32", 24)))
        total = x.binary("add", "i32", total, x.binary("mul", "i32", *product))
    return total
