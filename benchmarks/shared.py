"""What the benchmarks share: dropping the pin of OpenBLAS, timing in turns, printing goals."""

import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from typing import Any, TypedDict

PIN = "OPENBLAS_CORETYPE"
"""An environment variable that makes OpenBLAS use another processor's kernels; read when it is loaded."""

Call = Callable[[], object]


class Goal(TypedDict, total=False):
    """What a row of a report was to reach, by one of these; without, or with None, it is for information."""

    at_least: float | None
    at_most: float | None
    under: float | None


class Blas(TypedDict):
    """The library that NumPy multiplies with, and what in the environment steers it."""

    numpy: str
    blas: str
    kernels: str | None
    blas_threads: int | None
    set: dict[str, str]


def drop_pin(keep: bool) -> None:
    """Restart this program without the pin, unless `keep`: a loaded library does not read it again."""
    if PIN in os.environ and not keep:
        print(f"dropping {PIN}={os.environ.pop(PIN)} (--keep-pin leaves it)", file=sys.stderr)
        os.execv(sys.executable, [sys.executable, *sys.argv])


def in_turns(
    competitors: Mapping[str, Call],
    repeats: int,
    before: Mapping[str, Call] | None = None,
    rest: float = 0.0,
) -> dict[str, list[float]]:
    """Seconds of every call, after one call each to warm up; each competitor goes first equally often.

    `before` prepares a competitor's call and is not timed. `rest` are seconds to wait before each call: the
    threads of a BLAS spin for some 60 ms after a call, on the cores that the next competitor needs.
    """
    names = list(competitors)
    before = before or {}
    seconds: dict[str, list[float]] = {name: [] for name in names}
    for repeat in range(-1, repeats):
        turn = repeat % len(names)
        for name in names[turn:] + names[:turn]:
            before.get(name, nothing)()
            time.sleep(rest)
            begun = time.perf_counter()
            competitors[name]()
            took = time.perf_counter() - begun
            if repeat >= 0:
                seconds[name].append(took)
    return seconds


def nothing() -> None:
    """Prepare nothing."""


def medians(seconds: Mapping[str, list[float]]) -> dict[str, float]:
    """The median of each competitor's times."""
    return {name: statistics.median(times) for name, times in seconds.items()}


def child(script: str, arguments: list[str], environment: Mapping[str, str | None]) -> Any:
    """The JSON document that a program prints; None takes a variable out of its environment."""
    merged = {**os.environ, **environment}
    given = {name: value for name, value in merged.items() if value is not None}
    command = [sys.executable, script, *arguments]
    return json.loads(subprocess.run(command, check=True, env=given, stdout=subprocess.PIPE).stdout)


def blas_pool() -> dict[str, Any]:
    """threadpoolctl's record of NumPy's BLAS; empty if there is none."""
    import numpy  # noqa: F401  loads it
    from threadpoolctl import threadpool_info

    pools: list[dict[str, Any]] = threadpool_info()
    return next((pool for pool in pools if pool["user_api"] == "blas"), {})


def blas() -> Blas:
    """The record of NumPy's BLAS in this process."""
    import numpy as np

    pool = blas_pool()
    return {
        "numpy": np.__version__,
        "blas": f"{pool.get('internal_api')} {pool.get('version')}",
        "kernels": pool.get("architecture"),
        "blas_threads": pool.get("num_threads"),
        "set": {name: value for name, value in sorted(os.environ.items()) if name.startswith("OPENBLAS_")},
    }


def in_words(blas: Blas) -> str:
    """One line on `blas()`."""
    given = " ".join(f"{name}={value}" for name, value in blas["set"].items())
    return f"NumPy {blas['numpy']}, {blas['blas']}, kernels for {blas['kernels']}{given and f', {given}'}"


def goal(row: Goal, value: float, form: str = "{:.2f}") -> str:
    """The goal of a row beside what was reached; "" where it is for information."""
    for wanted, words in (
        (row.get("at_least"), "at least"),
        (row.get("at_most"), "at most"),
        (row.get("under"), "under"),
    ):
        if wanted is not None:
            return f"goal {words} {wanted:g}, reached {form.format(value)}"
    return ""
