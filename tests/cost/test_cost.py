"""The cost model against cases worked out by hand and against training; its fit against known machines."""

import itertools
from collections.abc import Callable
from dataclasses import astuple

import numpy as np
import pytest

from nnkit.comm.threads import ThreadsTransport, run_ranks
from nnkit.contracts import Grid, LayerWorkload, PredictableBackend, Task, Workload
from nnkit.cost import grids as cost_grids
from nnkit.cost import model
from nnkit.cost.fit import fit_line, fit_waiting, fit_work
from nnkit.cost.grids import ASSUMED, fitting, predictable, step_in
from nnkit.cost.model import Line, Machine, Prediction
from nnkit.cost.step import Meeting, Step, Work, alone
from nnkit.cost.step import step_of as step_with
from nnkit.cost.units import bytes_in_words, parse_bandwidth, parse_latency, parse_rate, seconds_in_words
from nnkit.errors import UsageError
from nnkit.train.config import TrainConfig
from tests.support.small_training import PIXELS, REGISTRY, make

SECOND_A_FLOP = Machine(Work(flops=1.0), Line(0.0, 0.0))
GRIDS = {"data": (4, 1), "model": (1, 4), "hybrid": (2, 2)}


def known(comm: str) -> PredictableBackend:
    found = predictable(REGISTRY.comm(comm))
    assert found is not None
    return found


HYBRID = known("hybrid")


def step_of(sizes: tuple[int, ...], batch: int, grid: Grid = (1, 1), rank: int | None = None) -> Step:
    return step_in(HYBRID, Task(sizes, batch), grid, rank)


def predict(sizes: tuple[int, ...], batch: int, grid: Grid, machine: Machine) -> Prediction:
    return model.predict(step_of(sizes, batch, grid), grid, machine)


def grids(sizes: tuple[int, ...], batch: int, ranks: int) -> list[Grid]:
    return fitting(HYBRID, Task(sizes, batch), ranks)


def best_grid(sizes: tuple[int, ...], batch: int, ranks: int, machine: Machine = ASSUMED) -> Grid:
    return cost_grids.best_grid(HYBRID, Task(sizes, batch), ranks, machine)


# -- bytes ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("hidden", [(7,), (8, 6), (9, 5, 6), (9, 8, 7, 6)], ids=str)
@pytest.mark.parametrize("comm", GRIDS)
def test_bytes_are_those_that_training_sums_on_every_rank(comm: str, hidden: tuple[int, ...]) -> None:
    config = TrainConfig(hidden=hidden, batch=21, lr=0.1, validation_fraction=0.0)

    def work(transport: ThreadsTransport) -> tuple[int, int, int]:
        trainer = make(transport, comm, config, grid=(2, 2) if comm == "hybrid" else None)
        for start in (0, 21, 42):
            trainer.step(np.arange(start, start + 21))
        return trainer.cost.steps, trainer.cost.bytes, trainer.cost.sums

    sizes = (PIXELS, *hidden, 10)
    for rank, found in enumerate(run_ranks(4, work)):
        step = step_in(known(comm), Task(sizes, 21), GRIDS[comm], rank)
        assert found == (3, 3 * step.bytes, 3 * len(step.meetings))


def test_what_a_strategy_takes_by_itself_comes_first() -> None:
    assert {comm: known(comm).grids(4)[0] for comm in GRIDS} == GRIDS
    assert [known("hybrid").grids(ranks)[0] for ranks in (2, 6, 8, 16)] == [(2, 1), (3, 2), (4, 2), (4, 4)]
    assert set(known("hybrid").grids(12)) == {(12, 1), (6, 2), (4, 3), (3, 4), (2, 6), (1, 12)}
    assert (known("none").grids(1), known("none").grids(2)) == ([(1, 1)], [])


def test_sums_that_do_not_overlap_follow_the_last_product() -> None:
    layers = (LayerWorkload(5, 7, gradient=3), LayerWorkload(2, 5, gradient=3))
    beside = step_with(7, Workload(6, layers))
    behind = step_with(7, Workload(6, layers, overlap=False))
    assert [each.blocks for each in beside.meetings] == [False, True]
    assert [each.blocks for each in behind.meetings] == [True, True]
    assert behind.meetings == behind.events[-3:-1]
    assert (beside.bytes, beside.work, beside.parameters) == (behind.bytes, behind.work, behind.parameters)


def test_bytes_of_the_course_project() -> None:
    sizes = (784, 1000, 10)
    assert step_of(sizes, 800, (1, 2)).bytes == 800 * 10 * 4
    assert step_of(sizes, 800, (2, 1)).bytes == 4 * (784 * 1000 + 1000 + 1000 * 10 + 10)


def test_one_rank_sums_nothing() -> None:
    assert step_of((784, 100, 50, 10), 800).meetings == ()
    assert step_of((784, 100, 50, 10), 800) == alone((784, 100, 50, 10), 800)


# -- work ----------------------------------------------------------------------------------------------------


def test_work_of_one_rank_by_hand() -> None:
    """784-100-10 at batch 800: two products of layer 0, three of layer 1."""
    work = step_of((784, 100, 10), 800).work
    assert work.flops == 2 * (2 * 800 * 784 * 100) + 3 * (2 * 800 * 100 * 10)
    assert work.parameters == 784 * 100 + 100 + 100 * 10 + 10
    assert work.pixels == 800 * 784
    assert work.elements == 800 * (100 + 10) + 800 * 100


@pytest.mark.parametrize("grid", [(2, 1), (1, 2), (2, 2)], ids=str)
def test_the_products_of_paired_layers_are_split_evenly(grid: tuple[int, int]) -> None:
    sizes = (784, 64, 32, 16, 10)
    assert step_of(sizes, 80, grid).work.flops * grid[0] * grid[1] == step_of(sizes, 80).work.flops


def test_the_last_rank_has_the_largest_part() -> None:
    bytes_of = [step_of((784, 10, 10), 801, (2, 2), rank).bytes for rank in range(4)]
    assert max(bytes_of) == bytes_of[-1] == step_of((784, 10, 10), 801, (2, 2)).bytes


# -- seconds -------------------------------------------------------------------------------------------------


def test_a_sum_takes_the_faster_algorithm() -> None:
    machine = Machine(Work(), Line(1.0, 1.0))
    assert machine.sum_seconds(1000, 1) == 0
    assert machine.sum_seconds(100, 2) == min(1 + 100, 2 + 100)
    # Eight ranks, one byte: three rounds of 1 + 1; a thousand: twice three rounds, and 2 * 7/8 of the bytes.
    assert machine.sum_seconds(1, 8) == 6
    assert machine.sum_seconds(1000, 8) == 6 + 1750
    assert machine.sum_seconds(1000, 5) == 2 * 3 + 1600
    measured = Machine(Work(), Line(1.0, 1.0), sums={8: Line(5.0, 2.0)})
    assert measured.sum_seconds(10, 8) == 25


def test_a_step_of_model_parallel_by_hand() -> None:
    machine = Machine(Work(flops=2.0), Line(3.0, 0.5))
    found = predict((784, 100, 10), 800, (1, 2), machine)
    assert found.compute_seconds == 2.0 * step_of((784, 50, 10), 800).work.flops
    assert found.exposed_seconds == 3.0 + 0.5 * 32_000
    assert found.hidden_seconds == 0
    assert found.seconds == found.compute_seconds + found.exposed_seconds
    assert found.parameter_bytes == 4 * (784 * 50 + 50 + 50 * 10 + 10)


def test_gradients_hide_behind_the_products_below_and_the_last_one_does_not() -> None:
    sizes, batch = (784, 100, 10), 800
    upper, lower = 4 * (100 * 10 + 10), 4 * (784 * 100 + 100)
    behind = (2 * 400 * 100 * 10) + (2 * 400 * 784 * 100)
    fast = Machine(Work(flops=1.0), Line(0.0, 1.0))
    found = predict(sizes, batch, (2, 1), fast)
    assert (found.hidden_seconds, found.exposed_seconds) == (upper, lower)
    slow = Machine(Work(flops=1.0), Line(0.0, 1e6))
    found = predict(sizes, batch, (2, 1), slow)
    assert (found.hidden_seconds, found.exposed_seconds) == (behind, 1e6 * (upper + lower) - behind)
    none = Machine(Work(flops=1.0), Line(0.0, 1.0), overlap=0.0)
    assert predict(sizes, batch, (2, 1), none).exposed_seconds == upper + lower


def test_ranks_that_share_cores_take_turns() -> None:
    alone = predict((784, 100, 10), 800, (4, 1), SECOND_A_FLOP)
    two_cores = Machine(Work(flops=1.0), Line(0.0, 0.0), cores=2)
    assert predict((784, 100, 10), 800, (4, 1), two_cores).compute_seconds == 2 * alone.compute_seconds
    assert two_cores.crowding(2) == two_cores.crowding(1) == 1


def test_meetings_cost_waiting_besides() -> None:
    machine = Machine(Work(flops=1.0), Line(0.0, 0.0), waiting=Line(7.0, 0.5))
    model = predict((784, 100, 10), 800, (1, 4), machine)
    assert model.exposed_seconds == 7 + 0.5 * model.compute_seconds
    hybrid = predict((784, 100, 10), 800, (2, 2), machine)
    assert hybrid.exposed_seconds == 7 / 2 + 7 / 2 + 0.5 * hybrid.compute_seconds
    assert predict((784, 100, 10), 800, (1, 1), machine).exposed_seconds == 0


# -- the best grid -------------------------------------------------------------------------------------------


def test_the_best_grid_of_clear_cases() -> None:
    slow = Machine(Work(flops=1e-12), Line(2e-6, 1e-8))
    assert best_grid((784, 8192, 10), 800, 4, slow) == (1, 4)
    assert best_grid((784, 10, 10), 60_000, 4, slow) == (4, 1)
    assert best_grid((784, 100, 10), 800, 1, slow) == (1, 1)


def test_the_best_grid_is_the_best_of_all() -> None:
    machine = Machine(Work(flops=1e-12, elements=1e-10), Line(2e-6, 4e-11))
    sizes = (784, 4096, 4096, 10)
    seconds = {grid: predict(sizes, 800, grid, machine).seconds for grid in grids(sizes, 800, 64)}
    assert len(seconds) == 7
    assert seconds[best_grid(sizes, 800, 64, machine)] == min(seconds.values())


def test_a_grid_is_chosen_where_nothing_was_measured() -> None:
    assert best_grid((784, 4000, 10), 800, 4) == (1, 4)
    assert best_grid((784, 10, 10), 8000, 4) == (4, 1)


def test_no_rank_is_left_without_work() -> None:
    assert grids((784, 4, 10), 6, 8) == [(4, 2), (2, 4)]
    with pytest.raises(UsageError, match=r"--ranks 128: batch 6 and layers 784-4-10"):
        best_grid((784, 4, 10), 6, 128, SECOND_A_FLOP)


# -- fits ----------------------------------------------------------------------------------------------------


def test_a_line_is_recovered() -> None:
    line = Line(3e-6, 2e-10)
    found = fit_line([(size, line(size)) for size in (4e3, 3.2e4, 1e6, 3e6)])
    assert astuple(found) == pytest.approx(astuple(line), rel=1e-9)


def test_the_cost_of_work_is_recovered() -> None:
    gamma = Work(1e-5, 5e-12, 1e-10, 1e-9, 5e-10, 2e-10)
    machine = Machine(gamma, Line(0.0, 0.0))
    works = [
        step_of((784, *hidden, 10), batch).work
        for hidden, batch in itertools.product(
            [(20,), (100,), (500, 30), (2000,), (60, 50, 40)], [10, 100, 800]
        )
    ]
    found = fit_work([(work, machine.compute_seconds(work)) for work in works])
    assert astuple(found) == pytest.approx(astuple(gamma), rel=1e-6)


def test_noise_makes_no_cost_negative_and_predictions_stay_near() -> None:
    gamma = Work(1e-5, 5e-12, 0.0, 0.0, 5e-10, 0.0)
    machine, generator = Machine(gamma, Line(0.0, 0.0)), np.random.default_rng(0)
    works = [step_of((784, width, 10), batch).work for width in (20, 100, 1000) for batch in (100, 400, 800)]
    seconds = [machine.compute_seconds(work) * generator.uniform(0.95, 1.05) for work in works]
    found = fit_work(list(zip(works, seconds, strict=True)))
    assert min(astuple(found)) >= 0
    fitted = Machine(found, Line(0.0, 0.0))
    for work in works:
        assert fitted.compute_seconds(work) == pytest.approx(machine.compute_seconds(work), rel=0.1)


def test_waiting_is_recovered_and_is_not_negative() -> None:
    computing = [1e-3, 5e-3, 2e-2]
    paced = [1e-4 + 1.25 * seconds + 1e-5 for seconds in computing]
    assert fit_waiting(computing, paced, 1e-5) == pytest.approx((1e-4, 0.25))
    assert fit_waiting(computing, [0.9 * seconds for seconds in computing], 1e-5) == (0.0, 0.0)


# -- units ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "bytes_a_second"),
    [("25GB/s", 25e9), ("200Gb/s", 25e9), ("1.5 MB/s", 1.5e6), ("1GiB/s", 2.0**30), ("1e3kB/s", 1e6)],
)
def test_bandwidths(text: str, bytes_a_second: float) -> None:
    assert parse_bandwidth(text) == pytest.approx(bytes_a_second)


@pytest.mark.parametrize(("text", "seconds"), [("2us", 2e-6), ("500ns", 5e-7), ("0.1ms", 1e-4), ("0s", 0.0)])
def test_latencies(text: str, seconds: float) -> None:
    assert parse_latency(text) == pytest.approx(seconds)


def test_rates() -> None:
    assert parse_rate("10TFLOP/s") == 1e13


@pytest.mark.parametrize(
    ("parse", "text"),
    [
        *(
            (parse_bandwidth, text)
            for text in ("25", "25GB", "gb/s", "25gB/s", "25Gbps", "-1GB/s", "0GB/s", "")
        ),
        *((parse_bandwidth, text) for text in ("nanGB/s", "infGB/s", "1e999GB/s", "2us", "٣GB/s")),
        *((parse_latency, text) for text in ("2", "2 m", "us", "-1us", "2GB/s", "1,5us")),
        *((parse_rate, text) for text in ("10TFLOPS", "10", "0TFLOP/s")),
    ],
)
def test_bad_units_are_one_line_with_the_option_and_an_example(
    parse: Callable[[str], float], text: str
) -> None:
    with pytest.raises(UsageError, match=r"^--\w+ .*for example .*\d") as caught:
        parse(text)
    assert "\n" not in str(caught.value)


def test_quantities_in_words() -> None:
    assert [bytes_in_words(size) for size in (0, 32_000, 3_180_040, 999_999_999)] == [
        "0 B",
        "32 kB",
        "3.18 MB",
        "1 GB",
    ]
    assert [seconds_in_words(seconds) for seconds in (2.5, 0.0031, 2e-6)] == ["2.5 s", "3.1 ms", "2 us"]


def test_a_meeting_waits_at_once_or_at_the_end() -> None:
    data, model = (step_of((784, 100, 10), 800, grid).meetings for grid in ((2, 1), (1, 2)))
    assert [meeting.blocks for meeting in data] == [False, True]
    assert model == (Meeting(2, 32_000, blocks=True),)
