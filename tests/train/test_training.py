"""Training: the same bits for a seed and after an interruption, and honest numbers."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nnkit.data import Dataset, Samples, split_validation
from nnkit.device import open_device
from nnkit.errors import DivergedError, UsageError
from nnkit.nn.initialise import Parameters
from nnkit.plugins import Registry
from nnkit.train.checkpoints import Checkpoint, load_checkpoint
from nnkit.train.config import TrainConfig
from nnkit.train.position import Position
from nnkit.train.ranks import Ranks
from nnkit.train.trainer import Interrupted, Trainer

REGISTRY = Registry.discover()
CONFIG = TrainConfig((8,), epochs=3, batch=50, lr=0.5, l2=1e-4, seed=4)
"""Of 230 samples 207 are trained on: four steps of 50 and one of 7."""


def draw_samples(count: int, seed: int) -> Samples:
    """Images whose pixels tell the label, with noise."""
    generator = np.random.default_rng(seed)
    labels = generator.integers(0, 10, count).astype(np.intp)
    images = generator.integers(0, 100, (count, 25), np.uint8)
    images[np.arange(count), labels] += 150
    return Samples(images, labels, (5, 5))


DATASET = Dataset(draw_samples(230, 1), draw_samples(90, 2), "in memory")


def make(config: TrainConfig = CONFIG, resumed: tuple[Parameters, Position] | None = None) -> Trainer:
    ranks = Ranks.alone(config.sizes(25, 10), config.batch)
    return Trainer(config, DATASET, open_device("cpu"), REGISTRY.gemm("numpy"), ranks, resumed)


def bits(parameters: Parameters) -> list[bytes]:
    return [part.tobytes() for pair in parameters for part in pair]


def untimed(history: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The records without what differs from run to run."""
    clocks = ("seconds", "samples_per_second")
    return [{name: value for name, value in record.items() if name not in clocks} for record in history]


def finished(trainer: Trainer) -> tuple[list[bytes], list[dict[str, Any]]]:
    for _ in trainer.run():
        pass
    return bits(trainer.network.download()), untimed(trainer.position.history)


def stop_after(steps: int) -> Callable[[Trainer], None]:
    left = iter(range(steps - 1))

    def on_step(trainer: Trainer) -> None:
        if next(left, None) is None:
            raise Interrupted

    return on_step


def snapshot(trainer: Trainer) -> Checkpoint:
    parameters = trainer.network.download()
    return Checkpoint(parameters, trainer.config, trainer.position, DATASET.fingerprint)


@pytest.mark.parametrize("activation", ["sigmoid", "tanh", "relu"])
def test_a_seed_decides_every_bit(activation: str) -> None:
    config = replace(CONFIG, activation=activation, lr=0.1)
    first, again = finished(make(config)), finished(make(config))
    assert first == again
    weights, history = finished(make(replace(config, seed=5)))
    assert not any(mine == other for mine, other in zip(weights, first[0], strict=True))
    assert history != first[1]


def test_training_learns() -> None:
    trainer = make(replace(CONFIG, hidden=(32,), epochs=40, activation="tanh"))
    losses = [record["train_loss"] for record in trainer.run()]
    assert losses[-1] < losses[0] / 4
    assert trainer.evaluator.evaluate(trainer.test_data).accuracy > 0.9


# The first step, within, before and after the short last one, in a later epoch, the very last.
@pytest.mark.parametrize("steps", [1, 2, 4, 5, 6, 8, 14, 15])
def test_a_resumed_run_ends_in_the_same_bits(steps: int, tmp_path: Path) -> None:
    trainer = make()
    with pytest.raises(Interrupted):
        for _ in trainer.run(stop_after(steps)):
            pass
    snapshot(trainer).save(tmp_path)
    loaded = load_checkpoint(tmp_path)
    assert loaded.config == CONFIG
    assert 5 * loaded.position.epoch + loaded.position.step == steps
    assert finished(make(loaded.config, (loaded.parameters, loaded.position))) == finished(make())


def test_every_sample_counts_once_in_the_mean_loss(monkeypatch: pytest.MonkeyPatch) -> None:
    # A step too small to change anything: the epoch's loss is that of the start, the short batch included.
    trainer = make(replace(CONFIG, lr=1e-30))
    at_start = trainer.evaluator.evaluate(trainer.train_data, trainer.training).loss
    seen: list[int] = []
    gather = trainer.operations.gather_labels

    def spy(labels: Any, index: Any, out: Any) -> None:
        seen.extend(index)
        gather(labels, index, out)

    monkeypatch.setattr(trainer.operations, "gather_labels", spy)
    # Two float32 evaluations of each loss, a few dozen roundings each.
    assert trainer.epoch() == pytest.approx(at_start, rel=100 * 2.0**-24)
    assert sorted(seen) == list(trainer.training)


def test_the_step_of_a_short_batch_divides_by_its_size() -> None:
    index, config = np.arange(7), replace(CONFIG, batch=7)
    short, whole = make(), make(config)
    assert short.step(index) == whole.step(index)
    assert bits(short.network.download()) == bits(whole.network.download())


def test_epochs_are_shuffled_anew() -> None:
    trainer = make()
    first, second = trainer._shuffled(0), trainer._shuffled(1)
    assert list(first) != list(second)
    assert sorted(first) == sorted(second) == list(trainer.training)


def test_a_batch_larger_than_the_training_set() -> None:
    with pytest.raises(UsageError, match="--batch 208 is more than the 207 training samples"):
        make(replace(CONFIG, batch=208))
    assert make(replace(CONFIG, batch=207)).steps == 1


def test_without_validation_there_is_nothing_to_report() -> None:
    trainer = make(replace(CONFIG, validation_fraction=0, epochs=1))
    (record,) = trainer.run()
    assert (record["validation_loss"], record["validation_accuracy"]) == (None, None)
    assert len(trainer.training) == 230


def test_divergence_names_the_step_and_spares_the_last_checkpoint(tmp_path: Path) -> None:
    trainer = make(replace(CONFIG, lr=1e30, l2=0, activation="relu"))
    with pytest.raises(DivergedError, match=r"in epoch 1, step 2: give a smaller --lr than 1e\+30") as caught:
        trainer.epoch(lambda trainer: snapshot(trainer).save(tmp_path))
    assert caught.value.exit_status == 1
    kept = load_checkpoint(tmp_path)
    assert bits(kept.parameters) == bits(trainer.network.download())
    assert kept.position == trainer.position == Position(step=1, loss_sum=kept.position.loss_sum)


@settings(max_examples=50, deadline=None)
@given(st.integers(1, 200), st.floats(0, 1, exclude_max=True), st.integers(0, 99))
def test_the_split_is_disjoint_and_complete(count: int, fraction: float, seed: int) -> None:
    samples = draw_samples(count, 0)
    training, validation = split_validation(samples, fraction, seed)
    assert sorted([*training, *validation]) == list(range(count))
    assert len(training) >= 1
    assert abs(len(validation) - fraction * count) <= 1
    # The content plays no part.
    again = split_validation(draw_samples(count, 1), fraction, seed)
    assert np.array_equal(training, again[0])
    assert np.array_equal(validation, again[1])


def test_the_split_depends_on_the_seed() -> None:
    first, second = (split_validation(DATASET.train, 0.5, seed)[1] for seed in (0, 1))
    assert not np.array_equal(first, second)


def test_evaluation_agrees_with_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    trainer = make()
    evaluator, data, labels = trainer.evaluator, trainer.test_data, DATASET.test.labels
    trainer.epoch()
    for batch in (1000, 32):
        # 90 samples in batches of 32: the last one is ragged.
        monkeypatch.setattr("nnkit.train.evaluation.EVALUATION_BATCH", batch)
        result, confusion, probabilities = (
            evaluator.evaluate(data),
            evaluator.confusion(data),
            evaluator.probabilities(data),
        )
        assert confusion.sum() == 90
        assert list(confusion.sum(axis=1)) == list(np.bincount(labels, minlength=10))
        assert np.trace(confusion) / 90 == result.accuracy == np.mean(probabilities.argmax(axis=1) == labels)
        # Ten terms rounded in float32, then a logarithm near 1.
        assert np.abs(probabilities.sum(axis=1) - 1).max() < 20 * 2.0**-24
        losses = -np.log(probabilities[np.arange(90), labels].astype(np.float64))
        assert result.loss == pytest.approx(losses.mean(), rel=100 * 2.0**-24)


@pytest.mark.parametrize("steps", [0, 3])
def test_a_weight_that_overflows_in_the_last_update_is_no_checkpoint(steps: int) -> None:
    """The loss of that step was finite: only the parameters show it."""
    trainer = make()
    trainer.check_finite()
    trainer.position.epoch, trainer.position.step = 1, steps
    weight: Any = trainer.network.layers[0].weight
    weight.host[2, 3] = np.inf
    where = "epoch 2, step 3" if steps else "epoch 1, step 5"
    with pytest.raises(DivergedError, match=where):
        trainer.check_finite()
