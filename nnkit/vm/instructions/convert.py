"""Conversions: between integers, between floats, and across, with the rounding that the name asks for."""

from nnkit.ptx.ir import SIZES, Instruction
from nnkit.vm.forms.sections import MOVEMENT
from nnkit.vm.forms.table import pure
from nnkit.vm.instructions.floating import MODES, define_switched, flushed, saturated
from nnkit.vm.text.builder import BITS, LLVM_TYPES, Lanes
from nnkit.vm.text.layout import WINDOW_SIZE, WINDOWS

INTEGER = r"[us](8|16|32|64)"
RELAXED = ">~d ~t%"

TO_INTEGRAL = {"rni": "roundeven", "rzi": "trunc", "rmi": "floor", "rpi": "ceil"}


def _types(item: Instruction) -> tuple[str, str]:
    kinds = [m for m in item.modifiers if m in SIZES]
    return kinds[0], kinds[-1]


@pure(MOVEMENT, rf"cvt(\.sat)?\.{INTEGER}\.{INTEGER}", "t", "d", RELAXED, meaning="conversion")
def _integer(x: Lanes, item: Instruction, a: str) -> str:
    to, source = _types(item)
    target, kind = LLVM_TYPES[to], LLVM_TYPES[source]
    if "sat" not in item.modifiers:
        return x.resize(kind, a, target, source[0] == "s")
    # In twice the width both ranges fit, whatever the signs.
    a = x.resize(kind, a, "i128", source[0] == "s")
    bits = BITS[target]
    low = -(1 << (bits - 1)) if to[0] == "s" else 0
    high = (1 << (bits - 1)) - 1 if to[0] == "s" else (1 << bits) - 1
    a = x.call("smax", "i128", a, x.constant("i128", low))
    a = x.call("smin", "i128", a, x.constant("i128", high))
    return x.cast("trunc", "i128", a, target)


@pure(
    MOVEMENT, rf"cvt\.r[nzmp](\.ftz)?(\.sat)?\.(f32|f64)\.{INTEGER}", "t", "d", ">~d ~t", meaning="conversion"
)
def _from_integer(x: Lanes, item: Instruction, a: str) -> str:
    to, source = _types(item)
    kind, target = LLVM_TYPES[source], LLVM_TYPES[to]
    operation = "sitofp" if source[0] == "s" else "uitofp"
    how = next((m for m in item.modifiers if m in MODES), "rn")
    found = _rounded_cast(x, operation, kind, a, target, how)
    return saturated(x, item, target, found)


def _rounded_cast(x: Lanes, operation: str, kind: str, a: str, target: str, how: str) -> str:
    if how == "rn":
        return x.cast(operation, kind, a, target)
    if operation == "uitofp" and BITS[kind] < 64:
        # Without AVX-512 LLVM makes vectors of unsigned numbers by a subtraction, which rounds 0 down to -0.
        operation, kind, a = "sitofp", "i64", x.resize(kind, a, "i64")
    function = f"@{operation}.{how}.{x.mangled(target)}.{x.mangled(kind)}"
    intrinsic = f"@llvm.experimental.constrained.{operation}.{x.mangled(target)}.{x.mangled(kind)}"
    x.text.declarations.add(f"declare {x.type(target)} {intrinsic}({x.type(kind)}, metadata, metadata)")
    call = f"call {x.type(target)} {intrinsic}"
    define_switched(x, function, x.type(target), [x.type(kind)], call, MODES[how])
    return x.op(f"call {x.type(target)} {function}({x.type(kind)} {a})")


@pure(
    MOVEMENT, rf"cvt\.r[nzmp]i(\.ftz)?(\.sat)?\.{INTEGER}\.(f32|f64)", "t", "d", RELAXED, meaning="conversion"
)
def _to_integer(x: Lanes, item: Instruction, a: str) -> str:
    """Out of range gives the nearest end of the range; NaN gives 0, or the top bit where a type has 64."""
    to, source = _types(item)
    kind, target = LLVM_TYPES[source], LLVM_TYPES[to]
    a = flushed(x, item, kind, a)
    how = next(m for m in item.modifiers if m in TO_INTEGRAL)
    whole = x.call(TO_INTEGRAL[how], kind, a)
    sign = "si" if to[0] == "s" else "ui"
    name = f"@llvm.fpto{sign}.sat.{x.mangled(target)}.{x.mangled(kind)}"
    x.text.declarations.add(f"declare {x.type(target)} {name}({x.type(kind)})")
    found = x.op(f"call {x.type(target)} {name}({x.type(kind)} {whole})")
    if BITS[kind] < 64 and BITS[target] < 64:
        return found
    is_nan = x.compare("uno", kind, a, a)
    return x.select(is_nan, target, x.constant(target, 1 << (BITS[target] - 1)), found)


@pure(
    MOVEMENT,
    r"cvt(\.r[nzmp]i)?(\.ftz)?(\.sat)?\.(f32\.f32|f64\.f64)",
    "t",
    "d",
    RELAXED,
    meaning="conversion",
)
@pure(MOVEMENT, r"cvt(\.ftz)?(\.sat)?\.f64\.f32", "t", "d", RELAXED, meaning="conversion")
@pure(MOVEMENT, r"cvt\.r[nzmp](\.ftz)?(\.sat)?\.f32\.f64", "t", "d", RELAXED, meaning="conversion")
def _float(x: Lanes, item: Instruction, a: str) -> str:
    to, source = _types(item)
    kind, target = LLVM_TYPES[source], LLVM_TYPES[to]
    a = flushed(x, item, kind, a)
    integral = next((m for m in item.modifiers if m in TO_INTEGRAL), None)
    if integral:
        a = x.call(TO_INTEGRAL[integral], kind, a)
    if BITS[target] > BITS[kind]:
        a = x.cast("fpext", kind, a, target)
    elif BITS[target] < BITS[kind]:
        a = _narrowed(x, item, a)
    return saturated(x, item, target, flushed(x, item, target, a))


def _narrowed(x: Lanes, item: Instruction, a: str) -> str:
    how = next((m for m in item.modifiers if m in MODES), "rn")
    return _rounded_cast(x, "fptrunc", "double", a, "float", how)


@pure(MOVEMENT, r"cvta\.(global|const|shared|local|param)\.u64", "t", operands=">t t@", meaning="address")
@pure(MOVEMENT, r"cvta\.to\.(global|const|shared|local|param)\.u64", "t", meaning="address")
def _address(x: Lanes, item: Instruction, a: str) -> str:
    """Global memory is the host's, so generic addresses are the same; shared and local have their windows."""
    window = next((WINDOWS[m] for m in item.modifiers if m in WINDOWS), 0)
    if not window:
        return a
    return x.binary("sub" if "to" in item.modifiers else "add", "i64", a, x.constant("i64", window))


@pure(MOVEMENT, r"isspacep\.(global|const|shared|local|param)", "u64", "pred", meaning="test")
def _is_space(x: Lanes, item: Instruction, a: str) -> str:
    """By the window that the address lies in; global and const memory are one space here."""
    space = item.modifiers[0]
    if space in WINDOWS:
        distance = x.binary("sub", "i64", a, x.constant("i64", WINDOWS[space]))
        return x.compare("ult", "i64", distance, x.constant("i64", WINDOW_SIZE))
    return x.compare("ult", "i64", a, x.constant("i64", min(WINDOWS.values())))
