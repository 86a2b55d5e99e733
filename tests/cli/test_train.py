"""`nnkit train` as a user meets it: what it writes, how it goes on, how it ends."""

import json
import os
import pty
import shlex
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from nnkit.train.checkpoints import FILE_NAME, load_checkpoint
from tests.support.commands import Command, Result, arguments_of, is_one_line, is_refusal, lines_of
from tests.support.idx_files import write_dataset
from tests.support.results import DONE_FIELDS, EPOCH_FIELDS, same_parameters


def test_a_run_writes_its_metrics_line_by_line(main: Command, small_data: Path, tmp_path: Path) -> None:
    metrics = tmp_path / "metrics.jsonl"
    metrics.write_text("of another run\n")
    result = main("train", "--data", small_data, "--epochs", 3, "--batch", 10, "--metrics", metrics, "--json")
    assert result.status == 0
    *epochs, done = lines_of(metrics)
    assert [list(record) for record in epochs] == [EPOCH_FIELDS] * 3
    assert [record["epoch"] for record in epochs] == [1, 2, 3]
    assert epochs[-1]["train_loss"] < epochs[0]["train_loss"]
    assert all(0 <= record["validation_accuracy"] <= 1 for record in epochs)
    assert all(record["seconds"] > 0 and record["samples_per_second"] > 0 for record in epochs)
    assert list(done) == DONE_FIELDS
    assert {key: done[key] for key in ("event", "backend", "device", "comm", "ranks")} == {
        "event": "done",
        "backend": "numpy",
        "device": "cpu",
        "comm": "none",
        "ranks": 1,
    }
    assert done["test_accuracy"] > 0.9
    assert json.loads(result.stdout) == done
    # With --json people read standard error.
    assert result.stderr.startswith("training 784-100-10")
    assert result.stderr.count("epoch ") == 3


def test_output_is_one_line_an_epoch(main: Command, small_data: Path) -> None:
    result = main("train", "--data", small_data, "--epochs", 2, "--hidden", "20,15", "--activation", "tanh")
    assert (result.status, result.stderr) == (0, "")
    head, first, second, outcome = result.stdout.splitlines()
    assert head.startswith("training 784-20-15-10 (tanh) on 270 samples, 30 for validation; backend numpy")
    assert first.startswith("epoch 1/2  loss ")
    assert second.startswith("epoch 2/2  loss ")
    assert outcome.startswith("test accuracy ")


def test_quiet_prints_the_result_alone(main: Command, small_data: Path) -> None:
    result = main("train", "--data", small_data, "--epochs", 2, "--quiet")
    assert (result.status, result.stderr) == (0, "")
    assert result.stdout.count("\n") == 1
    assert result.stdout.startswith("test accuracy ")
    silent = main("train", "--data", small_data, "--epochs", 2, "--quiet", "--json")
    assert (silent.status, silent.stderr, list(json.loads(silent.stdout))) == (0, "", DONE_FIELDS)


def test_without_validation_its_fields_are_null(main: Command, small_data: Path, tmp_path: Path) -> None:
    metrics, plot = tmp_path / "metrics.jsonl", tmp_path / "plot.png"
    arguments = ["--epochs", 2, "--validation-fraction", 0, "--metrics", metrics, "--plot", plot]
    assert main("train", "--data", small_data, *arguments).status == 0
    for record in lines_of(metrics)[:-1]:
        assert list(record) == EPOCH_FIELDS
        assert record["validation_loss"] is record["validation_accuracy"] is None


@pytest.mark.parametrize("suffix", [".png", ".PNG", ".svg", ".pdf"])
def test_a_plot_is_drawn(main: Command, small_data: Path, tmp_path: Path, suffix: str) -> None:
    plot = tmp_path / f"plot{suffix}"
    assert main("train", "--data", small_data, "--epochs", 2, "--plot", plot).status == 0
    if suffix.lower() == ".png":
        with Image.open(plot) as picture:
            assert picture.format == "PNG"
            assert len(picture.convert("RGB").getcolors(1 << 24) or []) > 10
    else:
        start = plot.read_bytes()[:200]
        assert b"%PDF" in start or b"<?xml" in start


def test_a_resumed_run_equals_an_uninterrupted_one(
    main: Command, small_data: Path, going_on: Path, trained: Path, tmp_path: Path
) -> None:
    straight, metrics = tmp_path / "straight", tmp_path / "metrics.jsonl"
    common = ("train", "--data", small_data, "--epochs", 4, "--quiet", "--checkpoint")
    assert main(*common, straight, "--batch", 10).status == 0
    assert main(*common, going_on, "--resume", "--metrics", metrics).status == 0
    resumed, expected = load_checkpoint(going_on), load_checkpoint(straight)
    assert same_parameters(resumed, expected)
    assert not same_parameters(resumed, load_checkpoint(trained))
    assert resumed.config == expected.config
    *epochs, done = lines_of(metrics)
    assert [record["epoch"] for record in epochs] == [1, 2, 3, 4]
    assert epochs[:2] == lines_of(trained.parent / "metrics.jsonl")[:2]
    assert epochs == resumed.position.history
    losses = [[record["train_loss"] for record in run.position.history] for run in (resumed, expected)]
    assert losses[0] == losses[1]
    assert done["event"] == "done"


@pytest.mark.parametrize(
    ("option", "value"),
    [
        *(("--lr", 0.5), ("--hidden", 50), ("--batch", 20), ("--l2", 0), ("--activation", "tanh")),
        *(("--seed", 1), ("--validation-fraction", 0.2)),
    ],
)
def test_a_resumed_run_cannot_become_another(
    main: Command, small_data: Path, going_on: Path, option: str, value: object
) -> None:
    before = (going_on / FILE_NAME).read_bytes()
    result = main("train", "--data", small_data, "--checkpoint", going_on, "--resume", option, value)
    assert is_refusal(result, f"{option} ", "the checkpoint was made with", f"leave {option} out")
    assert (going_on / FILE_NAME).read_bytes() == before


def test_a_run_resumes_with_its_own_data_alone(main: Command, going_on: Path, tmp_path: Path) -> None:
    other = write_dataset(tmp_path / "other", seed=1)
    result = main("train", "--data", other, "--checkpoint", going_on, "--resume", "--epochs", 3)
    assert is_refusal(result, "trained on other data")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no /dev/full")
def test_a_full_disk_under_the_metrics_is_one_line(nnkit: Command, small_data: Path) -> None:
    result = nnkit("train", "--data", small_data, "--epochs", 2, "--metrics", "/dev/full", "--quiet")
    assert is_refusal(result, "--metrics /dev/full: cannot write: No space left on device")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no /dev/full")
@pytest.mark.parametrize("command", [("backends", "--json"), ("gemm-check", "--m", 3, "--n", 3, "--k", 3)])
def test_a_full_disk_under_the_output_is_one_line(nnkit: Command, command: tuple[object, ...]) -> None:
    result = nnkit(*command, prefix=("sh", "-c", 'exec "$@" >/dev/full', "sh"))
    assert is_refusal(result, "No space left on device")


def test_a_full_disk_leaves_the_old_checkpoint(nnkit: Command, small_data: Path, going_on: Path) -> None:
    before = (going_on / FILE_NAME).read_bytes()
    # A limit on the size of files stands for the full disk. Python ignores the signal that comes with it.
    limit = ("sh", "-c", 'ulimit -f 8; exec "$@"', "sh")
    arguments = (
        "train",
        "--data",
        small_data,
        "--checkpoint",
        going_on,
        "--resume",
        "--epochs",
        3,
        "--quiet",
    )
    assert is_refusal(nnkit(*arguments, prefix=limit), f"cannot write a checkpoint to {going_on}")
    assert (going_on / FILE_NAME).read_bytes() == before
    assert [path.name for path in going_on.iterdir()] == [FILE_NAME]


def test_a_loss_that_explodes_ends_the_run(nnkit: Command, small_data: Path, tmp_path: Path) -> None:
    saved = tmp_path / "saved"
    arguments = (
        "--activation",
        "relu",
        "--lr",
        1e30,
        "--l2",
        0,
        "--batch",
        10,
        "--checkpoint",
        saved,
        "--quiet",
    )
    result = nnkit("train", "--data", small_data, *arguments)
    assert (result.status, result.stdout) == (1, "")
    assert is_one_line(result, "the loss became", "in epoch 1, step ", "smaller --lr than 1e+30", str(saved))
    kept = load_checkpoint(saved)
    assert kept.position.epoch == 0
    assert all(np.isfinite(array).all() for pair in kept.parameters for array in pair)


def interrupted(arguments: list[str]) -> Result:
    """Run a training, send it Ctrl-C after its first epoch, and wait for it to end."""
    with subprocess.Popen(arguments, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        said = []
        for line in process.stdout:
            said.append(line)
            if line.startswith("epoch "):
                break
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=60)
        return Result(process.returncode, "".join(said) + out, err)


def test_ctrl_c_saves_and_says_how_to_go_on(main: Command, small_data: Path, tmp_path: Path) -> None:
    saved, straight, metrics = tmp_path / "saved", tmp_path / "straight", tmp_path / "metrics.jsonl"
    # An epoch lasts long enough for the signal to come in the middle of it.
    shape = ("--batch", 1, "--hidden", 300)
    common = ("train", "--data", small_data, "--checkpoint")
    result = interrupted(arguments_of(*common, saved, *shape, "--epochs", 5000))
    assert result.status == 130
    assert result.stderr.startswith("stopped in epoch ")
    place, data = shlex.quote(str(saved)), shlex.quote(str(small_data))
    assert result.stderr.endswith(f"go on with: nnkit train --checkpoint {place} --resume --data {data}\n")
    assert result.stderr.count("\n") == 1
    position = load_checkpoint(saved).position
    assert position.epoch >= 1
    assert len(position.history) == position.epoch

    last = ("--epochs", position.epoch + 1, "--quiet")
    assert main(*common, saved, "--resume", *last, "--metrics", metrics).status == 0
    assert main(*common, straight, *shape, *last).status == 0
    resumed, expected = load_checkpoint(saved), load_checkpoint(straight)
    assert same_parameters(resumed, expected)
    assert resumed.position.history[-1]["train_loss"] == expected.position.history[-1]["train_loss"]
    assert [record.get("epoch") for record in lines_of(metrics)] == [*range(1, position.epoch + 2), None]
    assert all(record["samples_per_second"] >= 0 for record in resumed.position.history)


def test_ctrl_c_without_a_checkpoint_says_what_is_lost(small_data: Path) -> None:
    result = interrupted(arguments_of("train", "--data", small_data, "--epochs", 100000))
    assert result.status == 130
    assert result.stderr.endswith("nothing was saved: train with --checkpoint DIR to be able to go on\n")


@pytest.mark.parametrize("command", ["train --epochs 200", "train --epochs 200 2>&1", "train --json --quiet"])
def test_a_reader_may_leave(small_data: Path, command: str) -> None:
    line = f'"{sys.executable}" -m nnkit {command} --data "{small_data}" | head -c 1'
    done = subprocess.run(["sh", "-c", line], capture_output=True, text=True, check=True, timeout=60)
    assert len(done.stdout) == 1
    assert done.stderr == ""


def test_a_terminal_shows_a_live_bar(small_data: Path) -> None:
    controller, terminal = pty.openpty()
    arguments = arguments_of("train", "--data", small_data, "--epochs", 20, "--batch", 2)
    # Some continuous integration asks rich for plain output.
    env = {**os.environ, "TERM": "xterm", "COLUMNS": "100"}
    with subprocess.Popen(arguments, stdout=terminal, stderr=subprocess.PIPE, env=env) as process:
        os.close(terminal)
        shown = b""
        try:
            while part := os.read(controller, 65536):
                shown += part
        except OSError:
            # How Linux says that the other side of a terminal has been closed.
            pass
        finally:
            os.close(controller)
        _, said = process.communicate(timeout=60)
    text = shown.decode()
    assert (process.returncode, said) == (0, b"")
    assert "\x1b[" in text
    # The cursor is hidden while the bar lives, and shown again.
    assert text.index("\x1b[?25l") < text.index("samples/s  left") < text.rindex("\x1b[?25h")
    assert "epoch 20/20  loss " in text
    assert "test accuracy " in text.splitlines()[-1]


def test_weights_that_overflow_in_the_last_update_spare_the_checkpoint(
    main: Command, small_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    verdicts = iter([True, False])
    monkeypatch.setattr("nnkit.nn.network.Network.is_finite", lambda network: next(verdicts))
    saved = tmp_path / "saved"
    result = main("train", "--data", small_data, "--quiet", "--checkpoint", saved)
    assert result.status == 1
    assert is_one_line(result, "a weight became infinite", "in epoch 2", "with 1 complete epochs")
    assert load_checkpoint(saved).position.epoch == 1
