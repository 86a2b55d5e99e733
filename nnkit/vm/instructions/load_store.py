"""Loads and stores: which there are, what they read and write, and how they are ordered."""

from nnkit.ptx.ir import Instruction, Operand, Vector
from nnkit.vm.emit.emitter import Emitter
from nnkit.vm.forms.sections import MOVEMENT
from nnkit.vm.forms.table import effect, memory_access
from nnkit.vm.memory.loads import Load
from nnkit.vm.memory.stores import Store

_SCOPE = r"\.(cta|cluster|gpu|sys)"
_HINT = (
    r"(\.L1::(evict_(normal|unchanged|first|last)|no_allocate)|\.L2::(evict_\w+|cache_hint|(64|128|256)B))*"
)
_SHAPE = r"(\.v[248])?\.([bus](8|16|32|64)|f32|f64)"
_LOADED, _STORED = r"(\.ca|\.cg|\.cs|\.lu|\.cv)?", r"(\.wb|\.cg|\.cs|\.wt)?"
_SHARED = r"(\.global|\.shared(::cta)?)?"
"""Spaces that other threads see: there an access may have an order."""


@memory_access(
    MOVEMENT,
    "load",
    ">~t* []",
    rf"ld(\.weak)?(\.global|\.shared(::cta)?|\.const|\.param(::entry|::func)?|\.local)?{_LOADED}{_HINT}{_SHAPE}",
    rf"ld(\.weak)?\.global{_LOADED}\.nc{_HINT}{_SHAPE}",
    rf"ld\.volatile(\.global|\.shared(::cta)?|\.const|\.local)?{_HINT}{_SHAPE}",
    rf"ld(\.mmio)?\.(relaxed|acquire){_SCOPE}{_SHARED}{_HINT}{_SHAPE}",
    lanes="loaded",
)
@memory_access(MOVEMENT, "load", ">~t* []", rf"ldu(\.global)?{_SHAPE}", lanes="loaded", space="global")
def _load(item: Instruction) -> Load:
    modifiers = item.modifiers
    volatile = "volatile" in modifiers or "relaxed" in modifiers
    return Load(_elements(item.operands[0]), volatile, acquire="acquire" in modifiers)


@memory_access(
    MOVEMENT,
    "store",
    "[] ~t*",
    rf"st(\.weak)?(\.global|\.shared(::cta)?|\.local|\.param(::func)?)?{_STORED}{_HINT}{_SHAPE}",
    rf"st\.volatile(\.global|\.shared(::cta)?|\.local)?{_HINT}{_SHAPE}",
    rf"st(\.mmio)?\.(relaxed|release){_SCOPE}{_SHARED}{_HINT}{_SHAPE}",
)
def _store(item: Instruction) -> Store:
    modifiers = item.modifiers
    return Store(_elements(item.operands[1]), "volatile" in modifiers, release="release" in modifiers)


def _elements(operand: Operand | None) -> tuple[Operand | None, ...]:
    return operand.parts if isinstance(operand, Vector) else (operand,)


@effect(
    MOVEMENT,
    "[]",
    r"prefetch(\.(global|local))?\.L[12]",
    r"prefetch\.global\.L2::evict_(last|normal)",
    r"prefetchu\.L1",
)
def _nothing(e: Emitter, item: Instruction) -> None:
    """Hints change no result."""
