"""Statements of random programs that change who is active, or need all threads of a block at once: branches,
loops of different length, cases, atomics, shuffles. Each stands in CUDA C++ and in Python.
"""

from collections.abc import Callable

from tests.support.programs.neighbours import SHARED, Array, Maker

LOADS: tuple[Callable[[Maker, Array], None], ...] = (
    *(Maker.neighbour, Maker.neighbour, Maker.window, Maker.walk, Maker.stencil),
)


def _inner(m: Maker, array: Array) -> tuple[list[str], list[str]]:
    """The lines of a statement that may stand anywhere, in both languages; deeper by one step in Python."""
    start = len(m.cuda), len(m.python)
    m.rng.choice(LOADS)(m, array)
    cuda, python = m.cuda[start[0] :], m.python[start[1] :]
    del m.cuda[start[0] :], m.python[start[1] :]
    return cuda, [f"    {line}" for line in python] + ["        pass"]


def _put(m: Maker, lines: tuple[list[str], list[str]], deeper: bool = False) -> None:
    m.cuda += lines[0]
    m.python += [f"    {line}" for line in lines[1]] if deeper else lines[1]


def branches(m: Maker, array: Array) -> None:
    """One statement for some threads, another for the rest, each itself under a condition perhaps."""
    (test, twin), (second, other) = m.condition(), m.condition()
    m.write(1, f"if ({test}) {{", f"if {twin}:")
    _put(m, _inner(m, array))
    if m.rng.random() < 0.5:
        m.write(1, f"}} else if ({second}) {{", f"elif {other}:")
    else:
        m.write(1, "} else {", "else:")
    _put(m, _inner(m, array))
    m.write(1, "}")


def turns(m: Maker, array: Array) -> None:
    """A loop that threads leave at different times, by its end or in the middle."""
    k, count, (test, twin) = m.name(), m.rng.choice((2, 3)), m.condition()
    m.write(1, f"for (int {k} = 0; {k} < 1 + t % {count}; ++{k}) {{", f"for {k} in range(1 + t % {count}):")
    _put(m, _inner(m, array))
    m.write(2, f"if ({k} > 0 && {test}) break;", f"if {k} > 0 and {twin}: break")
    if m.rng.random() < 0.5:
        _put(m, _inner(m, array))
    m.write(1, "}")


def cases(m: Maker, array: Array) -> None:
    """A switch over threads."""
    by = m.rng.choice((2, 3, 4))
    m.write(1, f"switch (t % {by}) {{")
    m.write(1, "", "if False: pass")
    for case in range(2):
        m.write(1, f"case {case}: {{", f"elif t % {by} == {case}:")
        _put(m, _inner(m, array))
        m.write(1, "} break;")
    m.write(1, "default: r1 = sum(r1, r0); }", "else: r1 = sum(r1, r0)")


def skipped(m: Maker, array: Array) -> None:
    """Out of a block in the middle, as `goto` and `do ... while (0)` do."""
    test, twin = m.condition()
    m.write(1, "do {", "for _ in range(1):")
    _put(m, _inner(m, array))
    m.write(2, f"if ({test}) break;", f"if {twin}: break")
    _put(m, _inner(m, array))
    m.write(1, "} while (0);")


def atomic(m: Maker, array: Array) -> None:
    """Guarded additions, whatever their order; or exchanges, each in a cell of its own."""
    if m.element.name not in ("int", "unsigned", "unsigned long long"):
        m.neighbour(array)
        return
    rng, name = m.rng, array.name
    own = rng.random() < 0.4
    i = m.index(array, injective=own)
    value, result = m.register(), m.register()
    m.barrier()
    if own:
        m.write(1, f"if ({i.guard}) {result} = atomicExch(&{name}[{i.cuda}], {value});")
        m.write(1, "", f"if {i.inside}: {result}, {name}[{i.python}] = {name}[{i.python}], {value}")
    else:
        how, twin = rng.choice((("atomicAdd", "sum"), ("atomicMax", "high"), ("atomicMin", "low")))
        m.write(1, f"if ({i.guard}) {how}({name} + ({i.cuda}), {value});")
        m.write(1, "", f"if {i.inside}: {name}[{i.python}] = {twin}({name}[{i.python}], {value})")
    m.barrier()


def leave(m: Maker) -> None:
    """Some threads end here."""
    test, twin = m.condition()
    m.write(1, f"if ({test} && t > 5) {{ DONE; return; }}", f"if {twin} and t > 5: return [r0, r1, r2]")


MASKS = (branches, branches, turns, cases, skipped)


def statement(m: Maker, arrays: list[Array]) -> None:
    """One of these."""
    if m.rng.random() < 0.1:
        leave(m)
        return
    atomics = [a for a in arrays if a.space in (*SHARED, "mine")]
    if atomics and m.rng.random() < 0.2:
        atomic(m, m.rng.choice(atomics))
    else:
        m.rng.choice(MASKS)(m, m.rng.choice(arrays))
