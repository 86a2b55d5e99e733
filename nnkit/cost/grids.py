"""The grids in which a strategy can use some ranks, and the one in which its step is the shortest."""

import math
from collections.abc import Sequence
from dataclasses import replace

from nnkit.contracts import CommBackend, Grid, PredictableBackend, Task
from nnkit.cost.model import Line, Machine, Prediction, predict
from nnkit.cost.step import Step, Work, step_of
from nnkit.errors import UsageError

ASSUMED = Machine(
    Work(calls=8e-6, flops=5e-12, parameters=6e-10, pixels=6e-10), Line(7e-6, 2.7e-10), overlap=0.0
)
"""A core of 2024 (AMD EPYC, AVX-512) and Open MPI in shared memory, as fitted there: to choose a grid by
where nothing was measured. The choice depends on ratios, which vary less between machines than speeds do."""


def predictable(backend: CommBackend) -> PredictableBackend | None:
    """The backend if it says what its steps ask of a rank; or None: then nothing is predicted."""
    return backend if isinstance(backend, PredictableBackend) else None


def step_in(backend: PredictableBackend, task: Task, grid: Grid, rank: int | None = None) -> Step:
    """The step of a rank of that grid; without `rank` it is the last one's, which has the most to do."""
    last = math.prod(grid) - 1
    workload = backend.workload(replace(task, grid=grid), last if rank is None else rank)
    return step_of(task.sizes[0], workload)


def fitting(backend: PredictableBackend, task: Task, ranks: int) -> list[Grid]:
    """The grids in which no rank is without work, most parts of the batch first."""

    def works(grid: Grid) -> bool:
        least = backend.workload(replace(task, grid=grid), 0)
        return least.samples > 0 and all(layer.rows and layer.columns for layer in least.layers)

    return sorted(filter(works, backend.grids(ranks)), reverse=True)


def fastest(
    backend: PredictableBackend, task: Task, grids: Sequence[Grid], machine: Machine
) -> Prediction | None:
    """The shortest step in these grids; of equal ones that with the fewest bytes. None without any grid."""
    found = [predict(step_in(backend, task, grid), grid, machine) for grid in grids]
    return min(found, key=lambda each: (each.seconds, each.bytes), default=None)


def best_grid(backend: PredictableBackend, task: Task, ranks: int, machine: Machine = ASSUMED) -> Grid:
    """(parts of the batch, parts of the network) of the shortest step; of equal ones the fewest bytes.

    One of the two may be 1: then it is data or model parallel that is the fastest.
    Raises UsageError where every grid would leave a rank without work.
    """
    best = fastest(backend, task, fitting(backend, task, ranks), machine)
    if best is None:
        raise UsageError(
            f"--ranks {ranks}: batch {task.batch} and layers {'-'.join(map(str, task.sizes))} cannot be cut "
            "into so many parts: give fewer ranks, a larger --batch or a wider --hidden"
        )
    return best.grid
