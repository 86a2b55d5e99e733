"""Training on the device virtual beside NumPy, and what the first use of its kernels costs.

    ./tools/run python benchmarks/train_virtual.py [--epochs 7] [--keep-pin] [--json]

An epoch: all of MNIST's 60,000 training samples through 784-100-10 in batches of 800, by `tiled` on `virtual`
and by `numpy` on `cpu`, from equal parameters, in equal order, in turns in one process. The goal is 2.5 times
NumPy's time at most. A third network computes the same in float64. NumPy's distance from it is the rounding
error of float32; `tiled` may be 4 times as far from it.

First use: the time from before the device is opened to the end of the first step, less a later step's, in a
fresh process each time: first with an empty cache (NNKIT_CACHE_DIR in a temporary folder), goal under 2.5 s,
then with the filled cache, goal under 0.3 s. Importing nnkit and reading MNIST are not part of it, importing
LLVM is.
"""

import argparse
import json
import math
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypedDict

import shared

if TYPE_CHECKING:
    from nnkit.contracts import Array, Device
    from nnkit.data import Dataset
    from nnkit.train.trainer import Trainer

HIDDEN, BATCH, LR, L2 = (100,), 800, 0.5, 2e-5
EPOCH_GOAL = 2.5
COLD_GOAL, WARM_GOAL = 2.5, 0.3
ROUNDING = 4.0
"""How many times NumPy's own distance from float64 another float32 run may have."""

STAGES = (
    ("NVRTC or its cache", "nnkit.device.compile", "compile_cuda"),
    ("parsing and checking the PTX", "nnkit.ptx.parse", "parse"),
    ("parsing and checking the PTX", "nnkit.vm.prepare.program", "prepare"),
    ("LLVM or its cache", "nnkit.vm.build.native", "native_code"),
    ("linking", "nnkit.vm.build.native", "load_native"),
)
"""What is timed on the way, and where it is defined."""


class EpochRow(shared.Goal):
    """Seconds of an epoch by both, and how far the networks are from each other and from float64."""

    network: str
    batch: int
    seconds: dict[str, float]
    ratio: float
    epochs: int
    largest_difference: float
    from_float64: dict[str, float]
    within_rounding: bool
    threads: int


class FirstUse(TypedDict):
    """What the first step takes more than later ones, in all and by stages."""

    seconds: float
    stages: dict[str, float]


class FirstUseRow(FirstUse, shared.Goal):
    """Medians of several processes."""

    cache: str


class Report(TypedDict):
    """What `--json` prints."""

    cores: int | None
    environment: shared.Blas
    epoch: EpochRow
    first_use: list[FirstUseRow]


def trainer(dataset: "Dataset", device: "Device[Array]", backend: str, double: bool = False) -> "Trainer":
    from nnkit import Registry, TrainConfig
    from nnkit.nn.initialise import initial_parameters
    from nnkit.train.position import Position
    from nnkit.train.ranks import Ranks
    from nnkit.train.trainer import Trainer

    config = TrainConfig(hidden=HIDDEN, batch=BATCH, lr=LR, l2=L2, validation_fraction=0.0)
    registry = Registry.discover()
    sizes = config.sizes(784, 10)
    ranks = Ranks.alone(sizes, BATCH)
    parameters = initial_parameters(sizes, config.activation, config.seed)
    if double:
        parameters = [(weight.astype(float), bias.astype(float)) for weight, bias in parameters]
    return Trainer(config, dataset, device, registry.gemm(backend), ranks, (parameters, Position()))


def epochs(repeats: int) -> EpochRow:
    """Seconds of an epoch by both, and how far their parameters are apart after all of them."""
    from nnkit import load_dataset, open_device

    dataset = load_dataset()
    virtual = open_device("virtual")
    exact = trainer(dataset, open_device("cpu"), "numpy", double=True)
    runs = {
        "tiled on virtual": trainer(dataset, virtual, "tiled"),
        "numpy on cpu": trainer(dataset, open_device("cpu"), "numpy"),
    }
    seconds = shared.medians(
        shared.in_turns({name: run.epoch for name, run in runs.items()}, repeats, rest=0.15)
    )
    for _ in range(repeats + 1):
        exact.epoch()
    tiled, numpy = runs.values()
    ours, theirs = distance(tiled, exact), distance(numpy, exact)
    return {
        "network": "-".join(map(str, (784, *HIDDEN, 10))),
        "batch": BATCH,
        "seconds": seconds,
        "ratio": seconds["tiled on virtual"] / seconds["numpy on cpu"],
        "at_most": EPOCH_GOAL,
        "epochs": repeats + 1,
        "largest_difference": distance(tiled, numpy),
        "from_float64": {"tiled on virtual": ours, "numpy on cpu": theirs},
        "within_rounding": ours <= ROUNDING * theirs,
        "threads": threads_of(virtual),
    }


def threads_of(device: object) -> int:
    """How many threads `virtual` has."""
    from nnkit.device.virtual import VirtualDevice

    assert isinstance(device, VirtualDevice)
    return device.threads


def distance(one: "Trainer", other: "Trainer") -> float:
    """The largest absolute difference of two networks' parameters; NaN counts as infinite."""
    import numpy as np

    pairs = zip(one.network.download(), other.network.download(), strict=True)
    apart = max(float(np.abs(a - b).max()) for pair in pairs for a, b in zip(*pair, strict=True))
    return float("inf") if math.isnan(apart) else apart


def first_use() -> FirstUse:
    """One process: the stages of the first step, and what it takes more than the ones that follow."""
    import importlib

    import numpy as np

    from nnkit import load_dataset, open_device
    from nnkit.train.trainer import Trainer  # noqa: F401  imported before the clock starts

    dataset = load_dataset()
    spent = dict.fromkeys(["importing LLVM and opening", *(stage for stage, _, _ in STAGES)], 0.0)
    begun = time.perf_counter()
    device = open_device("virtual")
    spent["importing LLVM and opening"] = time.perf_counter() - begun
    timers = time.perf_counter()
    for stage, module, name in STAGES:
        replace(getattr(importlib.import_module(module), name), spent, stage)
    timers = time.perf_counter() - timers
    run = trainer(dataset, device, "tiled")
    order = np.random.default_rng(0).permutation(len(dataset.train))
    steps = []
    for start in range(0, 20 * BATCH, BATCH):
        stepped = time.perf_counter()
        run.step(order[start : start + BATCH])
        ended = time.perf_counter()
        steps.append((stepped, ended))
    later = statistics.median(ended - stepped for stepped, ended in steps[5:])
    total = steps[0][1] - begun - timers - later
    return {"seconds": total, "stages": spent | {"the rest": total - sum(spent.values())}}


def replace(function: Callable[..., Any], spent: dict[str, float], stage: str) -> None:
    """Put a timed one in its place, wherever it has been imported."""
    measured = timed(function, spent, stage)
    for module in [module for name, module in sys.modules.items() if name.startswith("nnkit.")]:
        if getattr(module, function.__name__, None) is function:
            setattr(module, function.__name__, measured)


def timed(function: Callable[..., Any], spent: dict[str, float], stage: str) -> Callable[..., Any]:
    def measured(*arguments: Any, **named: Any) -> Any:
        begun = time.perf_counter()
        try:
            return function(*arguments, **named)
        finally:
            spent[stage] += time.perf_counter() - begun

    return measured


def first_uses(repeats: int) -> list[FirstUseRow]:
    """Medians with an empty and with a full cache; every process is fresh."""
    found: dict[str, list[FirstUse]] = {"empty": [], "full": []}
    for _ in range(repeats):
        with tempfile.TemporaryDirectory() as folder:
            for runs in found.values():
                runs.append(shared.child(__file__, ["--first-use"], {"NNKIT_CACHE_DIR": folder}))
    return [
        {
            "cache": cache,
            "seconds": statistics.median(run["seconds"] for run in runs),
            "stages": {
                stage: statistics.median(run["stages"][stage] for run in runs) for stage in runs[0]["stages"]
            },
            "under": under,
        }
        for (cache, runs), under in zip(found.items(), (COLD_GOAL, WARM_GOAL), strict=True)
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--epochs", type=int, default=7, help="measured epochs of each, after one to warm up")
    parser.add_argument("--processes", type=int, default=5, help="for the first use, with each kind of cache")
    parser.add_argument("--keep-pin", action="store_true", help=f"leave {shared.PIN} as it is")
    parser.add_argument("--json", action="store_true")
    parser.add_argument(
        "--first-use", action="store_true", help=argparse.SUPPRESS
    )  # A child of this program.
    options = parser.parse_args()
    if options.first_use:
        print(json.dumps(first_use()))
        return
    shared.drop_pin(options.keep_pin)
    epoch = epochs(options.epochs)
    report: Report = {
        "cores": os.cpu_count(),
        "environment": shared.blas(),
        "epoch": epoch,
        "first_use": first_uses(options.processes),
    }
    if options.json:
        print(json.dumps(report, indent=2))
        return
    threads = f"virtual has {epoch['threads']} threads"
    print(f"{report['cores']} cores; {threads}; {shared.in_words(report['environment'])}")
    times = ", ".join(f"{name} {seconds:.3f} s" for name, seconds in epoch["seconds"].items())
    print(f"{epoch['network']} batch {epoch['batch']}: {times} an epoch, ratio {epoch['ratio']:.2f}")
    print(f"  {shared.goal(epoch, epoch['ratio'])}")
    far = ", ".join(f"{name} {value:.1e}" for name, value in epoch["from_float64"].items())
    verdict = f"{'within' if epoch['within_rounding'] else 'MORE THAN'} {ROUNDING:g} times NumPy's rounding"
    apart = f"largest difference of a parameter {epoch['largest_difference']:.1e}"
    print(f"  after {epoch['epochs']} epochs: {apart}; from float64: {far}; {verdict}")
    for row in report["first_use"]:
        print(f"first use, {row['cache']} cache: {row['seconds']:.2f} s; {shared.goal(row, row['seconds'])}")
        print("  " + ", ".join(f"{stage} {seconds:.3f}" for stage, seconds in row["stages"].items()))


if __name__ == "__main__":
    main()
