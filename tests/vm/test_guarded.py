"""Guarded neighbours: lanes that are not active hold addresses far outside, and nobody may touch those.

`if (t >= d) ... s[t - d]`: the base of a vector access is lane 0's address, and lane 0 takes no part.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pytest

from nnkit.device.virtual import VirtualDevice, VirtualModule
from nnkit.errors import DeviceMemoryError
from tests.support.sources import line_of, report

TYPES = {
    "char": np.int8,
    "short": np.int16,
    "int": np.int32,
    "unsigned": np.uint32,
    "float": np.float32,
    "double": np.float64,
}
INDICES = {
    "before": ("t >= d", "t - d"),
    "behind": ("t + d < N", "t + d"),
    "unsigned": ("(unsigned)t - d < N", "(unsigned)t - d"),
    "wide": ("t >= d", "(long long)t - d"),
    "constant": ("t >= 3", "t - 3"),
    "mirrored": ("t + d < N", "N - 1 - t - d"),
    "odd": ("t % 2 == 1 && t >= d", "t - d"),
    "strided": ("t % 4 == 0 && t >= 4", "t / 2 - d"),
}
SPACES = {
    "static": "__shared__ T s[N]; s[t] = x[t]; __syncthreads();",
    "later": "__shared__ struct {{ T first[3]; T s[N]; }} both; T* s = both.s; s[t] = x[t]; __syncthreads();",
    "dynamic": "extern __shared__ double pool[]; T* s = (T*)pool; s[t] = x[t]; __syncthreads();",
    "param": "const T* s = given_{name}.s;",
    "const": "const T* s = fixed_{name};",
    "global": "T* s = x;",
    "local": "T s[N]; for (int i = 0; i < N; ++i) s[i] = x[i];",
    "generic": "__shared__ T mine[N]; mine[t] = x[t]; __syncthreads(); T* s = e > 99 ? x : mine;",
}


@dataclass(frozen=True)
class Case:
    """One kernel: a guarded access, which the argument `force` makes all threads do."""

    index: str
    space: str
    how: str
    type: str
    threads: int

    @property
    def name(self) -> str:
        return f"{self.index}_{self.space}_{self.how}_{self.type}_{self.threads}"

    @property
    def source(self) -> str:
        guard, index = INDICES[self.index]
        kept = {
            "load": "",
            "store": "__syncthreads(); v = (int)s[t];",
            "atomic": "__syncthreads(); v = s[t];",
        }
        access = {
            "load": f"v = (int)s[{index}];",
            "store": f"s[{index}] = (T)(100 - t);",
            "atomic": f"atomicAdd(&s[{index}], (T)t);",
        }[self.how]
        setup = SPACES[self.space].format(name=self.name)
        given = f"const __grid_constant__ Given_{self.name} given_{self.name}, " * (self.space == "param")
        values = ", ".join(str(int(value)) for value in self.values)
        return f"""
#define N {self.threads}
#define T {self.type}
struct Given_{self.name} {{ T s[N]; }};
{f"__constant__ T fixed_{self.name}[N] = {{ {values} }};" if self.space == "const" else ""}
extern "C" __global__ void {self.name}({given}int d, int e, int force, T* x, int* out) {{
    int t = threadIdx.x, v = -1;
    {setup}
    if (({guard}) || force)
        {access} // {self.name}
    {kept[self.how]}
    out[t] = v;
}}
#undef N
#undef T
"""

    @property
    def values(self) -> np.ndarray:
        return (np.arange(self.threads) * 3 + 1) % 120

    def lanes(self, d: int) -> tuple[np.ndarray, np.ndarray]:
        """Which threads take part, and every thread's index."""
        t, n = np.arange(self.threads), self.threads
        index = {
            "behind": t + d,
            "mirrored": n - 1 - t - d,
            "constant": t - 3,
            "strided": t // 2 - d,
        }.get(self.index, t - d)
        active = {
            "behind": t + d < n,
            "mirrored": t + d < n,
            "constant": t >= 3,
            "odd": (t % 2 == 1) & (t >= d),
            "strided": (t % 4 == 0) & (t >= 4),
        }.get(self.index, t >= d)
        return active, index

    def expected(self, d: int) -> np.ndarray:
        active, index = self.lanes(d)
        values = self.values.copy()
        t = np.arange(self.threads)
        if self.how == "load":
            return np.where(active, values[np.where(active, index, 0)], -1)
        if self.how == "store":
            values[index[active]] = 100 - t[active]
        else:
            np.add.at(values, index[active], t[active])
        return values


def cases() -> Iterator[Case]:
    for number, index in enumerate(INDICES):
        for space in SPACES if number < 4 else ("static", "param", "global"):
            yield Case(index, space, "load", "int", (37, 64, 16, 33)[number % 4])
        for space in ("static", "dynamic", "global")[: 3 if number < 4 else 1]:
            yield Case(index, space, "store", "int", (64, 37, 33, 16)[number % 4])
    for type_ in TYPES:
        if type_ != "int":
            for space in ("static", "param"):
                yield Case("before", space, "load", type_, 40)
            yield Case("constant", "static", "store", type_, 40)
    for space in ("static", "dynamic", "global", "generic"):
        yield Case("before", space, "atomic", "int", 40)


CASES = {case.name: case for case in cases()}
SOURCE = "".join(case.source for case in CASES.values())
DISTANCES = {"strided": (1, 2), "odd": (1, 3, 5)}


@pytest.fixture(scope="module")
def device() -> Iterator[VirtualDevice]:
    made = VirtualDevice(threads=1)
    yield made
    made.close()


@pytest.fixture(scope="module")
def module(device: VirtualDevice) -> VirtualModule:
    return device.compile(SOURCE, name="guarded.cu")


@pytest.mark.parametrize("name", CASES)
def test_active_lanes_alone_touch_memory(device: VirtualDevice, module: VirtualModule, name: str) -> None:
    case = CASES[name]
    type_ = TYPES[case.type]
    out = device.zeros((case.threads,), np.int32)

    def launch(d: int, force: int) -> None:
        x = device.upload(case.values.astype(type_))
        first = [case.values.astype(type_).tobytes()] if case.space == "param" else []
        shared = case.threads * np.dtype(type_).itemsize * (case.space == "dynamic")
        args = (*first, np.int32(d), np.int32(0), np.int32(force), x, out)
        module[name].launch(1, case.threads, args, shared_bytes=shared)

    distances = DISTANCES.get(case.index, (1, 2, 15, case.threads - 1, case.threads))
    for d in distances:
        launch(d, 0)
        assert out.download().tolist() == case.expected(d).tolist(), d
    # The negative control: the same without the guard.
    end = case.threads
    for d in distances:
        _, index = case.lanes(d)
        outside = (index < 0) | (index >= end)
        if case.space == "later" or not outside.any() or (case.space == "param" and index.max() >= end):
            continue
        with pytest.raises(DeviceMemoryError) as caught:
            launch(d, 1)
        found = report(caught.value)
        assert found.line == line_of(SOURCE, name)
        assert found.thread[0] == int(outside.argmax())
