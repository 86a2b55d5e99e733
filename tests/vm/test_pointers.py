"""What a kernel takes the memory behind its pointers for: each rule of the analysis, by PTX that needs it."""

import pytest

from nnkit.ptx.parse import parse
from nnkit.vm.prepare.inline import inline
from nnkit.vm.prepare.pointers import Element, elements

FLOAT, INTEGER, COPY = Element(4, "float"), Element(4, "integer"), Element(4, "copy")

KERNEL = """
.version 8.0
.target sm_90
.address_size 64
.global .u64 table;
.visible .entry k(.param .u64 a, .param .u64 b, .param .u64 c)
{
    .reg .pred %p<4>; .reg .b16 %h<4>; .reg .b32 %r<9>; .reg .f32 %f<9>; .reg .f64 %d<9>; .reg .b64 %w<9>;
    .reg .b64 %ra, %rb, %rc, %a, %b, %c;
    ld.param.u64 %ra, [a];
    ld.param.u64 %rb, [b];
    ld.param.u64 %rc, [c];
    cvta.to.global.u64 %a, %ra;
    cvta.to.global.u64 %b, %rb;
    cvta.to.global.u64 %c, %rc;
    BODY
    ret;
}
"""

READ = "ld.global.f32 %f1, [%a]; add.f32 %f2, %f1, 0f3F800000;"
"""`a` has floats, as far as this goes."""
COPIED = "ld.global.b32 %r8, [%a]; st.global.b32 [%c], %r8;"

ADDRESSES = {
    "a sum": ("add.s64 %w1, %a, 8; ld.global.f32 %f1, [%w1]; neg.f32 %f2, %f1;", {"a": FLOAT}),
    "a difference": ("sub.s64 %w1, %a, 8; ld.global.f32 %f1, [%w1]; neg.f32 %f2, %f1;", {"a": FLOAT}),
    "a product and a sum": (
        "mad.lo.s64 %w1, %w2, 4, %a; ld.global.f32 %f1, [%w1]; neg.f32 %f2, %f1;",
        {"a": FLOAT},
    ),
    "the distance of two is none": (
        "sub.s64 %w1, %a, %b; add.s64 %w2, %b, %w1; ld.global.f32 %f1, [%w2]; neg.f32 %f2, %f1;",
        {"b": FLOAT},
    ),
    "what is added to an address is an index": (
        "add.s64 %w1, %a, %rb; ld.global.f32 %f1, [%w1]; neg.f32 %f2, %f1;",
        {"a": FLOAT},
    ),
    "either of two": (
        "selp.b64 %w1, %a, %b, %p1; ld.global.f32 %f1, [%w1]; neg.f32 %f2, %f1;",
        {},
    ),
    "either of two, one of which is copied besides": (
        f"selp.b64 %w1, %a, %b, %p1; ld.global.f32 %f1, [%w1]; neg.f32 %f2, %f1; {COPIED}",
        {"a": COPY, "c": COPY},
    ),
    "taken to pieces": (f"mov.b64 {{%r1, %r2}}, %a; {READ}", {}),
    "stored": (f"st.global.u64 [%b], %a; {READ}", {}),
    "changed by its bits": (f"xor.b64 %w1, %a, 16; {READ}", {}),
    "looked at": (f"shr.u64 %w1, %a, 3; {READ}", {"a": FLOAT}),
    "given to what is not known": (f"ldmatrix.sync.aligned.m8n8.x1.b16 {{%r1}}, [%a]; {READ}", {}),
    "its upper half, by itself": (
        f"ld.param.u32 %r1, [a+4]; xor.b32 %r2, %r1, 1; {READ}",
        {"a": FLOAT},
    ),
    "prefetched": (f"prefetch.global.L1 [%a]; {READ}", {"a": FLOAT}),
    "of shared memory": ("ld.shared.f32 %f1, [%ra]; add.f32 %f2, %f1, %f1;", {}),
}

VALUES = {
    "a float in a register of bits": (
        "ld.global.b32 %r1, [%a]; mov.b32 %f1, %r1; add.f32 %f2, %f1, %f1;",
        {"a": FLOAT},
    ),
    "an integer": ("ld.global.u32 %r1, [%a]; add.s32 %r2, %r1, 1;", {"a": INTEGER}),
    "an integer that gets longer": (
        "ld.global.s32 %r1, [%a]; cvt.s64.s32 %w1, %r1; add.s64 %w2, %w1, 1;",
        {"a": INTEGER},
    ),
    "an integer that gets shorter": ("ld.global.u32 %r1, [%a]; cvt.u16.u32 %h1, %r1;", {}),
    "an integer that becomes a float": ("ld.global.s32 %r1, [%a]; cvt.rn.f32.s32 %f1, %r1;", {"a": INTEGER}),
    "a part of a longer integer": ("ld.global.u32 %r1, [%a]; add.cc.u32 %r2, %r1, 1;", {}),
    "compared for order": ("ld.global.u32 %r1, [%a]; setp.lt.u32 %p1, %r1, 3;", {"a": INTEGER}),
    "compared for being equal": ("ld.global.u32 %r1, [%a]; setp.eq.u32 %p1, %r1, 3;", {}),
    "bits": ("ld.global.u32 %r1, [%a]; and.b32 %r2, %r1, 3;", {}),
    "copied, and bits elsewhere": (f"{COPIED} ld.global.u32 %r1, [%a]; and.b32 %r2, %r1, 3;", {"c": COPY}),
    "a float and an integer in one register": (
        "ld.global.b32 %r1, [%a]; mov.b32 %f1, %r1; add.f32 %f2, %f1, %f1; add.s32 %r2, %r1, 1;",
        {},
    ),
    "a float here, an integer there": (f"{READ} ld.global.u32 %r1, [%a]; add.s32 %r2, %r1, 1;", {}),
    "two floats at once": (
        "ld.global.b64 %w1, [%a]; mov.b64 {%r1, %r2}, %w1; mov.b32 %f1, %r1; add.f32 %f2, %f1, %f1;",
        {"a": FLOAT},
    ),
    "two integers at once": ("ld.global.b64 %w1, [%a]; mov.b64 {%r1, %r2}, %w1; add.s32 %r3, %r1, 1;", {}),
    "two floats, and bits of both": (
        "ld.global.b64 %w1, [%a]; mov.b64 {%r1, %r2}, %w1; mov.b32 %f1, %r1; neg.f32 %f2, %f1;"
        "xor.b64 %w2, %w1, 1;",
        {},
    ),
    "two floats, and a double of both": (
        "ld.global.b64 %w1, [%a]; mov.b64 {%r1, %r2}, %w1; mov.b32 %f1, %r1; neg.f32 %f2, %f1;"
        "mov.b64 %d1, %w1; neg.f64 %d2, %d1;",
        {},
    ),
    "put together to be stored": (
        "ld.global.b32 %r1, [%a]; mov.b64 %w1, {%r1, %r2}; st.global.b64 [%b], %w1;",
        {"a": COPY, "b": COPY},
    ),
    "put together to count": (
        "ld.global.b32 %r1, [%a]; mov.b64 %w1, {%r1, %r2}; add.s64 %w2, %w1, 1;",
        {},
    ),
    "a sum is stored": ("add.f32 %f1, %f2, %f3; st.global.f32 [%a], %f1;", {"a": FLOAT}),
    "an integer is stored": ("add.s32 %r1, %r2, %r3; st.global.u32 [%a], %r1;", {"a": INTEGER}),
    "a thread's number is stored": ("mov.u32 %r1, %tid.x; st.global.u32 [%a], %r1;", {"a": INTEGER}),
    "bits are stored": ("or.b32 %r1, %r2, %r3; st.global.u32 [%a], %r1;", {}),
    "a part of a longer integer is stored": ("add.cc.u32 %r1, %r2, %r3; st.global.u32 [%a], %r1;", {}),
    "an address is stored among copies": (
        "ld.global.b64 %w1, [%a]; st.global.b64 [%b], %w1; mov.u64 %w2, table; st.global.b64 [%a], %w2;",
        {"b": Element(8, "copy")},
    ),
    "an atomic sum": ("atom.global.add.u32 %r1, [%a], 7;", {"a": INTEGER}),
    "an atomic sum of floats": ("red.global.add.f32 [%a], %f1;", {"a": FLOAT}),
    "atomic bits": ("atom.global.and.b32 %r1, [%a], 7;", {}),
}


def found(body: str) -> dict[str, Element]:
    return elements(inline(parse(KERNEL.replace("BODY", body)), "k"))


@pytest.mark.parametrize("what", ADDRESSES)
def test_how_addresses_are_followed(what: str) -> None:
    body, expected = ADDRESSES[what]
    assert found(body) == expected


@pytest.mark.parametrize("what", VALUES)
def test_what_values_are_taken_for(what: str) -> None:
    body, expected = VALUES[what]
    assert found(body) == expected
