"""Random kernels whose threads come to barriers by different ways, and what each thread must have at the end.

Every thread passes the same number of barriers until it leaves, but not at the same places: branches and
rounds of loops depend on the thread. At a barrier it hands its number on to a neighbour in the block. It
keeps other values too: of several types, the same in all threads or a pattern, so that what the machine knows
of them must hold behind barriers as well. A program is a list of statements, nested; it is written as CUDA
C++, and a twin in Python runs it.
"""

import random
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

MASK = (1 << 32) - 1
PHASES = 60
"""Barriers after which every thread leaves."""


@dataclass(frozen=True)
class Condition:
    """`(value * times + plus) % of < below`, of the thread's number, or of what it has."""

    of_thread: bool
    times: int
    plus: int
    of: int
    below: int

    def __str__(self) -> str:
        value = "t" if self.of_thread else "own"
        return f"({value} * {self.times}u + {self.plus}u) % {self.of}u < {self.below}u"

    def holds(self, thread: int, own: int) -> bool:
        """For one thread."""
        value = thread if self.of_thread else own
        return (value * self.times + self.plus & MASK) % self.of < self.below


Statement = tuple[Any, ...]
"""("add", number), ("meet", step), ("leave", condition), ("if", condition, [], []), ("loop", of, plus, []),
("keep", kept, times, plus), ("use", kept)"""

KEPT = {"word": "unsigned", "wide": "unsigned long long", "real": "double", "flag": "bool"}
"""What a thread keeps besides."""

COUNTED = "own += count(own & 4u);"
"""A barrier with a vote."""


@dataclass(frozen=True)
class Program:
    """A kernel; `out` gets a number from each thread, and every block does the same."""

    name: str
    threads: int
    grid: int
    body: list[Statement]
    barrier: str
    """How threads meet, in CUDA C++."""

    @property
    def cuda(self) -> str:
        """Its text. `hand_on` stands in every place anew, so that the compiler may copy it."""
        n = self.threads
        lines = "\n".join(_text(self.body, 1))
        return f"""
extern "C" __global__ void {self.name}(unsigned* out) {{
    __shared__ unsigned board[2][{n}];
    unsigned t = threadIdx.x, own = t + 1u, phase = 0, notes[4] = {{}};
    unsigned word = 0; unsigned long long wide = 0; double real = 0; bool flag = false;
    out += blockIdx.x * {n};
    auto hand_on = [&](unsigned step) {{
        board[phase & 1][t] = own;
        {self.barrier}
        own = own * 3u + board[phase & 1][(t + step) % {n}u] + notes[own & 3];
        notes[step & 3] = own;
        ++phase;
    }};
    board[0][t] = board[1][t] = 0;
    sync();
{lines}
    out[t] = own;
}}
"""

    def expected(self) -> list[int]:
        """What the twin leaves in `out`."""
        n = self.threads
        board = [[0] * n, [0] * n]
        own = [t + 1 for t in range(n)]
        phase = [0] * n
        notes = [[0] * 4 for _ in range(n)]
        running = [_run(self.body, t, own, phase, board) for t in range(n)]
        alive = set(range(n))
        while alive:
            waiting: dict[int, int] = {}
            for t in sorted(alive):
                step = next(running[t], None)
                if step is not None:
                    waiting[t] = step
            # The barrier opens: who has left is not waited for.
            alive = set(waiting)
            votes = sum(own[t] >> 2 & 1 for t in waiting) if self.barrier == COUNTED else 0
            for t, step in waiting.items():
                own[t] = own[t] + votes & MASK
                own[t] = own[t] * 3 + board[phase[t] & 1][(t + step) % n] + notes[t][own[t] & 3] & MASK
                notes[t][step & 3] = own[t]
                phase[t] += 1
        return own


def _text(body: list[Statement], depth: int) -> Iterator[str]:
    indent = "    " * depth
    for kind, *rest in body:
        if kind == "add":
            yield f"{indent}own += {rest[0]}u;"
        elif kind == "keep":
            name, times, plus = rest
            value = f"mul_add(t, {times}u, {plus}u)" if times else f"same({plus}u)"
            yield f"{indent}{name} = {value}{' % 3u == 0' if name == 'flag' else ''};"
        elif kind == "use":
            yield f"{indent}own += {'unsigned(wide >> 1)' if rest[0] == 'wide' else f'unsigned({rest[0]})'};"
        elif kind == "meet":
            yield f"{indent}if (phase == {PHASES}u) {{ out[t] = own; return; }}"
            yield f"{indent}hand_on({rest[0]}u);"
        elif kind == "leave":
            yield f"{indent}if ({rest[0]}) {{ out[t] = own; return; }}"
        elif kind == "if":
            yield f"{indent}if ({rest[0]}) {{"
            yield from _text(rest[1], depth + 1)
            yield f"{indent}}} else {{"
            yield from _text(rest[2], depth + 1)
            yield f"{indent}}}"
        else:
            name = f"i{depth}"
            yield f"{indent}for (unsigned {name} = 0; {name} < t % {rest[0]}u + {rest[1]}u; ++{name}) {{"
            yield from _text(rest[2], depth + 1)
            yield f"{indent}}}"


class _Left(Exception):
    """A thread has left the kernel."""


def _run(
    body: list[Statement], t: int, own: list[int], phase: list[int], board: list[list[int]]
) -> Iterator[int]:
    """One thread: stops at each barrier, giving the distance of the neighbour that it asks behind it."""
    kept = dict.fromkeys(KEPT, 0)

    def statements(body: list[Statement]) -> Iterator[int]:
        for kind, *rest in body:
            if kind == "add":
                own[t] = own[t] + rest[0] & MASK
            elif kind == "keep":
                name, times, plus = rest
                kept[name] = t * times + plus
                if name == "flag":
                    kept[name] = int(kept[name] % 3 == 0)
            elif kind == "use":
                own[t] = own[t] + (kept[rest[0]] >> (rest[0] == "wide")) & MASK
            elif kind == "meet":
                if phase[t] == PHASES:
                    raise _Left
                board[phase[t] & 1][t] = own[t]
                yield rest[0]
            elif kind == "leave":
                if rest[0].holds(t, own[t]):
                    raise _Left
            elif kind == "if":
                yield from statements(rest[1] if rest[0].holds(t, own[t]) else rest[2])
            else:
                for _ in range(t % rest[0] + rest[1]):
                    yield from statements(rest[2])

    try:
        yield from statements(body)
    except _Left:
        return


def program(rng: random.Random, name: str) -> Program:
    """A random one."""
    threads = rng.choice([2, 5, 16, 31, 32, 33, 48, 64, 70, 100])
    barrier = rng.choice(["sync();", "cooperative();", COUNTED])
    return Program(name, threads, rng.choice([1, 1, 3]), _body(rng, 3), barrier)


def _condition(rng: random.Random) -> Condition:
    of = rng.randrange(2, 9)
    below = rng.randrange(1, of)
    return Condition(rng.random() < 0.7, rng.randrange(1, 50), rng.randrange(50), of, below)


def _keep(rng: random.Random) -> Statement:
    times = rng.choice([0, 0, 1, rng.randrange(50)])
    return ("keep", rng.choice(list(KEPT)), times, rng.randrange(1000))


def _like(rng: random.Random, body: list[Statement]) -> list[Statement]:
    """A body with as many barriers and other numbers: behind it those who went through either meet again."""
    found: list[Statement] = []
    for kind, *rest in body:
        if kind in ("add", "meet"):
            found.append((kind, rng.randrange(1, 40)))
        elif kind == "keep":
            found.append(_keep(rng))
        elif kind == "if":
            found.append((kind, rest[0], _like(rng, rest[1]), _like(rng, rest[2])))
        elif kind == "loop":
            found.append((kind, rest[0], rest[1], _like(rng, rest[2])))
        else:
            found.append((kind, *rest))
    return found


def _body(rng: random.Random, depth: int) -> list[Statement]:
    found: list[Statement] = []
    for _ in range(rng.randrange(1, 5)):
        kind = rng.choice(
            ["add", "keep", "keep", "use", "meet", "meet", "meet"]
            + (["leave", "if", "if", "loop", "loop"] if depth else [])
        )
        if kind == "add":
            found.append(("add", rng.randrange(1, 1000)))
        elif kind == "keep":
            found.append(_keep(rng))
        elif kind == "use":
            found.append(("use", rng.choice(list(KEPT))))
        elif kind == "meet":
            found.append(("meet", rng.randrange(1, 40)))
        elif kind == "leave":
            of = rng.randrange(6, 20)
            found.append(("leave", Condition(True, rng.randrange(1, 50), rng.randrange(50), of, 1)))
        elif kind == "if":
            body = _body(rng, depth - 1)
            other = _like(rng, body) if rng.random() < 0.7 else _body(rng, depth - 1)
            found.append(("if", _condition(rng), body, other))
        else:
            found.append(("loop", rng.randrange(1, 5), rng.randrange(3), _body(rng, depth - 1)))
    return found


HEAD = """
// For each thread alone, other than __syncthreads(). Memory changes there, so the compiler keeps it in place.
__device__ __forceinline__ void sync() { asm volatile("barrier.sync 0;" ::: "memory"); }
__device__ __forceinline__ void cooperative() { asm volatile("barrier.cta.sync 0;" ::: "memory"); }
__device__ __forceinline__ unsigned count(bool yes) {
    unsigned n;
    asm volatile("{ .reg .pred q; setp.ne.u32 q, %1, 0; barrier.red.popc.u32 %0, 0, q; }"
                 : "=r"(n) : "r"(unsigned(yes)) : "memory");
    return n;
}
// Values that the compiler leaves where they are.
__device__ __forceinline__ unsigned same(unsigned value) {
    unsigned n;
    asm volatile("mov.u32 %0, %1;" : "=r"(n) : "r"(value));
    return n;
}
__device__ __forceinline__ unsigned mul_add(unsigned value, unsigned times, unsigned plus) {
    unsigned n;
    asm volatile("mad.lo.u32 %0, %1, %2, %3;" : "=r"(n) : "r"(value), "r"(times), "r"(plus));
    return n;
}
"""
