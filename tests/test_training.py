"""Training: the same bits for a seed and after an interruption, checkpoints that survive, honest numbers."""

import errno
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.numpy import save

from nnkit.comm.single import SingleTransport
from nnkit.data import Dataset, Samples, split_validation
from nnkit.device import open_device
from nnkit.errors import CheckpointError, DivergedError, UsageError
from nnkit.nn.initialise import Parameters, initial_parameters
from nnkit.plugins import Registry
from nnkit.train.checkpoints import FILE_NAME, Checkpoint, load_checkpoint
from nnkit.train.config import TrainConfig
from nnkit.train.files import write_atomically
from nnkit.train.trainer import Interrupted, Position, Trainer

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
    strategy = REGISTRY.comm("none").strategy(SingleTransport(), config.sizes(25, 10))
    return Trainer(config, DATASET, open_device("cpu"), REGISTRY.gemm("numpy"), strategy, resumed)


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


def test_every_sample_counts_once_in_the_mean_loss() -> None:
    # A step too small to change anything: the epoch's loss is that of the start, the short batch included.
    trainer = make(replace(CONFIG, lr=1e-30))
    at_start = trainer.evaluator.evaluate(trainer.train_data, trainer.training).loss
    seen: list[int] = []
    gather = trainer.operations.gather_labels

    def spy(labels: Any, index: Any, out: Any) -> None:
        seen.extend(index)
        gather(labels, index, out)

    trainer.operations.gather_labels = spy  # type: ignore[method-assign]
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


# The warnings of NumPy on the way to infinity are beside the point here.
@pytest.mark.filterwarnings("ignore::RuntimeWarning")
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


def some_checkpoint(value: float | None = None, width: int = 8) -> Checkpoint:
    config = replace(CONFIG, hidden=(width, 6))
    parameters = initial_parameters(config.sizes(25, 10), "sigmoid", 0)
    if value is not None:
        parameters = [(np.full_like(weight, value), np.full_like(bias, value)) for weight, bias in parameters]
    history = [{"epoch": 1, "train_loss": 0.1 + 0.2, "validation_loss": None}]
    return Checkpoint(parameters, config, Position(1, 2, 1 / 3, history), "a fingerprint")


def test_a_checkpoint_comes_back_whole(tmp_path: Path) -> None:
    kept, directory = some_checkpoint(), tmp_path / "made" / "on the way"
    kept.save(directory)
    assert os.listdir(directory) == [FILE_NAME]
    for path in (directory, directory / FILE_NAME):
        loaded = load_checkpoint(path)
        assert bits(loaded.parameters) == bits(kept.parameters)
        assert (loaded.config, loaded.position) == (kept.config, kept.position)
        assert (loaded.fingerprint, loaded.sizes) == ("a fingerprint", (25, 8, 6, 10))


def test_a_checkpoint_is_a_plain_safetensors_file(tmp_path: Path) -> None:
    kept = some_checkpoint()
    kept.save(tmp_path)
    with safe_open(str(tmp_path / FILE_NAME), framework="numpy") as stream:
        assert sorted(stream.keys()) == [
            f"layers.{i}.{part}" for i in range(3) for part in ("bias", "weight")
        ]
        assert stream.get_tensor("layers.0.weight").shape == (8, 25)
        assert json.loads(stream.metadata()["config"])["hidden"] == [8, 6]


def assert_refused(path: Path, *words: str) -> None:
    """One line that names the file."""
    with pytest.raises(CheckpointError) as caught:
        load_checkpoint(path)
    message = str(caught.value)
    assert "\n" not in message
    assert all(word in message for word in (str(path), *words)), message


def test_no_checkpoint_at_all(tmp_path: Path) -> None:
    assert_refused(tmp_path, "there is no checkpoint")
    assert_refused(tmp_path / "nowhere", "there is no checkpoint")


def test_a_truncated_checkpoint_is_refused(tmp_path: Path) -> None:
    some_checkpoint().save(tmp_path)
    file = tmp_path / FILE_NAME
    content = file.read_bytes()
    header = 8 + int.from_bytes(content[:8], "little")
    for length in (0, 1, 7, 8, 9, header // 2, header - 1, header, header + 1, len(content) - 1):
        file.write_bytes(content[:length])
        assert_refused(file)
    file.write_bytes(content + b"\0")
    assert_refused(file)


def test_a_damaged_header_is_refused(tmp_path: Path) -> None:
    some_checkpoint().save(tmp_path)
    file = tmp_path / FILE_NAME
    content = file.read_bytes()
    header = 8 + int.from_bytes(content[:8], "little")
    for at in range(header):
        # The top bit: no length of that size and no JSON of those bytes exists.
        file.write_bytes(content[:at] + bytes([content[at] ^ 0x80]) + content[at + 1 :])
        assert_refused(file)
    file.write_bytes(content)
    assert bits(load_checkpoint(tmp_path).parameters) == bits(some_checkpoint().parameters)


def test_a_foreign_file_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "foreign"
    for content in (save({"x": np.ones(3)}), save({"x": np.ones(3)}, {"format": "pt"})):
        file.write_bytes(content)
        assert_refused(file, "not a checkpoint of this version of nnkit")
    file.write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(100))
    assert_refused(file)


def test_a_foreign_file_of_a_type_that_numpy_lacks_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "bfloat16"
    header = b'{"x":{"dtype":"BF16","shape":[2],"data_offsets":[0,4]}}'
    file.write_bytes(len(header).to_bytes(8, "little") + header + bytes(4))
    assert_refused(file)


SMALL = np.zeros((2, 3), np.float32)
SPOILED: dict[str, Callable[[dict[str, Any], dict[str, str]], object]] = {
    "no format": lambda tensors, meta: meta.pop("format"),
    "another format": lambda tensors, meta: meta.update(format="nnkit-checkpoint-0"),
    "no config": lambda tensors, meta: meta.pop("config"),
    "no data": lambda tensors, meta: meta.pop("data"),
    "config no JSON": lambda tensors, meta: meta.update(config="{"),
    "config no object": lambda tensors, meta: meta.update(config="[1]"),
    "config a number": lambda tensors, meta: meta.update(config="7"),
    "config short": lambda tensors, meta: meta.update(config='{"hidden":[8,6]}'),
    "position no object": lambda tensors, meta: meta.update(position="3"),
    "position unknown": lambda tensors, meta: meta.update(position='{"day":3}'),
    "no weight": lambda tensors, meta: tensors.pop("layers.1.weight"),
    "no last layer": lambda tensors, meta: [tensors.pop(f"layers.2.{part}") for part in ("weight", "bias")],
    "one more": lambda tensors, meta: tensors.update({"layers.3.weight": SMALL}),
    "small weight": lambda tensors, meta: tensors.update({"layers.1.weight": SMALL}),
    "flat weight": lambda tensors, meta: tensors.update({"layers.0.weight": SMALL.ravel()}),
    "long bias": lambda tensors, meta: tensors.update({"layers.0.bias": np.zeros(9, np.float32)}),
    "scalar bias": lambda tensors, meta: tensors.update({"layers.2.bias": np.zeros((), np.float32)}),
    "wide bias": lambda tensors, meta: tensors.update({"layers.2.bias": np.zeros(10)}),
}
"""What may be wrong inside of a sound file, as a change to its tensors and its metadata."""


@pytest.mark.parametrize("fault", SPOILED)
def test_a_checkpoint_that_does_not_fit_together_is_refused(fault: str, tmp_path: Path) -> None:
    some_checkpoint().save(tmp_path)
    file = tmp_path / FILE_NAME
    with safe_open(str(file), framework="numpy") as stream:
        names, metadata = list(stream.keys()), stream.metadata()
        tensors = {name: stream.get_tensor(name) for name in names}
    SPOILED[fault](tensors, metadata)
    file.write_bytes(save(tensors, metadata))
    assert_refused(file)


@pytest.mark.parametrize("culprit", ["fsync", "replace"])
def test_a_failed_write_leaves_the_old_file(
    culprit: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    some_checkpoint(1.0).save(tmp_path)
    before = (tmp_path / FILE_NAME).read_bytes()

    def fail(*arguments: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, culprit, fail)
    with pytest.raises(CheckpointError, match="No space left on device: give a directory") as caught:
        some_checkpoint(2.0).save(tmp_path)
    assert "\n" not in str(caught.value)
    assert (tmp_path / FILE_NAME).read_bytes() == before
    assert os.listdir(tmp_path) == [FILE_NAME]


def test_a_directory_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(CheckpointError, match="cannot write a checkpoint"):
        some_checkpoint().save(tmp_path / "file" / "below")


def test_the_content_is_on_disk_before_it_gets_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[str] = []
    fsync, rename = os.fsync, os.replace
    monkeypatch.setattr(os, "fsync", lambda descriptor: (calls.append("fsync"), fsync(descriptor)))
    monkeypatch.setattr(os, "replace", lambda *names: (calls.append("replace"), rename(*names)))
    write_atomically(tmp_path / "file", b"content")
    # The file, its name, the directory that holds the name.
    assert calls == ["fsync", "replace", "fsync"]
    assert (tmp_path / "file").read_bytes() == b"content"


KILLS = 50
WIDTH = 4000
"""A checkpoint of half a megabyte, so that a fair share of the kills falls into a write."""

# Forks a child for each line it reads: importing NumPy for each would take most of the time.
ZYGOTE = """
import os, sys
from pathlib import Path
from test_training import WIDTH, some_checkpoint

both, directory = [some_checkpoint(value, WIDTH) for value in (1.0, 2.0)], Path(sys.argv[1])
for line in sys.stdin:
    child = os.fork()
    if child == 0:
        print(os.getpid(), flush=True)
        while True:
            for checkpoint in both:
                checkpoint.save(directory)
    os.waitpid(child, 0)
    print("dead", flush=True)
"""


def test_a_kill_at_any_moment_leaves_a_whole_checkpoint(tmp_path: Path) -> None:
    sets = [bits(some_checkpoint(value, WIDTH).parameters) for value in (1.0, 2.0)]
    some_checkpoint(1.0, WIDTH).save(tmp_path)
    generator = np.random.default_rng(0)
    # One thread: a fork does not take others along.
    environment = {**os.environ, "OPENBLAS_NUM_THREADS": "1", "PYTHONPATH": str(Path(__file__).parent)}
    command = [sys.executable, "-c", ZYGOTE, str(tmp_path)]
    seen = []
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
    ) as zygote:
        assert zygote.stdin
        assert zygote.stdout
        for delay in generator.uniform(0, 0.03, KILLS):
            zygote.stdin.write("fork\n")
            zygote.stdin.flush()
            child = int(zygote.stdout.readline())
            time.sleep(delay)
            os.kill(child, signal.SIGKILL)
            assert zygote.stdout.readline() == "dead\n"
            seen.append(sets.index(bits(load_checkpoint(tmp_path).parameters)))
    assert len(seen) == KILLS
    # Both turn up, or nothing was ever written.
    assert set(seen) == {0, 1}
