"""The approximate functions. Errors are those of the formulas below, tested against mpmath.

    rcp, div, sqrt      the correctly rounded result (PTX allows 1 to 2 ulp)
    rsqrt               1.5 ulp: two roundings, of sqrt and of the division
    ex2                 1 ulp, denormal results too
    lg2                 0.51 ulp
    sin, cos            2^-24 absolute up to 2^50 (PTX: 2^-20.5 in [-pi, pi]), beyond only within [-1, 1]
    tanh                2^-23 absolute, 2^-21 relative

f32 is computed in f32 where that suffices and in f64 where the argument must be reduced.
"""

import math

from nnkit.ptx.ir import Instruction
from nnkit.vm.forms.sections import FLOATING
from nnkit.vm.forms.table import pure
from nnkit.vm.instructions.floating import (
    base,
    finished,
    fits_registers,
    flushed,
    in_registers,
    without_denormals,
)
from nnkit.vm.text.builder import Lanes

FTZ = r"(\.ftz)?"
NEAREST = 4
"""AVX-512's code for the rounding mode that MXCSR holds: to nearest."""


@pure(FLOATING, rf"div\.(approx|full){FTZ}\.f32", "t t", meaning="quotient")
def _div(x: Lanes, item: Instruction, a: str, b: str) -> str:
    a, b = flushed(x, item, "float", a), flushed(x, item, "float", b)
    return finished(x, item, "float", x.binary("fdiv", "float", a, b))


@pure(FLOATING, rf"rcp\.approx{FTZ}\.f32", "t")
@pure(FLOATING, r"rcp\.approx\.ftz\.f64", "t")
def _rcp(x: Lanes, item: Instruction, a: str) -> str:
    kind = base(item)
    return _ftz(x, item, x.binary("fdiv", kind, x.real(kind, 1.0), _ftz(x, item, a)))


def _ftz(x: Lanes, item: Instruction, value: str) -> str:
    """What .ftz does, which these functions alone have for f64 too."""
    return without_denormals(x, base(item), value) if "ftz" in item.modifiers else value


@pure(FLOATING, rf"sqrt\.approx{FTZ}\.f32", "t")
def _sqrt(x: Lanes, item: Instruction, a: str) -> str:
    return finished(x, item, "float", x.call("sqrt", "float", flushed(x, item, "float", a)))


@pure(FLOATING, rf"rsqrt\.approx{FTZ}\.(f32|f64)", "t")
def _rsqrt(x: Lanes, item: Instruction, a: str) -> str:
    kind = base(item)
    root = x.call("sqrt", kind, _ftz(x, item, a))
    return _ftz(x, item, x.binary("fdiv", kind, x.real(kind, 1.0), root))


def polynomial(x: Lanes, kind: str, at: str, coefficients: list[float]) -> str:
    """Horner's rule; the coefficient of the highest power first."""
    value = x.real(kind, _single(coefficients[0]) if kind == "float" else coefficients[0])
    for coefficient in coefficients[1:]:
        exact = _single(coefficient) if kind == "float" else coefficient
        value = x.call("fma", kind, value, at, x.real(kind, exact))
    return value


def _single(value: float) -> float:
    import struct

    return float(struct.unpack("<f", struct.pack("<f", value))[0])


# 2^f on [-1/2, 1/2]: the polynomial of degree 6 with the least largest error, 2^-28.9 (mpmath.chebyfit).
_EXP2 = [
    1.546144469856913e-04,
    1.3400428177615838e-03,
    9.618056678524637e-03,
    5.550327226670302e-02,
    2.4022650922288757e-01,
    6.931472067028326e-01,
    1.0,
]


def exp2(x: Lanes, a: str) -> str:
    """2^a in f32: below -150 gives 0, at 128 and above infinity, denormal results are rounded."""
    low, high = x.real("float", -151.0), x.real("float", 129.0)
    a = x.select(x.compare("ogt", "float", low, a), "float", low, a)
    a = x.select(x.compare("olt", "float", high, a), "float", high, a)
    whole = x.call("rint", "float", a)
    value = polynomial(x, "float", x.binary("fsub", "float", a, whole), _EXP2)
    if fits_registers(x, "float"):
        # One instruction multiplies by a power of two, denormal results included.
        passed = f"<16 x float> zeroinitializer, i16 -1, i32 {NEAREST}"
        return in_registers(x, "float", "@llvm.x86.avx512.mask.scalef.ps.512", (value, whole), passed)
    # In two steps, so that neither factor leaves the range of normal numbers.
    name = f"@llvm.fptosi.sat.{x.mangled('i32')}.{x.mangled('float')}"
    x.text.declarations.add(f"declare {x.type('i32')} {name}({x.type('float')})")
    number = x.op(f"call {x.type('i32')} {name}({x.type('float')} {whole})")
    half = x.binary("ashr", "i32", number, x.constant("i32", 1))
    for part in (half, x.binary("sub", "i32", number, half)):
        biased = x.binary("add", "i32", part, x.constant("i32", 127))
        exponent = x.binary("shl", "i32", biased, x.constant("i32", 23))
        value = x.binary("fmul", "float", value, x.cast("bitcast", "i32", exponent, "float"))
    return value


@pure(FLOATING, rf"ex2\.approx{FTZ}\.f32", "t")
def _ex2(x: Lanes, item: Instruction, a: str) -> str:
    """A denormal argument gives 1 either way; with .ftz a result below the normal numbers is 0."""
    value = exp2(x, a)
    if "ftz" not in item.modifiers:
        return value
    tiny = x.compare("olt", "float", a, x.real("float", -126.0))
    return x.select(tiny, "float", x.real("float", 0.0), value)


# log2(m) = 2 atanh(s) / ln 2 with s = (m - 1) / (m + 1), m in [sqrt(1/2), sqrt(2)], so |s| < 0.172.
_LOG2 = [2.0 / (k * math.log(2.0)) for k in range(15, 0, -2)]


@pure(FLOATING, rf"lg2\.approx{FTZ}\.f32", "t")
def _lg2(x: Lanes, item: Instruction, a: str) -> str:
    """In f64, where denormals are ordinary numbers."""
    a = flushed(x, item, "float", a)
    wide = x.cast("fpext", "float", a, "double")
    word = x.cast("bitcast", "double", wide, "i64")
    # Subtracting sqrt(1/2)'s mantissa centres the fraction on 1.
    centred = x.binary("sub", "i64", word, x.constant("i64", 0x3FE6A09E00000000))
    exponent = x.binary("ashr", "i64", centred, x.constant("i64", 52))
    mantissa = x.binary("sub", "i64", word, x.binary("shl", "i64", exponent, x.constant("i64", 52)))
    m = x.cast("bitcast", "i64", mantissa, "double")
    one = x.real("double", 1.0)
    s = x.binary("fdiv", "double", x.binary("fsub", "double", m, one), x.binary("fadd", "double", m, one))
    series = polynomial(x, "double", x.binary("fmul", "double", s, s), _LOG2)
    log = x.call("fma", "double", s, series, x.cast("sitofp", "i64", exponent, "double"))
    found = x.cast("fptrunc", "double", log, "float")
    infinity = x.real("float", math.inf)
    found = x.select(x.compare("oeq", "float", a, infinity), "float", infinity, found)
    found = x.select(
        x.compare("oeq", "float", a, x.real("float", 0.0)), "float", x.real("float", -math.inf), found
    )
    invalid = x.compare("ult", "float", a, x.real("float", 0.0))
    quiet = x.cast("bitcast", "i32", x.constant("i32", 0x7FFFFFFF), "float")
    return finished(x, item, "float", x.select(invalid, "float", quiet, found))


_SIN = [(-1) ** k / math.factorial(2 * k + 1) for k in range(7, -1, -1)]
_COS = [(-1) ** k / math.factorial(2 * k) for k in range(8, -1, -1)]
# pi / 2 in three parts. Beyond 2^50 the rounding of 2 a / pi to a whole number can be off by a quarter.
_PI_2 = (1.5707963267341256, 6.077100506303966e-11, 2.0222662487959506e-21)


@pure(FLOATING, rf"sin|cos\.approx{FTZ}\.f32", "t")
def _sin(x: Lanes, item: Instruction, a: str) -> str:
    """Reduced to [-pi/4, pi/4] in f64; beyond 2^50 the result is only some value in [-1, 1]."""
    a = flushed(x, item, "float", a)
    wide = x.cast("fpext", "float", a, "double")
    turns = x.call("rint", "double", x.binary("fmul", "double", wide, x.real("double", 2.0 / math.pi)))
    rest = wide
    for part in _PI_2:
        rest = x.call("fma", "double", turns, x.real("double", -part), rest)
    rest = x.call(
        "minnum", "double", x.call("maxnum", "double", rest, x.real("double", -1.0)), x.real("double", 1.0)
    )
    name = f"@llvm.fptosi.sat.{x.mangled('i64')}.{x.mangled('double')}"
    x.text.declarations.add(f"declare {x.type('i64')} {name}({x.type('double')})")
    quadrant = x.op(f"call {x.type('i64')} {name}({x.type('double')} {turns})")
    if item.opcode == "cos":
        quadrant = x.binary("add", "i64", quadrant, x.constant("i64", 1))
    square = x.binary("fmul", "double", rest, rest)
    sine = x.binary("fmul", "double", rest, polynomial(x, "double", square, _SIN))
    cosine = polynomial(x, "double", square, _COS)
    odd = x.cast("trunc", "i64", quadrant, "i1")
    found = x.select(odd, "double", cosine, sine)
    second = x.cast("trunc", "i64", x.binary("lshr", "i64", quadrant, x.constant("i64", 1)), "i1")
    found = x.select(second, "double", x.op(f"fneg {x.type('double')} {found}"), found)
    result = x.cast("fptrunc", "double", found, "float")
    # Infinity has no sine; NaN stays NaN.
    finite = x.compare("olt", "double", x.call("fabs", "double", wide), x.real("double", math.inf))
    quiet = x.cast("bitcast", "i32", x.constant("i32", 0x7FFFFFFF), "float")
    # A zero keeps its sign through the series, but not through the reduction.
    zero = x.compare("oeq", "float", a, x.real("float", 0.0))
    if item.opcode == "sin":
        result = x.select(zero, "float", a, result)
    return finished(x, item, "float", x.select(finite, "float", result, quiet))


@pure(FLOATING, r"tanh\.approx\.f32", "t")
def _tanh(x: Lanes, item: Instruction, a: str) -> str:
    """1 - 2 / (1 + e^2|a|), and a itself near 0 where that cancels."""
    size = x.call("fabs", "float", a)
    power = exp2(x, x.binary("fmul", "float", size, x.real("float", _single(2.0 / math.log(2.0)))))
    one, two = x.real("float", 1.0), x.real("float", 2.0)
    large = x.binary(
        "fsub", "float", one, x.binary("fdiv", "float", two, x.binary("fadd", "float", power, one))
    )
    square = x.binary("fmul", "float", size, size)
    # The Taylor series to x^9: below 1/4 its error is under 2^-24.
    series = polynomial(x, "float", square, [62.0 / 2835, -17.0 / 315, 2.0 / 15, -1.0 / 3, 1.0])
    small = x.binary("fmul", "float", size, series)
    near = x.compare("olt", "float", size, x.real("float", 0.25))
    return x.call("copysign", "float", x.select(near, "float", small, large), a)
