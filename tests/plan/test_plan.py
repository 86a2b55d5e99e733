import json
from typing import Any

import pytest

from nnkit.cost.model import Prediction
from nnkit.plan.choice import why
from nnkit.scaling.measure import cores
from tests.support.commands import Command, is_refusal

CLUSTER = ("--bandwidth", "25GB/s", "--latency", "2us", "--flops", "10TFLOP/s")


def planned(main: Command, *arguments: object) -> dict[str, Any]:
    result = main("plan", *arguments, "--json")
    assert result.status == 0, result
    document: dict[str, Any] = json.loads(result.stdout)
    return document


def test_a_wide_network_on_a_slow_link_is_split(main: Command) -> None:
    link = ("--bandwidth", "1Gb/s", "--latency", "20us", "--flops", "1TFLOP/s")
    found = planned(main, "--hidden", 8192, "--ranks", 16, *link)
    assert found["choice"]["comm"] == "model"
    assert found["choice"]["grid"] == [1, 16]
    assert found["strategies"]["model"]["bytes"] == 32_000
    assert found["choice"]["why"].startswith("model, because it waits")


def test_a_small_network_with_a_large_batch_is_data_parallel(main: Command) -> None:
    found = planned(main, "--hidden", 20, "--batch", 60_000, "--ranks", 8, *CLUSTER)
    assert found["choice"]["comm"] == "data"
    assert found["choice"]["grid"] == [8, 1]


def test_many_ranks_take_a_grid(main: Command) -> None:
    found = planned(main, "--hidden", "8192,8192", "--ranks", 1024, *CLUSTER)
    choice = found["choice"]
    assert choice["comm"] == "hybrid"
    assert choice["grid"][0] * choice["grid"][1] == 1024
    assert choice["seconds"] == min(offer["seconds"] for offer in found["strategies"].values())
    # A batch of 800 has no part for each of 1024 ranks.
    assert found["impossible"] == ["data"]
    assert found["assumed"]["bandwidth"] == "given"
    assert not found["oversubscribed"]
    for offer in found["strategies"].values():
        assert offer["seconds"] == pytest.approx(offer["compute_seconds"] + offer["exposed_seconds"])


def test_comm_restricts_the_choice(main: Command) -> None:
    found = planned(main, "--hidden", 8192, "--ranks", 16, *CLUSTER, "--comm", "data")
    assert found["choice"]["comm"] == "data"
    assert list(found["strategies"]) == ["data"]
    assert found["choice"]["why"] == "data, as no other of those asked for can use so many ranks"


def test_one_rank_needs_no_strategy(main: Command) -> None:
    found = planned(main, "--ranks", 1, *CLUSTER)
    assert found["choice"]["comm"] == "none"
    assert found["choice"]["speedup"] == 1
    assert found["impossible"] == []


def test_the_table_is_for_people(main: Command) -> None:
    result = main("plan", "--hidden", "8192,8192", "--ranks", 64, *CLUSTER)
    assert (result.status, result.stderr) == (0, "")
    first, *_, choice, sentence = result.stdout.splitlines()
    assert first.startswith("784-8192-8192-10, batch 800, ranks 64; bandwidth 25 GB/s (given)")
    assert choice.startswith("choose --comm hybrid --grid ")
    assert sentence.startswith("hybrid, because ")
    assert [line.split()[0] for line in result.stdout.splitlines()[2:5]] == ["data", "model", "hybrid"]


def test_what_cannot_be_is_said_of_each_strategy(main: Command) -> None:
    """Two ranks make no grid of both; seven ranks cannot each have a part of a batch of five."""
    lines = main("plan", "--ranks", 2, *CLUSTER).stdout.splitlines()
    assert "hybrid    no grid of 2 ranks cuts both batch and network and gives each of them work" in lines
    lines = main("plan", "--ranks", 7, "--batch", 5, *CLUSTER).stdout.splitlines()
    assert "data      a batch of 5 has no part for each of 7 ranks" in lines
    assert lines[-1].startswith("model, as no other of those asked for can use so many ranks")


def test_a_link_is_named_where_there_is_one(main: Command) -> None:
    assert "bandwidth" not in main("plan", "--ranks", 1, "--flops", "1TFLOP/s").stdout
    link = ("--bandwidth", "25GB/s", "--latency", "3us", "--flops", "1TFLOP/s")
    assert "latency 3 us (given)" in main("plan", "--ranks", 2, *link).stdout


def test_ranks_that_share_cores_are_told(main: Command) -> None:
    ranks = max(cores(), 1) + 1
    last = main("plan", "--ranks", ranks, "--hidden", 10, "--batch", 60).stdout.splitlines()[-1]
    assert last.startswith(f"these {ranks} ranks share the {cores()} cores of this machine")


def test_inside_mpirun_it_is_refused(main: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMPI_COMM_WORLD_RANK", "0")
    monkeypatch.setenv("OMPI_COMM_WORLD_SIZE", "2")
    assert is_refusal(main("plan", "--ranks", 2, *CLUSTER), "nnkit plan inside mpirun", "without mpirun")


def test_compute_is_measured_where_it_is_not_given(main: Command) -> None:
    found = planned(main, "--hidden", 30, "--batch", 64, "--ranks", 4, *CLUSTER[:4])
    assert found["assumed"]["compute"] == "measured here"
    assert 0 < found["one_rank_seconds"] < 1
    assert min(found["machine"]["gamma_seconds"].values()) >= 0


def test_nothing_pays_is_said() -> None:
    alone = Prediction((1, 1), 1e-3, 0.0, 0.0, 0, 100)
    slow = Prediction((2, 1), 5e-4, 1.0, 0.0, 100, 100)
    assert "one rank alone would be faster (1 ms)" in why("data", {"data": slow}, alone)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--ranks", 0), ("--ranks 0", "give 1")),
        (("--ranks", 4, "--bandwidth", "25"), ("--bandwidth 25", "25GB/s")),
        (("--ranks", 4, "--latency", "2GB/s"), ("--latency 2GB/s", "2us")),
        (("--ranks", 4, "--flops", "many"), ("--flops many", "10TFLOP/s")),
        (("--ranks", 4, "--comm", "pipeline"), ("--comm pipeline", "data, model, hybrid")),
        ((*CLUSTER, "--ranks", 4, "--batch", 10**30), (f"--batch {10**30}", "too large")),
        (("--ranks", 4, "--bandwidth", "1e-320B/s", *CLUSTER[2:]), ("longer than can be computed with",)),
        (("--ranks", 4, "--hidden", "a"), ("--hidden a",)),
        (("--ranks", 4, "--batch", 0), ("--batch 0",)),
        (("--ranks", 4, "--backend", "nobody"), ("nobody", "known")),
        ((*CLUSTER, "--ranks", 1000, "--hidden", 5, "--batch", 7), ("--ranks 1000", "batch 7", "784-5-10")),
        ((), ("--ranks",)),
    ],
)
def test_refusals(main: Command, arguments: tuple[object, ...], words: tuple[str, ...]) -> None:
    assert is_refusal(main("plan", *arguments), *words)
