"""What ends ranks of `nnkit train`, and what the others then do and say; with real MPI."""

import json
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from nnkit.train.checkpoints import load_checkpoint
from tests.support.commands import AS_ROOT, Command, is_one_line, is_refusal, lines_of
from tests.support.disturbed import Disturb
from tests.support.idx_files import TRAIN
from tests.support.mpi import needs_mpi
from tests.support.results import is_same

pytestmark = [needs_mpi, pytest.mark.usefixtures("outside_mpi")]

EndsSoon = Callable[[float, int], bool]


@pytest.fixture
def ends_soon(train: Command) -> EndsSoon:
    """`ends_soon(begun, ranks)`: whether a run that began then has ended at once, and waited for nobody.

    That is within 10 seconds; on a busy machine, within four times what an undisturbed run takes there.
    """

    def judge(begun: float, ranks: int) -> bool:
        took = time.monotonic() - begun
        if took < 10:
            return True
        begun = time.monotonic()
        assert train("--comm", "data", "--ranks", ranks, "--quiet").status == 0
        return took < 4 * (time.monotonic() - begun)

    return judge


@pytest.mark.slow
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
    train: Command,
    disturb: Disturb,
    ends_soon: EndsSoon,
    statement: str,
    rank: int,
    status: int,
    words: str,
) -> None:
    begun = time.monotonic()
    result = train(
        *("--comm", "data", "--ranks", 2, "--backend", "disturbed", "--quiet"), env=disturb(statement, rank)
    )
    assert ends_soon(begun, 2)
    assert (result.status, result.stdout) == (status, ""), result
    *trace, line = result.stderr.splitlines()
    assert line.startswith("nnkit: rank ")
    assert words in line
    # Who wrote the plugin wants to see where; nobody else's trouble needs that.
    expected = 1 if " failed: " in words else 0
    assert sum(text.startswith("Traceback") for text in trace) == expected
    assert expected or not trace, result.stderr


@pytest.mark.slow
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
    train: Command,
    disturb: Disturb,
    ends_soon: EndsSoon,
    statement: str,
    who: str,
    expected: str,
    elastic: tuple[str, ...],
) -> None:
    begun = time.monotonic()
    result = train(
        *("--comm", "data", "--ranks", 4, "--backend", "disturbed", "--quiet", *elastic),
        env=disturb(statement, who),
    )
    assert ends_soon(begun, 4)
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


def test_a_rank_lost_while_the_first_one_reports_does_not_repeat_it(
    train: Command, disturb: Disturb, tmp_path: Path
) -> None:
    """Rank 1 has nothing to do then but to agree that it is done."""
    dying = """from nnkit.train.ranks import Ranks
    regular = Ranks.first_does
    def first_does(self, action):
        regular(self, action)
        if "_test_and_report" in action.__qualname__:
            os.kill(os.getpid(), signal.SIGKILL)
    Ranks.first_does = first_does"""
    metrics = tmp_path / "metrics.jsonl"
    result = train(
        *("--elastic", "--comm", "data", "--ranks", 3, "--backend", "disturbed", "--epochs", 2, "--json"),
        *("--metrics", metrics),
        env=disturb(dying, 1, call=1),
    )
    assert result.status == 0, result
    assert json.loads(result.stdout)["event"] == "done"
    assert [record.get("epoch") for record in lines_of(metrics)] == [1, 2, None]
    assert "lost 1 of 3 ranks" in result.stderr


@pytest.mark.parametrize("statement", ["raise KeyboardInterrupt", "os.kill(os.getpid(), signal.SIGSEGV)"])
def test_whatever_ends_one_of_many_ranks_the_others_go_on(
    train: Command, disturb: Disturb, statement: str
) -> None:
    result = train(
        *("--elastic", "--comm", "model", "--ranks", 5, "--backend", "disturbed", "--epochs", 2, "--quiet"),
        env=disturb(statement, 2, call=9),
    )
    assert result.status == 0, result
    *said, told = result.stderr.splitlines()
    assert told.startswith("lost 1 of 5 ranks; going on with 4 from epoch 1, step ")
    # The stack of a crash in C code, which MPI writes, is nothing to a user.
    assert said == (["nnkit: rank 2: stopped"] if "Keyboard" in statement else [])


@pytest.mark.parametrize("elastic", [(), ("--elastic",)])
def test_a_file_that_cannot_be_written_ends_the_run_for_all(
    train: Command, disturb: Disturb, elastic: tuple[str, ...], tmp_path: Path
) -> None:
    folder = tmp_path / "saved"
    remove = f"import shutil; shutil.rmtree({str(folder)!r}); open({str(folder)!r}, 'w').close()"
    result = train(
        *("--comm", "data", "--ranks", 3, "--backend", "disturbed", "--quiet"),
        *("--checkpoint", folder, *elastic),
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

import numpy as np
from nnkit.comm import ordered, point_to_point
from nnkit.comm.mpi import MpiTransport
from nnkit.train.ranks import Ranks

def exchange(transport, item):
    calls, letter = transport._calls, point_to_point._packed(item)
    tag = point_to_point.FIRST_TAG + 2 * (calls._calls % point_to_point.TAGS)
    sent = [calls.comm.Isend(np.array([letter.size]), 0, tag), calls.comm.Isend(letter, 0, tag + 1)]
    ordered.complete(sent)
    time.sleep(0.3)
    os.kill(os.getpid(), signal.SIGKILL)

def partition(self):
    MpiTransport.exchange = exchange
    regular(self)

if os.environ["OMPI_COMM_WORLD_RANK"] == "2":
    regular, Ranks.partition = Ranks.partition, partition
"""
    result = train(
        "--comm", "data", "--ranks", 3, "--backend", "disturbed", "--elastic", "--quiet", env=disturb(dying)
    )
    assert result.status == 1
    assert is_one_line(result, "nnkit: a rank was lost before training began: start again")


def test_where_to_go_on_from_is_said_after_a_kill(train: Command, disturb: Disturb, tmp_path: Path) -> None:
    kill = disturb("os.kill(os.getpid(), signal.SIGKILL)", "01", call=300)
    cure = f"{tmp_path}/saved keeps the last checkpoint, so go on with --checkpoint {tmp_path}/saved --resume"
    for elastic, status, first in (
        ((), 137, "nnkit: rank "),
        (("--elastic",), 1, "nnkit: all ranks were lost"),
    ):
        result = train(
            *("--comm", "data", "--ranks", 2, "--backend", "disturbed", "--quiet", "--batch", 50),
            *("--checkpoint", tmp_path / "saved", *elastic),
            env=kill,
        )
        assert result.status == status
        assert is_one_line(result, first, cure)
        (tmp_path / "saved" / "checkpoint.safetensors").unlink()


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
    place = "from epoch 2, step 1" if where == "validation" else "after the last epoch"
    assert result.stderr.count(f"lost 1 of 3 ranks; going on with 2 {place}") == 1
    told = [line for line in result.stdout.splitlines() if line.startswith("epoch ")]
    assert [line.split()[1] for line in told] == ["1/2", "2/2"], result.stdout
    assert result.stdout.count("test accuracy") == 1
