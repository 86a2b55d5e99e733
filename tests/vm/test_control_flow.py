"""Random control flow, at every vector width, against an interpreter that follows one thread at a time."""

import random

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from nnkit.vm.run import launch
from tests.support.programs.flow import CELLS, REGISTERS, WORDS, Item, Lane, graph, kernel, run_block
from tests.support.programs.nested import structured
from tests.support.stress import SETTINGS, device, examples

BLOCKS = [(32, 1), (37, 1), (64, 1), (16, 1), (8, 6), (1, 1), (70, 1)]
GRID = 2
FUEL = 12

SEEDS = st.integers(0, (1 << 32) - 1)
QUIET = settings(deadline=None, suppress_health_check=list(HealthCheck))


@pytest.fixture(autouse=True)
def _threads_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(launch, "WORTH_A_THREAD", 0.0)


def expected(items: list[Item], block: tuple[int, int], n: int, words: list[int]) -> npt.NDArray[np.uint32]:
    """What every thread leaves behind."""
    threads = block[0] * block[1]
    out = np.zeros((GRID * threads, REGISTERS + CELLS), np.uint32)
    for number in range(GRID):
        shared = [0] * threads
        lanes = [Lane(t, number, threads, n, words, shared, fuel=FUEL) for t in range(threads)]
        for lane in lanes:
            lane.registers = list(range(REGISTERS))
        ended = run_block(items, lanes)
        for lane in lanes:
            row = out[number * threads + lane.thread]
            row[REGISTERS:] = lane.cells
            if lane.thread not in ended:
                row[:REGISTERS] = lane.registers
    return out


def check(items: list[Item], block: tuple[int, int], n: int) -> None:
    """Run it at every width and compare all that threads left behind."""
    words = np.random.default_rng(3).integers(0, 1 << 32, WORDS, np.uint32)
    wanted = expected(items, block, n, words.tolist())
    text = kernel(items)
    for width, threads in SETTINGS:
        virtual = device(width, threads)
        out = virtual.zeros(wanted.shape, np.uint32)
        virtual.load_ptx(text)["k"].launch(GRID, block, (virtual.upload(words), out, np.uint32(n)))
        np.testing.assert_array_equal(out.download(), wanted, f"width {width}, n {n}, block {block}\n{text}")


@pytest.mark.slow
@settings(QUIET, max_examples=examples(8))
@given(SEEDS, st.sampled_from(BLOCKS), st.integers(0, 9))
def test_any_graph(seed: int, block: tuple[int, int], n: int) -> None:
    rng = random.Random(seed)
    check(graph(rng, rng.randrange(3, 9)), block, n)


@pytest.mark.slow
@settings(QUIET, max_examples=examples(8))
@given(SEEDS, st.sampled_from(BLOCKS), st.integers(0, 9))
def test_nested_statements_with_barriers(seed: int, block: tuple[int, int], n: int) -> None:
    rng = random.Random(seed)
    check(structured(rng, rng.randrange(4, 10)), block, n)


# -- what such programs found -------------------------------------------------------------------------------

HEAD = """.version 8.3\n.target sm_90\n.address_size 64
.visible .entry k(.param .u64 out) {
.reg .b32 %r<4>, %t; .reg .b64 %out, %d; .reg .pred %p<4>;
ld.param.u64 %out, [out]; mov.u32 %t, %tid.x; mul.wide.u32 %d, %t, 4; add.s64 %out, %out, %d; mov.u32 %r0, 0;
"""
TAIL = "st.global.u32 [%out], %r0; OUT: ret; }"
T = np.arange(64)


@pytest.mark.parametrize("width", [32, 16, 1])
@pytest.mark.parametrize(
    ("body", "wanted"),
    [
        pytest.param(
            "setp.lt.u32 %p0, %t, 5; @%p0 ret; mov.u32 %r0, 7;", np.where(T < 5, 0, 7), id="early-exit"
        ),
        pytest.param(
            "setp.ge.u32 %p0, %t, 37; @%p0 bra OUT; mov.u32 %r0, 7; bar.sync 0; add.u32 %r0, %r0, 1;",
            np.where(T < 37, 8, 0),
            id="a-return-before-a-barrier",
        ),
        pytest.param(
            "mov.u32 %r1, 0; bar.sync 0; LOOP: add.u32 %r0, %r0, 64; add.u32 %r1, %r1, 1;"
            "and.b32 %r2, %t, 3; setp.le.u32 %p0, %r1, %r2; @%p0 bra LOOP;",
            64 * (T % 4 + 1),
            id="a-loop-begins-behind-a-barrier",
        ),
        pytest.param(
            "rem.u32 %r1, %t, 3; setp.eq.u32 %p0, %r1, 0; bar.red.popc.u32 %r0, 0, %p0; bar.sync 0;",
            T * 0 + 22,
            id="a-vote-outlives-the-next-barrier",
        ),
        pytest.param(
            "setp.lt.u32 %p0, %t, 5; bar.red.popc.u32 %r0, 0, %p0;"
            "LOOP: add.u32 %r0, %r0, 1; setp.lt.u32 %p1, %r0, 100; @%p1 bra LOOP;",
            T * 0 + 100,
            id="a-loop-begins-behind-a-vote",
        ),
    ],
)
def test_found_before(body: str, wanted: npt.NDArray[np.int64], width: int) -> None:
    virtual = device(width)
    out = virtual.zeros((64,), np.uint32)
    virtual.load_ptx(HEAD + body + TAIL)["k"].launch(1, 64, (out,))
    np.testing.assert_array_equal(out.download(), wanted)
