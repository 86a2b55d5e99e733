"""Checkpoints: they come back whole, survive what kills their writer, and refuse what is none."""

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
from safetensors import safe_open
from safetensors.numpy import save

from nnkit.errors import CheckpointError
from nnkit.nn.initialise import Parameters, initial_parameters
from nnkit.train.checkpoints import FILE_NAME, Checkpoint, load_checkpoint
from nnkit.train.config import TrainConfig
from nnkit.train.files import write_atomically
from nnkit.train.position import Position
from tests.support.places import ROOT

CONFIG = TrainConfig((8,), epochs=3, batch=50, lr=0.5, l2=1e-4, seed=4)


def bits(parameters: Parameters) -> list[bytes]:
    return [part.tobytes() for pair in parameters for part in pair]


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
    "config too deep": lambda tensors, meta: meta.update(config="[" * 100_000),
    "batch no integer": lambda tensors, meta: meta.update(config=meta["config"].replace("50,", "50.5,", 1)),
    "hidden no integers": lambda tensors, meta: meta.update(config=meta["config"].replace("[8", "[8.0", 1)),
    "position no number": lambda tensors, meta: meta.update(position='{"epoch":"x"}'),
    "position negative": lambda tensors, meta: meta.update(position='{"step":-3}'),
    "history no list": lambda tensors, meta: meta.update(position='{"history":5}'),
    "history too short": lambda tensors, meta: meta.update(position='{"epoch":2}'),
    "all integers": lambda tensors, meta: tensors.update({n: t.astype(np.int32) for n, t in tensors.items()}),
    "one layer wide": lambda tensors, meta: tensors.update(
        {n: t.astype(np.float64) for n, t in tensors.items() if n.startswith("layers.1")}
    ),
    "no inputs": lambda tensors, meta: tensors.update({"layers.0.weight": np.zeros((8, 0), np.float32)}),
    "not finite": lambda tensors, meta: tensors["layers.0.bias"].fill(np.nan),
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

    def noting(name: str, function: Callable[..., None]) -> Callable[..., None]:
        def noted(*arguments: Any) -> None:
            calls.append(name)
            function(*arguments)

        return noted

    monkeypatch.setattr(os, "fsync", noting("fsync", os.fsync))
    monkeypatch.setattr(os, "replace", noting("replace", os.replace))
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
from tests.train.test_checkpoints import WIDTH, some_checkpoint

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
    environment = {**os.environ, "OPENBLAS_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
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
