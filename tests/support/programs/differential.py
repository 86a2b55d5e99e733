"""One random CUDA C++ program on every width and number of threads, against what Python computes."""

import random

import numpy as np

from nnkit.device.compile import compile_cuda
from tests.support.programs.expressions import RESULTS, WORDS
from tests.support.programs.whole import program
from tests.support.stress import SETTINGS, device

GRID = 3


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
