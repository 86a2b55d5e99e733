import json
import math
import os
import signal
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from nnkit.cli.scaling import numbers_in
from nnkit.comm.mpiexec import find_mpi
from nnkit.comm.world import THREAD_VARIABLES
from nnkit.contracts import Communicator, Strategy, Task
from nnkit.cost.model import Line, Machine, predict
from nnkit.cost.step import Work
from nnkit.errors import UsageError
from nnkit.plugins import Entry, Registry
from nnkit.scaling import measure
from nnkit.scaling.contender import Contender
from nnkit.scaling.crossings import crossings
from nnkit.scaling.measure import lone_cases, message_of, one_thread_each
from nnkit.scaling.orders import Case, Orders
from nnkit.scaling.report import in_words
from nnkit.scaling.rows import add_efficiency, make_row
from nnkit.scaling.worker import middle_half
from tests.support.commands import Command, arguments_of, is_refusal
from tests.support.small_training import REGISTRY

FAST = Machine(Work(flops=1e-11, parameters=1e-10), Line(1e-5, 1e-9), cores=2)
ORDERS = Orders((), (), (), (), (), 1, "numpy", "cpu", "")


def has_mpi() -> bool:
    try:
        find_mpi()
    except UsageError:
        return False
    return True


class Mine:
    """A strategy of which nothing is known before it runs."""

    name = "mine"

    def strategy(self, transport: Communicator, task: Task) -> Strategy:
        raise NotImplementedError


WITH_MINE = Registry([*REGISTRY.entries, Entry("mine", "comm", distribution="mine 1", backend=Mine())])


def grid_of(comm: str, ranks: int) -> tuple[int, int] | None:
    return Contender(WITH_MINE.comm(comm), ranks).grid


def row_of(comm: str, ranks: int, hidden: int, seconds: float) -> dict[str, Any]:
    return {"comm": comm, "ranks": ranks, "hidden": hidden, "seconds": seconds}


@pytest.mark.parametrize(("under_way", "hidden"), [(1.0, 1e-5 + 1e-9 * 4 * 1010), (1e-6, 1e-6)])
def test_no_more_is_hidden_than_sums_take(under_way: float, hidden: float) -> None:
    """The sum of the last layer's gradient: 100 x 10 weights, 10 biases; that of the first is waited for."""
    measured = {
        "seconds": 2.0,
        "exposed_seconds": 0.5,
        "hidden_seconds": under_way,
        "bytes": [1],
        "sums": 2,
    }
    found = make_row(Contender(REGISTRY.comm("data"), 2), Case("data", (100,), 800), measured, FAST)
    assert found["hidden_seconds"] == pytest.approx(hidden)
    assert found["compute_seconds"] == 1.5


def test_of_several_rounds_the_least_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    def found(number: int) -> dict[str, Any]:
        first, second = (3.0, 1.0) if number == 0 else (2.0, 4.0)
        return {
            "device": "cpu",
            "overlap": 0.1 * number,
            "cases": [{"seconds": first, "of": number}, {"seconds": second, "of": number}],
            "lone": [first, second],
            "paced": [],
            "sums": {"2": [[4, second], [8, first]]},
        }

    rounds = iter(range(3))
    monkeypatch.setattr(measure, "measure", lambda ranks, orders: found(next(rounds)))
    assert measure.measure_least(2, ORDERS, 3) == {
        "device": "cpu",
        "overlap": 0.1,
        "cases": [{"seconds": 2.0, "of": 1}, {"seconds": 1.0, "of": 0}],
        "lone": [2.0, 1.0],
        "paced": [],
        "sums": {"2": [[4, 1.0], [8, 2.0]]},
    }


# -- end to end ----------------------------------------------------------------------------------------------


def test_one_rank_needs_no_mpi(nnkit: Command, tmp_path: Path) -> None:
    result = nnkit(
        *("scaling", "--ranks", 1, "--hidden", 10, "--batch", 20, "--steps", 4, "--json"),
        env={"PATH": str(tmp_path)},
    )
    assert result.status == 0, result
    (row,) = json.loads(result.stdout)["rows"]
    assert (row["comm"], row["ranks"], row["bytes"], row["efficiency"]) == ("none", 1, 0, 1)
    assert result.stderr.splitlines() == ["measuring 1 rank"]


def test_ctrl_c_is_told_once() -> None:
    arguments = arguments_of("scaling", "--ranks", 1, "--hidden", 100, "--steps", 100_000)
    with subprocess.Popen(arguments, stderr=subprocess.PIPE, text=True, start_new_session=True) as process:
        assert process.stderr is not None
        assert process.stderr.readline() == "measuring 1 rank\n"
        # As the terminal does: to all processes of the foreground.
        os.killpg(process.pid, signal.SIGINT)
        assert process.communicate(timeout=20)[1] == "nnkit: stopped\n"
        assert process.returncode == 130


@pytest.mark.slow
@pytest.mark.skipif(not has_mpi(), reason="needs mpiexec")
def test_two_ranks_end_to_end(nnkit: Command, tmp_path: Path) -> None:
    plot = tmp_path / "scaling.png"
    result = nnkit(
        *("scaling", "--ranks", "1,2", "--hidden", "10,30", "--batch", 20, "--steps", 8, "--rounds", 2),
        *("--json", "--plot", plot),
    )
    assert result.status == 0, result
    document = json.loads(result.stdout)
    rows = {(row["comm"], row["ranks"], row["hidden"]): row for row in document["rows"]}
    assert len(rows) == len(document["rows"]) == 2 + 3 * 2
    for (comm, ranks, hidden), row in rows.items():
        assert row["grid"] == {"none": [1, 1], "data": [2, 1], "model": [1, 2], "hybrid": [2, 1]}[comm]
        whole = 4 * (785 * hidden + 11 * hidden - hidden + 10)
        assert row["bytes"] == {"none": 0, "data": whole, "model": 20 * 10 * 4, "hybrid": whole}[comm]
        assert row["seconds"] == pytest.approx(row["compute_seconds"] + row["exposed_seconds"])
        assert row["seconds"] > 0
        assert row["hidden_seconds"] >= 0
        assert row["predicted"]["bytes"] == row["bytes"]
        assert row["error"] == pytest.approx(row["predicted"]["seconds"] / row["seconds"] - 1)
        alone = rows["none", 1, hidden]["seconds"]
        assert row["efficiency"] == pytest.approx(alone / row["seconds"] / ranks)
        assert row["oversubscribed"] == (ranks > document["cores"])
    assert {(each["of"], each["source"]) for each in document["crossings"]} == {
        ("time", "measured"),
        ("time", "predicted"),
        ("bytes", "exact"),
    }
    assert set(document["machines"]) == {"1", "2"}
    assert plot.read_bytes().startswith(b"\x89PNG")
    assert plot.stat().st_size > 20_000
    lines = in_words(document).splitlines()
    assert len([line for line in lines if line.startswith(("data", "model", "hybrid", "none"))]) == 8


@pytest.mark.skipif(not has_mpi(), reason="needs mpiexec")
def test_what_fails_on_the_ranks_is_one_line(nnkit: Command, tmp_path: Path) -> None:
    """The backend is there, and does not serve the device: the ranks find that."""
    arguments = ("--ranks", "1,2", "--hidden", 10, "--batch", 20, "--steps", 2, "--device", "nowhere")
    result = nnkit("scaling", *arguments)
    assert (result.status, result.stdout) == (2, "")
    assert [line for line in result.stderr.splitlines() if line.startswith("nnkit: ")] == (
        result.stderr.splitlines()[-1:]
    )
    assert "nowhere" in result.stderr


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--ranks", "0,2"), ("--ranks 0,2", "1,2,4")),
        (("--ranks", "two"), ("--ranks two",)),
        (("--hidden", "100,,"), ("--hidden 100,,",)),
        (("--batch", 0), ("--batch 0",)),
        (("--steps", 0), ("--steps 0",)),
        (("--comm", "nobody"), ("nobody", "known")),
        (("--comm", "none"), ("--comm none",)),
        (("--backend", "nobody"), ("nobody",)),
        (("--batch", 4, "--ranks", 8), ("--batch 4", "8 ranks")),
        (("--plot", "picture.txt"), ("picture.txt", ".png")),
        (("--plot", "no/such/folder.png"), ("folder.png",)),
    ],
)
def test_refusals(main: Command, arguments: tuple[object, ...], words: tuple[str, ...]) -> None:
    assert is_refusal(main("scaling", *arguments), *words)


def test_inside_mpirun_it_is_refused(main: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMPI_COMM_WORLD_RANK", "0")
    monkeypatch.setenv("OMPI_COMM_WORLD_SIZE", "2")
    assert is_refusal(main("scaling", "--ranks", 2), "mpirun")


# -- the parts -----------------------------------------------------------------------------------------------


def test_numbers_come_once_and_in_order() -> None:
    assert numbers_in("--ranks", "4,1,2,4", 8) == [1, 2, 4]


def test_the_grids_of_the_strategies() -> None:
    assert [grid_of("hybrid", ranks) for ranks in (2, 4, 6, 8, 16)] == [
        (2, 1),
        (2, 2),
        (3, 2),
        (4, 2),
        (4, 4),
    ]
    assert (grid_of("data", 4), grid_of("model", 4), grid_of("mine", 4)) == ((4, 1), (1, 4), None)


def test_orders_survive_the_way_to_the_ranks() -> None:
    case = Case("hybrid", (10, 20), 8, (2, 1))
    orders = Orders((case,), (Case("none", (5,), 4),), (), ((2, 1),), (4, 8), 3, "numpy", "cpu", "out")
    assert Orders.from_text(orders.to_text()) == orders


def test_the_middle_half_leaves_outliers_out_and_adds_up() -> None:
    series = np.array([[9.0, 8.0, 0.0], [2.0, 0.5, 1.0], [3.0, 0.5, 3.0], [0.1, 0.0, 0.0]])
    assert middle_half(series) == [2.5, 0.5, 2.0]
    assert middle_half(series[:1]) == [9.0, 8.0, 0.0]


def test_lone_cases_are_shaped_as_the_parts_of_the_grids() -> None:
    cases = lone_cases([(100,), (4000,)], 800, [(4, 1), (1, 4)], 20)
    assert {(200, (4000,)), (800, (1000,)), (800, (25,))} <= {(case.batch, case.hidden) for case in cases}
    assert len(lone_cases([(100,), (4000,)], 800, [(4, 1), (1, 4)], 4)) == 4
    assert len(lone_cases([(1,)], 1, [(1, 1)], 4)) == 1


def test_a_message_is_found_from_sums_over_more_ranks() -> None:
    message = Line(1e-5, 1e-9)
    machine = Machine(Work(), message)
    slope = machine.sum_seconds(2_000_000, 8) - machine.sum_seconds(1_000_000, 8)
    large = Line(machine.sum_seconds(1_000_000, 8) - slope, slope / 1_000_000)
    found = message_of(8, large)
    assert [found.alpha, found.beta] == pytest.approx([message.alpha, message.beta])
    assert message_of(2, message) == message


def test_every_rank_gets_one_thread_unless_the_user_says_otherwise(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in THREAD_VARIABLES:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv(THREAD_VARIABLES[0], "3")
    with one_thread_each():
        assert [os.environ[name] for name in THREAD_VARIABLES] == ["3", "1", "1", "1"]
    assert [os.environ.get(name) for name in THREAD_VARIABLES] == ["3", None, None, None]


def test_efficiency_counts_ranks_and_cores() -> None:
    rows = [row_of("none", 1, 10, 8.0), row_of("data", 4, 10, 4.0)]
    add_efficiency(rows, 2)
    assert (rows[1]["speedup"], rows[1]["efficiency"], rows[1]["core_efficiency"]) == (2.0, 0.5, 1.0)


def test_crossings_are_interpolated_on_logarithmic_scales() -> None:
    """Data costs in proportion to n^2, model to n: they meet at n = 100 exactly."""
    rows = [row_of("data", 2, n, n * n / 100) for n in (10, 1000)]
    rows += [row_of("model", 2, n, float(n)) for n in (10, 1000)]
    measured, predicted, bytes_ = crossings(rows, 800, {2: FAST}, WITH_MINE)
    assert measured == {
        **{"ranks": 2, "first": "data", "second": "model", "of": "time", "source": "measured"},
        **{"hidden": 100, "cheaper_below": True},
    }
    # 4 (785 n + 10 n + 10) bytes against 32,000: from n = 11 on data sums more.
    assert (bytes_["hidden"], bytes_["cheaper_below"]) == (11, True)
    width = predicted["hidden"]
    assert width is not None
    for near, sign in ((width - width // 4, -1), (width + width // 4, 1)):
        seconds = []
        for comm, grid in {"data": (2, 1), "model": (1, 2)}.items():
            step = Contender(REGISTRY.comm(comm), 2).step((near,), 800)
            assert step is not None
            seconds.append(predict(step, grid, FAST).seconds)
        assert math.copysign(1, seconds[0] - seconds[1]) == sign


def test_strategies_that_do_not_cross_say_so() -> None:
    rows = [
        row_of(comm, 2, n, seconds) for comm, seconds in (("data", 2.0), ("mine", 1.0)) for n in (10, 100)
    ]
    (measured,) = crossings(rows, 800, {2: FAST}, WITH_MINE)
    assert (measured["hidden"], measured["cheaper_below"]) == (None, False)


def test_one_grid_under_two_names_is_no_pair() -> None:
    rows = [row_of(comm, 2, 10, 1.0) for comm in ("data", "hybrid")]
    assert crossings(rows, 800, {2: FAST}, WITH_MINE) == []
    rows = [row_of(comm, 2, 10, 1.0) for comm in ("data", "model", "hybrid")]
    pairs = {(each["first"], each["second"]) for each in crossings(rows, 800, {2: FAST}, WITH_MINE)}
    assert pairs == {("data", "model")}
