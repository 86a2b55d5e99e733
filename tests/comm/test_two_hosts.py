import ast
import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from nnkit.train.checkpoints import load_checkpoint
from tests.support.places import ROOT

SCRIPT = ROOT / "tools" / "two_hosts"
MAKE = ["unshare", "--mount", "--net", "--uts", "--pid", "--fork", "--kill-child", "--mount-proc"]


def why_not() -> str | None:
    """Why two hosts cannot be made here."""
    if sys.platform != "linux" or os.geteuid() != 0:
        return "networks are made by root, on Linux"
    if missing := [tool for tool in ("ip", "unshare", "mount") if shutil.which(tool) is None]:
        return f"needs {', '.join(missing)}"
    if " " in sys.prefix:
        return "Open MPI cannot start ranks on another host from a folder with a space"
    probe = [*MAKE, "sh", "-c", "mount -t tmpfs tmpfs /run && ip netns add two"]
    if subprocess.run(probe, capture_output=True, check=False).returncode:
        return "namespaces cannot be made here"
    return None


WHY_NOT = why_not()
needs_hosts = pytest.mark.skipif(WHY_NOT is not None, reason=WHY_NOT or "")

WHERE = """
import os, socket, numpy as np
from mpi4py import MPI
comm = MPI.COMM_WORLD
total = np.full(1000, float(comm.rank + 1))
comm.Allreduce(MPI.IN_PLACE, total)
cable = next(line for line in open("/proc/net/dev") if "cable" in line)
sent = int(cable.partition(":")[2].split()[8])
all = comm.gather((socket.gethostname(), float(total[0]), sent > 8000, os.environ["OMP_NUM_THREADS"]))
if comm.rank == 0:
    print(all)
"""

RACE = re.compile(r"^\[.*\] plm:ssh: Warning: setpgid\(.*\n", re.MULTILINE)
"""What Open MPI says where the agent was quicker than its parent; it does no harm."""


def run(*arguments: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run([SCRIPT, *arguments], capture_output=True, text=True, check=False, timeout=60)


def two_hosts(*arguments: str) -> list[tuple[str, float, bool, str]]:
    done = run(*arguments, sys.executable, "-c", WHERE)
    assert (done.returncode, RACE.sub("", done.stderr)) == (0, "")
    found: list[tuple[str, float, bool, str]] = ast.literal_eval(done.stdout)
    return found


@needs_hosts
def test_two_ranks_meet_over_the_cable() -> None:
    assert two_hosts() == [("one", 3.0, True, "1"), ("two", 3.0, True, "1")]


@needs_hosts
def test_more_ranks_are_halved() -> None:
    assert [host for host, *_ in two_hosts("-n", "4")] == ["one", "one", "two", "two"]


@needs_hosts
def test_the_exit_status_is_that_of_the_ranks() -> None:
    assert run("sh", "-c", "exit 3").returncode == 3


def left() -> str:
    """The network that somebody can see besides those inside."""
    return subprocess.run(["ip", "netns"], capture_output=True, text=True, check=True).stdout


@needs_hosts
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGKILL])
def test_nothing_is_left_behind(number: signal.Signals) -> None:
    command = [str(SCRIPT), "sh", "-c", "echo ready; sleep 60"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert [process.stdout.readline() for _ in range(2)] == ["ready\n"] * 2
        process.send_signal(number)
        # The end: nobody holds the other side of the pipe, neither the script nor what it has started.
        assert process.stdout.read() == ""
    assert not left()
    assert process.returncode == (-number if number == signal.SIGKILL else 128 + number)


def test_a_wrong_call_is_one_line() -> None:
    for arguments, word in ((), "COMMAND"), (("-n", "many", "true"), "many"), (("--what", "true"), "--what"):
        done = run(*arguments)
        assert done.returncode == 2
        assert done.stdout == ""
        assert len(done.stderr.splitlines()) == 1, done.stderr
        assert done.stderr.startswith("tools/two_hosts: ")
        assert word.lower() in done.stderr.lower()


def test_without_root_or_tools_it_says_so(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, SCRIPT, "true"],
        env={"PATH": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert len(done.stderr.splitlines()) == 1, done.stderr
    assert "needs" in done.stderr


@needs_hosts
def test_training_over_the_cable(small_data: Path, tmp_path: Path) -> None:
    """Two hosts come to what one rank comes to."""
    common = ["train", "--data", str(small_data), "--epochs", "2", "--batch", "20", "--quiet", "--checkpoint"]
    done = run("nnkit", *common, str(tmp_path / "two"), "--comm", "data")
    assert done.returncode == 0, done.stderr
    subprocess.run([sys.executable, "-m", "nnkit", *common, str(tmp_path / "one")], check=True, timeout=60)
    two, one = (load_checkpoint(tmp_path / name).parameters for name in ("two", "one"))
    for theirs, mine in zip(two, one, strict=True):
        for a, b in zip(theirs, mine, strict=True):
            np.testing.assert_allclose(a, b, atol=1e-5)
