"""Whole programs of guarded neighbours: arrays in any space, and a few random statements."""

import random

from tests.support.programs import masks
from tests.support.programs.elements import CUDA, ELEMENTS, Element
from tests.support.programs.masks import LOADS
from tests.support.programs.neighbours import BLOCKS, RESULTS, SHARED, SPACES, WRITABLE, Array, Maker, Program
from tests.support.programs.stages import STAGES


def _array(rng: random.Random, space: str, element: Element, threads: int, grid: int) -> Array:
    """An array about as long as there are threads."""
    most = {"local": 24, "param": max(2000 // element.size, 4), "constant": 200}.get(space, 300)
    length = rng.choice((threads, threads, threads + 1, 2 * threads, max(threads - 3, 1), 16, 2))
    if space == "global" and rng.random() < 0.5:
        length = threads * grid
    return Array({"param": "given", "global": "whole"}.get(space, space), space, max(min(length, most), 1))


def program(
    rng: random.Random,
    name: str,
    left_out: frozenset[int] = frozenset(),
) -> Program:
    """A random program of neighbours, masks, and stages, which need an array in shared memory.

    `left_out` are the numbers of statements that are not in it: all others stay as they are.
    """
    element = ELEMENTS[rng.choice(list(ELEMENTS))]
    block, grid = rng.choice(BLOCKS), rng.randrange(1, 4)
    threads = block[0] * block[1] * block[2]
    arrays = [
        _array(rng, s, element, threads, grid)
        for s in dict.fromkeys(rng.choices((*SPACES, "first", "dynamic"), k=rng.randrange(1, 4)))
    ]
    maker = Maker(rng, element, block, grid, rng.choice((1, 2, 5, threads - 1 or 1)), arrays)
    for number in range(rng.randrange(2, 5)):
        array = rng.choice(arrays)
        before = len(maker.cuda), len(maker.python)
        choice = rng.randrange(16)
        shared = [a for a in arrays if a.space in SHARED]
        if choice < 7:
            rng.choice(LOADS)(maker, array)
        elif choice < 9 and array.space in WRITABLE:
            maker.store(array)
        elif choice < 11 and shared:
            rng.choice(STAGES)(maker, rng.choice(shared))
        elif choice > 10:
            masks.statement(maker, arrays)
        else:
            maker.neighbour(array)
        if number in left_out:
            del maker.cuda[before[0] :], maker.python[before[1] :]
    written = [a for a in arrays if a.space in WRITABLE]
    if written and rng.random() < 0.8:
        maker.barrier()
        for array in written:
            _dump(maker, array)
    return _finished(rng, name, maker)


def _dump(m: Maker, array: Array) -> None:
    """What lies in an array at last, spread over the results."""
    i = m.name("i")
    m.write(1, f"for (int {i} = t; {i} < {array.length}; {i} += T) r2 = sum(r2, {array.name}[{i}]);")
    m.write(1, "", f"for {i} in range(t, {array.length}, T): r2 = sum(r2, {array.name}[{i}])")


def _finished(rng: random.Random, name: str, maker: Maker) -> Program:
    own, element, arrays = maker.element.name, maker.element, maker.arrays
    spaces = {a.space: a for a in arrays}
    head, fill = [], []
    # What is only read may be promised not to change.
    promise = rng.choice(("", " __restrict__"))
    alone = rng.random() < 0.15
    made = Program(name, element, maker.block, maker.grid, maker.n, arrays, "", "")
    value = "{}((5 * i + {}) % 23 - 11)"
    for array in arrays:
        salt = 7 * SPACES.index(array.space)
        text = value.format(element.maker, salt)
        loop = f"for (int i = t; i < {array.length}; i += T) {array.name}[i] = {text};"
        if alone:
            # Every thread writes all of it, the same: no barrier is needed for what follows.
            loop = f"for (int i = 0; i < {array.length}; ++i) {array.name}[i] = {text};"
        if array.space in ("first", "second"):
            fill += [f"__shared__ {own} {array.name}[{array.length}];", loop]
        elif array.space == "dynamic":
            fill += [f"DYNAMIC({own}, {name}_dynamic); {own}* dynamic = {name}_dynamic;", loop]
        elif array.space == "mine":
            fill += [f"{own}* mine = all + blockIdx.x * {array.length};", loop]
        elif array.space == "local":
            fill += [
                f"{own} local[{array.length}];",
                f"for (int i = 0; i < {array.length}; ++i) local[i] = {text};",
            ]
        elif array.space == "constant":
            cells = ", ".join(
                "{" + ", ".join(_literal(v, element) for v in cell) + "}" for cell in made.filled("constant")
            )
            head.append(f"__constant__ {own} {name}_constant[{array.length}] = {{{cells}}};")
            fill.append(
                f"const {own}* constant = {name}_constant;"
                if rng.random() < 0.5
                else f"#define constant {name}_constant"
            )
        elif array.space == "global":
            fill.append(f"const {own}*{promise} whole = in;")
    given = ""
    if "param" in spaces:
        head.append(f"struct {name}_given {{ {own} cells[{spaces['param'].length}]; }};")
        given = f", const GRID_CONSTANT {name}_given given"
    if not alone and any(s in spaces for s in (*SHARED, "mine")):
        fill.append("__syncthreads();")
    cuda = [
        *head,
        f"#define DONE {{ {own}* o = out + {RESULTS} * (size_t)g; o[0] = r0; o[1] = r1; o[2] = r2; }}",
        f'extern "C" __global__ void {name}(',
        f"    const {own}*{promise} in, {own}* out, {own}* all, int n{given}) {{",
        "  const int x = threadIdx.x, y = threadIdx.y, z = threadIdx.z, b = blockIdx.x;",
        "  const int T = blockDim.x * blockDim.y * blockDim.z;",
        "  const int t = x + blockDim.x * (y + blockDim.y * z), g = b * T + t;",
        *[f"#pragma unroll 1\n  {line}" if line[:3] == "for" else line for line in fill],
        f"  {own} r0 = {element.maker}(t % 19), r1 = {element.maker}(7), r2 = {element.maker}(b);",
        *(["  __syncwarp();"] if rng.random() < 0.15 else []),
        *maker.cuda,
        "  DONE",
        "}",
        "#undef DONE",
        *(["#undef constant"] if "constant" in spaces else []),
    ]
    names = ", ".join(a.name for a in arrays)
    python = [
        f"def thread(x, y, z, b, t, T, g, n, {names}):",
        "    r0, r1, r2 = made(t % 19), made(7), made(b)",
        "    yield",
        *maker.python,
        "    return [r0, r1, r2]",
    ]
    made.cuda, made.python = "\n".join(cuda), "\n".join(line for line in python if line.strip())
    return made


def _literal(value: float, element: Element) -> str:
    text = repr(value)
    if element.dtype == "f4":
        return f"{text}f"
    return f"{text}ull" if element.dtype == "u8" else text


HEAD = f"""
#ifdef __CUDACC__
#define DYNAMIC(E, name) extern __shared__ E name[]
#define GRID_CONSTANT __grid_constant__
#endif
{CUDA}
"""
