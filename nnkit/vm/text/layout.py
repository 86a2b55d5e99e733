"""The memory that Python and the generated code share: two records of 64-bit words, and how a launch ends.

`Context` exists once a launch, `Worker` once a thread that runs blocks.
"""

from enum import IntEnum


class Context(IntEnum):
    """What all workers of a launch see; the value is the word's index. The parts of the grid come behind."""

    PARTS = 0
    BLOCKS = 1
    PARAMETERS = 2
    GRID_X = 3
    GRID_Y = 4
    GRID_Z = 5
    STOP = 6
    ALLOCATIONS = 7
    ALLOCATION_COUNT = 8
    SHARED_BYTES = 9
    REFILL = 10
    CALL = 11
    DYNAMIC_SHARED_BYTES = 12
    GLOBALS = 13
    CHUNK = 14
    WORDS = 15


PART_WORDS = 8
"""Of a part of the grid: the next block, the end, and room, so that no two parts share a cache line."""


BARRIERS = 16
"""How many a block has, by number: of each the worker keeps the votes, the early arrivals and the results."""


class Worker(IntEnum):
    """What one thread that runs blocks has for itself."""

    FRAMES = 0
    SHARED = 1
    LOCAL = 2
    SITES = 3
    ADDRESSES = 4
    RESUME = 5
    FUEL = 6
    FAULT = 7
    FAULT_SITE = 8
    FAULT_LANE = 9
    FAULT_VECTOR = 10
    BLOCK_X = 11
    BLOCK_Y = 12
    BLOCK_Z = 13
    BLOCK = 14
    ALIVE = 15
    FAULT_ADDRESS = 16
    BARRIER = 17
    VOTES = 18
    ARRIVED = 34
    RESULTS = 50
    PART = 66
    ABSENT_SITE = 67
    ABSENT_READER = 68
    ABSENT_LANE = 69
    STRANDS = 70
    COUNTERS = 71
    WORDS = 72


class Fault(IntEnum):
    """Why a launch ended early."""

    NONE = 0
    MEMORY = 1
    MISALIGNED = 2
    READ_ONLY = 3
    DIVERGENT_BARRIER = 4
    DEADLOCK = 5
    STOPPED = 6
    CALL = 7
    TRAP = 8
    DIVERGENT_WARP = 9
    OWN_MASK = 10
    ABSENT_LANE = 11


ENDED = -1
"""In RESUME: every lane of the vector has left the kernel."""

PARAM_WINDOW = 1 << 59
SHARED_WINDOW = 1 << 60
LOCAL_WINDOW = 1 << 61
"""Where parameters, shared and local memory begin in the generic address space: above all host addresses."""

WINDOWS = {"param": PARAM_WINDOW, "shared": SHARED_WINDOW, "local": LOCAL_WINDOW}
WINDOW_SIZE = 1 << 32
WINDOW_REACH = 1 << 57
"""How far from a window's start an address that is outside of it was still meant for it, for messages."""
