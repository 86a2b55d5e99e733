"""A short part of what tools/fuzz does: threads that look at their neighbours, in guarded memory."""

import pytest

from tests.support.programs import host
from tests.support.programs.fuzz import numbers, run
from tests.support.stress import examples


@pytest.mark.slow
def test_guarded_neighbours() -> None:
    begun, failures = run("neighbours", numbers(0, examples(8)))
    assert not failures, "\n\n".join(map(str, failures))
    assert begun == examples(8)


@pytest.mark.skipif(not host.COMPILER, reason=host.WHY_NOT)
def test_the_programs_themselves_are_right() -> None:
    """What g++ makes of the text is what the twin in Python does."""
    begun, failures = run("twins", numbers(1000, examples(10)))
    assert not failures, "\n\n".join(map(str, failures))
    assert begun == examples(10)
