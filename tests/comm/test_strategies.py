"""Data, model and hybrid parallel training give what one rank gives, and send exactly what theory says."""

from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from nnkit_backends.grid import GridStrategy

from nnkit.comm.threads import ThreadsTransport, run_ranks
from nnkit.contracts import Communicator, Strategy, Task, Transport
from nnkit.errors import RanksDisagreeError, UsageError
from nnkit.nn.initialise import Parameters, initial_parameters
from nnkit.train import evaluation
from nnkit.train.config import TrainConfig
from nnkit.train.position import Position
from nnkit.train.ranks import Ranks
from nnkit.train.shards import assemble, cover, cut, places
from nnkit.train.trainer import Intervals, Trainer
from tests.support.results import difference
from tests.support.small_training import PIXELS, REGISTRY, alone, bits, make

ROUNDING = 5e-6
"""Of two epochs of a small network: some hundred times less than a wrong sum would make."""


def amplified(config: TrainConfig, expected: Parameters) -> float:
    """What training makes of a change in the last bit of the first parameters: networks can be chaotic."""
    first = initial_parameters(config.sizes(PIXELS, 10), config.activation, config.seed)
    found = 0.0
    for up in (np.inf, -np.inf):
        moved = [(np.nextafter(w, w.dtype.type(up)), np.nextafter(b, b.dtype.type(up))) for w, b in first]
        found = max(found, difference(outcome(alone(config, (moved, Position())))["parameters"], expected))
    return found


def outcome(trainer: Trainer) -> dict[str, Any]:
    """A whole run."""
    history = list(trainer.run())
    trainer.check_replicas()
    return {
        "history": history,
        "tested": trainer.evaluator.evaluate(trainer.test_data),
        "confusion": trainer.evaluator.confusion(trainer.test_data),
        "parameters": trainer.whole()[0],
        "cost": trainer.cost,
    }


def runs(comm: str, ranks: int, config: TrainConfig, **more: Any) -> list[dict[str, Any]]:
    found = []
    for each in run_ranks(ranks, lambda transport: outcome(make(transport, comm, config, **more))):
        if isinstance(each, BaseException):
            raise each
        found.append(each)
    return found


def compare(found: list[dict[str, Any]], config: TrainConfig) -> None:
    """All ranks agree with each other, and with one rank alone."""
    expected = outcome(alone(config))
    largest = difference(found[0]["parameters"], expected["parameters"])
    assert largest < ROUNDING or largest < 4 * amplified(config, expected["parameters"])
    for each in found:
        assert each["tested"].accuracy == pytest.approx(expected["tested"].accuracy, abs=0.03)
        assert each["confusion"].sum() == expected["confusion"].sum()
        for record, other in zip(each["history"], expected["history"], strict=True):
            assert record["train_loss"] == found[0]["history"][record["epoch"] - 1]["train_loss"]
            assert record["train_loss"] == pytest.approx(other["train_loss"], abs=1e-5)
            assert record["validation_loss"] == pytest.approx(other["validation_loss"], abs=1e-5)


@settings(deadline=None, max_examples=40)
@given(
    comm=st.sampled_from(["data", "model", "hybrid"]),
    ranks=st.integers(1, 7),
    hidden=st.lists(st.integers(1, 15), min_size=1, max_size=4),
    batch=st.sampled_from([1, 5, 32, 100, 207]),
    activation=st.sampled_from(["sigmoid", "tanh", "relu"]),
)
def test_any_network_on_any_number_of_ranks(
    comm: str, ranks: int, hidden: list[int], batch: int, activation: str
) -> None:
    """Batches, widths and layers that ranks do not divide; ranks that hold nothing."""
    # Large steps in many small batches make a narrow tanh layer chaotic: rounding grows a hundredfold.
    rate = 0.1 if batch < 32 else 0.5
    epochs = 1 if batch < 32 else 2
    config = TrainConfig(tuple(hidden), epochs=epochs, batch=batch, lr=rate, activation=activation)
    compare(runs(comm, ranks, config), config)


@pytest.mark.parametrize("grid", [(1, 6), (2, 3), (3, 2), (6, 1)])
def test_grids(grid: tuple[int, int]) -> None:
    config = TrainConfig((13, 6, 5), epochs=2, batch=50, lr=0.5)
    compare(runs("hybrid", 6, config, grid=grid), config)


@pytest.mark.parametrize("backend", ["naive", "tiled"])
def test_kernels_on_ranks(backend: str) -> None:
    """The device virtual's memory is summed where it is."""
    config = TrainConfig((9,), epochs=1, batch=64, lr=0.5)
    compare(runs("hybrid", 4, config, device="virtual", backend=backend), config)


@pytest.mark.parametrize(("device", "backend"), [("cpu", "numpy"), ("virtual", "tiled")])
@pytest.mark.parametrize(("comm", "ranks"), [("data", 3), ("data", 7), ("hybrid", 6)])
def test_ranks_with_nothing_to_evaluate(
    comm: str, ranks: int, device: str, backend: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """90 test and 23 validation samples in batches of 11: the last ones have 2 and 1."""
    monkeypatch.setattr(evaluation, "EVALUATION_BATCH", 11)
    config = TrainConfig((6,), epochs=1, batch=50, lr=0.5, validation_fraction=0.1)
    compare(runs(comm, ranks, config, device=device, backend=backend), config)


@pytest.mark.parametrize("comm", ["data", "model", "hybrid"])
def test_the_same_bits_every_time(comm: str) -> None:
    """Sums are made in the order of the ranks, whoever comes first."""
    config = TrainConfig((11, 5), epochs=1, batch=32, lr=0.5)
    first, second = (bits(runs(comm, 4, config)[0]["parameters"]) for _ in range(2))
    assert first == second


def test_what_is_sent_is_what_theory_says() -> None:
    """Per step: all parameters for data; a batch's logits for model; a part of each for a grid of both."""
    hidden, batch = 12, 23
    config = TrainConfig((hidden,), epochs=1, batch=batch, lr=0.5)
    parameters = 25 * hidden + hidden + hidden * 10 + 10
    steps = 9
    for found in runs("data", 3, config):
        assert (found["cost"].steps, found["cost"].sums) == (steps, 2 * steps)
        assert found["cost"].bytes == 4 * parameters * steps
    for found in runs("model", 3, config):
        assert (found["cost"].bytes, found["cost"].sums) == (4 * batch * 10 * steps, steps)
    for found in runs("hybrid", 4, config, grid=(2, 2)):
        half = 25 * hidden // 2 + hidden // 2 + hidden // 2 * 10 + 10
        logits = found["cost"].bytes - 4 * half * steps
        # 23 samples in two parts: 11 or 12 a rank.
        assert logits in (4 * 11 * 10 * steps, 4 * 12 * 10 * steps)


def test_the_figures_of_the_task() -> None:
    """784-1000-10 at batch 800: 32 kB a step for model parallel, 3.2 MB for data parallel."""

    class Counting:
        """Counts what a strategy sums, without summing."""

        def __init__(self, inner: ThreadsTransport):
            self.rank, self.size, self.bytes, self._inner = inner.rank, inner.size, 0, inner

        def start_sum(self, array: Any) -> Any:
            self.bytes += array.nbytes
            return self

        def sum(self, array: Any) -> None:
            self.bytes += array.nbytes

        def wait(self) -> None:
            pass

        def progress(self) -> bool:
            return True

    def numbers(*shape: int) -> Any:
        """An array as far as it is asked for here: it has a size."""
        return np.empty(shape, np.float32)

    sizes, batch = (784, 1000, 10), 800
    found = {}
    for comm in ("data", "model"):

        def count(transport: ThreadsTransport, comm: str = comm) -> int:
            counting: Any = Counting(transport)
            strategy = REGISTRY.comm(comm).strategy(counting, Task(sizes, batch))
            mine = len(range(batch)[strategy.samples(batch)])
            for layer, (inputs, outputs) in enumerate(((784, 1000), (1000, 10))):
                strategy.after_forward(layer, numbers(mine, outputs))
                if comm == "data":
                    strategy.gradient_ready(layer, numbers(inputs * outputs + outputs))
            strategy.after_backward(1, numbers(mine, 1000))
            return int(counting.bytes)

        found[comm] = run_ranks(2, count)
    assert found == {"data": [3_180_040] * 2, "model": [32_000] * 2}


def test_replicas_that_differ_are_found() -> None:
    """One number on one rank is enough, and layer and rank are named."""
    config = TrainConfig((8,), epochs=1, batch=64, lr=0.5)

    def work(transport: ThreadsTransport) -> Any:
        trainer = make(transport, "data", config, intervals=Intervals(paranoid=1))
        trainer.check_replicas()
        if transport.rank == 2:
            bias: Any = trainer.network.layers[1].bias
            bias.host[3] += 1e-3
        with pytest.raises(RanksDisagreeError, match="the bias of layer 1 differs between rank 0 and rank 2"):
            list(trainer.run())
        return "found"

    assert run_ranks(3, work) == ["found"] * 3


@given(st.lists(st.integers(1, 20), min_size=2, max_size=6), st.integers(1, 5), st.integers(1, 5), st.data())
@settings(deadline=None, max_examples=50)
def test_parts_make_the_whole(sizes: list[int], over_batch: int, over_network: int, data: Any) -> None:
    """Cut by all ranks and put together again; without a rank's part it is no whole, unless a copy is."""
    ranks = over_batch * over_network
    generator = np.random.default_rng(0)
    whole = [
        (generator.random((outputs, inputs)), generator.random(outputs))
        for inputs, outputs in pairwise(sizes)
    ]

    def work(transport: ThreadsTransport) -> Any:
        task = Task(tuple(sizes), 10, (over_batch, over_network))
        strategy = REGISTRY.comm("hybrid").strategy(transport, task)
        mine = places(strategy, sizes)
        own = [(w[r0:r1, c0:c1], b[r0:r1]) for (w, b), (r0, r1, c0, c1) in zip(whole, mine, strict=True)]
        return mine, cut(mine, own), strategy.first_copy

    found: list[Any] = run_ranks(ranks, work)
    parts = [part for _, part, first in found if first]
    assert len(parts) == over_network
    again = assemble(sizes, parts, np.float64)
    assert bits(again) == bits(whole)
    held = [mine for mine, _, _ in found]
    assert cover(sizes, held)
    lost = data.draw(st.integers(0, ranks - 1))
    others = held[:lost] + held[lost + 1 :]
    redundant = held[lost] in others or all(r1 <= r0 or c1 <= c0 for r0, r1, c0, c1 in held[lost])
    if redundant:
        assert cover(sizes, others) or not others
    elif len(sizes) == 3:
        some = any((r1 - r0) * (c1 - c0) for r0, r1, c0, c1 in held[lost])
        assert cover(sizes, others) != some


class Wrong(GridStrategy):  # type: ignore[misc]  # mypy sees backends/, not what it is called when installed
    """Two ranks, and something that their author has overlooked."""

    def __init__(self, transport: Communicator, task: Task, mistake: str):
        super().__init__(transport, task, transport.size, 1)
        self.mistake = mistake

    def samples(self, batch: int) -> slice:
        """Both halves are the first, or the last sample is nobody's, or is of a short batch alone."""
        if self.mistake == "twice":
            return slice(0, batch // 2)
        if self.mistake == "rest":
            return slice(batch // 2 * self.cell.batch_part, batch // 2 * (self.cell.batch_part + 1))
        both: slice = super().samples(batch)
        return both

    def rows(self, layer: int, out_features: int) -> slice:
        """A neuron is nobody's."""
        own: slice = super().rows(layer, out_features)
        return slice(0, out_features - 1) if self.mistake == "rows" else own


@pytest.mark.parametrize(
    ("mistake", "words"),
    [
        ("twice", "of a batch of 32 not every sample is computed exactly once"),
        ("rest", "of a batch of 1 not every sample is computed exactly once"),
        ("rows", "the parts of the network that ranks hold do not make the whole"),
    ],
)
def test_a_strategy_that_leaves_something_out_is_refused(mistake: str, words: str) -> None:
    class Backend:
        name = "mine"

        def strategy(self, transport: Communicator, task: Task) -> Strategy:
            return Wrong(transport, task, mistake)

    def part(transport: Transport) -> None:
        with pytest.raises(UsageError, match=f"--comm mine: its strategy is wrong: {words}"):
            Ranks(transport, Backend(), Task((25, 6, 10), 32))

    assert run_ranks(2, part) == [None, None]
