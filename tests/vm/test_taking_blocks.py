"""The loop over the grid's blocks, in LLVM IR, run alone: the blocks are in Python."""

from collections.abc import Callable

import pytest

from nnkit.vm.build.compile import is_x86
from nnkit.vm.code.scheduler import run
from nnkit.vm.text.layout import PART_WORDS, Context, Fault, Worker
from tests.support.alone import Alone, context, each, finds, words, worker

VECTORS = 3
Place = tuple[int, int, int, int]
"""Number, x, y, z."""


class Grid:
    """A launch with one part for each worker; the blocks note where they are."""

    def __init__(self, change: Callable[[str], str] = lambda text: text):
        self.seen: list[Place] = []
        self.refills: list[int] = []
        self.refilled = 0
        self.at_block: Callable[[int], int] = lambda number: 0
        text = change(run(VECTORS, is_x86()))
        text += "\ndefine i64 @refill_address() {\n  ret i64 ptrtoint (ptr @refill to i64)\n}\n"
        self.alone = Alone(text, block__i32__ptr__ptr=self.block, refill__i64__ptr__ptr=self.refill)

    def block(self, context: int, record: int) -> int:
        fields = (Worker.BLOCK, Worker.BLOCK_X, Worker.BLOCK_Y, Worker.BLOCK_Z)
        number, x, y, z = (int(self.record[field]) for field in fields)
        self.seen.append((number, x, y, z))
        return self.at_block(number)

    def refill(self, context: int, record: int) -> int:
        self.refills.append(int(self.record[Worker.FUEL]))
        return self.refilled

    def go(self, size: tuple[int, int, int], parts: int, own: int, chunk: int, fuel: int = 10**9) -> int:
        """What one worker does alone, to the end."""
        x, y, z = size
        self.seen, self.refills, self.blocks = [], [], x * y * z
        head = context(
            PARTS=parts, BLOCKS=self.blocks, GRID_X=x, GRID_Y=y, GRID_Z=z, CHUNK=chunk,
            REFILL=self.alone.refill_address(),
        )  # fmt: skip
        self.context = words(Context.WORDS + PART_WORDS * parts)
        self.context[: Context.WORDS] = head
        self.ends = [self.blocks * part // parts for part in range(parts + 1)]
        for part in range(parts):
            place = Context.WORDS + PART_WORDS * part
            self.context[place : place + 2] = self.ends[part : part + 2]
        self.record = worker()
        self.record[Worker.PART], self.record[Worker.FUEL] = own, fuel
        return int(self.alone.run(self.context, self.record))


SIZES = ((1, 1, 1), (7, 1, 1), (3, 4, 1), (5, 3, 2), (1, 1, 6), (100, 1, 1))


def check(change: Callable[[str], str] = lambda text: text) -> None:
    """Every block once, at its place: the worker's own part first, then the others' in order."""
    grid = Grid(change)
    for size in SIZES:
        for parts in (1, 2, 5):
            for own in range(parts):
                for chunk in (1, 2, 64):
                    assert grid.go(size, parts, own, chunk) == 0
                    turns = [own, *(part for part in range(parts) if part != own)]
                    numbers = [n for part in turns for n in range(grid.ends[part], grid.ends[part + 1])]
                    x, y, _ = size
                    assert grid.seen == [(n, n % x, n // x % y, n // x // y) for n in numbers]
                    assert grid.context[Context.STOP] == grid.record[Worker.FAULT] == 0
                    paid = 10**9 - grid.record[Worker.FUEL]
                    # What it costs to take a few is paid also where fewer are left.
                    chunks = sum(-(-(grid.ends[part + 1] - grid.ends[part]) // chunk) for part in turns)
                    assert paid == chunks * chunk * (VECTORS + 1)
    check_stopping(grid)
    check_fuel(grid)


def check_stopping(grid: Grid) -> None:
    """A fault in a block ends all; what another has ended ends before the next few blocks."""
    grid.at_block = lambda number: int(number == 5)
    assert grid.go((20, 1, 1), 2, 0, 2) == 1
    assert [number for number, *_ in grid.seen] == [0, 1, 2, 3, 4, 5]
    assert grid.context[Context.STOP] == 1

    def stop(number: int) -> int:
        grid.context[Context.STOP] |= number == 4
        return 0

    grid.at_block = stop
    assert grid.go((20, 1, 1), 2, 0, 3) == 0
    assert [number for number, *_ in grid.seen] == [0, 1, 2, 3, 4, 5]
    grid.at_block = lambda number: 0


def check_fuel(grid: Grid) -> None:
    """Where it is used up there is more, or an end."""
    price = 2 * (VECTORS + 1)
    grid.refilled = price + 1
    assert grid.go((8, 1, 1), 1, 0, 2, fuel=price) == 0
    assert len(grid.seen) == 8
    assert grid.refills == [0, 1 - price]
    grid.refilled = 0
    assert grid.go((8, 1, 1), 1, 0, 2, fuel=price + 1) == 1
    assert len(grid.seen) == 2
    assert grid.record[Worker.FAULT] == Fault.STOPPED


def test_every_block_is_taken_once_at_its_place() -> None:
    check()


FAULTS = (
    ("select i1 %is.first, i64 %own, i64 %other", "select i1 true, i64 %own, i64 %other"),
    ("icmp sle i64 %turn.next, %parts", "icmp slt i64 %turn.next, %parts"),
    ("select i1 %inside, i64 %stop.full, i64 %part.end", "select i1 true, i64 %stop.full, i64 %part.end"),
    ("%x = urem i64 %b, %grid.x", "%x = urem i64 %b, %grid.y"),
    ("%z = udiv i64 %rest, %grid.y", "%z = udiv i64 %rest, %grid.x"),
    ("%row = icmp eq i64 %grid.x, %total", "%row = icmp eq i64 0, 0"),
    ("%price = mul i64 %chunk, 4", "%price = mul i64 %chunk, 3"),
    ("%fuelled = icmp sgt i64 %fuel.left, 0", "%fuelled = icmp sge i64 %fuel.left, 0"),
    ("store i64 %more.fuel", "store i64 0"),
    ("store atomic i64 1", "store atomic i64 0"),
    ("%stopped = icmp ne i64 %stop, 0", "%stopped = icmp ne i64 0, 0"),
    ("[ 1, %ill ]", "[ 0, %ill ]"),
)


@each(FAULTS)
def test_a_fault_in_it_is_found(fault: tuple[str, str]) -> None:
    finds(check, fault)


@pytest.mark.skipif(not is_x86(), reason="the mode of denormals is that of x86 processors")
def test_kernels_get_denormals_and_the_thread_its_mode_back() -> None:
    mode = """
declare void @llvm.x86.sse.stmxcsr(ptr)
declare void @llvm.x86.sse.ldmxcsr(ptr)
define i32 @mode() {
  %at = alloca i32
  call void @llvm.x86.sse.stmxcsr(ptr %at)
  %now = load i32, ptr %at
  ret i32 %now
}
define void @set(i32 %new) {
  %at = alloca i32
  store i32 %new, ptr %at
  call void @llvm.x86.sse.ldmxcsr(ptr %at)
  ret void
}
"""
    thread, grid, inside = Alone(mode), Grid(), list[int]()

    def look(number: int) -> int:
        inside.append(thread.mode())
        return 0

    grid.at_block = look
    before = thread.mode()
    flushing = 0x9FC0
    thread.set(flushing)
    try:
        grid.go((1, 1, 1), 1, 0, 1)
        assert thread.mode() == flushing
    finally:
        thread.set(before)
    assert [mode & ~0x3F for mode in inside] == [0x1F80]
