import os
import shutil
import subprocess
from functools import partial
from pathlib import Path

import pytest

from tests.support.commands import Result
from tests.support.places import ROOT

SCRIPT = ROOT / "tools" / "run"
PROJECT = '[project]\nname = "tiny"\n'

SHOW = '#!/bin/sh\nprintf "<%s>\\n" "$@"\nexit 7\n'
# Notes its arguments; makes an environment of copies of itself where one is asked for.
INTERPRETER = """#!/bin/sh
printf '%s\\n' "$*" >>"$LOG"
case "$*" in
    *"-m pip "*) sleep "${PIP_TAKES-0}"; [ -z "${PIP_FAILS-}" ] ;;
    *"-m venv "*) mkdir -p "$4/bin" && cp "$0" "$4/bin/python" ;;
esac
"""
TOO_OLD = """#!/bin/sh
case "$1" in
    -c) exit 1 ;;
    --version) echo Python 3.8.1 ;;
esac
"""


def script(path: Path, text: str) -> Path:
    """Write a shell script that can be run."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, "utf-8")
    path.chmod(0o755)
    return path


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A checkout with tools/run and nothing installed."""
    root = tmp_path / "path with spaces"
    (root / "tools").mkdir(parents=True)
    shutil.copy(SCRIPT, root / "tools" / "run")
    (root / "pyproject.toml").write_text(PROJECT, "utf-8")
    return root


def make_environment(root: Path, python: str = "python3") -> None:
    """What tools/run would have made, with the command `show` in it."""
    script(root / ".venv/bin/python", "#!/bin/sh\n")
    script(root / ".venv/bin/show", SHOW)
    (root / ".venv/made-from").write_text(f"{root.resolve()}\n{python}\n{PROJECT}", "utf-8")


def run(root: Path, *arguments: str, where: Path | None = None, **environment: str) -> Result:
    """Run tools/run."""
    env = {"PATH": os.environ["PATH"], **environment}
    done = subprocess.run(
        [root / "tools" / "run", *arguments],
        capture_output=True,
        text=True,
        check=False,
        cwd=where or root,
        env=env,
        timeout=60,
    )
    return Result(done.returncode, done.stdout, done.stderr)


def is_refusal(result: Result, *words: str) -> bool:
    """Asserts status 2 and one line that has the words."""
    assert (result.status, result.stdout) == (2, ""), result
    assert result.stderr.startswith("tools/run: ")
    assert result.stderr.count("\n") == 1
    assert all(word in result.stderr for word in words), result.stderr
    return True


def test_arguments_and_status_pass_through(tree: Path) -> None:
    make_environment(tree)
    arguments = ["a b", "", "it's", '"quoted"', "*", "$HOME", "back\\slash", "-n", "--", "a\nb"]
    result = run(tree, "show", *arguments)
    assert result == Result(7, "".join(f"<{argument}>\n" for argument in arguments), "")


@pytest.mark.parametrize("cdpath", ["", "/"])
def test_it_runs_from_anywhere(tree: Path, tmp_path: Path, cdpath: str) -> None:
    make_environment(tree)
    for where in (tmp_path, tree / "tools", Path("/")):
        assert run(tree, "show", "x", where=where, CDPATH=cdpath) == Result(7, "<x>\n", "")
    # The command itself runs where it was called.
    assert run(tree, "pwd", "-P", where=tmp_path).stdout == f"{tmp_path.resolve()}\n"


def test_the_environment_is_active(tree: Path) -> None:
    make_environment(tree)
    result = run(tree, "sh", "-c", 'echo "$VIRTUAL_ENV"; command -v python')
    venv = tree.resolve() / ".venv"
    assert result.stdout.splitlines() == [str(venv), str(venv / "bin/python")]


def test_a_command_is_needed(tree: Path) -> None:
    assert is_refusal(run(tree), "give a command to run")


def test_a_missing_interpreter_is_one_line(tree: Path, tmp_path: Path) -> None:
    few = tmp_path / "bin"
    few.mkdir()
    for tool in ("sh", "dirname", "cat", "cmp"):
        (few / tool).symlink_to(str(shutil.which(tool)))
    assert is_refusal(run(tree, "show", PATH=str(few)), "python3 not found", "Python 3.11")
    nowhere = tmp_path / "nowhere"
    assert is_refusal(run(tree, "show", NNKIT_PYTHON=str(nowhere)), f"{nowhere} not found")
    assert not (tree / ".venv").exists()


def test_an_old_interpreter_is_one_line(tree: Path, tmp_path: Path) -> None:
    old = script(tmp_path / "old", TOO_OLD)
    assert is_refusal(run(tree, "show", NNKIT_PYTHON=str(old)), "too old (Python 3.8.1)", "3.11")
    assert not (tree / ".venv").exists()


def test_an_environment_is_made_once_and_anew_after_a_change(tree: Path, tmp_path: Path) -> None:
    log, python = tmp_path / "log", script(tmp_path / "an interpreter", INTERPRETER)

    def installs() -> int:
        """Run a command that succeeds; returns how often pip ran so far."""
        result = run(tree, "true", NNKIT_PYTHON=str(python), LOG=str(log))
        assert (result.status, result.stdout) == (0, "")
        lines = log.read_text("utf-8").splitlines()
        made = [line for line in lines if line.startswith("-m venv")]
        installed = [line for line in lines if line.startswith("-m pip install")]
        assert set(made) == {f"-m venv --clear {tree.resolve()}/.venv"}
        assert all(line.endswith(f"--editable {tree.resolve()}[dev]") for line in installed)
        assert len(made) == len(installed)
        return len(installed)

    assert [installs(), installs()] == [1, 1]
    (tree / "pyproject.toml").write_text(PROJECT + 'version = "2"\n', "utf-8")
    assert [installs(), installs()] == [2, 2]
    (tree / ".venv/bin/python").unlink()
    assert [installs(), installs()] == [3, 3]


@pytest.mark.skipif(shutil.which("flock") is None, reason="without flock nothing waits")
def test_of_two_that_start_at_once_one_makes_the_environment(tree: Path, tmp_path: Path) -> None:
    python, log = script(tmp_path / "python", INTERPRETER), tmp_path / "log"
    environment = {"PATH": os.environ["PATH"], "NNKIT_PYTHON": str(python), "LOG": str(log), "PIP_TAKES": "1"}
    both = [subprocess.Popen([tree / "tools" / "run", "true"], env=environment) for _ in range(2)]
    assert [process.wait(60) for process in both] == [0, 0]
    assert sum(line.startswith("-m venv ") for line in log.read_text().splitlines()) == 1


def test_a_moved_checkout_is_installed_anew(tree: Path, tmp_path: Path) -> None:
    log, python = tmp_path / "log", script(tmp_path / "interpreter", INTERPRETER)
    make_environment(tree, str(python))
    assert run(tree, "show", NNKIT_PYTHON=str(python), LOG=str(log)).status == 7
    assert not log.exists()
    moved = tree.rename(tmp_path / "elsewhere")
    run(moved, "true", NNKIT_PYTHON=str(python), LOG=str(log))
    assert f"--editable {moved.resolve()}[dev]" in log.read_text("utf-8")


def test_a_failed_installation_is_tried_again(tree: Path, tmp_path: Path) -> None:
    python = script(tmp_path / "interpreter", INTERPRETER)
    start = partial(run, tree, "true", NNKIT_PYTHON=str(python), LOG=str(tmp_path / "log"))
    failed = start(PIP_FAILS="1")
    assert failed.status == 2
    assert "pip could not install" in failed.stderr.splitlines()[-1]
    again = start()
    assert (again.status, "installing" in again.stderr) == (0, True)
