"""Integer arithmetic, shifts and bit operations, with the results that the hardware gives at the edges.

Nothing here may be undefined in LLVM: shifts by the width and more, division by zero, INT_MIN / -1.
"""

from nnkit.ptx.ir import SIZES, Instruction
from nnkit.vm.forms.sections import INTEGER, LOGIC
from nnkit.vm.forms.table import pure
from nnkit.vm.text.builder import BITS, Lanes

INT = r"[us](16|32|64)"
BIT = r"b(16|32|64)"


def base(item: Instruction) -> str:
    """The LLVM integer type of the instruction's type."""
    return f"i{8 * SIZES[item.type]}"


def is_signed(item: Instruction) -> bool:
    """Whether the instruction's type is signed."""
    return item.type[0] == "s"


@pure(INTEGER, rf"add\.{INT}", "t t", meaning="sum")
@pure(INTEGER, rf"sub\.{INT}", "t t", meaning="difference")
def _add(x: Lanes, item: Instruction, a: str, b: str) -> str:
    return x.binary(item.opcode, base(item), a, b)


@pure(INTEGER, r"add|sub\.sat\.s32", "t t", meaning="arithmetic")
def _add_saturated(x: Lanes, item: Instruction, a: str, b: str) -> str:
    return x.call(f"s{item.opcode}.sat", "i32", a, b)


@pure(INTEGER, rf"mul\.lo\.{INT}", "t t", meaning="product")
def _mul(x: Lanes, item: Instruction, a: str, b: str) -> str:
    return x.binary("mul", base(item), a, b)


@pure(INTEGER, rf"mad\.lo\.{INT}", "t t t", meaning="product and sum")
def _mad(x: Lanes, item: Instruction, a: str, b: str, c: str) -> str:
    return x.binary("add", base(item), x.binary("mul", base(item), a, b), c)


def _product(x: Lanes, item: Instruction, a: str, b: str) -> tuple[str, str]:
    """The whole product, twice as wide."""
    narrow, wide = base(item), f"i{16 * SIZES[item.type]}"
    a, b = (x.resize(narrow, value, wide, is_signed(item)) for value in (a, b))
    return x.binary("mul", wide, a, b), wide


@pure(INTEGER, r"mul\.wide\.[us](16|32)", "t t", "w", meaning="wide product")
def _mul_wide(x: Lanes, item: Instruction, a: str, b: str) -> str:
    return _product(x, item, a, b)[0]


@pure(INTEGER, r"mad\.wide\.[us](16|32)", "t t w", "w", meaning="wide product and sum")
def _mad_wide(x: Lanes, item: Instruction, a: str, b: str, c: str) -> str:
    product, wide = _product(x, item, a, b)
    return x.binary("add", wide, product, c)


@pure(INTEGER, rf"mul\.hi\.{INT}", "t t", meaning="high product")
def _mul_hi(x: Lanes, item: Instruction, a: str, b: str) -> str:
    product, wide = _product(x, item, a, b)
    high = x.binary("lshr", wide, product, x.constant(wide, BITS[wide] // 2))
    return x.cast("trunc", wide, high, base(item))


@pure(INTEGER, rf"mad\.hi\.{INT}", "t t t", meaning="high product and sum")
@pure(INTEGER, r"mad\.hi\.sat\.s32", "t t t", meaning="high product and sum")
def _mad_hi(x: Lanes, item: Instruction, a: str, b: str, c: str) -> str:
    return _plus(x, item, _mul_hi(x, item, a, b), c)


def _plus(x: Lanes, item: Instruction, product: str, c: str) -> str:
    if "sat" in item.modifiers:
        return x.call("sadd.sat", "i32", product, c)
    return x.binary("add", base(item), product, c)


def _low24(x: Lanes, item: Instruction, value: str) -> str:
    shifted = x.binary("shl", "i32", value, x.constant("i32", 8))
    return x.binary("ashr" if is_signed(item) else "lshr", "i32", shifted, x.constant("i32", 8))


@pure(INTEGER, r"mul24\.(lo|hi)\.[us]32", "t t", meaning="arithmetic")
def _mul24(x: Lanes, item: Instruction, a: str, b: str) -> str:
    a, b = _low24(x, item, a), _low24(x, item, b)
    if "lo" in item.modifiers:
        return x.binary("mul", "i32", a, b)
    product, wide = _product(x, item, a, b)
    high = x.binary("ashr" if is_signed(item) else "lshr", wide, product, x.constant(wide, 16))
    return x.cast("trunc", wide, high, "i32")


@pure(INTEGER, r"mad24\.(lo|hi)\.[us]32", "t t t", meaning="arithmetic")
@pure(INTEGER, r"mad24\.hi\.sat\.s32", "t t t", meaning="arithmetic")
def _mad24(x: Lanes, item: Instruction, a: str, b: str, c: str) -> str:
    return _plus(x, item, _mul24(x, item, a, b), c)


@pure(INTEGER, rf"sad\.{INT}", "t t t", meaning="arithmetic")
def _sad(x: Lanes, item: Instruction, a: str, b: str, c: str) -> str:
    kind, sign = base(item), "s" if is_signed(item) else "u"
    distance = x.binary("sub", kind, x.call(f"{sign}max", kind, a, b), x.call(f"{sign}min", kind, a, b))
    return x.binary("add", kind, distance, c)


@pure(INTEGER, rf"div\.{INT}", "t t", meaning="quotient")
@pure(INTEGER, rf"rem\.{INT}", "t t", meaning="remainder")
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


@pure(INTEGER, r"abs\.s(16|32|64)", "t", meaning="magnitude")
def _abs(x: Lanes, item: Instruction, a: str) -> str:
    return x.call("abs", base(item), a, tail="i1 false")


@pure(INTEGER, r"neg\.s(16|32|64)", "t", meaning="negation")
def _neg(x: Lanes, item: Instruction, a: str) -> str:
    return x.binary("sub", base(item), x.constant(base(item), 0), a)


@pure(INTEGER, rf"min|max\.{INT}", "t t", meaning="extreme")
@pure(INTEGER, r"min|max\.relu\.s32", "t t", meaning="extreme")
def _min(x: Lanes, item: Instruction, a: str, b: str) -> str:
    kind = base(item)
    found = x.call(f"{'s' if is_signed(item) else 'u'}{item.opcode}", kind, a, b)
    return x.call("smax", kind, found, x.constant(kind, 0)) if "relu" in item.modifiers else found


@pure(LOGIC, r"and\.(pred|b(16|32|64))", "t t", meaning="and")
@pure(LOGIC, r"or\.(pred|b(16|32|64))", "t t", meaning="or")
@pure(LOGIC, r"xor\.(pred|b(16|32|64))", "t t", meaning="xor")
def _logic(x: Lanes, item: Instruction, a: str, b: str) -> str:
    return x.binary(item.opcode, _bit_base(item), a, b)


@pure(LOGIC, r"not\.(pred|b(16|32|64))", "t", meaning="not")
def _not(x: Lanes, item: Instruction, a: str) -> str:
    kind = _bit_base(item)
    return x.binary("xor", kind, a, x.constant(kind, -1))


@pure(LOGIC, rf"cnot\.{BIT}", "t")
def _cnot(x: Lanes, item: Instruction, a: str) -> str:
    kind = base(item)
    return x.cast("zext", "i1", x.compare("eq", kind, a, x.constant(kind, 0)), kind)


def _bit_base(item: Instruction) -> str:
    return "i1" if item.type == "pred" else base(item)


@pure(LOGIC, r"shl\.b(16|32|64)", "t u32", meaning="left shift")
@pure(LOGIC, r"shr\.[bus](16|32|64)", "t u32", meaning="right shift")
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


@pure(LOGIC, r"shf\.[lr]\.(wrap|clamp)\.b32", "t t u32")
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
