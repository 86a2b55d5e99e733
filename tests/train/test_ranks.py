"""`nnkit train --ranks N` with real MPI: the result of one rank, one voice, one outcome."""

import json
import os
import shlex
import signal
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from nnkit.train.checkpoints import load_checkpoint
from tests.support.commands import Command, Result, arguments_of, lines_of
from tests.support.mpi import gone, need_proc, needs_mpi
from tests.support.results import DONE_FIELDS, EPOCH_FIELDS, difference, is_same, losses, same_parameters

pytestmark = [needs_mpi, pytest.mark.usefixtures("outside_mpi")]


# The result


@pytest.mark.parametrize(
    ("hidden", "distribution"),
    [
        # 270 samples: the last batch has 11 or 7, of which some of the ranks have one less.
        ("20,7,5", ("data", "--ranks", 3)),
        ("20,7,5", ("model", "--ranks", 4)),
        ("20,7,5", ("hybrid", "--ranks", 4, "--grid", "2x2")),
        # More ranks than neurons: some have none.
        ("1", ("model", "--ranks", 3)),
        ("1", ("hybrid", "--ranks", 4, "--grid", "2x2")),
        # Ranks without a sample.
        ("4", ("data", "--ranks", 4, "--batch", 2, "--lr", 0.01)),
    ],
)
def test_ranks_come_to_the_result_of_one(
    main: Command,
    train: Command,
    small_data: Path,
    tmp_path: Path,
    hidden: str,
    distribution: tuple[object, ...],
) -> None:
    common = ("--hidden", hidden, "--epochs", 2, "--lr", 0.3, "--batch", 37)
    alone = distribution[3:] if "--batch" in distribution else ()
    one, many = tmp_path / "one", tmp_path / "many"
    assert main("train", "--data", small_data, *common, *alone, "--checkpoint", one).status == 0
    result = train(*common, "--checkpoint", many, "--comm", *distribution)
    assert (result.status, result.stderr) == (0, "")
    assert is_same(load_checkpoint(many), load_checkpoint(one))
    # One rank speaks.
    head, first, second, outcome = result.stdout.splitlines()
    assert f"comm {distribution[0]} on {distribution[2]} ranks (" in head
    assert first.startswith("epoch 1/2  loss ")
    assert second.startswith("epoch 2/2  loss ")
    assert outcome.startswith("test accuracy ")


def test_one_document_and_one_metrics_file(train: Command, tmp_path: Path) -> None:
    metrics, plot = tmp_path / "metrics.jsonl", tmp_path / "plot.svg"
    result = train(
        *("--comm", "data", "--ranks", 2, "--epochs", 2, "--json", "--metrics", metrics, "--plot", plot)
    )
    assert result.status == 0, result
    *epochs, done = lines_of(metrics)
    assert [list(record) for record in epochs] == [EPOCH_FIELDS] * 2
    assert list(done) == DONE_FIELDS
    assert json.loads(result.stdout) == done
    assert (done["ranks"], done["lost_ranks"], done["comm"]) == (2, 0, "data")
    assert done["cost"]["sums"] == 2 * done["cost"]["steps"] == 12
    assert done["cost"]["bytes"] == 4 * 6 * (784 * 100 + 100 + 100 * 10 + 10)
    assert plot.exists()
    assert result.stderr.count("training 784-100-10") == 1
    assert result.stderr.count("epoch ") == 2


@pytest.mark.slow
@pytest.mark.parametrize("comm", ["data", "model", "hybrid"])
def test_deterministic_runs_are_equal_bit_for_bit(train: Command, tmp_path: Path, comm: str) -> None:
    common = ["--comm", comm, "--ranks", 4, "--epochs", 3, "--batch", 37, "--quiet", "--deterministic"]
    common += ["--grid", "2x2"] if comm == "hybrid" else []
    places = tmp_path / "one", tmp_path / "other"
    for place in places:
        assert train(*common, "--checkpoint", place).status == 0
    one, other = map(load_checkpoint, places)
    assert same_parameters(one, other)
    assert losses(one) == losses(other)


@pytest.mark.slow
def test_checkpoints_know_no_strategy(
    main: Command, train: Command, small_data: Path, tmp_path: Path
) -> None:
    shape = ("--hidden", 30, "--batch", 37, "--lr", 0.3, "--quiet", "--checkpoint")
    straight, saved = tmp_path / "straight", tmp_path / "saved"
    assert main("train", "--data", small_data, *shape, straight, "--epochs", 4).status == 0
    legs: list[tuple[object, ...]] = [
        ("--comm", "model", "--ranks", 4, *shape, saved, "--epochs", 1),
        ("--comm", "data", "--ranks", 3, "--checkpoint", saved, "--resume", "--epochs", 2),
        ("--comm", "none", "--checkpoint", saved, "--resume", "--epochs", 3),
        ("--comm", "hybrid", "--ranks", 2, "--grid", "2x1", "--checkpoint", saved, "--resume", "--epochs", 4),
    ]
    for leg in legs:
        result = train(*leg)
        assert (result.status, result.stderr) == (0, ""), result
    assert is_same(load_checkpoint(saved), load_checkpoint(straight))


# The end


def ranks_of(launcher: int) -> list[int]:
    """The processes of the ranks that this process has started, in their order."""
    need_proc()
    mark, found = f"STARTED_BY_NNKIT={launcher}.".encode(), {}
    for entry in filter(str.isdecimal, os.listdir("/proc")):
        try:
            variables = dict(
                pair.partition(b"=")[::2]
                for pair in Path("/proc", entry, "environ").read_bytes().split(b"\0")
            )
        except OSError:
            continue
        if variables.get(b"STARTED_BY_NNKIT", b"").startswith(mark.partition(b"=")[2]):
            rank = variables.get(b"OMPI_COMM_WORLD_RANK")
            if rank is not None:
                found[int(rank)] = int(entry)
    return [found[rank] for rank in sorted(found)]


class Run:
    """A training on ranks that goes on until it is disturbed; `ranks` are its processes."""

    def __init__(self, process: "subprocess.Popen[str]"):
        self.process = process
        assert process.stdout is not None
        self.said = ""
        for line in process.stdout:
            self.said += line
            if line.startswith("epoch "):
                break
        self.ranks = ranks_of(process.pid)

    def end(self) -> Result:
        """How it ends, which it must soon, with all its ranks."""
        out, err = self.process.communicate(timeout=20)
        assert gone(self.ranks)
        return Result(self.process.returncode, self.said + out, err)


@pytest.fixture
def running(small_data: Path) -> Iterator[Callable[..., Run]]:
    """`running(...)` starts a training and returns when its first epoch is complete."""
    started = []

    def start(*arguments: object) -> Run:
        process = subprocess.Popen(
            arguments_of("train", "--data", small_data, *arguments),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        started.append(process)
        return Run(process)

    yield start
    for process in started:
        process.kill()
        process.communicate(timeout=20)


@pytest.mark.parametrize("lines", [1, 2])
def test_a_reader_that_leaves_ends_the_ranks_without_a_word(running: Callable[..., Run], lines: int) -> None:
    """As in `nnkit train ... | head -1`."""
    run = running("--comm", "data", "--ranks", 2, "--epochs", 100000)
    out, errors = run.process.stdout, run.process.stderr
    assert out
    assert errors
    for _ in range(lines):
        out.readline()
    out.close()
    assert run.process.wait(20) == 1
    assert errors.read() == ""
    assert gone(run.ranks)


def test_ctrl_c_saves_and_says_how_to_go_on(
    running: Callable[..., Run], nnkit: Command, main: Command, small_data: Path, tmp_path: Path
) -> None:
    saved, straight = tmp_path / "saved", tmp_path / "straight"
    # Small steps: what rounding does to one shall not grow in the others.
    shape = ("--batch", 10, "--hidden", 30, "--lr", 0.05, "--checkpoint")
    run = running(*shape, saved, "--comm", "model", "--ranks", 2, "--epochs", 100000)
    assert len(run.ranks) == 2
    run.process.send_signal(signal.SIGINT)
    result = run.end()
    assert result.status == 130
    again = (
        "train",
        "--checkpoint",
        saved,
        "--resume",
        "--data",
        small_data,
        "--comm",
        "model",
        "--ranks",
        2,
    )
    assert result.stderr.startswith("stopped in epoch ")
    assert result.stderr.endswith(f"go on with: nnkit {shlex.join(map(str, again))}\n")
    assert result.stderr.count("\n") == 1
    position = load_checkpoint(saved).position
    assert len(position.history) == position.epoch >= 1
    last = ("--epochs", position.epoch + 1, "--quiet")
    assert nnkit(*again, *last).status == 0
    assert main("train", "--data", small_data, *shape, straight, *last).status == 0
    one, other = load_checkpoint(saved), load_checkpoint(straight)
    assert difference(one.parameters, other.parameters) < 1e-4
    assert losses(one)[-1] == pytest.approx(losses(other)[-1], abs=1e-4)
