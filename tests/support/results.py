"""Results of training runs: the fields of their documents, and comparisons of two runs."""

import numpy as np
import pytest

from nnkit.nn.initialise import Parameters
from nnkit.train.checkpoints import Checkpoint


def difference(one: Parameters, other: Parameters) -> float:
    """The largest absolute difference between two networks' parameters."""
    pairs = zip(one, other, strict=True)
    return max(
        float(np.abs(x - y).max()) for mine, theirs in pairs for x, y in zip(mine, theirs, strict=True)
    )


def losses(checkpoint: Checkpoint) -> list[list[float]]:
    """Loss and accuracy of every epoch."""
    names = ("epoch", "train_loss", "validation_loss", "validation_accuracy")
    return [[record[name] for name in names] for record in checkpoint.position.history]


def is_same(one: Checkpoint, other: Checkpoint) -> bool:
    """Assert that two runs have the same result, up to rounding."""
    assert difference(one.parameters, other.parameters) < 1e-5
    for mine, theirs in zip(losses(one), losses(other), strict=True):
        assert mine == pytest.approx(theirs, abs=1e-5)
    return True


EPOCH_FIELDS = [
    "epoch",
    "train_loss",
    "validation_loss",
    "validation_accuracy",
    "seconds",
    "samples_per_second",
]


DONE_FIELDS = [
    "event",
    "test_accuracy",
    "test_loss",
    "total_seconds",
    "backend",
    "device",
    "comm",
    "ranks",
    "lost_ranks",
    "cost",
]


def same_parameters(one: Checkpoint, other: Checkpoint) -> bool:
    """Whether two networks are equal bit for bit."""
    pairs = zip(one.parameters, other.parameters, strict=True)
    return all(np.array_equal(x, y) for mine, theirs in pairs for x, y in zip(mine, theirs, strict=True))
