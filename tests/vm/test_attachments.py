"""What is attached to accesses sees each of them: a counter, compared with what kernels do by their text."""

import itertools
from collections import Counter

import numpy as np
import pytest

from nnkit.vm.analysis.options import Options
from nnkit.vm.emit.counters import count
from nnkit.vm.emit.emitter import Emitter
from nnkit.vm.emit.masks import lane_count
from nnkit.vm.emit.values import Value
from nnkit.vm.memory.access import Access
from nnkit.vm.memory.attachments import ATTACHMENTS
from nnkit.vm.run import launch
from nnkit.vm.run.faults import KernelFault
from nnkit.vm.run.machine import Machine

KINDS = ("load", "store", "update")
SPACES = ("global", "shared", "const", "param", "local", "generic")
KEYS = list(itertools.product(KINDS, SPACES))
BLOCKS, THREADS, N = 3, 40, 29
"""A block is no whole number of vectors, and not all of its threads go everywhere."""


class Counts:
    """An attachment: lanes and bytes of accesses of every kind and space, before and behind them."""

    def before(self, e: Emitter, access: Access, base: Value, mask: str) -> None:
        lanes = lane_count(e, mask)
        count(e, f"lanes before {access.kind} {access.space}", lanes)
        size = e.one.binary("mul", "i64", lanes, str(access.count * access.size))
        count(e, f"bytes before {access.kind} {access.space}", size)

    def behind(self, e: Emitter, access: Access, base: Value, mask: str) -> None:
        count(e, f"lanes behind {access.kind} {access.space}", lane_count(e, mask))


@pytest.fixture(autouse=True)
def _attached(monkeypatch: pytest.MonkeyPatch) -> None:
    """As "count"; and all threads of a machine take part."""
    monkeypatch.setitem(ATTACHMENTS, "count", Counts())
    monkeypatch.setattr(launch, "WORTH_A_THREAD", 0.0)


ACCESSES = """
ld.global.u32 %r9, [%far]            | load global 4
ld.global.v4.f32 {%f1,%f2,%f3,%f4}, [%far] | load global 16
ld.global.v2.u8 {%h1, _}, [%far+4]   | load global 2
ld.global.s8 %r9, [%far+5]           | load global 1
ld.global.nc.u16 %h1, [%out+6]       | load global 2
ld.global.f64 %e1, [%odd]            | load global 8
ld.acquire.gpu.global.b32 %r9, [%out] | load global 4
ldu.global.v2.b64 {%d8, %d9}, [%far] | load global 16
ld.shared.u32 %r9, [%near]           | load shared 4
ld.shared.v2.u16 {%h1, %h2}, [%near] | load shared 4
ld.volatile.shared.u8 %h1, [%near+1] | load shared 1
ld.shared.f32 %f1, [here+8]          | load shared 4
ld.const.v2.u32 {%r8, %r9}, [fixed+8] | load const 8
ld.const.s16 %r9, [fixed]            | load const 2
ld.param.u32 %r9, [n]                | load param 4
ld.param.u8 %h1, [n+1]               | load param 1
ld.local.u64 %d9, [own+8]            | load local 8
ld.local.v4.u8 {%h1,%h2,%h3,%h4}, [%own] | load local 4
ld.v2.f32 {%f1, %f2}, [%far]         | load generic 8
ld.u8 %h1, [%out]                    | load generic 1
st.global.f32 [%far], %f1            | store global 4
st.global.v4.u32 [%far], {%r2,%r2,%r2,%r9} | store global 16
st.global.u8 [%odd], %h1             | store global 1
st.release.gpu.global.b32 [%out], %r2 | store global 4
st.shared.u32 [%near], %r2           | store shared 4
st.shared.v2.u8 [%near], {%h1, %h2}  | store shared 2
st.shared.u16 [here], %h1            | store shared 2
st.local.v2.u32 [%own], {%r2, %r9}   | store local 8
st.local.u8 [own+3], %h1             | store local 1
st.u32 [%far+12], %r2                | store generic 4
red.global.add.u32 [%out], %r2       | update global 4
atom.global.add.f32 %f2, [%far], %f1 | update global 4
atom.global.cas.b64 %d8, [%odd], %d9, %d8 | update global 8
red.shared.max.u32 [here], %r2       | update shared 4
atom.shared.exch.b32 %r9, [%near], %r2 | update shared 4
atom.shared.cas.b16 %h1, [here], %h2, %h3 | update shared 2
atom.inc.u32 %r9, [%far], %r2        | update generic 4
red.or.b32 [%out], %r2               | update generic 4
"""

LINES = [tuple(part.strip() for part in line.split("|")) for line in ACCESSES.strip().splitlines()]

HEAD = """.version 8.0
.target sm_80
.address_size 64
.const .align 8 .b8 fixed[16];
.visible .entry k(.param .u64 into, .param .u32 n)
{
.reg .pred %p<4>; .reg .b16 %h<9>; .reg .b32 %r<10>; .reg .b64 %d<10>; .reg .f32 %f<9>; .reg .f64 %e<2>;
.reg .b64 %out, %far, %odd, %own; .reg .b32 %near;
.shared .align 16 .b8 here[1024];
.local .align 16 .b8 own[32];
ld.param.u64 %out, [into];
mov.u32 %r2, %tid.x;
mad.wide.u32 %far, %r2, 16, %out;
mul.lo.u32 %r3, %r2, %r2;
and.b32 %r3, %r3, 31;
mad.wide.u32 %odd, %r3, 24, %out;
mad.lo.u32 %near, %r2, 16, 16;
mov.u64 %own, own;
"""

EVERY = [line for line, _ in LINES]
WAYS = {
    # The kernel's code, and how many threads of a block come to each line.
    "all": ("{lines}", THREADS),
    "one by one": ("setp.eq.u32 %p1, %r3, 4;\n{guarded}", sum(t * t % 32 == 4 for t in range(THREADS))),
    "few": (f"setp.ge.u32 %p1, %r2, {N};\n@%p1 bra END;\n{{lines}}\nEND:", N),
    "in turns": (
        "and.b32 %r4, %r2, 3;\nTURN:\nsetp.eq.u32 %p1, %r4, 0;\n@%p1 bra END;\n{lines}\n"
        "sub.u32 %r4, %r4, 1;\nbra TURN;\nEND:",
        sum(t % 4 for t in range(THREADS)),
    ),
    "barriers": ("{lines}\nbar.sync 0;\n{lines}", 2 * THREADS),
}


def kernel(way: str) -> str:
    lines = "\n".join(f"{line};" for line in EVERY)
    guarded = "\n".join(f"@%p1 {line};" for line in EVERY)
    return f"{HEAD}{WAYS[way][0].format(lines=lines, guarded=guarded)}\nret;\n}}"


class Ran:
    """A kernel launched on memory of ones and twos: what that holds afterwards, and what was counted."""

    def __init__(self, ptx: str, options: Options, threads: int = 1, size: int = 1024, launches: int = 1):
        machine = Machine(threads, options)
        memory = machine.memory.allocate(size, "out")
        memory.owner[:] = np.arange(size) % 2 + 1
        parameters = memory.start.to_bytes(8, "little") + N.to_bytes(4, "little")
        loaded = machine.load(ptx).kernels["k"]
        self.fault: KernelFault | None = None
        try:
            for _ in range(launches):
                loaded.launch((BLOCKS, 1, 1), (THREADS, 1, 1), parameters)
        except KernelFault as fault:
            self.fault = fault
        finally:
            machine.close()
        self.memory = memory.owner.tobytes()
        self.counts = loaded.counts

    def counted(self, what: str) -> Counter[tuple[str, str]]:
        """One kind of count, by kind and space, without zeros."""
        keys = {key: f"{what} {' '.join(key)}" for key in KEYS}
        return Counter({key: self.counts[name] for key, name in keys.items() if self.counts[name]})


def expected(way: str) -> tuple[Counter[tuple[str, str]], Counter[tuple[str, str]]]:
    """Lanes and bytes of all accesses, by kind and space."""
    lanes = Counter({("load", "param"): BLOCKS * THREADS})
    sizes = Counter({("load", "param"): BLOCKS * THREADS * 8})
    for _, what in LINES:
        kind, space, size = what.split()
        lanes[kind, space] += BLOCKS * WAYS[way][1]
        sizes[kind, space] += BLOCKS * WAYS[way][1] * int(size)
    return lanes, sizes


@pytest.mark.parametrize("width", [None, 64, 8, 1])
@pytest.mark.parametrize("way", WAYS)
def test_a_counter_of_accesses(way: str, width: int | None) -> None:
    """Exact, in all spaces and forms; and the kernel does what it does without."""
    ran = Ran(kernel(way), Options(width, attached=("bounds", "count")))
    lanes, sizes = expected(way)
    assert ran.fault is None
    assert ran.counted("lanes before") == ran.counted("lanes behind") == lanes
    assert ran.counted("bytes before") == sizes
    without = Ran(kernel(way), Options(width))
    assert without.memory == ran.memory
    assert not without.counts, "it counts where it is not attached"


def test_workers_and_launches_add_up() -> None:
    ran = Ran(kernel("in turns"), Options(attached=("count", "bounds")), threads=3, launches=2)
    once = expected("in turns")[0]
    assert ran.counted("lanes before") == once + once


def test_all_kinds_and_spaces_are_there() -> None:
    """But for what cannot be: constants and parameters are not written, nor local memory updated."""
    missing = set(KEYS) - set(expected("all")[0])
    assert missing == {
        *(("store", "const"), ("store", "param")),
        *(("update", space) for space in ("const", "param", "local")),
    }


STRAY = f"{HEAD}st.global.u32 [%far+512], %r2;\nret;\n}}"


@pytest.mark.parametrize(("order", "begun"), [(("count", "bounds"), True), (("bounds", "count"), False)])
def test_what_stands_in_front_of_the_check(order: tuple[str, ...], begun: bool) -> None:
    """A store that is not allowed is not made: what is attached behind the check does not come to it."""
    ran = Ran(STRAY, Options(64, attached=order))
    assert ran.fault
    assert (("store", "global") in ran.counted("lanes before")) == begun
    assert ("store", "global") not in ran.counted("lanes behind")


@pytest.mark.parametrize("way", WAYS)
def test_the_check_may_be_left_out(way: str) -> None:
    """Then nothing is known of lanes that are not active, and no access touches what they name."""
    for width in (32, 8, 1):
        assert Ran(kernel(way), Options(width, attached=())).memory == Ran(kernel(way), Options(width)).memory


def test_an_attachment_that_is_none() -> None:
    with pytest.raises(ValueError, match="attached=bound: give some of bounds"):
        Machine(1, Options(attached=("bound",)))
