"""The network as a whole: its gradients, one step beside a float64 step, its start, its memory."""

import tracemalloc
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from nnkit import reference
from nnkit.comm.single import SingleTransport
from nnkit.contracts import ACTIVATIONS, Array, GemmBackend, HostArray, Strategy, Task
from nnkit.data import Dataset, Samples
from nnkit.device import open_device
from nnkit.nn.initialise import Parameters, initial_parameters
from nnkit.nn.network import Buffers, Network
from nnkit.plugins import Registry
from nnkit.train.config import TrainConfig
from nnkit.train.ranks import Ranks
from nnkit.train.trainer import Trainer

Floats = npt.NDArray[Any]
Labels = npt.NDArray[np.intp]

REGISTRY = Registry.discover()


def undivided(sizes: Sequence[int]) -> Strategy:
    return REGISTRY.comm("none").strategy(SingleTransport(), Task(tuple(sizes), 100))


def make(
    full: Parameters, activation: str, max_batch: int, gemm: GemmBackend[Array] | None = None
) -> Network:
    sizes = (full[0][0].shape[1], *(len(bias) for _, bias in full))
    backend = gemm or REGISTRY.gemm("numpy")
    return Network(full, activation, open_device("cpu"), backend, undivided(sizes), max_batch)


def random_parameters(sizes: Sequence[int], seed: int, dtype: str) -> Parameters:
    """Initial weights, and biases that are not 0, or a forgotten bias would not be missed."""
    generator = np.random.default_rng((seed, 99))
    full = initial_parameters(sizes, "sigmoid", seed, np.float64)
    return [(w.astype(dtype), generator.standard_normal(len(b)).astype(dtype)) for w, b in full]


def draw_batch(sizes: Sequence[int], batch: int, seed: int, dtype: str) -> tuple[Floats, Labels]:
    generator = np.random.default_rng((seed, 7))
    labels = generator.integers(0, sizes[-1], batch).astype(np.intp)
    return generator.random((batch, sizes[0])).astype(dtype), labels


def fill(network: Network, images: Floats, labels: Labels) -> Buffers:
    buffers = network.buffers(len(labels))
    buffers.images.write(images)
    buffers.labels.write(labels)
    return buffers


def backpropagate(network: Network, images: Floats, labels: Labels) -> Buffers:
    buffers = fill(network, images, labels)
    network.forward(buffers)
    network.backward(buffers, len(labels))
    return buffers


ACTIVATE: dict[str, Callable[[Floats], Floats]] = {
    "sigmoid": lambda z: 1 / (1 + np.exp(-z)),
    "tanh": np.tanh,
    "relu": lambda z: np.where(z > 0, z, 0),
}
SLOPE: dict[str, Callable[[Floats], Floats]] = {
    "sigmoid": lambda z: ACTIVATE["sigmoid"](z) * ACTIVATE["sigmoid"](-z),
    "tanh": lambda z: np.cosh(z) ** -2,
    "relu": lambda z: np.where(z > 0, 1.0, 0.0),
}


def forward_by_hand(full: Parameters, activation: str, images: Floats) -> tuple[list[Floats], list[Floats]]:
    """The inputs and the sums before activation of every layer, in float64."""
    inputs, sums = [images.astype(np.float64)], []
    for weight, bias in full:
        sums.append(inputs[-1] @ weight.astype(np.float64).T + bias)
        inputs.append(ACTIVATE[activation](sums[-1]))
    return inputs[:-1], sums


def mean_loss(full: Parameters, activation: str, images: Floats, labels: Labels) -> float:
    logits = forward_by_hand(full, activation, images)[1][-1]
    return float(np.mean(np.log(np.exp(logits).sum(axis=1)) - logits[np.arange(len(labels)), labels]))


def clear_of_kinks(full: Parameters, activation: str, images: Floats, margin: float) -> bool:
    """Whether no unit of a relu network stands so near 0 that round-off could flip it."""
    sums = forward_by_hand(full, activation, images)[1]
    return activation != "relu" or all(np.abs(z).min() > margin for z in sums[:-1])


@pytest.mark.parametrize("batch", [1, 7])
@pytest.mark.parametrize("sizes", [(4, 3, 10), (4, 5, 3, 6)])
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_gradients_are_the_derivatives(activation: str, sizes: tuple[int, ...], batch: int) -> None:
    full, h = random_parameters(sizes, 3, "float64"), 1e-5
    images, labels = draw_batch(sizes, batch, 3, "float64")
    assert clear_of_kinks(full, activation, images, 100 * h)
    # A larger set of buffers: the batch is a ragged one.
    network = make(full, activation, max_batch=batch + 2)
    buffers = backpropagate(network, images, labels)
    assert abs(buffers.losses.download().mean() - mean_loss(full, activation, images, labels)) < 1e-14
    for pair, layer in zip(full, network.layers, strict=True):
        for parameter, gradient in zip(pair, (layer.weight_gradient, layer.bias_gradient), strict=True):
            computed = gradient.download()
            for at in np.ndindex(parameter.shape):
                kept, losses = parameter[at], []
                for side in (1, -1):
                    parameter[at] = kept + side * h
                    losses.append(mean_loss(full, activation, images, labels))
                parameter[at] = kept
                # Truncation h^2 / 6 times a third derivative of a few units, rounding about 1e-16 / h.
                assert abs((losses[0] - losses[1]) / (2 * h) - computed[at]) < 1e-9


def step_by_hand(
    full: Parameters, activation: str, images: Floats, labels: Labels, lr: float, l2: float
) -> tuple[Parameters, list[float]]:
    """The parameters after one step in float64, and the magnitude that each layer rounds at."""
    inputs, sums = forward_by_hand(full, activation, images)
    exps = np.exp(sums[-1] - sums[-1].max(axis=1, keepdims=True))
    softmax, one_hot = exps / exps.sum(axis=1, keepdims=True), np.eye(sums[-1].shape[1])[labels]
    delta, size = (softmax - one_hot) / len(labels), (softmax + one_hot) / len(labels)
    after: Parameters = []
    magnitudes: list[float] = []
    for layer in reversed(range(len(full))):
        weight, bias = (part.astype(np.float64) for part in full[layer])
        moved = (1 - lr * l2) * weight - lr * delta.T @ inputs[layer], bias - lr * delta.sum(axis=0)
        after.insert(0, moved)
        # The same sums with absolute values, the largest entry for the layer.
        largest = max((size.T @ np.abs(inputs[layer])).max(), size.sum(axis=0).max())
        magnitudes.insert(0, max(np.abs(weight).max(), np.abs(bias).max()) + lr * float(largest))
        if layer:
            delta = delta @ weight * SLOPE[activation](sums[layer - 1])
            size = size @ np.abs(weight)
    return after, magnitudes


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.sampled_from([1, 2, 3, 8, 17, 40]), min_size=2, max_size=5).map(tuple),
    st.sampled_from([1, 2, 5, 32, 50]),
    st.sampled_from(ACTIVATIONS),
    st.sampled_from(["float32", "float64"]),
    st.integers(0, 2**32 - 1),
)
def test_one_step_beside_float64(
    sizes: tuple[int, ...], batch: int, activation: str, dtype: str, seed: int
) -> None:
    full = random_parameters(sizes, seed, dtype)
    images, labels = draw_batch(sizes, batch, seed, dtype)
    assume(clear_of_kinks(full, activation, images, 1e-4))
    lr, l2 = 0.5, 0.1
    expected, magnitudes = step_by_hand(full, activation, images, labels, lr, l2)
    network = make(full, activation, max_batch=50)
    backpropagate(network, images, labels)
    network.update(lr, l2)
    # Every sum over k terms costs k roundings, those of the layers before it included.
    roundings = 4 * (sum(sizes) + batch + 16)
    for after, pair, magnitude in zip(network.download(), expected, magnitudes, strict=True):
        for got, wanted in zip(after, pair, strict=True):
            assert got.dtype == dtype
            assert np.abs(got - wanted).max() <= roundings * np.finfo(dtype).eps / 2 * magnitude


def test_weights_decay_and_biases_do_not() -> None:
    full = random_parameters((3, 4, 2), 0, "float32")
    network = make(full, "sigmoid", max_batch=1)
    for layer in network.layers:
        layer.weight_gradient.write(np.zeros(layer.weight.shape, np.float32))
        layer.bias_gradient.write(np.zeros(layer.bias.shape, np.float32))
    network.update(lr=0.5, l2=0.25)
    for (weight, bias), (old_weight, old_bias) in zip(network.download(), full, strict=True):
        assert np.array_equal(weight, old_weight * np.float32(0.875))
        assert np.array_equal(bias, old_bias)


def test_a_network_leaves_the_parameters_it_was_given() -> None:
    full = random_parameters((3, 4, 2), 0, "float32")
    copies = [(weight.copy(), bias.copy()) for weight, bias in full]
    network = make(full, "tanh", max_batch=5)
    backpropagate(network, *draw_batch((3, 4, 2), 5, 0, "float32"))
    network.update(0.5, 0.0)
    for pair, copy, now in zip(full, copies, network.download(), strict=True):
        assert all(map(np.array_equal, pair, copy))
        assert not any(map(np.array_equal, pair, now))


def test_a_layer_starts_alike_whatever_the_others_are() -> None:
    narrow = initial_parameters((5, 7, 3), "sigmoid", 1)
    wide = initial_parameters((50, 7, 3), "sigmoid", 1)
    deep = initial_parameters((5, 7, 9, 4, 10), "sigmoid", 1)
    assert np.array_equal(narrow[1][0], wide[1][0])
    assert np.array_equal(narrow[0][0], deep[0][0])


def test_the_start_depends_on_the_seed_alone() -> None:
    first, again, other = (initial_parameters((5, 7, 3), "relu", seed) for seed in (1, 1, 2))
    for (weight, bias), (same, _), (different, _) in zip(first, again, other, strict=True):
        assert np.array_equal(weight, same)
        assert not np.any(weight == different)
        assert not bias.any()
    # Each layer has numbers of its own: scaled back, the first draws are others.
    draws = [
        weight.flat[:15] * np.sqrt(weight.shape[1] / gain)
        for (weight, _), gain in zip(first, (2, 1), strict=True)
    ]
    assert np.abs(draws[0] - draws[1]).min() > 1e-3


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_variance_of_the_start(activation: str) -> None:
    sizes = (300, 400, 200)
    for layer, (weight, _) in enumerate(initial_parameters(sizes, activation, 5)):
        assert weight.dtype == np.float32
        assert weight.shape == (sizes[layer + 1], sizes[layer])
        gain = 2 if activation == "relu" and layer == 0 else 1
        # Five standard deviations of a variance and of a mean estimated from so many draws.
        scaled = weight.astype(np.float64) * np.sqrt(sizes[layer] / gain)
        assert abs(scaled.var() - 1) < 5 * np.sqrt(2 / weight.size)
        assert abs(scaled.mean()) < 5 / np.sqrt(weight.size)


class Fused:
    """The backend `numpy` with an epilogue of its own for some activations."""

    name = "fused"
    devices = frozenset({"cpu"})
    dtypes = frozenset({"float32", "float64"})

    def __init__(self, *activations: str):
        self.fused_activations = frozenset(activations)
        self.gemm = REGISTRY.gemm("numpy").gemm
        self.calls = 0

    def gemm_bias_activation(
        self, a: HostArray, b: HostArray, c: HostArray, bias: HostArray, *, activation: str, trans_b: bool
    ) -> None:
        self.calls += 1
        self.gemm(a, b, c, trans_b=trans_b)
        reference.bias_activation(c.host, bias.host, activation, out=c.host)


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_a_fused_epilogue_changes_nothing(activation: str) -> None:
    sizes = (6, 5, 4, 3)
    full, (images, labels) = random_parameters(sizes, 2, "float32"), draw_batch(sizes, 9, 2, "float32")
    results = []
    fused, unable = Fused(activation), Fused("gelu")
    for backend in (None, fused, unable):
        network = make(full, activation, 9, backend)
        backpropagate(network, images, labels)
        network.update(0.5, 1e-3)
        results.append([part.tobytes() for pair in network.download() for part in pair])
    assert results[0] == results[1] == results[2]
    # The hidden layers alone: the last one has no activation.
    assert (fused.calls, unable.calls) == (2, 0)


def test_no_epilogue_is_fused_where_ranks_must_sum_first(monkeypatch: pytest.MonkeyPatch) -> None:
    sizes, fused = (6, 5, 3), Fused("relu")
    network = make(random_parameters(sizes, 2, "float32"), "relu", 9, fused)
    monkeypatch.setattr(network.strategy, "sums_forward", lambda layer: True)
    network.forward(fill(network, *draw_batch(sizes, 9, 2, "float32")))
    assert fused.calls == 0


BATCH = 32768
"""So large that NumPy's own casting buffers, 8192 elements whatever the array, are smaller than a batch."""


def peak_of(action: Callable[[], object]) -> int:
    """How many bytes beyond those at the start `action` held at its worst."""
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        tracemalloc.reset_peak()
        action()
        return tracemalloc.get_traced_memory()[1] - before
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_a_steady_step_allocates_nothing_as_large_as_the_batch(activation: str) -> None:
    generator = np.random.default_rng(0)
    images = generator.integers(0, 256, (BATCH, 20), np.uint8)
    samples = Samples(images, generator.integers(0, 10, BATCH).astype(np.intp), (4, 5))
    config = TrainConfig((16, 12), batch=BATCH, lr=0.1, activation=activation, validation_fraction=0)
    ranks = Ranks.alone((20, 16, 12, 10), BATCH)
    dataset = Dataset(samples, samples, "memory")
    trainer = Trainer(config, dataset, open_device("cpu"), REGISTRY.gemm("numpy"), ranks)
    index = generator.permutation(BATCH)
    # The buffers of a batch are made when it is first seen.
    trainer.step(index)
    assert peak_of(lambda: trainer.step(index)) < BATCH * 4


def test_the_probe_sees_an_array_as_large_as_the_batch() -> None:
    assert peak_of(lambda: np.empty(BATCH, np.float32)) >= BATCH * 4
