"""Wrong options: one line, exit status 2, nothing done, nothing damaged."""

import os
from pathlib import Path

import pytest

from nnkit.train.checkpoints import FILE_NAME
from tests.support.commands import Command, is_refusal

BAD_VALUES: list[tuple[str, str, str]] = [
    ("--hidden", "0", "--hidden"),
    ("--hidden", "100,-1", "--hidden"),
    ("--hidden", "a,b", "--hidden a,b"),
    ("--hidden", "", "--hidden"),
    ("--hidden", "100,", "--hidden 100,"),
    ("--lr", "nan", "--lr nan"),
    ("--lr", "inf", "--lr inf"),
    ("--lr", "-1", "--lr -1"),
    ("--lr", "0", "--lr 0"),
    ("--lr", "abc", "--lr"),
    ("--batch", "0", "--batch 0"),
    ("--batch", "70000", "--batch 70000"),
    ("--batch", "1.5", "--batch"),
    ("--epochs", "-1", "--epochs -1"),
    ("--epochs", "0", "--epochs 0"),
    ("--seed", "-1", "--seed -1"),
    ("--validation-fraction", "1", "--validation-fraction 1"),
    ("--validation-fraction", "-0.1", "--validation-fraction -0.1"),
    ("--validation-fraction", "nan", "--validation-fraction nan"),
    ("--l2", "-1", "--l2 -1"),
    ("--l2", "nan", "--l2 nan"),
    ("--l2", "1", "--l2 1"),
    ("--activation", "sigmoyd", "Did you mean 'sigmoid'?"),
    ("--backend", "nunpy", "Did you mean 'numpy'?"),
    ("--device", "cqu", "Did you mean 'cpu'?"),
    ("--device", "cuda:", "there is no device 'cuda:'; known: auto, cpu, cuda, cuda:N, virtual"),
    ("--device", "cuda:one", "there is no device 'cuda:one'"),
    ("--device", "virtual", "backend 'numpy' does not run on device 'virtual'"),
    ("--comm", "nine", "Did you mean 'none'?"),
    ("--data", "NOWHERE", "--data NOWHERE: no such directory"),
    ("--plot", "plot.txt", "the name must end in one of .png, .pdf, .svg"),
    ("--plot", "NOWHERE/plot.png", "No such file or directory"),
    ("--lrr", "1", "No such option: --lrr"),
]
"""Option, value, and words of the refusal; NOWHERE stands for a folder that is not there."""


@pytest.mark.parametrize("resuming", [False, True])
@pytest.mark.parametrize(("option", "value", "words"), BAD_VALUES)
def test_bad_values_are_refused_and_nothing_is_touched(
    main: Command,
    small_data: Path,
    going_on: Path,
    tmp_path: Path,
    option: str,
    value: str,
    words: str,
    resuming: bool,
) -> None:
    metrics = tmp_path / "metrics.jsonl"
    metrics.write_text("precious\n")
    before = (going_on / FILE_NAME).read_bytes()
    value, words = (text.replace("NOWHERE", str(tmp_path / "nowhere")) for text in (value, words))
    arguments = ["--data", small_data, "--epochs", 3, "--metrics", metrics, option, value]
    target = ["--checkpoint", going_on, "--resume"] if resuming else ["--checkpoint", tmp_path / "new"]
    assert is_refusal(main("train", *arguments, *target), words)
    assert metrics.read_text() == "precious\n"
    assert (going_on / FILE_NAME).read_bytes() == before
    assert [path.name for path in going_on.iterdir()] == [FILE_NAME]
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize("value", ["99999999999", "99999999999999999999"])
def test_layers_beyond_memory_are_refused(main: Command, small_data: Path, value: str) -> None:
    assert is_refusal(main("train", "--data", small_data, "--hidden", value))


def test_metrics_that_cannot_be_written_are_refused(main: Command, small_data: Path, tmp_path: Path) -> None:
    for path, words in ((tmp_path, "Is a directory"), (tmp_path / "no" / "m", "No such file or directory")):
        result = main("train", "--data", small_data, "--metrics", path, "--checkpoint", tmp_path / "new")
        assert is_refusal(result, f"--metrics {path}: cannot write: {words}")
    assert list(tmp_path.iterdir()) == []


def test_checkpoints_that_cannot_be_written_are_refused(
    main: Command, small_data: Path, tmp_path: Path
) -> None:
    file = tmp_path / "file"
    file.write_text("a file")
    for directory in (file, file / "below"):
        result = main("train", "--data", small_data, "--checkpoint", directory)
        assert is_refusal(result, f"cannot write a checkpoint to {directory}")
    assert file.read_text() == "a file"


def test_a_read_only_directory_is_refused(main: Command, small_data: Path, tmp_path: Path) -> None:
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o500)
    if os.access(closed, os.W_OK):
        pytest.skip("this user may write anywhere")
    assert is_refusal(main("train", "--data", small_data, "--checkpoint", closed), "Permission denied")


def test_resuming_needs_a_checkpoint(main: Command, small_data: Path, tmp_path: Path) -> None:
    assert is_refusal(main("train", "--data", small_data, "--resume"), "--resume needs --checkpoint DIR")
    result = main("train", "--data", small_data, "--resume", "--checkpoint", tmp_path)
    assert is_refusal(result, f"there is no checkpoint at {tmp_path}")


def test_a_checkpoint_is_not_overwritten(main: Command, small_data: Path, going_on: Path) -> None:
    before = (going_on / FILE_NAME).read_bytes()
    result = main("train", "--data", small_data, "--checkpoint", going_on)
    assert is_refusal(result, "holds a checkpoint already", "--resume")
    assert (going_on / FILE_NAME).read_bytes() == before


@pytest.mark.parametrize("content", [b"", b"no checkpoint", b"\xff" * 64])
def test_a_damaged_checkpoint_is_refused(
    main: Command, small_data: Path, tmp_path: Path, content: bytes
) -> None:
    (tmp_path / FILE_NAME).write_bytes(content)
    for command in (("train", "--resume"), ("evaluate",), ("predict", 0)):
        result = main(*command, "--data", small_data, "--checkpoint", tmp_path)
        assert is_refusal(result, "is damaged or no checkpoint")


def test_a_truncated_checkpoint_is_refused(main: Command, going_on: Path) -> None:
    file = going_on / FILE_NAME
    whole = file.read_bytes()
    for length in (4, 100, len(whole) // 2, len(whole) - 1):
        file.write_bytes(whole[:length])
        assert is_refusal(main("evaluate", "--checkpoint", going_on), "damaged")


def test_unknown_commands_are_refused(main: Command) -> None:
    assert is_refusal(main("trian"), "trian")
    assert is_refusal(main("train", "surplus"), "surplus")
    assert main().status == 2
    helped = main("--help")
    assert (helped.status, helped.stderr) == (0, "")
