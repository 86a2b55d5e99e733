"""How code is made: what may be chosen for it."""

from dataclasses import dataclass

WIDTHS = (1, 8, 16, 32, 64)
"""Lanes of a vector that the generated code can have."""


@dataclass(frozen=True)
class Options:
    """The variants in which one kernel's code can be made for one kind of launch.

    All of it is part of the key under which code is kept: a field more is a key more. Raises ValueError for a
    width that is none.
    """

    width: int | None = None
    """Lanes of a vector; None: as many as suit the kernel and the block."""
    poison: bool = False
    """Whether registers and shared memory that nobody has written hold ones instead of what they may."""
    attached: tuple[str, ...] = ("bounds",)
    """What runs around every access to memory, by its name in `nnkit.vm.memory.attachments`."""

    def __post_init__(self) -> None:
        if self.width not in (None, *WIDTHS):
            raise ValueError(f"width={self.width}: give one of {', '.join(map(str, WIDTHS))}")
