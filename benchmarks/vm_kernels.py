"""The time of a launch on the device virtual, and of the kernels of a training step beside NumPy.

    ./tools/run python benchmarks/vm_kernels.py [--repeat 41] [--json]

Launches: an empty kernel, and one with arguments; the goal is under 15 microseconds for the empty one.
Kernels: the operations of a training step as the device runs them, with one thread and with as many as there
are cores, beside the functions of nnkit.reference with every buffer given, in turns. NumPy uses one thread
for these. The goal is 3 times NumPy's speed for the element-wise ones on 800 x 1000 numbers; the others are
for information. A turn is 8 calls in a row, as in training kernels follow each other: before a single call
the threads would be asleep. Arrays that are overwritten are restored before each turn, which is not timed.
The results of one call are compared: `difference` is the largest absolute difference.
"""

import argparse
import json
import os
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, TypedDict

import numpy as np
import shared
from numpy.typing import NDArray

from nnkit import reference
from nnkit.device.virtual import VirtualArray, VirtualDevice

LAUNCH_GOAL = 15.0
"""Microseconds."""

SPEED_GOAL = 3.0

ROW = 8
"""Calls of a turn."""

ROWS, COLUMNS, CLASSES, PIXELS = 800, 1000, 10, 784
LR, DECAY = 0.5, 2e-5

SOURCE = """
extern "C" __global__ void empty() {}
extern "C" __global__ void saxpy(int n, float a, const float *x, float *y)
{
    const int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i < n)
        y[i] += a * x[i];
}
"""

Arrays = list[NDArray[Any]]


@dataclass(frozen=True)
class Work:
    """One operation: its arrays, who computes it, and which arrays it overwrites."""

    name: str
    arrays: Arrays
    virtual: Callable[..., object]
    """Gets the device's operations, then the arrays."""
    numpy: Callable[..., object]
    """Gets the arrays."""
    written: tuple[int, ...] = (0,)
    compared: int = 0
    goal: float | None = SPEED_GOAL


class KernelRow(shared.Goal):
    """One operation by everybody: seconds of a call, and NumPy's over each device's."""

    name: str
    seconds: dict[str, float]
    ratios: dict[str, float]
    difference: float


class LaunchRow(shared.Goal):
    """Microseconds of a launch."""

    name: str
    us: float


class Report(TypedDict):
    """What `--json` prints."""

    cores: int | None
    threads: int
    environment: shared.Blas
    launches: list[LaunchRow]
    kernels: list[KernelRow]


def works() -> list[Work]:
    random = np.random.default_rng(0)

    def normal(*shape: int) -> NDArray[Any]:
        return random.standard_normal(shape).astype(np.float32)

    z, bias, small = normal(ROWS, COLUMNS), normal(COLUMNS), normal(ROWS, CLASSES)
    work, labels = np.empty_like(z), random.integers(0, CLASSES, ROWS)
    images = random.integers(0, 256, (6000, PIXELS)).astype(np.uint8)
    index = random.permutation(len(images))[:ROWS]
    out, bytes_ = np.empty((ROWS, PIXELS), np.float32), np.empty((ROWS, PIXELS), np.uint8)
    columns = reference.ColumnWork(small)
    activated = {name: function(z) for name, function in reference.ACTIVATIONS.items()}
    found = []
    for name in reference.ACTIVATIONS:
        found.append(
            Work(
                f"bias_activation {name}",
                [z, bias],
                lambda on, z, bias, name=name: on.bias_activation(z, bias, name),
                lambda z, bias, name=name: reference.bias_activation(z, bias, name, out=z),
            )
        )
        found.append(
            Work(
                f"activation_backward {name}",
                [normal(ROWS, COLUMNS), activated[name]],
                lambda on, delta, a, name=name: on.activation_backward(delta, a, name),
                lambda delta, a, name=name: reference.activation_backward(
                    delta, a, name, out=delta, work=work
                ),
            )
        )
    found += [
        Work(
            "sgd_update",
            [z, normal(ROWS, COLUMNS)],
            lambda on, parameter, gradient: on.sgd_update(parameter, gradient, LR, DECAY),
            lambda parameter, gradient: reference.sgd_update(parameter, gradient, LR, DECAY),
            written=(0, 1),
        ),
        Work(
            "gather_images",
            [out, images],
            lambda on, out, images: on.gather_images(images, index, out),
            lambda out, images: reference.gather_images(images, index, out, bytes_),
            goal=None,
        ),
        Work(
            "column_sum",
            [np.empty(COLUMNS, np.float32), z],
            lambda on, out, x: on.column_sum(x, out),
            lambda out, x: reference.column_sum(x, out=out),
            goal=None,
        ),
        Work(
            "softmax_cross_entropy",
            [small, labels, np.empty(ROWS, np.float32)],
            lambda on, logits, labels, losses: on.softmax_cross_entropy(logits, labels, losses, ROWS),
            lambda logits, labels, losses: reference.softmax_cross_entropy_columns(
                logits, labels, losses, ROWS, columns
            ),
            goal=None,
        ),
    ]
    return found


def copy_back(work: Work, arrays: Arrays) -> None:
    """Restore what a call overwrites."""
    for number in work.written:
        np.copyto(arrays[number], work.arrays[number])


def write_back(work: Work, arrays: Sequence[VirtualArray]) -> None:
    """Restore what a call overwrites, on a device."""
    for number in work.written:
        arrays[number].write(work.arrays[number])


def compare(work: Work, devices: dict[str, VirtualDevice], repeats: int) -> KernelRow:
    """Median seconds of everybody, and how far the results are apart."""
    once: dict[str, shared.Call] = {}
    before: dict[str, shared.Call] = {}
    mine = [array.copy() for array in work.arrays]
    once["numpy"] = partial(work.numpy, *mine)
    before["numpy"] = partial(copy_back, work, mine)
    placed = {}
    for name, device in devices.items():
        arrays = placed[name] = [device.upload(array) for array in work.arrays]
        once[name] = partial(work.virtual, device.operations, *arrays)
        before[name] = partial(write_back, work, arrays)
    for name, prepare in before.items():
        prepare()
        once[name]()
    expected = mine[work.compared].astype(np.float64)
    apart = max(
        float(np.abs(arrays[work.compared].download() - expected).max()) for arrays in placed.values()
    )
    rows = {name: row(call) for name, call in once.items()}
    turns = shared.medians(shared.in_turns(rows, repeats, before))
    seconds = {name: turn / ROW for name, turn in turns.items()}
    return {
        "name": work.name,
        "seconds": seconds,
        "ratios": {name: seconds["numpy"] / seconds[name] for name in devices},
        "difference": apart,
        "at_least": work.goal,
    }


def row(call: shared.Call) -> shared.Call:
    """The call as often as a turn makes it."""

    def calls() -> None:
        for _ in range(ROW):
            call()

    return calls


def launches(device: VirtualDevice, count: int = 2000) -> list[LaunchRow]:
    """Microseconds of a launch, the median of 15 rows of launches."""
    module = device.compile(SOURCE, name="launches.cu")
    empty, saxpy = module["empty"], module["saxpy"]
    x = device.zeros((32,), np.float32)
    arguments = (np.int32(32), np.float32(1), x, x)

    def microseconds(call: shared.Call) -> float:
        call()
        taken = []
        for _ in range(15):
            begun = time.perf_counter()
            for _ in range(count):
                call()
            taken.append((time.perf_counter() - begun) / count)
        return 1e6 * statistics.median(taken)

    rows = (
        ("empty kernel, 1 block of 1", lambda: empty.launch(1, 1), LAUNCH_GOAL),
        ("saxpy, 1 block of 32", lambda: saxpy.launch(1, 32, arguments), None),
    )
    return [{"name": name, "us": microseconds(call), "under": goal} for name, call, goal in rows]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeat", type=int, default=41, help="calls of each kernel; the median counts")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    device = VirtualDevice()
    # The last one is the one whose ratio has the goal: the device as users get it.
    devices = {"1 thread": VirtualDevice(threads=1)}
    if device.threads > 1:
        devices[f"{device.threads} threads"] = device
    report: Report = {
        "cores": os.cpu_count(),
        "threads": device.threads,
        "environment": shared.blas(),
        "launches": launches(device),
        "kernels": [compare(work, devices, options.repeat) for work in works()],
    }
    if options.json:
        print(json.dumps(report, indent=2))
        return
    print(f"{report['cores']} cores, {device.threads} threads, NumPy {np.__version__}")
    for launch in report["launches"]:
        reached = shared.goal(launch, launch["us"], "{:.1f}")
        print(f"  {launch['name']:<30} {launch['us']:7.1f} us  {reached}".rstrip())
    print("microseconds of a call, and NumPy's time over the kernel's")
    for kernel in report["kernels"]:
        times = [f"{name} {1e6 * value:7.0f}" for name, value in kernel["seconds"].items()]
        ratios = [f"{value:5.2f}" for value in kernel["ratios"].values()]
        reached = shared.goal(kernel, list(kernel["ratios"].values())[-1])
        print(
            f"  {kernel['name']:<30} {', '.join(times)}; {', '.join(ratios)}; "
            f"difference {kernel['difference']:.1e}  {reached}".rstrip()
        )


if __name__ == "__main__":
    main()
