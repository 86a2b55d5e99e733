"""Which kernels rely on the threads of a warp going in step: each rule, by PTX that needs it."""

import pytest

from nnkit.ptx.parse import parse
from nnkit.vm.instructions import families  # noqa: F401  it fills the table
from nnkit.vm.prepare.in_step import relies_on_step
from nnkit.vm.prepare.inline import inline

KERNEL = """
.version 8.0
.target sm_90
.address_size 64
.visible .entry k(.param .u64 a)
{
    .reg .pred %p<4>; .reg .b32 %r<9>; .reg .b64 %w<9>;
    .shared .align 4 .b8 s[256];
    mov.u32 %r1, s;
    ld.param.u64 %w1, [a];
    BODY
    ret;
}
"""
READ, WRITE = "ld.shared.u32 %r2, [%r1];", "st.shared.u32 [%r1], %r3;"
ATOMIC = "atom.shared.add.u32 %r2, [%r1], 1;"
READ_FAR, WRITE_FAR = "ld.global.u32 %r2, [%w1];", "st.global.u32 [%w1], %r3;"

BODIES = {
    "a fence among reads and writes": (f"{WRITE} membar.cta; {READ}", True),
    "a fence among reads": (f"{READ} membar.cta; {READ}", False),
    "a fence among writes": (f"{WRITE} membar.cta; {WRITE}", False),
    "a fence beside an atomic operation, which does both": (f"{ATOMIC} membar.cta;", True),
    "a fence between kinds of access": (f"{WRITE} fence.proxy.alias; {READ}", False),
    "a fence with a barrier on both sides": (f"{WRITE} bar.sync 0; membar.cta; bar.sync 0; {READ}", False),
    "a fence for the block, in global memory": (f"{WRITE_FAR} fence.acq_rel.cta; {READ_FAR}", True),
    "a fence for other blocks, in global memory": (f"{WRITE_FAR} fence.acq_rel.gpu; {READ_FAR}", False),
    "a volatile read beside a write": (f"ld.volatile.shared.u32 %r2, [%r1]; {WRITE}", True),
    "a volatile write beside a read": (f"st.volatile.shared.u32 [%r1], %r3; {READ}", True),
    "a volatile write alone": ("st.volatile.shared.u32 [%r1], %r3;", False),
    "a volatile read alone": ("ld.volatile.shared.u32 %r2, [%r1];", False),
    "a volatile read, and a write behind a barrier": (
        f"ld.volatile.shared.u32 %r2, [%r1]; bar.sync 0; {WRITE}",
        False,
    ),
    "a volatile read of another memory": (f"ld.volatile.global.u32 %r2, [%w1]; {WRITE} {READ}", False),
    "a generic access may be to either": (f"ld.volatile.u32 %r2, [%w1]; {WRITE}", True),
    "volatile reads alone": ("ld.volatile.shared.u32 %r2, [%r1];" * 2, False),
    "a fence for all, in shared memory": (f"{WRITE} membar.gl; {READ}", True),
    "a fence behind a barrier": (f"bar.sync 0; {WRITE} membar.cta; {READ}", True),
    "nothing of the kind": (f"{WRITE} {READ}", False),
}


@pytest.mark.parametrize("what", BODIES)
def test_who_relies_on_going_in_step(what: str) -> None:
    body, expected = BODIES[what]
    assert relies_on_step(inline(parse(KERNEL.replace("BODY", body)), "k")) == expected
