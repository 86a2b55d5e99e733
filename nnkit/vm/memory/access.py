"""What a kernel does to memory: accesses, and the groups of them that share one check."""

from dataclasses import dataclass, field

from nnkit.ptx.ir import SIZES, Address, Immediate, Instruction, Operand, PtxError, Register, Symbol, Vector
from nnkit.vm.analysis.blocks import Block
from nnkit.vm.emit.emitter import Emitter
from nnkit.vm.forms import table
from nnkit.vm.forms.form import AccessKind, MemoryAccess
from nnkit.vm.forms.registers import destinations
from nnkit.vm.text.builder import LLVM_TYPES

FAR = 1 << 30
"""Offsets this many bytes apart share no check: what lies between two lanes or members stays below 2^31."""


@dataclass(frozen=True)
class Access:
    """One load, store or atomic operation: `count` elements of `size` bytes at base + offset."""

    item: Instruction
    space: str
    base: Operand
    offset: int
    size: int
    count: int
    kind: AccessKind

    @property
    def reads(self) -> bool:
        """Whether memory is read."""
        return self.kind != "store"

    @property
    def writes(self) -> bool:
        """Whether memory is written."""
        return self.kind != "load"

    @property
    def element(self) -> str:
        """The LLVM type of one element."""
        return LLVM_TYPES[self.item.type]

    @property
    def bytes(self) -> int:
        """Bytes of one lane."""
        return self.size * self.count


@dataclass
class Group:
    """Accesses that share a check."""

    members: list[Access] = field(default_factory=list)
    checked: bool = False
    fast: str = "false"
    """Whether all lanes were found in one piece: an i1, or "" where that is certain."""
    anchor: str = ""
    """Lane 0's address at the lowest offset, as a host pointer; anywhere if lane 0 is not active."""
    low: int = 0

    @property
    def writes(self) -> int:
        """1 where any member writes."""
        return int(any(member.writes for member in self.members))

    @property
    def span(self) -> int:
        """Bytes from the lowest offset to the highest end."""
        return max(m.offset + m.bytes for m in self.members) - self.low


def access_of(item: Instruction) -> Access | None:
    """What an instruction does to memory, if it does anything."""
    form = table.form_of(item)
    if not isinstance(form, MemoryAccess):
        return None
    # A result, if there is one, stands before the address, and what is stored behind it.
    at = len(form.results)
    place = item.operands[at]
    if not isinstance(place, Address):
        raise PtxError(f"{item.name} without an address", item.line)
    value = item.operands[1 - at]
    count = len(value.parts) if isinstance(value, Vector) and form.access != "update" else 1
    base: Operand = place.base
    offset = place.offset
    if isinstance(base, Symbol):
        base, offset = Symbol(base.name), offset + base.offset
    elif isinstance(base, Immediate):
        base, offset = Immediate(0), offset + base.value
    return Access(item, table.space_of(item), base, offset, SIZES[item.type], count, form.access)


def group_of(e: Emitter, access: Access) -> Group:
    """The accesses of the block that share a check with this one."""
    group = e.block.guards[id(access.item)]
    assert isinstance(group, Group)
    return group


def site_of(e: Emitter, access: Access) -> int:
    """The number of the access's place in the source, for messages."""
    what = "atomic operation" if access.kind == "update" else access.kind
    return e.site(access.item, what, access.space, access.bytes)


def streams(e: Emitter) -> bool:
    """Whether a kernel is likely to pass over much memory once: then a second form of its accesses pays."""
    return len(e.kernel.analysis.regions) == 1


def plan(e: Emitter, block: Block) -> None:
    """Find which accesses of a block share a check: same space, same value of the base register."""
    versions: dict[str, int] = {}
    groups: dict[object, Group] = {}
    for item in block.instructions:
        access = access_of(item)
        if access is not None:
            version = versions.get(access.base.name, 0) if isinstance(access.base, Register) else 0
            # A generic address is looked at alone: an offset can lead into another window.
            alone = id(item) if access.space == "generic" else 0
            key = (access.space, access.base, version, (access.offset + FAR // 2) // FAR, alone)
            group = groups.setdefault(key, Group())
            group.members.append(access)
            e.block.guards[id(item)] = group
        for name in destinations(item):
            versions[name] = versions.get(name, 0) + 1
    for group in groups.values():
        group.low = min(member.offset for member in group.members)
