"""Kernels too large for LLVM's optimisers: what keeps the time to compile them in proportion to their size.

LLVM's register allocation and the passes that turn stack slots into values take time with the square of a
function's blocks, or worse. Above a size they are left out: registers stay in their slots between blocks, and
the fast allocator, which looks at one block at a time, is used. On processors without an instruction for them
gathers and scatters are scores of blocks each: where there are many they become calls.
"""

import re

KNOWN_LLVM = 22
"""The newest version of LLVM that is known to have the options below: it ends the process for others."""

OPTIONS = (
    # For each value whose life it splits the register allocator looks at so many edges between blocks.
    "-grow-region-complexity-budget=1000",
    # Among more accesses to memory than that the scheduler does not compare each with every other one.
    "-dag-maps-huge-region=100",
)
"""What keeps LLVM's work in proportion below that size: its own limits, ten times as high, come too late.

With less than 1000 edges, loops with many checks become slower: gemm_naive by a third with 100.
"""

QUICK_ABOVE = 1_000_000
"""Lanes times lines of LLVM IR above which the thorough way is not even tried.

The large matrix products that people write, with 64 sums a thread and all loops unrolled, weigh 250,000 to
450,000 and take it 1 to 3 s; code that branches much takes it longer, and is stopped
(`nnkit.vm.build.apart`).
"""

WORTH_A_PROCESS = 220_000
"""The same from which LLVM has a process of its own, which Ctrl-C can end: a second or more."""

ACCESS_LINES = 40
"""What a gather or scatter weighs in lines."""

MOST_SCATTERED = 1024
"""Lanes of all gathers and scatters above which they become calls, where there is no instruction for them.

A call takes 1.1 to 1.6 times as long as what it stands for. For the 120 of softmax.cu, 64 lanes each, LLVM
took 4 s; it takes 0.8 s for the calls.
"""

MOST_STACK = 4 << 20
"""Bytes of stack for one function; threads usually have 8 MiB."""

_RESERVE = re.compile(rb"\x48\x81\xec(.{4})", re.DOTALL)

_GATHER = re.compile(
    r"call (<\d+ x \w+>) @llvm\.masked\.gather\.([\w.]+)\((<\d+ x ptr>) (.+), i32 (\d+), (<\d+ x i1>) (.+), "
    r"<\d+ x \w+> zeroinitializer\)$",
    re.MULTILINE,
)
_SCATTER = re.compile(
    r"call void @llvm\.masked\.scatter\.([\w.]+)\((<\d+ x \w+>) (.+), (<\d+ x ptr>) (.+), i32 (\d+), "
    r"(<\d+ x i1>) (.+)\)$",
    re.MULTILINE,
)


def weight(text: str, width: int) -> int:
    """How much work LLVM IR for vectors of that many lanes is: lanes times lines."""
    return (text.count("\n") + ACCESS_LINES * _accesses(text)) * width


def _accesses(text: str) -> int:
    """How many gathers and scatters there are."""
    return text.count("@llvm.masked.gather.") + text.count("@llvm.masked.scatter.")


def with_few_accesses(text: str, width: int) -> str:
    """LLVM IR for a processor without gathers and scatters: many of them become calls."""
    return with_calls(text) if _accesses(text) * width > MOST_SCATTERED else text


def is_large(text: str, width: int) -> bool:
    """Whether it is to be compiled the quick way."""
    return weight(text, width) > QUICK_ABOVE


def stack_bytes(code: bytes) -> int:
    """The most stack that a function of an x86 object file reserves: what it takes off the stack pointer.

    Other bytes can look like such an instruction; where none does the answer is certain.
    """
    found = (int.from_bytes(match[1], "little", signed=True) for match in _RESERVE.finditer(code))
    # No function reserves more than a few hundred megabytes: more is no such instruction.
    return max((size for size in found if 0 < size < 1 << 28), default=0)


def with_calls(text: str) -> str:
    """The same LLVM IR with every gather and scatter as a call of a function that does it."""
    helpers: dict[str, str] = {}

    def gather(found: re.Match[str]) -> str:
        full, suffix, places, where, align, bits, lanes = found.groups()
        name = f"@gather.{suffix}.{align}"
        helpers[name] = (
            f"define internal {full} {name}({places} %where, {bits} %lanes) noinline {{\n"
            f"%found = call {full} @llvm.masked.gather.{suffix}({places} %where, i32 {align}, {bits} %lanes, "
            f"{full} zeroinitializer)\nret {full} %found\n}}"
        )
        return f"call {full} {name}({places} {where}, {bits} {lanes})"

    def scatter(found: re.Match[str]) -> str:
        suffix, full, value, places, where, align, bits, lanes = found.groups()
        name = f"@scatter.{suffix}.{align}"
        helpers[name] = (
            f"define internal void {name}({full} %value, {places} %where, {bits} %lanes) noinline {{\n"
            f"call void @llvm.masked.scatter.{suffix}({full} %value, {places} %where, i32 {align}, {bits} "
            f"%lanes)\nret void\n}}"
        )
        return f"call void {name}({full} {value}, {places} {where}, {bits} {lanes})"

    text = _SCATTER.sub(scatter, _GATHER.sub(gather, text))
    return "\n".join([text, *helpers.values()])
