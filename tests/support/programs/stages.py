"""What textbooks do with neighbours in shared memory, as statements of random programs: scans, reductions in
both directions, sorting networks, stencils over and over. Each stands in CUDA C++ and in Python.
"""

from collections.abc import Callable

from tests.support.programs.neighbours import Array, Maker

Stage = Callable[[Maker, Array], None]


def _power(length: int) -> int:
    """The largest power of two up to a length."""
    return 1 << length.bit_length() - 1


def _two_steps(m: Maker, test: str, twin: str, read: str, assign: str, indent: int = 2) -> None:
    """Read where the test says so, wait, write, wait."""
    held = m.name("h")
    own, maker = m.element.name, m.element.maker
    form = m.rng.randrange(3)
    if form == 0:
        m.write(
            indent, f"{own} {held} = {test} ? {read} : {maker}(0);", f"{held} = {read} if {twin} else made(0)"
        )
    else:
        m.write(indent, f"{own} {held} = {maker}(0);", f"{held} = made(0)")
        m.write(indent, f"if ({test}) {held} = {read};", f"if {twin}: {held} = {read}")
    m.barrier(indent)
    m.write(indent, f"if ({test}) {assign.format(held)};", f"if {twin}: {assign.format(held)}")
    m.barrier(indent)


def scan(m: Maker, array: Array) -> None:
    """Hillis and Steele's, from below or from above."""
    a, n, d = array.name, min(array.length, m.threads), m.name("d")
    m.barrier()
    m.write(1, f"for (int {d} = 1; {d} < {n}; {d} *= 2) {{")
    m.write(1, "", f"for {d} in [1 << k for k in range(12) if 1 << k < {n}]:")
    if m.rng.random() < 0.5:
        test, twin, other = f"t >= {d} && t < {n}", f"t >= {d} and t < {n}", f"t - {d}"
    else:
        test, twin, other = f"t + {d} < {n}", f"t + {d} < {n}", f"t + {d}"
    _two_steps(m, test, twin, f"{a}[{other}]", f"{a}[t] = sum({a}[t], {{}})")
    m.write(1, "}")


def tree_scan(m: Maker, array: Array) -> None:
    """Blelloch's: up the tree, then down."""
    a, n, d, i = array.name, _power(min(array.length, 2 * m.threads)), m.name("d"), m.name("i")
    held = m.name("h")
    m.barrier()
    m.write(1, f"for (int {d} = 1; {d} < {n}; {d} *= 2) {{")
    m.write(1, "", f"for {d} in [1 << k for k in range(12) if 1 << k < {n}]:")
    m.write(2, f"int {i} = (t + 1) * {d} * 2 - 1;", f"{i} = (t + 1) * {d} * 2 - 1")
    m.write(2, f"if ({i} < {n}) {a}[{i}] = sum({a}[{i}], {a}[{i} - {d}]);")
    m.write(2, "", f"if {i} < {n}: {a}[{i}] = sum({a}[{i}], {a}[{i} - {d}])")
    m.barrier(2)
    m.write(1, "}")
    m.write(1, f"if (t == 0) {a}[{n} - 1] = {m.element.maker}(0);", f"if t == 0: {a}[{n} - 1] = made(0)")
    m.barrier()
    m.write(1, f"for (int {d} = {n} / 2; {d} > 0; {d} /= 2) {{")
    m.write(1, "", f"for {d} in [1 << k for k in reversed(range(12)) if 1 << k < {n}]:")
    m.write(2, f"int {i} = (t + 1) * {d} * 2 - 1;", f"{i} = (t + 1) * {d} * 2 - 1")
    m.write(2, f"if ({i} < {n}) {{ {m.element.name} {held} = {a}[{i} - {d}]; {a}[{i} - {d}] = {a}[{i}];")
    m.write(3, f"{a}[{i}] = sum({a}[{i}], {held}); }}")
    m.write(2, "", f"if {i} < {n}:")
    m.write(3, "", f"{held} = {a}[{i} - {d}]; {a}[{i} - {d}] = {a}[{i}]; {a}[{i}] = sum({a}[{i}], {held})")
    m.barrier(2)
    m.write(1, "}")


def reduction(m: Maker, array: Array) -> None:
    """To the first cell or to the last, by halves or by doubling steps."""
    a, n, s = array.name, min(array.length, m.threads), m.name("s")
    how = m.rng.choice(("sum", "low", "high"))
    form = m.rng.randrange(4)
    m.barrier()
    halves = f"for (int {s} = {_power(n)}; {s} > 0; {s} /= 2) {{"
    m.write(1, f"for (int {s} = 1; {s} < {n}; {s} *= 2) {{" if form == 1 else halves)
    steps = "range(12)" if form == 1 else "reversed(range(12))"
    limit = f"< {n}" if form == 1 else f"<= {_power(n)}"
    m.write(1, "", f"for {s} in [1 << k for k in {steps} if 1 << k {limit}]:")
    if form == 0:
        cuda = twin = f"t < {s} && t + {s} < {n}"
        mine, other = "t", f"t + {s}"
    elif form == 1:
        cuda = twin = f"t % (2 * {s}) == 0 && t + {s} < {n}"
        mine, other = "t", f"t + {s}"
    elif form == 2:
        cuda = twin = f"t >= {n} - {s} && t >= {s} && t < {n}"
        mine, other = "t", f"t - {s}"
    else:
        cuda = twin = f"t < {s} && {n} - 1 - t - {s} >= 0"
        mine, other = f"{n} - 1 - t", f"{n} - 1 - t - {s}"
    twin = twin.replace("&&", "and")
    m.write(2, f"if ({cuda}) {a}[{mine}] = {how}({a}[{mine}], {a}[{other}]);")
    m.write(2, "", f"if {twin}: {a}[{mine}] = {how}({a}[{mine}], {a}[{other}])")
    m.barrier(2)
    m.write(1, "}")


def _swap(m: Maker, array: Array, indent: int, test: str, p: str, q: str) -> None:
    """Exchange two cells that are in the wrong order, behind a test."""
    a, held = array.name, m.name("h")
    if m.rng.random() < 0.5:
        m.write(indent, f"if ({test} && before({a}[{q}], {a}[{p}])) {{")
    else:
        m.write(indent, f"if ({test}) if (before({a}[{q}], {a}[{p}])) {{")
    m.write(indent + 1, f"{m.element.name} {held} = {a}[{p}]; {a}[{p}] = {a}[{q}]; {a}[{q}] = {held}; }}")
    m.write(indent, "", f"if {test.replace('&&', 'and')} and before({a}[{q}], {a}[{p}]):")
    m.write(indent + 1, "", f"{held} = {a}[{p}]; {a}[{p}] = {a}[{q}]; {a}[{q}] = {held}")


def odd_even(m: Maker, array: Array) -> None:
    """Neighbours exchange, even pairs and odd ones in turn; the pair's lower or upper thread does it."""
    n, k = min(array.length, m.threads), m.name()
    rounds = min(n, 12)
    m.barrier()
    m.write(1, f"for (int {k} = 0; {k} < {rounds}; ++{k}) {{", f"for {k} in range({rounds}):")
    if m.rng.random() < 0.5:
        _swap(m, array, 2, f"(t & 1) == ({k} & 1) && t + 1 < {n}", "t", "t + 1")
    else:
        _swap(m, array, 2, f"(t & 1) != ({k} & 1) && t >= 1 && t < {n}", "t - 1", "t")
    m.barrier(2)
    m.write(1, "}")


def bitonic(m: Maker, array: Array) -> None:
    """The bitonic network: partners differ in one bit."""
    n, k, j, p = _power(min(array.length, m.threads)), m.name(), m.name("j"), m.name("p")
    m.barrier()
    m.write(1, f"for (int {k} = 2; {k} <= {n}; {k} *= 2) for (int {j} = {k} / 2; {j} > 0; {j} /= 2) {{")
    m.write(1, "", f"for {k}, {j} in [(2 << i, 1 << h) for i in range({n.bit_length() - 1})")
    m.write(2, "", "for h in reversed(range(i + 1))]:")
    m.write(2, f"int {p} = t ^ {j};", f"{p} = t ^ {j}")
    _swap(m, array, 2, f"{p} > t && {p} < {n} && (t & {k}) == 0", "t", p)
    _swap(m, array, 2, f"{p} > t && {p} < {n} && (t & {k}) != 0", p, "t")
    m.barrier(2)
    m.write(1, "}")


def diffusion(m: Maker, array: Array) -> None:
    """Every cell becomes the sum of its neighbours and itself, a few times."""
    a, n, k, held = array.name, min(array.length, m.threads), m.name(), m.name("h")
    rounds, d = m.rng.choice((1, 2, 3)), m.rng.choice((1, 1, 2, 5))
    m.barrier()
    m.write(1, f"for (int {k} = 0; {k} < {rounds}; ++{k}) {{", f"for {k} in range({rounds}):")
    m.write(2, f"{m.element.name} {held} = {m.element.maker}(0);", f"{held} = made(0)")
    m.write(2, f"if (t >= {d} && t < {n} + {d}) {held} = sum({held}, {a}[t - {d}]);")
    m.write(2, "", f"if {d} <= t < {n} + {d}: {held} = sum({held}, {a}[t - {d}])")
    m.write(2, f"if (t + {d} < {n}) {held} = less({held}, {a}[t + {d}]);")
    m.write(2, "", f"if t + {d} < {n}: {held} = less({held}, {a}[t + {d}])")
    m.barrier(2)
    m.write(2, f"if (t < {n}) {a}[t] = {held};", f"if t < {n}: {a}[t] = {held}")
    m.barrier(2)
    m.write(1, "}")


STAGES: list[Stage] = [scan, scan, tree_scan, reduction, reduction, odd_even, bitonic, diffusion]
