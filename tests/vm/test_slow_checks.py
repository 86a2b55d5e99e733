"""The slow checks of addresses, in LLVM IR, run alone against the same in Python, over random accesses."""

import random
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from nnkit.vm.memory.slow_checks import checks
from nnkit.vm.text.layout import WINDOW_SIZE, WINDOWS, Fault, Worker
from tests.support.alone import Alone, context, each, finds, words, worker

CACHES = 3
MASK64 = (1 << 64) - 1
Found = tuple[Fault, int, int, int]
"""What went wrong: kind, site, lane, address."""


@dataclass(frozen=True)
class Member:
    """One access of a group."""

    offset: int
    bytes: int
    site: int
    writes: int


@dataclass
class Case:
    """A table of allocations, and accesses to it by the lanes of a vector."""

    width: int
    rng: random.Random
    rows: list[tuple[int, int, int]] = field(default_factory=list)
    members: list[Member] = field(default_factory=list)
    lanes: list[int] = field(default_factory=list)
    mask: int = 0

    def __post_init__(self) -> None:
        rng, start = self.rng, self.rng.choice((0, 1 << 40))
        for _ in range(rng.randrange(6)):
            start += rng.choice((0, 16, 64))
            self.rows.append((start, rng.choice((0, 8, 16, 48)), int(rng.random() < 0.3)))
            start += self.rows[-1][1]
        for site in range(rng.randrange(1, 4)):
            offset = rng.choice((0, 8, -8, 4, rng.randrange(-20, 20)))
            self.members.append(
                Member(offset, rng.choice((1, 2, 4, 8, 16)), 10 + site, int(rng.random() < 0.4))
            )
        self.mask = rng.choice(((1 << self.width) - 1, rng.getrandbits(self.width)))

    def near(self, ranges: list[tuple[int, int]]) -> list[int]:
        """Addresses in the ranges (start, size), some of them at an edge."""
        start, size = self.rng.choice(ranges or [(0, 0)])
        inside = [start + 8 * self.rng.randrange(size // 8 or 1) for _ in range(self.width)]
        for _ in range(self.rng.choice((0, 0, 1, 3))):
            start, size = self.rng.choice(ranges or [(0, 0)])
            edge = self.rng.choice((start, start + size))
            inside[self.rng.randrange(self.width)] = edge + self.rng.randrange(-12, 12)
        return inside

    @property
    def any_writes(self) -> int:
        return int(any(member.writes for member in self.members))

    def active(self) -> list[tuple[Member, int, int]]:
        """(member, lane, address) in the order in which they are looked at."""
        return [
            (member, lane, self.lanes[lane] + member.offset)
            for member in self.members
            for lane in range(self.width)
            if self.mask >> lane & 1
        ]

    def fault(self, kind: Fault | None, member: Member, lane: int, address: int) -> Found | None:
        """Who is there and aligned is right."""
        if kind is None and address % member.bytes:
            kind = Fault.MISALIGNED
        return (kind, member.site, lane, signed(address)) if kind else None

    def in_table(self, member: Member, lane: int, address: int, known: list[int]) -> Found | None:
        """Global memory: notes the allocation where one is found."""
        address &= MASK64
        # Of several that begin at one place the last counts, and those before it are empty.
        holds = [row for row in self.rows if row[0] <= address]
        if not holds or address + member.bytes > holds[-1][0] + holds[-1][1]:
            return self.fault(Fault.MEMORY, member, lane, address)
        found = self.fault(None, member, lane, address)
        start, size, constant = holds[-1]
        if not found and constant and member.writes:
            found = self.fault(Fault.READ_ONLY, member, lane, address)
        if not found and not (constant and self.any_writes):
            known[:] = start, size
        return found

    def in_window(self, member: Member, lane: int, address: int, limit: int) -> Found | None:
        outside = not 0 <= address <= address + member.bytes <= limit
        return self.fault(Fault.MEMORY if outside else None, member, lane, address)


def signed(address: int, bits: int = 64) -> int:
    """Those bits as a signed number."""
    address &= (1 << bits) - 1
    return address - (1 << bits) if address >> (bits - 1) else address


class Machine:
    """The records for one call, and what the call has left there."""

    def __init__(self, case: Case):
        self.table = np.array([*(word for row in case.rows for word in row), 0], np.int64)
        self.context = context(ALLOCATIONS=self.table, ALLOCATION_COUNT=len(case.rows))
        self.sites = words(2 * CACHES)
        self.record = worker(SITES=self.sites)
        self.lanes = np.array([signed(lane) for lane in case.lanes])
        self.members = np.array([(m.offset, m.bytes, m.site, m.writes) for m in case.members])
        self.given = self.context, self.record, self.lanes, signed(case.mask), self.members, len(case.members)

    def found(self, good: bool) -> Found | None:
        if good:
            return None
        fields = (Worker.FAULT_SITE, Worker.FAULT_LANE, Worker.FAULT_ADDRESS)
        site, lane, address = (int(self.record[field]) for field in fields)
        return Fault(self.record[Worker.FAULT]), site, lane, address


def first(found: list[Found | None]) -> Found | None:
    return next((each for each in found if each), None)


def check_global(alone: Alone, case: Case) -> Found | None:
    case.lanes = case.near([row[:2] for row in case.rows])
    machine, cache, known = Machine(case), case.rng.randrange(CACHES), [0, 0]
    expected = None
    for member, lane, address in case.active():
        expected = expected or case.in_table(member, lane, address, known)
    found = machine.found(alone.check_global(*machine.given, cache, case.any_writes))
    assert found == expected
    remembered = words(2 * CACHES)
    remembered[2 * cache : 2 * cache + 2] = known
    assert (machine.sites == remembered).all()
    return found


def check_window(alone: Alone, case: Case) -> Found | None:
    limit, unused = case.rng.choice((0, 16, 48)), case.rng.choice((0, 32))
    case.lanes = case.near([(0, limit)])
    if unused:
        # What stands above the register's 32 bits says nothing.
        case.lanes = [lane + (case.rng.getrandbits(20) << 32) for lane in case.lanes]
    machine = Machine(case)
    expected = first(
        [case.in_window(m, lane, signed(address, 64 - unused), limit) for m, lane, address in case.active()]
    )
    found = machine.found(alone.check_window(*machine.given, limit, unused))
    assert found == expected
    return found


def check_generic(alone: Alone, case: Case) -> Found | None:
    limits = {name: case.rng.choice((0, 16, 48)) for name in WINDOWS}
    ranges = [row[:2] for row in case.rows] + [(start, limits[name]) for name, start in WINDOWS.items()]
    case.lanes = case.near(ranges)
    machine, known = Machine(case), [0, 0]
    expected = None
    for member, lane, address in case.active():
        window = next(
            (name for name, start in WINDOWS.items() if start <= address < start + WINDOW_SIZE), None
        )
        if window:
            expected = expected or case.in_window(member, lane, address - WINDOWS[window], limits[window])
        else:
            expected = expected or case.in_table(member, lane, address, known)
    found = machine.found(alone.check_generic(*machine.given, 0, case.any_writes, *limits.values()))
    assert found == expected
    assert machine.sites.tolist() == known + [0, 0] * (CACHES - 1)
    return found


def check(change: Callable[[str], str] = lambda text: text) -> None:
    """All three say the same as Python, in each way in which an access can be wrong."""
    kinds: dict[tuple[str, Fault | None], int] = {}
    for width in (1, 8, 32):
        alone, rng = Alone(change(checks(width))), random.Random(width)
        for function in (check_global, check_window, check_generic):
            for _ in range(1000):
                found = function(alone, Case(width, rng))
                key = function.__name__, found and found[0]
                kinds[key] = kinds.get(key, 0) + 1
    # Windows are written by everyone.
    assert len(kinds) == 11, kinds
    assert all(count > 20 for count in kinds.values()), kinds


def test_each_check_is_that_of_its_twin() -> None:
    check()


FAULTS = (
    ("%low.bits = sub i64 %bytes, 1", "%low.bits = sub i64 %bytes, 2"),
    ("%active = trunc i64 %bit.at to i1", "%active = trunc i64 1 to i1"),
    ("icmp slt i64 %m, %count", "icmp slt i64 %m, 1"),
    ("%given = add i64 %start, %offset", "%given = add i64 %start, 0"),
    ("%begins = icmp ule i64 %distance, %its.size", "%begins = icmp ule i64 0, %its.size"),
    ("%begins = icmp ule i64 %address, %limit", "%begins = icmp ule i64 %address, %address"),
    ("%fits = icmp ule i64 %bytes, %rest", "%fits = icmp ult i64 %bytes, %rest"),
    ("%forbidden = and i64 %row.flags, %writes", "%forbidden = and i64 %row.flags, 0"),
    ("%risky = and i64 %row.flags, %any.writes", "%risky = and i64 %row.flags, 0"),
    ("%before = icmp ule i64 %start, %address", "%before = icmp ult i64 %start, %address"),
    ("%upper = shl i64 %given, %unused", "%upper = shl i64 %given, 0"),
    ("ashr i64 %upper, %unused", "lshr i64 %upper, %unused"),
    ("select i1 %shared.here", "select i1 %local.here"),
    ("store i64 %l, ptr", "store i64 0, ptr"),
    ("br i1 %aligned, label %lane.done, label %misaligned", "br label %lane.done"),
)


@each(FAULTS)
def test_a_fault_in_it_is_found(fault: tuple[str, str]) -> None:
    finds(check, fault)


def test_a_pattern_is_spread_over_the_lanes() -> None:
    addresses, pattern = words(9), np.arange(0, -32, -4)
    record = worker(ADDRESSES=addresses)
    assert Alone(checks(8)).spread(record, 100, pattern) == addresses.ctypes.data
    assert addresses.tolist() == [100, 96, 92, 88, 84, 80, 76, 72, 0]
