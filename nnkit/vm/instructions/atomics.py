"""Atomic operations: how memory is combined with operands."""

from collections.abc import Iterable

from nnkit.ptx.ir import Instruction
from nnkit.vm.forms.sections import COMMUNICATION
from nnkit.vm.forms.table import memory_access
from nnkit.vm.memory.updates import Update

# The order of the modifiers is that of `nnkit.ptx.modifiers`.
_ORDER = r"(\.(relaxed|acquire|release|acq_rel))?(\.(cta|cluster|gpu|sys))?"
_ORDER_OF_RED = r"(\.(relaxed|release))?(\.(cta|cluster|gpu|sys))?"
_SPACE = r"(\.global|\.shared(::cta)?)?"


_ARITHMETIC = (r"\.add(\.noftz)?\.([us]32|u64|f32|f64)", r"\.(inc|dec)\.u32", r"\.(min|max)\.[us](32|64)")
_BITWISE = r"\.(and|or|xor)\.b(32|64)"
"""What both `atom` and `red` can do."""


def _named(name: str, what: Iterable[str]) -> list[str]:
    order = _ORDER if name == "atom" else _ORDER_OF_RED
    return [f"{name}{order}{_SPACE}{operation}" for operation in what]


_DIRECT = {"and": "and", "or": "or", "xor": "xor", "inc": "uinc_wrap", "dec": "udec_wrap"}
_DIRECT |= {"exch": "xchg", "cas": "cmpxchg"}
OPERATIONS = frozenset([*_DIRECT, "add", "min", "max"])


def _operation(item: Instruction) -> str:
    name = next(m for m in item.modifiers if m in OPERATIONS)
    if name in _DIRECT:
        return _DIRECT[name]
    if name == "add":
        return "fadd" if item.type[0] == "f" else "add"
    return f"{'u' if item.type[0] == 'u' else ''}{name}"


@memory_access(COMMUNICATION, "update", "[] t", *_named("red", _ARITHMETIC), meaning="arithmetic")
@memory_access(COMMUNICATION, "update", "[] t", *_named("red", [_BITWISE]))
def _reduce(item: Instruction) -> Update:
    return Update(_operation(item), item.operands[1:])


@memory_access(
    COMMUNICATION, "update", ">t_ [] t", *_named("atom", _ARITHMETIC), lanes="varying", meaning="arithmetic"
)
@memory_access(
    COMMUNICATION, "update", ">t_ [] t", *_named("atom", [_BITWISE, r"\.exch\.b(32|64)"]), lanes="varying"
)
@memory_access(
    COMMUNICATION, "update", ">t_ [] t t", *_named("atom", [r"\.cas\.b(16|32|64)"]), lanes="varying"
)
def _fetch_and_update(item: Instruction) -> Update:
    return Update(_operation(item), item.operands[2:], into=item.operands[0])
