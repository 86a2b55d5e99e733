"""Forward passes without training: loss, accuracy, confusion, probabilities."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from nnkit.contracts import Array, Device
from nnkit.data import Samples
from nnkit.data.dataset import CLASSES
from nnkit.nn.network import Buffers, Network
from nnkit.train.ranks import Ranks

EVALUATION_BATCH = 1000
"""Samples in one forward pass; the network's buffers must hold as many."""


class DeviceSamples:
    """Samples on a device: images as bytes (N, pixels), labels (N,)."""

    def __init__(self, samples: Samples, device: Device[Array]):
        self.images: Array = device.upload(samples.images)
        self.labels: Array = device.upload(samples.labels)
        self.indices = np.arange(len(samples))


@dataclass(frozen=True)
class Evaluation:
    """How good a network is on some samples: mean cross-entropy, and the fraction recognised (0 to 1)."""

    loss: float
    accuracy: float


class Evaluator:
    """Runs a network forward over many samples; several ranks split them as they split a batch."""

    def __init__(self, network: Network, ranks: Ranks | None = None):
        self.network = network
        self.ranks = ranks
        self.operations = network.operations

    def evaluate(self, data: DeviceSamples, index: npt.NDArray[np.intp] | None = None) -> Evaluation:
        """Mean loss and accuracy on samples `index` of `data`, all of them if it is None."""
        index = data.indices if index is None else index
        loss, correct = 0.0, 0
        for logits, buffers in self._passes(data, index):
            correct += self.operations.count_correct(logits, buffers.labels)
            # Only the losses are used. The divisor, which scales the gradients, must not be 0, though a rank
            # may have no samples of a short batch.
            self.operations.softmax_cross_entropy(logits, buffers.labels, buffers.losses, divisor=1)
            loss += self.operations.total(buffers.losses)
        if self.ranks is not None:
            loss, correct = self.ranks.total(loss), int(self.ranks.total(correct))
        return Evaluation(loss / len(index), correct / len(index))

    def confusion(self, data: DeviceSamples) -> npt.NDArray[np.int64]:
        """The confusion matrix (10, 10): how often each digit (row) was taken for each digit (column)."""
        counts = np.zeros((CLASSES, CLASSES), np.int64)
        for logits, buffers in self._passes(data, data.indices):
            np.add.at(counts, (buffers.labels.download(), logits.download().argmax(axis=1)), 1)
        return counts if self.ranks is None else self.ranks.sum(counts)

    def probabilities(self, data: DeviceSamples) -> npt.NDArray[Any]:
        """The probability of each digit for each sample, (N, 10)."""
        rows = []
        for logits, _ in self._passes(data, data.indices):
            self.operations.softmax(logits)
            rows.append(logits.download())
        return np.concatenate(rows)

    def _passes(self, data: DeviceSamples, index: npt.NDArray[np.intp]) -> Iterator[tuple[Array, Buffers]]:
        """For one batch after the other: this rank's logits, and the buffers that hold its labels."""
        for start in range(0, len(index), EVALUATION_BATCH):
            part = index[start : start + EVALUATION_BATCH]
            part = part[self.network.strategy.samples(len(part))]
            buffers = self.network.buffers(len(part))
            self.operations.gather_images(data.images, part, buffers.images)
            self.operations.gather_labels(data.labels, part, buffers.labels)
            yield self.network.forward(buffers), buffers
