"""What an emitter remembers, in three records: as long as the kernel lives, a function, a block of it."""

from dataclasses import dataclass, field

from nnkit.vm.analysis.blocks import Block
from nnkit.vm.analysis.geometry import Launch
from nnkit.vm.analysis.kernel import Analysis
from nnkit.vm.analysis.regions import Region
from nnkit.vm.emit.frame_layout import FrameLayout
from nnkit.vm.emit.values import Memory, Site, Value


@dataclass
class KernelState:
    """What all functions of a kernel share: what is known of it, and what they have asked for so far."""

    analysis: Analysis
    memory: Memory
    suspects: frozenset[str]
    """The registers that may hold what a shuffle took from nobody, see `nnkit.vm.instructions.absent`."""
    frame: FrameLayout = field(init=False)
    sites: list[Site] = field(default_factory=list)
    """The places that can go wrong, by number."""
    caches: int = 0
    """How many places remember the allocation that they met last."""
    counters: list[str] = field(default_factory=list)
    """What is counted, by number, see `nnkit.vm.emit.counters`."""
    patterns: dict[tuple[int, ...], str] = field(default_factory=dict)
    """The constants with the lanes' steps, by the steps."""

    def __post_init__(self) -> None:
        self.frame = FrameLayout.of(self.analysis, self.suspects)

    @property
    def launch(self) -> Launch:
        """What the kernel is compiled for."""
        return self.analysis.launch

    @property
    def strand(self) -> str:
        """The stack slot with the number of the strand that runs, see `nnkit.vm.emit.strands`."""
        return "%strand" if self.analysis.parts else "%vector"


@dataclass
class FunctionState:
    """One LLVM function, a region's or one that moves what a region needs."""

    region: Region
    entry: list[str] = field(default_factory=list)
    """Its first lines: what is read once, wherever it is used."""
    constants: dict[str, str] = field(default_factory=dict)
    """The names of what those lines read."""
    slots: set[tuple[str, str]] = field(default_factory=set)
    """The registers that have a stack slot, and of which form."""
    returns: set[int] = field(default_factory=set)
    """The blocks that others lead back to by one way, see `nnkit.vm.code.searches.emit_returns`."""
    searches: dict[str, set[int]] = field(default_factory=lambda: {"search": set(), "stopped": set()})
    """Where in the order blocks begin to search for lanes, see `nnkit.vm.code.searches.emit_searches`."""


@dataclass
class BlockState:
    """One block: its registers' values are kept here, and written to their slots at most once, at its end."""

    code: Block
    mask: str = ""
    """Its lanes as an integer; "" where every lane is active for certain."""
    values: dict[str, Value] = field(default_factory=dict)
    changed: set[str] = field(default_factory=set)
    """The registers that the block has written."""
    guards: dict[object, object] = field(default_factory=dict)
    """Of each access, by the instruction's id: the accesses that share its check."""
