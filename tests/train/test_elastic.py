"""Training goes on when ranks are lost, at any moment, with the result of a run of the new size."""

import threading
from typing import Any

import numpy as np
import pytest

from nnkit.comm.threads import ThreadsTransport, run_ranks
from nnkit.data import Dataset
from nnkit.errors import CheckpointError, CommonError, DivergedError, RankLostError, UnrecoverableError
from nnkit.train.config import TrainConfig
from nnkit.train.trainer import Intervals, Trainer
from tests.support import small_training
from tests.support.small_training import Disturbed, Killed, alone, bits, draw_samples, killing, make

CONFIG = TrainConfig(hidden=(13, 7), epochs=2, batch=32, lr=0.5)


GRIDS = {("hybrid", 4): (2, 2), ("hybrid", 6): (3, 2)}
"""What the hybrid runs begin with; those that are left choose for themselves."""


def train(trainer: Trainer) -> dict[str, Any]:
    """A whole run, and where it went on after each loss."""
    history = list(trainer.run())
    trainer.check_replicas()
    tested = trainer.together(lambda t: t.evaluator.evaluate(t.test_data))
    whole, position = trainer.together(lambda t: t.whole())
    return {
        "parameters": whole,
        "history": history,
        "tested": tested,
        "places": trainer.restarts,
        "ranks": trainer.ranks,
        "position": position,
    }


def replayed(comm: str, size: int, restarts: list[tuple[int, int, int]], intervals: Intervals) -> list[bytes]:
    """The parameters of runs without losses: to each place with the old number of ranks, on with the new."""
    resumed = None
    for epoch, step, fewer in [*restarts, (CONFIG.epochs, 0, 0)]:
        grid = GRIDS.get((comm, size)) if resumed is None else None

        def part(
            transport: Any, resumed: Any = resumed, epoch: int = epoch, step: int = step, grid: Any = grid
        ) -> Any:
            trainer = make(
                transport, comm, CONFIG, grid=grid, elastic=True, resumed=resumed, intervals=intervals
            )
            while (trainer.position.epoch, trainer.position.step) < (epoch, step):
                if (trainer.position.epoch < epoch and trainer.position.step < trainer.steps) or (
                    trainer.position.step < step
                ):
                    order = trainer._shuffled(trainer.position.epoch)
                    trainer.position.loss_sum += trainer.step(trainer._batch(order, CONFIG.batch))
                    trainer.position.step += 1
                if trainer.position.step == trainer.steps and trainer.position.epoch < epoch:
                    trainer.position.epoch += 1
                    trainer.position.step, trainer.position.loss_sum = 0, 0.0
                    trainer.position.history.append({})
            return trainer.whole()

        found = run_ranks(size, part)
        assert not isinstance(found[0], BaseException), found[0]
        resumed = found[0]
        size = fewer
    assert resumed is not None
    return bits(resumed[0])


def disturb(
    comm: str,
    size: int,
    at: dict[int, int],
    intervals: Intervals = Intervals(),  # noqa: B008  it is frozen
    names: Any = (),
) -> Any:
    return run_ranks(
        size,
        lambda transport: train(
            make(transport, comm, CONFIG, grid=GRIDS.get((comm, size)), elastic=True, intervals=intervals)
        ),
        killing(at, names),
    )


@pytest.mark.parametrize("comm", ["data", "model", "hybrid"])
@pytest.mark.parametrize("refresh", [1, 3])
def test_a_rank_lost_at_any_call(comm: str, refresh: int) -> None:
    """One of four, rank 0 among them, at calls all over the run."""
    generator = np.random.default_rng(refresh)
    expected = train(alone(CONFIG))
    intervals = Intervals(refresh=refresh)
    for attempt in range(12):
        victim, moment = attempt % 4, int(generator.integers(0, 95))
        found = disturb(comm, 4, {victim: moment}, intervals)
        alive = [each for each in found if isinstance(each, dict)]
        assert isinstance(found[victim], Killed)
        assert len(alive) == 3, [each for each in found if not isinstance(each, dict)]
        first = alive[0]
        assert {each["ranks"].lost for each in alive} == {1}
        assert bits(first["parameters"]) == replayed(comm, 4, first["places"], intervals)
        for mine, theirs in zip(first["parameters"], expected["parameters"], strict=True):
            for one, other in zip(mine, theirs, strict=True):
                np.testing.assert_allclose(one, other, atol=2e-6)
        losses = [record["train_loss"] for record in first["history"]]
        assert losses == pytest.approx([r["train_loss"] for r in expected["history"]], abs=1e-5)


def test_two_at_once_and_one_after_the_other() -> None:
    generator = np.random.default_rng(7)
    for attempt in range(10):
        moments = {1: 40, 3: 40} if attempt == 0 else {1: 40, 3: int(generator.integers(38, 120))}
        found = disturb("hybrid", 6, moments)
        alive = [each for each in found if isinstance(each, dict)]
        assert len(alive) == 4, [each for each in found if not isinstance(each, dict)]
        assert bits(alive[0]["parameters"]) == replayed("hybrid", 6, alive[0]["places"], Intervals())


def test_neighbours_lost_together_cannot_be_recovered() -> None:
    """Rank 2 keeps the copy of rank 1: both gone, nobody has it. All that are left say so."""
    found = disturb("model", 4, {1: 60, 2: 60})
    assert all(isinstance(found[rank], UnrecoverableError) for rank in (0, 3)), found
    assert "2 ranks left have no copy of what the lost ones held" in str(found[0])


# The first exchange is before training: who is lost there ends the run. Only the last call gathers.
@pytest.mark.parametrize(
    ("name", "moment"),
    [
        *((name, moment) for name in ("shift", "agree", "exchange", "wait") for moment in (1, 4)),
        ("gather", 0),
    ],
)
def test_a_rank_lost_in_every_kind_of_call(name: str, moment: int) -> None:
    found = disturb("model", 3, {1: moment}, names=(name,))
    assert isinstance(found[1], Killed)
    alive = [each for each in found if isinstance(each, dict)]
    assert len(alive) == 2, [each for each in found if not isinstance(each, dict)]
    assert bits(alive[0]["parameters"]) == replayed("model", 3, alive[0]["places"], Intervals())


@pytest.mark.parametrize("name", ["recover", "exchange", "broadcast", "agree"])
def test_another_one_lost_in_the_recovery(name: str) -> None:
    """Rank 1 dies in a step, and rank 3 in that call of the recovery that follows."""
    generator = np.random.default_rng(3)
    size, first, second = 6, int(generator.integers(35, 45)), 3
    dying = threading.Event()

    def wrap(transport: ThreadsTransport) -> Disturbed:
        calls = 0

        def before(call: str) -> None:
            nonlocal calls
            calls += 1
            if transport.rank == 1 and calls == first:
                dying.set()
                raise Killed
            if transport.rank == second and call == "recover":
                recovering.set()
            if transport.rank == second and recovering.is_set() and call == name:
                raise Killed

        recovering = threading.Event()
        return Disturbed(transport, before)

    found = run_ranks(
        size, lambda transport: train(make(transport, "hybrid", CONFIG, grid=(3, 2), elastic=True)), wrap
    )
    assert dying.is_set()
    assert isinstance(found[second], Killed)
    alive = [each for each in found if isinstance(each, dict)]
    assert len(alive) == 4, [each for each in found if not isinstance(each, dict)]
    assert bits(alive[0]["parameters"]) == replayed("hybrid", size, alive[0]["places"], Intervals())


def test_copies_of_an_earlier_split_do_not_come_back(monkeypatch: pytest.MonkeyPatch) -> None:
    """Six ranks hold thirds of the network, the five that are left all of it; then one more goes."""
    # So many samples that five ranks split the batch alone.
    many = Dataset(draw_samples(4000, 1), draw_samples(90, 2), "in memory")
    monkeypatch.setattr(small_training, "DATASET", many)
    config = TrainConfig(hidden=(6,), epochs=6, batch=3600, lr=0.5)
    expected = bits(train(alone(config))["parameters"])

    def run(moment: int) -> list[Any]:
        return run_ranks(
            6,
            lambda transport: train(make(transport, "hybrid", config, grid=(2, 3), elastic=True)),
            killing({0: 20, 1: moment}),
        )

    splits = set()
    for moment in range(24, 90, 3):
        found = run(moment)
        (first, *_) = [each for each in found if isinstance(each, dict)]
        splits.add((first["ranks"].lost, first["ranks"].strategy.describes))
        for mine, theirs in zip(bits(first["parameters"]), expected, strict=True):
            ours = np.frombuffer(mine, np.float32)
            np.testing.assert_allclose(ours, np.frombuffer(theirs, np.float32), atol=2e-6)
    assert (2, "batch in 4 parts") in splits


def test_a_common_error_of_some_waits_for_those_that_miss_a_rank(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rank 2 dies in a step that rank 0 takes for a divergence, and rank 1 cannot complete."""

    def part(transport: ThreadsTransport) -> dict[str, Any]:
        trainer = make(transport, "data", CONFIG, elastic=True)
        compute, calls = trainer._compute, 0

        def disturbed(index: Any) -> float:
            nonlocal calls
            loss, calls = compute(index), calls + 1
            if calls == 3:
                raise (DivergedError("not really"), RankLostError("rank 2"), Killed())[transport.rank]
            return loss

        monkeypatch.setattr(trainer, "_compute", disturbed)
        return train(trainer)

    found = run_ranks(3, part)
    first, second, lost = found
    assert isinstance(lost, Killed)
    assert isinstance(first, dict), found
    assert isinstance(second, dict), found
    assert bits(first["parameters"]) == replayed("data", 3, first["places"], Intervals())


def test_what_the_first_rank_fails_at_all_know() -> None:
    def part(transport: ThreadsTransport) -> None:
        def write() -> None:
            assert transport.rank == 0
            raise CheckpointError("no room")

        make(transport, "data", CONFIG, elastic=True).ranks.first_does(write)

    for each in run_ranks(3, part):
        assert isinstance(each, CommonError)
        assert type(each) is CommonError
        assert (str(each), each.exit_status) == ("no room", 2)


def test_down_to_one() -> None:
    for comm in ("data", "model"):
        found = disturb(comm, 3, {0: 50, 2: 90})
        assert isinstance(found[1], dict), found
        assert found[1]["ranks"].size == 1
        assert bits(found[1]["parameters"]) == replayed(comm, 3, found[1]["places"], Intervals())
