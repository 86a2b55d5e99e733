"""What is given as a file and is none, a pipe that nobody writes to or a device: one line, and no waiting."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import nnkit
from nnkit.comm.mpiexec import check_hostfile
from nnkit.data.dataset import load_dataset
from nnkit.errors import NnkitError
from nnkit.files import read_file
from nnkit.train.checkpoints import FILE_NAME, load_checkpoint
from nnkit.train.metrics import MetricsFile


def needs_device(path: str) -> pytest.MarkDecorator:
    return pytest.mark.skipif(not Path(path).exists(), reason=f"this system has no {path}")


def virtual(action: Callable[[Any], Any]) -> None:
    device = nnkit.open_device("virtual")
    try:
        action(device)
    finally:
        device.close()


READERS: dict[str, tuple[str, Callable[[Path], Any]]] = {
    "a source": ("x.cu", lambda path: virtual(lambda device: device.compile(path))),
    "a source by its name": ("x.cu", lambda path: virtual(lambda device: device.compile(str(path)))),
    "PTX": ("x.ptx", lambda path: virtual(lambda device: device.load_ptx(path))),
    "data": ("train-images-idx3-ubyte", lambda path: load_dataset(path.parent)),
    "a checkpoint": (FILE_NAME, load_checkpoint),
    "a checkpoint in its folder": (FILE_NAME, lambda path: load_checkpoint(path.parent)),
    "a list of hosts": ("hosts", check_hostfile),
    "a folder of data": ("data", load_dataset),
}


@pytest.mark.parametrize("what", READERS)
def test_a_pipe_is_no_file(tmp_path: Path, what: str) -> None:
    name, read = READERS[what]
    os.mkfifo(tmp_path / name)
    with pytest.raises(NnkitError) as caught:
        read(tmp_path / name)
    assert "\n" not in str(caught.value)
    assert name in str(caught.value)


@pytest.mark.parametrize("what", ["a source", "PTX", "a checkpoint", "a list of hosts"])
@needs_device("/dev/zero")
def test_a_device_is_no_file(what: str) -> None:
    with pytest.raises(NnkitError, match=r"/dev/zero.*a device, not a file"):
        READERS[what][1](Path("/dev/zero"))


def test_a_pipe_that_nobody_reads_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "metrics")
    with pytest.raises(NnkitError, match=r"--metrics .*metrics: cannot write"):
        MetricsFile(tmp_path / "metrics")


def test_what_may_be_read_and_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"content")
    (tmp_path / "link").symlink_to(tmp_path / "file")
    assert read_file(tmp_path / "link") == read_file(str(tmp_path / "file")) == b"content"
    MetricsFile(Path(os.devnull)).close()
    with pytest.raises(IsADirectoryError):
        read_file(tmp_path)


@pytest.mark.parametrize(
    "path",
    [pytest.param(path, marks=needs_device(path)) for path in ("/dev/stdin", "/dev/fd/0", "/proc/self/fd/0")],
)
def test_what_the_shell_pipes_in_is_read(path: str) -> None:
    code = f"from nnkit.files import read_file; print(read_file({path!r}))"
    child = subprocess.run([sys.executable, "-c", code], input=b"text", capture_output=True, check=True)
    assert child.stdout.strip() == b"b'text'"
