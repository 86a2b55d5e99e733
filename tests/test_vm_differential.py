"""Random CUDA C++ programs: every width and number of threads gives what Python computes, bit for bit."""

import random

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from vm_expressions import RESULTS, WORDS
from vm_programs import program
from vm_stress import SETTINGS, device, examples

from nnkit.device.compile import compile_cuda
from nnkit.vm import launch

BLOCKS = [
    (32, 1, 1),
    (37, 1, 1),
    (64, 1, 1),
    (70, 1, 1),
    (8, 8, 1),
    (5, 7, 1),
    (16, 5, 1),
    (3, 4, 5),
    (1, 1, 1),
]
GRID = 3


@pytest.fixture(autouse=True)
def _threads_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(launch, "WORTH_A_THREAD", 0.0)


def check(seed: int, block: tuple[int, int, int], n: int) -> None:
    """One program on every kind of device."""
    rng = random.Random(seed)
    made = program(rng, rng.randrange(3, 9))
    words = np.random.default_rng(seed).integers(0, 1 << 32, WORDS, np.uint32)
    with np.errstate(all="ignore"):
        expected = made.expected(GRID, block, words.tolist(), n)
    # Fused, a product's rounding would be lost; Python rounds it.
    ptx = compile_cuda(made.source, "k.cu", ["-fmad=false"], "compute_90").ptx
    for width, threads in SETTINGS:
        virtual = device(width, threads)
        out = virtual.zeros((len(expected["u0"]), len(RESULTS)), np.uint64)
        virtual.load_ptx(ptx)["k"].launch(GRID, block, (out, virtual.upload(words), np.uint32(n)))
        found = out.download()
        for column, name in enumerate(RESULTS):
            wanted = np.array(expected[name], np.uint64)
            said = (
                f"{name}, width {width}, threads {threads}, seed {seed}, block {block}, n {n}\n{made.source}"
            )
            np.testing.assert_array_equal(found[:, column], wanted, said)


@settings(max_examples=examples(15), deadline=None, suppress_health_check=list(HealthCheck))
@given(st.integers(0, (1 << 32) - 1), st.sampled_from(BLOCKS), st.integers(0, 9))
def test_every_width_computes_what_python_does(seed: int, block: tuple[int, int, int], n: int) -> None:
    check(seed, block, n)
