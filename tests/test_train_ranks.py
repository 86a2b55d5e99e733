"""`nnkit train --ranks N` with real MPI: the result of one rank, one voice, one outcome."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from conftest import AS_ROOT, TRAIN, Command, Result, arguments_of, is_one_line, is_refusal, lines_of
from test_cli_train import DONE_FIELDS, EPOCH_FIELDS, same_parameters
from test_launch import gone, needs_mpi

from nnkit.train.checkpoints import Checkpoint, load_checkpoint

pytestmark = [needs_mpi, pytest.mark.usefixtures("outside_mpi")]

PLUGIN = """
import os, signal, time
from nnkit.errors import UsageError
from nnkit.hookspecs import hookimpl

class Disturbed:
    name = "disturbed"
    devices = frozenset({"cpu"})
    dtypes = frozenset({"float32", "float64"})
    calls = 0

    def gemm(self, a, b, c, *, alpha=1.0, beta=0.0, trans_a=False, trans_b=False):
        left, right = (x.host.T if t else x.host for x, t in ((a, trans_a), (b, trans_b)))
        before = beta * c.host if beta else 0
        c.host[...] = alpha * (left @ right) + before
        self.calls += 1
        rank = int(os.environ.get("OMPI_COMM_WORLD_RANK", "0"))
        if str(rank) in os.environ["WHO"] and self.calls == int(os.environ["CALL"]):
            disturb(b, rank)

@hookimpl
def nnkit_gemm_backends():
    return [Disturbed()]

def disturb(b, rank):
    """

Disturb = Callable[..., dict[str, str]]


@pytest.fixture
def disturb(tmp_path: Path) -> Disturb:
    """`disturb(statement, who, call)`: the environment in which those ranks' backend does it in that call."""

    def install(statement: str, who: int | str = 1, call: int = 5) -> dict[str, str]:
        site = tmp_path / "site"
        info = site / "fake_disturbed-1.2.dist-info"
        info.mkdir(parents=True)
        (site / "fake_plugin_disturbed.py").write_text(PLUGIN + statement, "utf-8")
        (info / "METADATA").write_text("Metadata-Version: 2.1\nName: fake-disturbed\nVersion: 1.2\n", "utf-8")
        (info / "entry_points.txt").write_text("[nnkit]\ndisturbed = fake_plugin_disturbed\n", "utf-8")
        return {"PYTHONPATH": str(site), "WHO": str(who), "CALL": str(call)}

    return install


@pytest.fixture
def train(nnkit: Command, small_data: Path) -> Command:
    """`train(...)` on the small data."""

    def run(*arguments: object, env: dict[str, str] | None = None) -> Result:
        return nnkit("train", "--data", small_data, *arguments, env=env)

    return run


def difference(one: Checkpoint, other: Checkpoint) -> float:
    """The largest one between two networks' parameters."""
    pairs = zip(one.parameters, other.parameters, strict=True)
    return max(
        float(np.abs(x - y).max()) for mine, theirs in pairs for x, y in zip(mine, theirs, strict=True)
    )


def losses(checkpoint: Checkpoint) -> list[list[float]]:
    """What was computed in every epoch."""
    names = ("epoch", "train_loss", "validation_loss", "validation_accuracy")
    return [[record[name] for name in names] for record in checkpoint.position.history]


def is_same(one: Checkpoint, other: Checkpoint) -> bool:
    """Whether two runs came to the same, but for rounding."""
    assert difference(one, other) < 1e-5
    for mine, theirs in zip(losses(one), losses(other), strict=True):
        assert mine == pytest.approx(theirs, abs=1e-5)
    return True


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


def test_deterministic_runs_are_equal_bit_for_bit(train: Command, tmp_path: Path) -> None:
    common = ("--comm", "data", "--ranks", 3, "--epochs", 3, "--batch", 37, "--quiet", "--deterministic")
    places = tmp_path / "one", tmp_path / "other"
    for place in places:
        assert train(*common, "--checkpoint", place).status == 0
    one, other = map(load_checkpoint, places)
    assert same_parameters(one, other)
    assert losses(one) == losses(other)


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
    again = f"train --checkpoint {saved} --resume --data {small_data} --comm model --ranks 2"
    assert result.stderr.startswith("stopped in epoch ")
    assert result.stderr.endswith(f"go on with: nnkit {again}\n")
    assert result.stderr.count("\n") == 1
    position = load_checkpoint(saved).position
    assert len(position.history) == position.epoch >= 1
    last = ("--epochs", position.epoch + 1, "--quiet")
    assert nnkit(*again.split(), *last).status == 0
    assert main("train", "--data", small_data, *shape, straight, *last).status == 0
    one, other = load_checkpoint(saved), load_checkpoint(straight)
    assert difference(one, other) < 1e-4
    assert losses(one)[-1] == pytest.approx(losses(other)[-1], abs=1e-4)


@pytest.mark.parametrize(
    ("statement", "rank", "status", "words"),
    [
        ("raise UsageError('no such tile')", 1, 2, "nnkit: rank 1: no such tile"),
        ("raise UsageError('no such tile')", 0, 2, "nnkit: rank 0: no such tile"),
        ("raise RuntimeError('bad\\nluck')", 1, 1, "nnkit: rank 1 failed: RuntimeError: bad luck"),
        ("raise MemoryError", 1, 2, "nnkit: rank 1: out of memory: MemoryError: give a smaller"),
        ("raise KeyboardInterrupt", 1, 130, "nnkit: rank 1: stopped"),
        ("os.kill(os.getpid(), signal.SIGKILL)", 1, 137, "was killed by signal 9; the others were ended"),
        ("os._exit(3)", 1, 3, "rank 1 has ended with status 3; the others were ended"),
        ("os._exit(0)", 1, 1, "has left before the run was complete; the others were ended"),
    ],
)
def test_what_one_rank_meets_ends_all(
    train: Command, disturb: Disturb, statement: str, rank: int, status: int, words: str
) -> None:
    begun = time.monotonic()
    result = train(
        *("--comm", "data", "--ranks", 2, "--backend", "disturbed", "--quiet"), env=disturb(statement, rank)
    )
    assert time.monotonic() - begun < 10
    assert (result.status, result.stdout) == (status, ""), result
    *trace, line = result.stderr.splitlines()
    assert line.startswith("nnkit: rank ")
    assert words in line
    # Who wrote the plugin wants to see where; nobody else's trouble needs that.
    expected = 1 if " failed: " in words else 0
    assert sum(text.startswith("Traceback") for text in trace) == expected
    assert expected or not trace, result.stderr


@pytest.mark.parametrize("elastic", [(), ("--elastic",)])
@pytest.mark.parametrize(
    ("statement", "who", "expected"),
    [
        ("raise RuntimeError('bad luck')", "0123", "nnkit: rank 0 failed: RuntimeError: bad luck"),
        ("raise UsageError('no such tile')", "0123", "nnkit: rank 0: no such tile"),
        ("time.sleep(0.2 * (rank == 2))\n    raise UsageError('tile')", "23", "nnkit: rank 2: tile"),
    ],
)
def test_what_many_ranks_meet_is_said_once(
    train: Command, disturb: Disturb, statement: str, who: str, expected: str, elastic: tuple[str, ...]
) -> None:
    begun = time.monotonic()
    result = train(
        *("--comm", "data", "--ranks", 4, "--backend", "disturbed", "--quiet", *elastic),
        env=disturb(statement, who),
    )
    assert time.monotonic() - begun < 10
    goes_on = bool(elastic) and who != "0123"
    assert result.status == (0 if goes_on else 1 if " failed" in expected else 2), result
    (line,) = [line for line in result.stderr.splitlines() if line.startswith("nnkit: ")]
    assert expected in line
    assert result.stderr.count("Traceback") == expected.count(" failed")
    assert goes_on == (" going on with 2 from " in result.stderr)


def test_who_fails_later_than_others_adds_nothing(train: Command, disturb: Disturb) -> None:
    late = disturb("time.sleep(1.4 * (rank == 0))\n    raise UsageError(f'of {rank}')", "0123")
    result = train("--comm", "data", "--ranks", 4, "--backend", "disturbed", "--quiet", env=late)
    assert is_refusal(result, "nnkit: rank 1: of 1")


@pytest.mark.parametrize("by", ["--hostfile", "mpirun"])
def test_the_status_of_a_run_that_fails_on_all_ranks(
    nnkit: Command, train: Command, disturb: Disturb, small_data: Path, tmp_path: Path, by: str
) -> None:
    """mpiexec knows nothing of it: for it lost ranks are no failure."""
    options = ("--comm", "data", "--backend", "disturbed", "--quiet", "--elastic")
    env = disturb("raise UsageError('no such tile')", "012")
    if by == "mpirun":
        mpirun = Path(sys.executable).with_name("mpirun")
        prefix = [str(mpirun), "--with-ft", "ulfm", "--oversubscribe", "-n", "3"]
        result = nnkit("train", "--data", small_data, *options, prefix=prefix, env={**AS_ROOT, **env})
    else:
        hosts = tmp_path / "hosts"
        hosts.write_text("localhost slots=3\n")
        result = train("--ranks", 3, "--hostfile", hosts, *options, env=env)
    assert result.status == 2, result
    assert "nnkit: rank 0: no such tile\n" in result.stderr
    assert result.stderr.count("no such tile") == 1


@pytest.mark.parametrize(
    "statement",
    [
        # In the report, when the others have nothing more to do; and when all is said.
        "import nnkit.cli.run as run; run.draw = lambda *given: os.kill(os.getpid(), signal.SIGKILL)",
        "from nnkit.comm.mpi import MpiTransport as T; T.leave = lambda *given: os.kill(os.getpid(), 9)",
    ],
)
def test_a_first_rank_lost_at_the_end_loses_nothing(
    train: Command, disturb: Disturb, statement: str, tmp_path: Path
) -> None:
    plot, metrics = tmp_path / "plot.png", tmp_path / "metrics.jsonl"
    result = train(
        *("--elastic", "--comm", "data", "--ranks", 3, "--backend", "disturbed", "--epochs", 2, "--json"),
        *("--plot", plot, "--metrics", metrics),
        env=disturb(statement, 0, call=1),
    )
    assert result.status == 0, result
    assert json.loads(result.stdout)["ranks"] == (2 if "draw" in statement else 3)
    assert plot.exists()
    assert [record.get("epoch") for record in lines_of(metrics)] == [1, 2, None]


@pytest.mark.parametrize("elastic", [(), ("--elastic",)])
def test_a_file_that_cannot_be_written_ends_the_run_for_all(
    train: Command, disturb: Disturb, elastic: tuple[str, ...], tmp_path: Path
) -> None:
    folder = tmp_path / "saved"
    remove = f"import shutil; shutil.rmtree({str(folder)!r}); open({str(folder)!r}, 'w').close()"
    result = train(
        *(
            "--comm",
            "data",
            "--ranks",
            3,
            "--backend",
            "disturbed",
            "--quiet",
            "--checkpoint",
            folder,
            *elastic,
        ),
        env=disturb(remove, 0, call=20),
    )
    assert is_refusal(result, f"nnkit: cannot write a checkpoint to {folder}", "give a directory")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a disk that is always full")
@pytest.mark.parametrize("elastic", [(), ("--elastic",)])
def test_a_full_disk_is_told_once(train: Command, elastic: tuple[str, ...]) -> None:
    result = train("--comm", "model", "--ranks", 3, "--metrics", "/dev/full", *elastic)
    assert result.status == 2
    assert is_one_line(result, "nnkit: --metrics /dev/full: cannot write: No space left on device")


def test_a_rank_lost_before_training_ends_all(train: Command, disturb: Disturb) -> None:
    """Rank 2 dies in a meeting that rank 0 takes for complete: it must not go on while rank 1 gives up."""
    dying = """pass

from nnkit.train.ranks import Ranks
everybody = Ranks.all

def all_(self, flag):
    if os.environ["OMPI_COMM_WORLD_RANK"] == "2":
        from nnkit.comm import mail, ordered
        import numpy as np
        calls, letter = self.transport._calls, mail._packed(flag)
        tag = mail.FIRST_TAG + 2 * (calls._calls % mail.TAGS)
        sent = [calls.comm.Isend(np.array([letter.size]), 0, tag), calls.comm.Isend(letter, 0, tag + 1)]
        ordered.complete(sent)
        time.sleep(0.3)
        os.kill(os.getpid(), signal.SIGKILL)
    return everybody(self, flag)

Ranks.all = all_
"""
    result = train(
        "--comm", "data", "--ranks", 3, "--backend", "disturbed", "--elastic", "--quiet", env=disturb(dying)
    )
    assert result.status == 1
    assert is_one_line(result, "nnkit: a rank was lost before training began: start again")


def test_failures_of_different_kinds_are_all_told(train: Command, disturb: Disturb) -> None:
    result = train(
        *("--comm", "data", "--ranks", 4, "--backend", "disturbed", "--quiet", "--elastic"),
        env=disturb("raise (ValueError if rank == 1 else KeyError)('here')", "123"),
    )
    assert result.status == 0, result
    said = {line for line in result.stderr.splitlines() if line.startswith("nnkit: ")}
    assert said == {"nnkit: rank 1 failed: ValueError: here", "nnkit: rank 2 failed: KeyError: 'here'"}
    assert result.stderr.count("Traceback") == 2


@pytest.mark.parametrize("paranoid", [0, 2])
def test_a_rank_that_computes_another_network_is_found(
    train: Command, disturb: Disturb, paranoid: int, tmp_path: Path
) -> None:
    # The fourth product of a step with two layers is the gradient of the hidden layer's output.
    corrupt = "assert b.host.shape == (10, 20)\n    b.host[3, 4] += 1e-3"
    result = train(
        *("--comm", "data", "--ranks", 3, "--backend", "disturbed", "--quiet", "--hidden", 20),
        *("--epochs", 2, "--batch", 50, "--paranoid", paranoid),
        env=disturb(corrupt, call=4),
    )
    assert (result.status, result.stdout) == (1, "")
    assert is_one_line(result, "the weight of layer 1 differs between rank 0 and rank 1")


@pytest.mark.parametrize(("comm", "victim"), [("data", 0), ("model", 1)])
def test_elastic_goes_on_without_a_killed_rank(
    train: Command,
    disturb: Disturb,
    main: Command,
    small_data: Path,
    tmp_path: Path,
    comm: str,
    victim: int,
) -> None:
    saved, straight, metrics = tmp_path / "saved", tmp_path / "straight", tmp_path / "metrics.jsonl"
    shape = ("--hidden", 30, "--batch", 37, "--epochs", 3, "--lr", 0.3, "--checkpoint")
    assert main("train", "--data", small_data, *shape, straight).status == 0
    result = train(
        *("--elastic", "--comm", comm, "--ranks", 3, *shape, saved, "--backend", "disturbed"),
        *("--metrics", metrics, "--json"),
        env=disturb("os.kill(os.getpid(), signal.SIGKILL)", victim, call=60),
    )
    assert result.status == 0, result
    assert is_same(load_checkpoint(saved), load_checkpoint(straight))
    done = json.loads(result.stdout)
    assert (done["ranks"], done["lost_ranks"]) == (2, 1)
    assert result.stderr.count("lost 1 of 3 ranks; going on with 2 from epoch ") == 1
    assert "Traceback" not in result.stderr
    assert [record.get("epoch") for record in lines_of(metrics)] == [1, 2, 3, None]


@pytest.mark.parametrize(
    ("call", "where"), [(6, "validation"), (13, "validation of the last epoch"), (15, "test")]
)
def test_a_loss_outside_of_the_steps_is_told(train: Command, disturb: Disturb, call: int, where: str) -> None:
    """One step an epoch: five products, then two of the validation; at the end two of the test."""
    result = train(
        *("--elastic", "--comm", "data", "--ranks", 3, "--backend", "disturbed", "--epochs", 2),
        *("--batch", TRAIN - 30, "--validation-fraction", 30 / TRAIN, "--lr", 0.1),
        env=disturb("os.kill(os.getpid(), signal.SIGKILL)", 0, call=call),
    )
    assert result.status == 0, result
    assert result.stderr.count("lost 1 of 3 ranks; going on with 2 from epoch ") == 1
    told = [line for line in result.stdout.splitlines() if line.startswith("epoch ")]
    assert [line.split()[1] for line in told] == ["1/2", "2/2"], result.stdout
    assert result.stdout.count("test accuracy") == 1
