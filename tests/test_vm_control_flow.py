"""Random control flow against an interpreter that follows one thread at a time: every vector width, every register."""

import random

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from vm_flow import CELLS, REGISTERS, WORDS, Item, Lane, graph, kernel, run_block, structured
from vm_stress import SETTINGS, device, examples

from nnkit.vm import launch

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


@settings(QUIET, max_examples=examples(12))
@given(SEEDS, st.sampled_from(BLOCKS), st.integers(0, 9))
def test_any_graph(seed: int, block: tuple[int, int], n: int) -> None:
    rng = random.Random(seed)
    check(graph(rng, rng.randrange(3, 9)), block, n)


@settings(QUIET, max_examples=examples(12))
@given(SEEDS, st.sampled_from(BLOCKS), st.integers(0, 9))
def test_nested_statements_with_barriers(seed: int, block: tuple[int, int], n: int) -> None:
    rng = random.Random(seed)
    check(structured(rng, rng.randrange(4, 10)), block, n)
