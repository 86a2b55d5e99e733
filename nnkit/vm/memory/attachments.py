"""What is attached to every access to memory: text in front of it and behind it."""

from typing import Protocol

from nnkit.vm.analysis.options import Options
from nnkit.vm.emit.emitter import Emitter
from nnkit.vm.emit.values import Value
from nnkit.vm.memory.access import Access
from nnkit.vm.memory.checks import BoundsCheck


class Attachment(Protocol):
    """Emits text in front of every access that a kernel makes, and behind it; kernels share the object.

    `access` says what is accessed: in each active lane `count` elements of `size` bytes at `base` plus
    `offset` in `space`, how (`kind`), and by which instruction (`item`). Which space "generic" is, only the
    lanes' addresses say. `base` is the value of the base register, `mask` the active lanes as an integer with
    a bit for each, or "" where they are all for certain.

    What helps: `addresses.pointers` for every lane's host address, `access.site_of` for the number by which a
    fault names the place, `emit.counters.count` for totals that outlive the launch, `Emitter.mask64` and
    `Emitter.lanes` for the mask in other forms, `Text.functions` for LLVM functions to be called.
    """

    def before(self, e: Emitter, access: Access, base: Value, mask: str) -> None:
        """Emit what runs before the access. Where "bounds" stands before it, all addresses are good ones."""

    def behind(self, e: Emitter, access: Access, base: Value, mask: str) -> None:
        """Emit what runs behind the access, in the same block of LLVM's or one that it dominates."""


ATTACHMENTS: dict[str, Attachment] = {"bounds": BoundsCheck()}
"""All that there are, by their names in `Options.attached`: one more is a file and a line here."""


def attached(e: Emitter) -> list[Attachment]:
    """What the kernel is compiled with, in order."""
    return [ATTACHMENTS[name] for name in e.kernel.launch.options.attached]


def refuse_unknown(options: Options) -> None:
    """Raise ValueError for options with an attachment that there is not."""
    for name in options.attached:
        if name not in ATTACHMENTS:
            raise ValueError(f"attached={name}: give some of {', '.join(ATTACHMENTS)}")
