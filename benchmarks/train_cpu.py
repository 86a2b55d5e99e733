"""How fast is an epoch on the CPU? nnkit beside PyTorch's CPU build, in one process, order alternated.

    ./tools/run python benchmarks/train_cpu.py [--epochs 7] [--json]

A case is one network and batch size; an epoch is all of MNIST's 60,000 training samples, shuffle and gather
included: forward, backward and update with L2. PyTorch runs the same step, written twice as its users write
it: `module` (nn.Sequential, CrossEntropyLoss, SGD with weight decay) and `tensor` (the same mathematics by
hand, without autograd). The ratio is PyTorch's median time over nnkit's. The faster of the two is the one
that counts. Without torch only nnkit is timed.

An environment variable that pins OpenBLAS to another processor's kernels (OPENBLAS_CORETYPE) holds nnkit
back and PyTorch not: by default the benchmark drops it and says so; --keep-pin measures with it.
"""

import argparse
import importlib
import json
import os
from itertools import pairwise
from typing import TYPE_CHECKING, Any, TypedDict

import shared

if TYPE_CHECKING:
    from nnkit.data import Dataset

CASES = (((100,), 100, 2.0), ((100,), 800, 2.0), ((1000,), 800, 1.2))
"""Hidden layers, batch, and the ratio that is the goal."""

LR, L2 = 0.5, 2e-5


class Environment(TypedDict):
    """What the figures depend on."""

    cores: int | None
    numpy: str
    blas: str
    blas_threads: int | None
    torch: str | None
    torch_threads: int | None


class Result(TypedDict):
    """One case: the median seconds of an epoch by everybody, and PyTorch's over nnkit's."""

    network: str
    batch: int
    goal: float
    seconds: dict[str, float]
    ratios: dict[str, float]


class Report(TypedDict):
    """What `--json` prints."""

    environment: Environment
    results: list[Result]


def torch_or_none() -> Any:
    """PyTorch, where it is installed."""
    try:
        return importlib.import_module("torch")
    except ImportError:
        return None


def nnkit_epoch(dataset: "Dataset", hidden: tuple[int, ...], batch: int) -> shared.Call:
    from nnkit import Registry, TrainConfig, open_device
    from nnkit.train.ranks import Ranks
    from nnkit.train.trainer import Trainer

    config = TrainConfig(hidden=hidden, batch=batch, lr=LR, l2=L2, validation_fraction=0.0)
    registry = Registry.discover()
    ranks = Ranks.alone(config.sizes(784, 10), batch)
    trainer = Trainer(config, dataset, open_device("cpu"), registry.gemm("numpy"), ranks)
    return trainer.epoch


def torch_module_epoch(torch: Any, dataset: "Dataset", hidden: tuple[int, ...], batch: int) -> shared.Call:
    images, labels = torch_data(torch, dataset)
    layers: list[Any] = []
    for inputs, outputs in pairwise((784, *hidden)):
        layers += [torch.nn.Linear(inputs, outputs), torch.nn.Sigmoid()]
    model = torch.nn.Sequential(*layers, torch.nn.Linear(hidden[-1], 10))
    groups = [
        {"params": [p for p in model.parameters() if p.ndim == 2], "weight_decay": L2},
        {"params": [p for p in model.parameters() if p.ndim == 1]},
    ]
    optimiser, loss = torch.optim.SGD(groups, lr=LR), torch.nn.CrossEntropyLoss()

    def epoch() -> None:
        order = torch.randperm(len(labels))
        for start in range(0, len(labels), batch):
            index = order[start : start + batch]
            optimiser.zero_grad()
            loss(model(images[index]), labels[index]).backward()
            optimiser.step()

    return epoch


def torch_tensor_epoch(torch: Any, dataset: "Dataset", hidden: tuple[int, ...], batch: int) -> shared.Call:
    images, labels = torch_data(torch, dataset)
    weights = [torch.randn(o, i) / i**0.5 for i, o in pairwise((784, *hidden, 10))]
    biases = [torch.zeros(len(w)) for w in weights]

    def step(index: Any) -> None:
        x, y = images[index], labels[index]
        outputs = [x]
        for w, b in zip(weights[:-1], biases[:-1], strict=True):
            outputs.append(torch.addmm(b, outputs[-1], w.t()).sigmoid_())
        delta = torch.softmax(torch.addmm(biases[-1], outputs[-1], weights[-1].t()), 1)
        delta[torch.arange(len(y)), y] -= 1
        delta /= len(y)
        for layer in reversed(range(len(weights))):
            below = delta @ weights[layer] if layer else None
            weights[layer].mul_(1 - LR * L2).addmm_(delta.t(), outputs[layer], alpha=-LR)
            biases[layer].sub_(delta.sum(0), alpha=LR)
            if below is not None:
                delta = below.mul_(outputs[layer]).mul_(1 - outputs[layer])

    def epoch() -> None:
        order = torch.randperm(len(labels))
        for start in range(0, len(labels), batch):
            step(order[start : start + batch])

    def without_grad() -> None:
        with torch.no_grad():
            epoch()

    return without_grad


def torch_data(torch: Any, dataset: "Dataset") -> tuple[Any, Any]:
    images = torch.from_numpy(dataset.train.images.copy()).float().div_(255)
    return images, torch.from_numpy(dataset.train.labels.astype("int64"))


def environment(torch: Any) -> Environment:
    import numpy as np

    blas = shared.blas_pool()
    return {
        "cores": os.cpu_count(),
        "numpy": np.__version__,
        "blas": f"{blas.get('internal_api')} {blas.get('version')} for {blas.get('architecture')}",
        "blas_threads": blas.get("num_threads"),
        "torch": torch.__version__ if torch else None,
        "torch_threads": torch.get_num_threads() if torch else None,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--epochs", type=int, default=7, help="measured epochs of each, after one to warm up")
    parser.add_argument("--keep-pin", action="store_true", help=f"leave {shared.PIN} as it is")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    shared.drop_pin(options.keep_pin)

    from nnkit import load_dataset

    torch = torch_or_none()
    dataset = load_dataset()
    results: list[Result] = []
    for hidden, batch, goal in CASES:
        competitors = {"nnkit": nnkit_epoch(dataset, hidden, batch)}
        if torch:
            competitors["module"] = torch_module_epoch(torch, dataset, hidden, batch)
            competitors["tensor"] = torch_tensor_epoch(torch, dataset, hidden, batch)
        medians = shared.medians(shared.in_turns(competitors, options.epochs))
        ratios = {name: medians[name] / medians["nnkit"] for name in medians if name != "nnkit"}
        name = "-".join(map(str, (784, *hidden, 10)))
        results.append({"network": name, "batch": batch, "goal": goal, "seconds": medians, "ratios": ratios})
    report: Report = {"environment": environment(torch), "results": results}
    if options.json:
        print(json.dumps(report, indent=2))
        return
    print(", ".join(f"{key} {value}" for key, value in report["environment"].items()))
    for result in results:
        times = ", ".join(f"{name} {value:.3f} s" for name, value in result["seconds"].items())
        print(f"{result['network']} batch {result['batch']}: {times} an epoch")
        if result["ratios"]:
            against = ", ".join(f"{name} {value:.2f}" for name, value in result["ratios"].items())
            lowest = min(result["ratios"].values())
            print(f"  PyTorch / nnkit: {against}; the faster one {lowest:.2f}, goal {result['goal']}")


if __name__ == "__main__":
    main()
