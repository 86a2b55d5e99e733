"""IEEE arithmetic of f32 and f64: rounding modes, .ftz (denormals to zero) and .sat (clamped to [0, 1]).

LLVM's plain operations round to nearest. The directed modes come from AVX-512's embedded rounding where the
processor has it, else from a small function that switches the processor's rounding mode around one operation.
"""

from nnkit.ptx.ir import SIZES, Instruction
from nnkit.vm.forms.sections import FLOATING
from nnkit.vm.forms.table import pure
from nnkit.vm.text.builder import BITS, Lanes

ROUND = r"(\.r[nzmp])?"
FLOAT = r"((\.ftz)?(\.sat)?\.f32|\.f64)"
ROUNDED = r"\.r[nzmp]"
UNCLAMPED = r"((\.ftz)?\.f32|\.f64)"

MODES = {"rz": 0, "rp": 2, "rm": 3}
"""LLVM's numbers for llvm.set.rounding; 1 is to nearest."""

EMBEDDED = {"rm": 9, "rp": 10, "rz": 11}
"""AVX-512's static rounding, exceptions suppressed."""


def base(item: Instruction) -> str:
    """The LLVM type of the instruction's type."""
    return {"f32": "float", "f64": "double"}[item.type]


def bits_of(x: Lanes, kind: str, value: str) -> str:
    """The value's bits as an integer."""
    return x.cast("bitcast", kind, value, f"i{BITS[kind]}")


def flushed(x: Lanes, item: Instruction, kind: str, value: str) -> str:
    """The value, with a denormal replaced by a zero of its sign where the instruction says .ftz."""
    if "ftz" not in item.modifiers or kind != "float":
        return value
    return without_denormals(x, kind, value)


def without_denormals(x: Lanes, kind: str, value: str) -> str:
    """The value, with a denormal replaced by a zero of its sign."""
    smallest = x.real(kind, 2.0**-126 if kind == "float" else 2.0**-1022)
    tiny = x.compare("olt", kind, x.call("fabs", kind, value), smallest)
    zero = x.call("copysign", kind, x.real(kind, 0.0), value)
    return x.select(tiny, kind, zero, value)


def saturated(x: Lanes, item: Instruction, kind: str, value: str) -> str:
    """Clamped to [0, 1] where the instruction says .sat; NaN becomes 0."""
    if "sat" not in item.modifiers:
        return value
    above = x.compare("ogt", kind, value, x.real(kind, 0.0))
    value = x.select(above, kind, value, x.real(kind, 0.0))
    below = x.compare("olt", kind, value, x.real(kind, 1.0))
    return x.select(below, kind, value, x.real(kind, 1.0))


def finished(x: Lanes, item: Instruction, kind: str, value: str) -> str:
    """What is done to every result."""
    return saturated(x, item, kind, flushed(x, item, kind, value))


def mode(item: Instruction) -> str:
    """The rounding mode: "rn" unless said otherwise."""
    return next((m for m in item.modifiers if m in MODES), "rn")


@pure(FLOATING, rf"add{ROUND}{FLOAT}", "t t", meaning="sum")
@pure(FLOATING, rf"sub{ROUND}{FLOAT}", "t t", meaning="difference")
@pure(FLOATING, rf"mul{ROUND}{FLOAT}", "t t", meaning="product")
@pure(FLOATING, rf"div{ROUNDED}{UNCLAMPED}", "t t", meaning="quotient")
@pure(FLOATING, rf"fma|mad{ROUNDED}{FLOAT}", "t t t", meaning="product and sum")
@pure(FLOATING, rf"sqrt{ROUNDED}{UNCLAMPED}", "t")
def _arithmetic(x: Lanes, item: Instruction, *given: str) -> str:
    kind = base(item)
    given = tuple(flushed(x, item, kind, value) for value in given)
    name = "fma" if item.opcode == "mad" else item.opcode
    return finished(x, item, kind, rounded(x, name, kind, mode(item), *given))


@pure(FLOATING, rf"rcp{ROUNDED}(\.ftz)?\.(f32|f64)", "t")
def _reciprocal(x: Lanes, item: Instruction, a: str) -> str:
    kind = base(item)
    a = flushed(x, item, kind, a)
    return finished(x, item, kind, rounded(x, "div", kind, mode(item), x.real(kind, 1.0), a))


def rounded(x: Lanes, name: str, kind: str, how: str, *given: str) -> str:
    """add, sub, mul, div, fma or sqrt in one rounding mode."""
    if how == "rn":
        if name in ("fma", "sqrt"):
            return x.call(name, kind, *given)
        return x.binary(f"f{name}", kind, *given)
    if fits_registers(x, kind):
        return _embedded(x, name, kind, how, given)
    return _switched(x, name, kind, how, given)


def _embedded(x: Lanes, name: str, kind: str, how: str, given: tuple[str, ...]) -> str:
    """With AVX-512's rounding, which is part of the instruction."""
    operation = {"fma": "vfmadd"}.get(name, name)
    intrinsic = f"@llvm.x86.avx512.{operation}.{'ps' if kind == 'float' else 'pd'}.512"
    return in_registers(x, kind, intrinsic, given, f"i32 {EMBEDDED[how]}")


def fits_registers(x: Lanes, kind: str) -> bool:
    """Whether the lanes fill whole AVX-512 registers, and there are such."""
    return x.text.has_avx512 and bool(x.width) and x.width % (512 // BITS[kind]) == 0


def in_registers(x: Lanes, kind: str, intrinsic: str, given: tuple[str, ...], tail: str) -> str:
    """An AVX-512 intrinsic on pieces of 512 bits, put together again; `tail` holds further arguments."""
    lanes = 512 // BITS[kind]
    piece = f"<{lanes} x {kind}>"
    # The last argument's type alone is declared: "i16 -1" is an i16.
    extra = ", ".join(part.rpartition(" ")[0] for part in tail.split(", "))
    declared = ", ".join([piece] * len(given))
    x.text.declarations.add(f"declare {piece} {intrinsic}({declared}, {extra})")
    parts = []
    for start in range(0, x.width, lanes):
        indices = ", ".join(f"i32 {start + lane}" for lane in range(lanes))
        order = f"<{lanes} x i32> <{indices}>"
        full = x.type(kind)
        cut = [
            value if x.width == lanes else x.op(f"shufflevector {full} {value}, {full} poison, {order}")
            for value in given
        ]
        arguments = ", ".join(f"{piece} {value}" for value in cut)
        parts.append(x.op(f"call {piece} {intrinsic}({arguments}, {tail})"))
    return joined(x, kind, parts, lanes)


def joined(x: Lanes, kind: str, parts: list[str], lanes: int) -> str:
    """Vectors of `lanes` elements side by side."""
    while len(parts) > 1:
        indices = ", ".join(f"i32 {lane}" for lane in range(2 * lanes))
        half, order = f"<{lanes} x {kind}>", f"<{2 * lanes} x i32> <{indices}>"
        parts = [
            x.op(f"shufflevector {half} {a}, {half} {b}, {order}")
            for a, b in zip(parts[::2], parts[1::2], strict=True)
        ]
        lanes *= 2
    return parts[0]


def _switched(x: Lanes, name: str, kind: str, how: str, given: tuple[str, ...]) -> str:
    """Through a function of its own: LLVM must not move anything across the switch."""
    full = x.type(kind)
    function = f"@{name}.{how}.{x.mangled(kind)}"
    intrinsic = (
        f"@llvm.experimental.constrained.{name if name in ('fma', 'sqrt') else 'f' + name}.{x.mangled(kind)}"
    )
    types = ", ".join([full] * len(given))
    x.text.declarations.add(f"declare {full} {intrinsic}({types}, metadata, metadata)")
    define_switched(x, function, f"{full}", [full] * len(given), f"call {full} {intrinsic}", MODES[how])
    arguments = ", ".join(f"{full} {value}" for value in given)
    return x.op(f"call {full} {function}({arguments})")


def define_switched(x: Lanes, function: str, result: str, types: list[str], call: str, number: int) -> None:
    """Define `function` once: `call` on its arguments under another rounding mode."""
    x.text.declarations.add("declare void @llvm.set.rounding(i32)")
    names = ", ".join(f"{kind} %a{index}" for index, kind in enumerate(types))
    x.text.functions[function] = "\n".join(
        [
            f"define internal {result} {function}({names}) noinline strictfp {{",
            f"call void @llvm.set.rounding(i32 {number}) strictfp",
            f'%r = {call}({names}, metadata !"round.dynamic", metadata !"fpexcept.ignore") strictfp',
            "call void @llvm.set.rounding(i32 1) strictfp",
            f"ret {result} %r",
            "}",
        ]
    )


@pure(FLOATING, rf"abs{UNCLAMPED}", "t", meaning="magnitude")
def _abs(x: Lanes, item: Instruction, a: str) -> str:
    return finished(x, item, base(item), x.call("fabs", base(item), a))


@pure(FLOATING, rf"neg{UNCLAMPED}", "t", meaning="negation")
def _neg(x: Lanes, item: Instruction, a: str) -> str:
    negative = x.op(f"fneg {x.type(base(item))} {a}")
    return finished(x, item, base(item), negative)


@pure(FLOATING, r"copysign\.(f32|f64)", "t t")
def _copysign(x: Lanes, item: Instruction, sign: str, magnitude: str) -> str:
    return x.call("copysign", base(item), magnitude, sign)


@pure(FLOATING, r"min|max(\.ftz)?(\.NaN)?(\.abs)?\.f32", "t t t", since=100, meaning="extreme")
@pure(FLOATING, r"min|max((\.ftz)?(\.NaN)?(\.xorsign\.abs)?\.f32|\.f64)", "t t", meaning="extreme")
def _min(x: Lanes, item: Instruction, *given: str) -> str:
    """The other operand where one is NaN (NaN with .NaN); -0 is smaller than +0."""
    kind = base(item)
    values = [flushed(x, item, kind, value) for value in given]
    word = f"i{BITS[kind]}"
    if "xorsign" in item.modifiers:
        signs = x.binary("xor", word, *(bits_of(x, kind, value) for value in values))
    if "abs" in item.modifiers:
        values = [x.call("fabs", kind, value) for value in values]
    result = values[0]
    for value in values[1:]:
        result = _smaller(x, item, kind, result, value)
    if "xorsign" in item.modifiers:
        result = x.call("copysign", kind, result, x.cast("bitcast", word, signs, kind))
    return result


def _smaller(x: Lanes, item: Instruction, kind: str, a: str, b: str) -> str:
    least = item.opcode == "min"
    word = f"i{BITS[kind]}"
    found = x.select(x.compare("olt" if least else "ogt", kind, a, b), kind, a, b)
    # Equal numbers differ in the sign of a zero at most.
    merged = x.binary("or" if least else "and", word, bits_of(x, kind, a), bits_of(x, kind, b))
    equal = x.compare("oeq", kind, a, b)
    found = x.select(equal, kind, x.cast("bitcast", word, merged, kind), found)
    a_is_nan, b_is_nan = x.compare("uno", kind, a, a), x.compare("uno", kind, b, b)
    if "NaN" in item.modifiers:
        either = x.binary("or", "i1", a_is_nan, b_is_nan)
        return x.select(either, kind, nan(x, kind), found)
    found = x.select(a_is_nan, kind, b, found)
    return x.select(b_is_nan, kind, x.select(a_is_nan, kind, nan(x, kind), a), found)


def nan(x: Lanes, kind: str) -> str:
    """The NaN that the hardware makes."""
    pattern = 0x7FFFFFFF if kind == "float" else 0x7FFFFFFFFFFFFFFF
    word = f"i{BITS[kind]}"
    return x.cast("bitcast", word, x.constant(word, pattern), kind)


@pure(
    FLOATING,
    r"testp\.(finite|infinite|number|notanumber|normal|subnormal)\.(f32|f64)",
    "t",
    "pred",
    meaning="test",
)
def _testp(x: Lanes, item: Instruction, a: str) -> str:
    classes = {
        "notanumber": 0x003,
        "infinite": 0x204,
        "normal": 0x108,
        "subnormal": 0x090,
        "finite": 0x1F8,
        "number": 0x3FC,
    }
    kind = base(item)
    bits = classes[item.modifiers[0]]
    name = f"@llvm.is.fpclass.{x.mangled(kind)}"
    x.text.declarations.add(f"declare {x.type('i1')} {name}({x.type(kind)}, i32)")
    return x.op(f"call {x.type('i1')} {name}({x.type(kind)} {a}, i32 {bits})")


def double_size(item: Instruction) -> bool:
    """Whether the type is f64."""
    return SIZES[item.type] == 8
