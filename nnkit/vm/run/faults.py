"""What went wrong in a kernel, in one line: kernel, source line, block, thread, address, and what is near."""

from dataclasses import dataclass

from nnkit.vm.emit.values import Site
from nnkit.vm.instructions.warp import DIFFERENT_MASKS
from nnkit.vm.text.layout import WINDOWS, Fault

NULL_REACH = 1 << 22
"""Bytes around address 0 where no memory can be: where programs begin at the lowest."""


class KernelFault(Exception):
    """A launch that ended early. `kind` says why; the message is complete."""

    def __init__(self, kind: Fault, message: str):
        super().__init__(message)
        self.kind = kind


@dataclass(frozen=True)
class Place:
    """Where in the grid, and where in the source."""

    kernel: str
    site: Site | None
    block: tuple[int, int, int]
    thread: tuple[int, int, int]

    def __str__(self) -> str:
        where = ""
        if self.site is not None:
            where = (
                f" at {self.site.location}" if self.site.location.line else f" at PTX line {self.site.line}"
            )
        return f"kernel {self.kernel}{where}, block {self.block}, thread {self.thread}"


def describe(kind: Fault, place: Place, space: str, address: int, near: str, limit: int) -> str:
    """The whole message for a fault; `space` is where the address lies, also that of a generic access."""
    site = place.site
    what = f"{site.what} of {site.size} bytes" if site else "access"
    # A little before a window's start an address reads as one of 32 bits.
    shown = address % (1 << 32 if limit >= 0 and -1 << 31 <= address < 0 else 1 << 64)
    where = f"{space} address {shown:#x}"
    match kind:
        case Fault.MEMORY:
            words = null_pointer(space, address)
            words = words or (near_window(space, address, limit) if limit >= 0 else near)
            return f"{place}: {what} at {where} is out of bounds: {words}"
        case Fault.MISALIGNED:
            size = site.size if site else 0
            return f"{place}: {what} at {where} is misaligned: the address must be a multiple of {size}"
        case Fault.READ_ONLY:
            return f"{place}: {what} at {where} writes to constant memory, or to a read-only array"
        case Fault.DIVERGENT_BARRIER:
            return (
                f"{place}: a barrier that only some threads of a warp reach: move __syncthreads() out of the "
                "condition"
            )
        case Fault.DIVERGENT_WARP if site and site.what.endswith(DIFFERENT_MASKS):
            return f"{place}: {site.what} is not supported by the virtual device: branch, one mask a side"
        case Fault.DIVERGENT_WARP:
            return (
                f"{place}: {site.what if site else 'a warp operation'} names threads that are not here: "
                "every thread of its mask must execute it together"
            )
        case Fault.OWN_MASK:
            return (
                f"{place}: {site.what if site else 'a warp operation'} with a mask that the thread itself is "
                "missing from: each thread must be in the mask that it names"
            )
        case Fault.TRAP:
            return f"{place}: the kernel stopped itself ({site.what if site else 'trap'})"
    return f"{place}: {site.what if site else kind.name.lower()}"


def null_pointer(space: str, address: int) -> str:
    """Says so where an address is 0, or so close to it that nothing can be there; "" where it is not."""
    distance = (address + WINDOWS.get(space, 0) + NULL_REACH) % (1 << 64) - NULL_REACH
    if distance >= NULL_REACH:
        return ""
    if distance == 0:
        return "it is a null pointer"
    return f"it lies {abs(distance)} bytes {'behind' if distance > 0 else 'before'} a null pointer"


def absent_lane(place: Place, used: Site, lane: int, member: bool, exists: bool) -> str:
    """The message where a value counts that a shuffle took from a lane that is not there."""
    if not exists:
        why = "does not exist: the block ends before"
    elif member:
        why = "is not here: it has left or goes another way"
    else:
        why = "is not in the mask"
    what = place.site.what if place.site else "a shuffle"
    at = f"{used.location}" if used.location.line else f"PTX line {used.line}"
    return f"{place}: {what} reads from lane {lane} of the warp, which {why}; the value is used at {at}"


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
