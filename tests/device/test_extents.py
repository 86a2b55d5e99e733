"""Grid, block and dynamic shared memory of a launch: what fits and what is refused."""

from typing import Any

import numpy as np
import pytest

from nnkit.device.kernels.extents import Limits, check_extents
from nnkit.errors import LaunchError


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (3, (3, 1, 1)),
        ((3,), (3, 1, 1)),
        ((3, 4), (3, 4, 1)),
        ([3, 4, 5], (3, 4, 5)),
        (np.int64(2), (2, 1, 1)),
    ],
)
def test_extents_that_fit(value: Any, expected: tuple[int, int, int]) -> None:
    assert check_extents("k", value, value, 0, Limits()) == (expected, expected)


@pytest.mark.parametrize(
    ("grid", "block", "shared", "words"),
    [
        (0, 1, 0, "grid is 0 along x"),
        ((1, -1), 1, 0, "grid is -1 along y"),
        ((1, 65536), 1, 0, "grid is 65536 along y"),
        ((1, 1, 65536), 1, 0, "along z"),
        (2**31, 1, 0, "along x"),
        ((1, 1, 1, 1), 1, 0, "one to three whole numbers"),
        ((), 1, 0, "one to three whole numbers"),
        (1.0, 1, 0, "one to three whole numbers"),
        ("1", 1, 0, "one to three whole numbers"),
        (1, 0, 0, "block is 0 along x"),
        (1, 1025, 0, "block is 1025 along x"),
        (1, (1, 1, 65), 0, "block is 65 along z"),
        (1, (32, 33), 0, "has 1056 threads"),
        (1, 1, -1, "shared_bytes is -1"),
        (1, 1, 49153, "0 to 49152"),
        (1, 1, 0.5, "whole number"),
    ],
)
def test_extents_that_do_not_fit(grid: Any, block: Any, shared: Any, words: str) -> None:
    with pytest.raises(LaunchError) as caught:
        check_extents("k", grid, block, shared, Limits())
    assert words in str(caught.value)
    assert str(caught.value).startswith("kernel k: ")


def test_a_kernel_may_allow_fewer_threads() -> None:
    check_extents("k", 1, 256, 0, Limits(threads=256))
    with pytest.raises(LaunchError, match="the most for this kernel is 256"):
        check_extents("k", 1, 257, 0, Limits(threads=256))
