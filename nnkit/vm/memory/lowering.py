"""The one place where accesses to memory are made: what is attached in front, the access, what is behind.

Instructions only describe what is to be done, as a `Load`, a `Store` or an `Update`.
"""

from typing import Protocol

from nnkit.ptx.ir import Instruction, PtxError
from nnkit.vm.emit.emitter import Emitter
from nnkit.vm.emit.values import Value
from nnkit.vm.memory.access import Access, Group, access_of, group_of
from nnkit.vm.memory.addresses import anchor, base_value
from nnkit.vm.memory.attachments import attached


class Transfer(Protocol):
    """What is done with the memory that an instruction names."""

    def emit(self, e: Emitter, access: Access, group: Group, base: Value) -> None:
        """Make the access for the active lanes; nothing is attached here."""


def lower(e: Emitter, item: Instruction, transfer: Transfer) -> None:
    """Make an instruction's access to memory, with all that is attached to it. Raises PtxError."""
    access = access_of(item)
    assert access is not None
    if access.writes and access.space == "param":
        raise PtxError("a kernel's parameters cannot be written", item.line)
    group, base, mask = group_of(e, access), base_value(e, access), e.block.mask
    around = attached(e)
    for each in around:
        each.before(e, access, base, mask)
    group.anchor = group.anchor or anchor(e, access, group, base)
    transfer.emit(e, access, group, base)
    for each in around:
        each.behind(e, access, base, mask)
