"""Comparisons, selections and moves."""

from nnkit.ptx.ir import SIZES, Instruction
from nnkit.vm.forms.sections import COMPARISON, MOVEMENT
from nnkit.vm.forms.table import pure
from nnkit.vm.instructions.floating import flushed
from nnkit.vm.text.builder import LLVM_TYPES, Lanes

EITHER = r"\.(eq|ne|lt|le|gt|ge"
_BITS, _SIGNED, _UNSIGNED = r"\.(eq|ne)", EITHER + ")", EITHER + "|lo|ls|hi|hs)"
_FLOAT = EITHER + "|equ|neu|ltu|leu|gtu|geu|num|nan)"
ANY = r"\.([bus](16|32|64)|f32|f64)"


def comparisons(opcode: str, between: str, behind: str = "") -> str:
    """All comparisons with the types that they are for; `between` and `behind` hold what else is there."""
    forms = (
        rf"{_BITS}{between}{behind}\.b(16|32|64)",
        rf"{_SIGNED}{between}{behind}\.s(16|32|64)",
        rf"{_UNSIGNED}{between}{behind}\.u(16|32|64)",
        rf"{_FLOAT}{between}(\.ftz)?{behind}\.f32",
        rf"{_FLOAT}{between}{behind}\.f64",
    )
    return f"{opcode}({'|'.join(forms)})"


_COMBINED = r"\.(and|or|xor)"
_TO = r"\.(u32|s32|f32)"

_ORDERED = {"eq": "oeq", "ne": "one", "lt": "olt", "le": "ole", "gt": "ogt", "ge": "oge"}
_UNORDERED = {f"{name}u": f"u{name}" for name in ("eq", "ne", "lt", "le", "gt", "ge")}
FLOAT_PREDICATES = _ORDERED | _UNORDERED | {"num": "ord", "nan": "uno"}
UNSIGNED = {"lo": "ult", "ls": "ule", "hi": "ugt", "hs": "uge"}


def compared(x: Lanes, item: Instruction, type_: str, a: str, b: str) -> str:
    """The comparison that the modifiers name, on values of a PTX type."""
    name = next(m for m in item.modifiers if m in FLOAT_PREDICATES or m in UNSIGNED)
    kind = LLVM_TYPES[type_]
    if type_[0] == "f":
        a, b = flushed(x, item, kind, a), flushed(x, item, kind, b)
        return x.compare(FLOAT_PREDICATES[name], kind, a, b)
    if name in UNSIGNED:
        return x.compare(UNSIGNED[name], kind, a, b)
    if name in ("eq", "ne"):
        return x.compare(name, kind, a, b)
    return x.compare(f"{'s' if type_[0] == 's' else 'u'}{name}", kind, a, b)


@pure(COMPARISON, comparisons("setp", ""), "t t", "pred", ">pred|_ t t", meaning="comparison")
def _setp(x: Lanes, item: Instruction, a: str, b: str) -> str:
    return compared(x, item, item.type, a, b)


@pure(
    COMPARISON, comparisons("setp", _COMBINED), "t t pred", "pred", ">pred|_ t t pred", meaning="comparison"
)
def _setp_combined(x: Lanes, item: Instruction, a: str, b: str, p: str) -> str:
    operation = next(m for m in item.modifiers if m in ("and", "or", "xor"))
    return x.binary(operation, "i1", compared(x, item, item.type, a, b), p)


@pure(COMPARISON, comparisons("set", "", _TO), "t t", "d", meaning="comparison")
@pure(COMPARISON, comparisons("set", _COMBINED, _TO), "t t pred", "d", meaning="comparison")
def _set(x: Lanes, item: Instruction, a: str, b: str, p: str = "") -> str:
    found = compared(x, item, item.type, a, b)
    if p:
        operation = next(m for m in item.modifiers if m in ("and", "or", "xor"))
        found = x.binary(operation, "i1", found, p)
    to = next(m for m in item.modifiers if m in SIZES)
    if to == "f32":
        return x.select(found, "float", x.real("float", 1.0), x.real("float", 0.0))
    return x.cast("sext", "i1", found, "i32")


@pure(COMPARISON, r"selp\.([bus](16|32|64)|f32|f64)", "t t pred", meaning="choice")
def _selp(x: Lanes, item: Instruction, a: str, b: str, p: str) -> str:
    return x.select(p, LLVM_TYPES[item.type], a, b)


@pure(COMPARISON, rf"slct{ANY}\.s32", "d d t", "d")
@pure(COMPARISON, rf"slct(\.ftz)?{ANY}\.f32", "d d t", "d")
def _slct(x: Lanes, item: Instruction, a: str, b: str, c: str) -> str:
    """a where c >= 0, which NaN is not."""
    kind = LLVM_TYPES[item.type]
    if item.type == "f32":
        c = flushed(x, item, kind, c)
        positive = x.compare("oge", kind, c, x.real(kind, 0.0))
    else:
        positive = x.compare("sge", kind, c, x.constant(kind, 0))
    to = LLVM_TYPES[next(m for m in item.modifiers if m in SIZES)]
    return x.select(positive, to, a, b)


@pure(MOVEMENT, r"mov\.(pred|[bus](16|32|64)|f32|f64|b128)", "t", operands=">t{ t{@%", meaning="copy")
def _mov(x: Lanes, item: Instruction, a: str) -> str:
    return a
