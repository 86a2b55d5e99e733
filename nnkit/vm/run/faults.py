"""What went wrong in a kernel, in one line: kernel, source line, block, thread, address, and what is near."""

from dataclasses import dataclass

from nnkit.vm.emit.values import Site
from nnkit.vm.instructions.warp import DIFFERENT_MASKS
from nnkit.vm.text.layout import WINDOWS, Fault

NULL_REACH = 1 << 22
"""Bytes around address 0 where no memory can be: where programs begin at the lowest."""


@dataclass(frozen=True)
class FaultRecord:
    """What went wrong in a kernel; as text the whole message."""

    kind: Fault
    kernel: str
    site: Site | None = None
    """The instruction and its place in the source."""
    block: tuple[int, int, int] | None = None
    thread: tuple[int, int, int] | None = None
    space: str = ""
    """Of memory: where the address lies, also that of a generic access."""
    address: int = 0
    """Within its window for shared, local and param memory."""
    nearest: str = ""
    """What lies near the address."""
    detail: str = ""
    """What else there is to say of this kind."""

    @property
    def what(self) -> str:
        """The instruction, as PTX names it, or load or store; "" where none is to blame."""
        return self.site.what if self.site else ""

    @property
    def file(self) -> str:
        """The CUDA source; "" where it is not known."""
        return self.site.location.file if self.site else ""

    @property
    def line(self) -> int:
        """Its line; 0 where it is not known."""
        return self.site.location.line if self.site else 0

    @property
    def size(self) -> int:
        """Bytes of the access."""
        return self.site.size if self.site else 0

    @property
    def place(self) -> str:
        """Where in the source, and where in the grid."""
        where = ""
        if self.site is not None:
            where = f" at {self.site.location}" if self.line else f" at PTX line {self.site.line}"
        return f"kernel {self.kernel}{where}, block {self.block}, thread {self.thread}"

    def __str__(self) -> str:
        match self.kind:
            case Fault.DEADLOCK:
                block = f"kernel {self.kernel}, block {self.block}"
                return f"{block}: not all threads reach the same barrier, so none can go on: {self.detail}"
            case Fault.STOPPED:
                return f"kernel {self.kernel} was {self.detail}"
        return f"{self.place}: {self._words()}"

    def _words(self) -> str:
        access = f"{self.what} of {self.size} bytes at {self.space} address {self._shown():#x}"
        match self.kind:
            case Fault.MEMORY:
                return f"{access} is out of bounds: {self.nearest}"
            case Fault.MISALIGNED:
                return f"{access} is misaligned: the address must be a multiple of {self.size}"
            case Fault.READ_ONLY:
                return f"{access} writes to constant memory, or to a read-only array"
            case Fault.DIVERGENT_BARRIER:
                return (
                    "a barrier that only some threads of a warp reach: move __syncthreads() out of the "
                    "condition"
                )
            case Fault.DIVERGENT_WARP if self.what.endswith(DIFFERENT_MASKS):
                return f"{self.what} is not supported by the virtual device: branch, one mask a side"
            case Fault.DIVERGENT_WARP:
                return (
                    f"{self.what} names threads that are not here: every thread of its mask must execute it "
                    "together"
                )
            case Fault.OWN_MASK:
                return (
                    f"{self.what} with a mask that the thread itself is missing from: each thread must be in "
                    "the mask that it names"
                )
            case Fault.ABSENT_LANE:
                return f"{self.what} {self.detail}"
            case Fault.CALL:
                return f"assertion failed: {self.detail}"
            case Fault.TRAP:
                return f"the kernel stopped itself ({self.what})"
        return self.what or self.kind.name.lower()

    def _shown(self) -> int:
        # A little before a window's start an address reads as one of 32 bits.
        near = self.space in WINDOWS and -1 << 31 <= self.address < 0
        return self.address % (1 << 32 if near else 1 << 64)


class KernelFault(Exception):
    """A launch that ended early; the message is complete."""

    def __init__(self, fault: FaultRecord):
        super().__init__(str(fault))
        self.fault = fault


def null_pointer(space: str, address: int) -> str:
    """Says so where an address is 0, or so close to it that nothing can be there; "" where it is not."""
    distance = (address + WINDOWS.get(space, 0) + NULL_REACH) % (1 << 64) - NULL_REACH
    if distance >= NULL_REACH:
        return ""
    if distance == 0:
        return "it is a null pointer"
    return f"it lies {abs(distance)} bytes {'behind' if distance > 0 else 'before'} a null pointer"


def absent_lane(used: Site, lane: int, member: bool, exists: bool) -> str:
    """Why a value counts that a shuffle took from a lane that is not there, and where it does."""
    if not exists:
        why = "does not exist: the block ends before"
    elif member:
        why = "is not here: it has left or goes another way"
    else:
        why = "is not in the mask"
    at = f"{used.location}" if used.location.line else f"PTX line {used.line}"
    return f"reads from lane {lane} of the warp, which {why}; the value is used at {at}"


def near_window(space: str, address: int, limit: int) -> str:
    """Where an offset, a signed number, lies that is not within a window of `limit` bytes."""
    has = f"{space} memory has {limit} bytes here"
    if address < 0:
        return f"it lies {-address} bytes before the start: {has}"
    if address >= limit:
        return f"it lies {address - limit} bytes behind the end: {has}"
    return f"it reaches over the end: {has}"


def threads_in_words(threads: list[int]) -> str:
    """Sorted numbers as ranges: "threads 0 to 31 and 64"."""
    ranges: list[list[int]] = []
    for thread in threads:
        if ranges and ranges[-1][1] == thread - 1:
            ranges[-1][1] = thread
        else:
            ranges.append([thread, thread])
    words = [f"{first} to {last}" if last > first else str(first) for first, last in ranges]
    if len(words) > 6:
        words = [*words[:5], f"{len(words) - 5} more ranges"]
    text = " and ".join(filter(None, (", ".join(words[:-1]), words[-1])))
    return f"thread{'s' if len(threads) > 1 else ''} {text}"
