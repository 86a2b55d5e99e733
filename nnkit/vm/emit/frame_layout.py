"""Where in a strand's frame each register is saved that outlives a barrier."""

from dataclasses import dataclass

from nnkit.vm.analysis.kernel import Analysis
from nnkit.vm.text.builder import BITS, register_type


def has_vector(analysis: Analysis, name: str) -> bool:
    """Whether a register has a value of its own in every lane."""
    return analysis.shape(name).kind in ("varying", "likely")


@dataclass(frozen=True)
class FrameLayout:
    """Offsets in bytes from the frame's start."""

    offsets: dict[str, int]
    """Of the registers' values."""
    suspects: dict[str, int]
    """Of the masks of those that may hold what a shuffle took from nobody."""
    size: int

    @classmethod
    def of(cls, analysis: Analysis, suspects: frozenset[str]) -> "FrameLayout":
        """The kernel's: vectors first, each aligned for its type."""
        width = analysis.launch.width
        offsets: dict[str, int] = {}
        position = 0
        for name in sorted(analysis.saved, key=lambda name: not has_vector(analysis, name)):
            bits = BITS[register_type(analysis.function.registers[name])]
            if has_vector(analysis, name):
                size, unit = vector_bytes(bits, width), 64
            else:
                size, unit = bits // 8 or 1, 8
            offsets[name] = aligned(position, unit)
            position = offsets[name] + size
            if analysis.shape(name).kind == "likely":
                # Behind the vector: the scalar and the flag.
                position = aligned(position, 8) + 16
        masks: dict[str, int] = {}
        for name in sorted(suspects & offsets.keys()):
            masks[name] = aligned(position, 4)
            position = masks[name] + 4
        return cls(offsets, masks, aligned(position, 64))


def vector_bytes(bits: int, width: int) -> int:
    """Bytes of a vector of that many lanes."""
    return max(-(-bits * width // 8), 1)


def aligned(position: int, unit: int) -> int:
    """The next multiple of a unit."""
    return -(-position // unit) * unit
