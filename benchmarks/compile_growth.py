"""Is compile time proportional to the length of the code? Time per line at n, 2n and 4n lines, of all kinds.

    python benchmarks/compile_growth.py [KIND ...]

Processor time of this process and of the compiler's, without NVRTC. Goal: at 2n a line takes at most 1.3
times as long as at n.
"""

import resource
import sys
from collections.abc import Callable

from nnkit.device.compile import compile_cuda
from nnkit.vm.analysis.geometry import Launch
from nnkit.vm.analysis.options import Options
from nnkit.vm.build.compile import compile_kernel
from nnkit.vm.build.source import Source
from nnkit.vm.prepare.program import choose_width

GOAL = 1.3
BLOCK = (64, 1, 1)


def body(line: Callable[[int], str], count: int, before: str = "", head: str = "") -> str:
    """A kernel with that many lines."""
    lines = "\n".join(map(line, range(count)))
    start = f'{head}extern "C" __global__ void k(int *o) {{ int t = threadIdx.x, x = o[t]; {before}'
    return f"{start}\n{lines}\no[t] = x; }}"


def switch(count: int) -> str:
    """A switch, each thread with a case of its own."""
    cases = "\n".join(f"case {i}: x = x * {2 * i + 3} + o[t + {i}]; break;" for i in range(count))
    return body(lambda _: f"switch (x) {{ {cases} }}", 1)


def nested(count: int) -> str:
    """Each if within the one before."""
    ways = "".join(f"if (o[x & 255] > {i}) {{ x += o[x & {i}];\n" for i in range(count))
    return body(lambda _: ways + "}" * count, 1)


def compares(count: int) -> str:
    """A chain of else-ifs, each thread ending somewhere."""
    ways = " else ".join(f"if (x == {i * i * 7}) {{ x += o[t + {i}]; o[{i}] = x; }}" for i in range(count))
    return body(lambda _: ways, 1)


def deep_loops(count: int) -> str:
    """Each loop within the one before."""
    heads = "".join(
        f"#pragma unroll 1\nfor (int i{i} = 0; i{i} < o[x & {i}]; i{i}++) {{ x += o[x & 255];\n"
        for i in range(count)
    )
    return body(lambda _: heads + "}" * count, 1)


def flags(count: int) -> str:
    """Each set under the one before, in a loop."""
    declared = " ".join(f"bool f{i} = false;" for i in range(count))
    chain = "\n".join(
        f"if (x > {i * 3} && {f'f{i - 1}' if i else 'true'}) f{i} = true;" for i in range(count)
    )
    used = " ".join(f"x += f{i} * {i + 3};" for i in range(count))
    return body(
        lambda _: f"for (int r = 0; r < o[0]; r++) {{ {chain} x = x * 3 + o[x & 63]; }} {used}", 1, declared
    )


def many_live(count: int) -> str:
    """All values are live from the first line to the last."""
    loads = "\n".join(f"int r{i} = o[t + {i * 64}];" for i in range(count))
    stores = "\n".join(f"o[t + {i * 64}] = r{i};" for i in range(count))
    start = f"{loads} __threadfence();"
    lines = (f"r{i} = r{i} * r{(i * 7 + 1) % count} + r{(i * 13 + 5) % count};" for i in range(count))
    return body(lambda _: "\n".join(lines) + f"__threadfence(); {stores}", 1, start)


CALLED = "__device__ __noinline__ int f(int x, int *o) { if (x > 5) o[0] = x; return x * 3 + o[x & 255]; }\n"
KINDS: dict[str, tuple[Callable[[int], str], int]] = {
    "straight": (lambda n: body(lambda i: f"x = x * {i % 7 + 2} + (x >> {i % 13 + 1});", n), 300),
    "loads": (lambda n: body(lambda i: f"o[t + {i * 37}] = o[t + {i * 53 + 1}] + {i};", n), 300),
    "gathers": (lambda n: body(lambda i: f"x = o[x & 1023] + {i};", n), 75),
    "switch": (switch, 60),
    "compares": (compares, 50),
    "ifs": (lambda n: body(lambda i: f"if (o[x & 255] > {i}) {{ x += o[x & {i}]; o[{i}] = x; }}", n), 100),
    "nested ifs": (nested, 100),
    "loops": (
        lambda n: body(
            lambda i: f"#pragma unroll 1\nfor (int i = 0; i < o[{i}]; i++) x += o[x & 255] * i;", n
        ),
        100,
    ),
    "deep loops": (deep_loops, 15),
    "calls": (lambda n: body(lambda i: "x = f(x, o);", n, head=CALLED), 200),
    "printf": (lambda n: body(lambda i: f'printf("{i} %d\\n", x + {i});', n), 100),
    "local arrays": (
        lambda n: body(
            lambda i: f"int a{i}[16]; a{i}[t & 15] = x; a{i}[x & 15] += 3; x += a{i}[(t + x) & 15];", n
        ),
        40,
    ),
    "many live": (many_live, 100),
    "kernels": (
        lambda n: "\n".join(
            f'extern "C" __global__ void k{i or ""}(int *o) {{ o[threadIdx.x] = o[threadIdx.x + {i}] * 3; }}'
            for i in range(n)
        ),
        200,
    ),
    "shared arrays": (
        lambda n: body(lambda i: f"__shared__ int s{i}[8]; s{i}[t & 7] = x; x += s{i}[(t + 1) & 7];", n),
        200,
    ),
    "barriers": (
        lambda n: body(
            lambda i: f"s[t] = x; __syncthreads(); x += s[(t + {i}) & 63];", n, "__shared__ int s[64];"
        ),
        50,
    ),
    "barriers in ifs": (
        lambda n: body(
            lambda i: f"if (o[{i}] > {i}) {{ s[{i}] = x; __syncthreads(); x += s[(x + {i}) & 63]; }}",
            n,
            "__shared__ int s[1024];",
        ),
        20,
    ),
    "flags": (flags, 50),
    "warp barriers": (
        lambda n: body(
            lambda i: f"if (t < {63 - i % 62}) {{ s[t] += s[(t + {i}) & 63]; __syncwarp(); }}",
            n,
            "__shared__ int s[64];",
        ),
        16,
    ),
}


def seconds() -> float:
    """Processor time of this process and its children so far."""
    used = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return sum(each.ru_utime + each.ru_stime for each in used)


def a_line(make: Callable[[int], str], count: int) -> float:
    """Milliseconds for each line of the source."""
    source = Source(compile_cuda(make(count), "grows.cu").ptx)
    start = seconds()
    program = source.program("k")
    compile_kernel(program, Launch(BLOCK, True, Options(choose_width(program.traits, BLOCK))))
    return (seconds() - start) / count * 1e3


def main() -> None:
    """Print the table."""
    print("| kind | n | ms a line | at 2n | ratio | at 4n | ratio |")
    print("| --- | --- | --- | --- | --- | --- | --- |")
    a_line(KINDS["straight"][0], 10)
    for kind in sys.argv[1:] or KINDS:
        make, count = KINDS[kind]
        one, two, four = (a_line(make, factor * count) for factor in (1, 2, 4))
        print(
            f"| {kind} | {count} | {one:.2f} | {two:.2f} | {two / one:.2f} | {four:.2f} | {four / two:.2f} |",
            flush=True,
        )
    print(f"goal: {GOAL}")


if __name__ == "__main__":
    main()
