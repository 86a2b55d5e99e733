"""Random CUDA C++ programs: every width and number of threads gives what Python computes, bit for bit."""

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from nnkit.vm.run import launch
from tests.support.programs.differential import check
from tests.support.stress import examples

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


@pytest.fixture(autouse=True)
def _threads_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(launch, "WORTH_A_THREAD", 0.0)


@pytest.mark.slow
@settings(max_examples=examples(15), deadline=None, suppress_health_check=list(HealthCheck))
@given(st.integers(0, (1 << 32) - 1), st.sampled_from(BLOCKS), st.integers(0, 9))
def test_every_width_computes_what_python_does(seed: int, block: tuple[int, int, int], n: int) -> None:
    check(seed, block, n)
