"""Ranks killed at random moments, by SIGKILL, more than 40 of them: the run goes on or says why it cannot."""

import contextlib
import os
import random
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest

from nnkit.train.checkpoints import Checkpoint, load_checkpoint
from tests.support.mpi import needs_mpi

LIMIT = 20.0
"""Seconds after the last kill within which a run must have ended."""

OPTIONS = ["--hidden", "40,20", "--epochs", "300", "--batch", "20", "--lr", "0.2"]


pytestmark = [
    needs_mpi,
    pytest.mark.skipif(not sys.platform.startswith("linux"), reason="finds the ranks in /proc"),
]


def ranks_of(folder: Path) -> list[int]:
    """The processes that train with that checkpoint folder."""
    found = []
    for entry in filter(str.isdecimal, os.listdir("/proc")):
        with contextlib.suppress(OSError):
            command = Path("/proc", entry, "cmdline").read_bytes()
            variables = Path("/proc", entry, "environ").read_bytes()
            if os.fsencode(folder) in command and b"OMPI_COMM_WORLD_RANK=" in variables:
                found.append(int(entry))
    return found


class Run:
    """A training that ranks share, and whose ranks are killed."""

    def __init__(self, comm: str, ranks: int, data: Path, folder: Path, *more: str):
        self.folder = folder
        command = [sys.executable, "-m", "nnkit", "train", "--comm", comm, "--ranks", str(ranks), "--elastic"]
        command += ["--data", str(data), "--checkpoint", str(folder), *OPTIONS, *more]
        self.process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
        )
        self.killed: set[int] = set()
        self.said: list[str] = []
        self.errors: list[str] = []
        self.started = threading.Event()
        self.readers = [threading.Thread(target=self._read), threading.Thread(target=self._read_errors)]
        for reader in self.readers:
            reader.start()

    def _read(self) -> None:
        assert self.process.stdout
        for line in self.process.stdout:
            self.said.append(line)
            if line.startswith("epoch "):
                self.started.set()
        self.started.set()

    def _read_errors(self) -> None:
        assert self.process.stderr
        self.errors += self.process.stderr

    def kill(self, generator: random.Random, how_many: int) -> int:
        """Kill some, of which one may be the first; how many there were to be killed."""
        # Who was killed a moment ago may still be there.
        alive = [rank for rank in ranks_of(self.folder) if rank not in self.killed]
        victims = generator.sample(alive, min(how_many, max(len(alive) - 1, 0)))
        self.killed |= set(victims)
        for victim in victims:
            with contextlib.suppress(ProcessLookupError):
                os.kill(victim, signal.SIGKILL)
        return len(victims)

    def end(self) -> int:
        """Its exit status; it must not hang."""
        try:
            return self.process.wait(LIMIT)
        finally:
            for process in (*ranks_of(self.folder), self.process.pid):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(process, signal.SIGKILL)
            for reader in self.readers:
                reader.join(10)
            for stream in (self.process.stdout, self.process.stderr):
                assert stream
                stream.close()


@pytest.fixture(scope="module")
def expected(small_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    """What one rank trains."""
    folder = tmp_path_factory.mktemp("alone")
    command = [sys.executable, "-m", "nnkit", "train", "--data", str(small_data), "--quiet"]
    subprocess.run([*command, "--checkpoint", str(folder), *OPTIONS], check=True, capture_output=True)
    return load_checkpoint(folder)


killed = 0
"""By all tests of this file."""


@pytest.mark.parametrize("seed", range(12))
def test_killed_at_random_moments(seed: int, small_data: Path, expected: Checkpoint, tmp_path: Path) -> None:
    global killed  # noqa: PLW0603  the last test counts
    generator = random.Random(seed)
    comm = ("data", "model", "hybrid")[seed % 3]
    run = Run(comm, 5, small_data, tmp_path, "--refresh", str(generator.choice((1, 1, 4))))
    try:
        assert run.started.wait(30)
        for _ in range(4):
            killed += run.kill(generator, generator.choice((1, 1, 1, 2)))
            time.sleep(generator.choice((0.0, 0.02, 0.1, 0.3)))
    finally:
        status = run.end()
    errors = "".join(run.errors)
    saved = load_checkpoint(tmp_path)
    if status:
        # Neighbours that went together: said in one line, and the last checkpoint is good.
        assert status == 1
        assert "no copy of what the lost ones held" in errors, errors
        assert "keeps the last checkpoint" in errors
        assert comm != "data"
        return
    assert saved.position.epoch == 300
    # Rounding makes a fifth of this at most; a sample lost or counted twice, in any epoch, three times it.
    for mine, theirs in zip(saved.parameters, expected.parameters, strict=True):
        for one, other in zip(mine, theirs, strict=True):
            np.testing.assert_allclose(one, other, atol=5e-6)
    for record, other_record in zip(saved.position.history, expected.position.history, strict=True):
        assert record["train_loss"] == pytest.approx(other_record["train_loss"], abs=5e-7)
    assert "Traceback" not in errors, errors


def test_enough_were_killed() -> None:
    assert killed >= 40
