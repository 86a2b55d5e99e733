"""A short part of what tools/fuzz does: guarded accesses in PTX, by every way to compute an address."""

import numpy as np
import pytest

from tests.support.programs.fuzz import numbers, run
from tests.support.stress import device, examples


@pytest.mark.slow
def test_guarded_accesses_by_every_way_to_compute_an_address() -> None:
    # Programs 5 and 7 ended the process when only lane 0's address, whether active or not, led a vector.
    begun, failures = run("addresses", numbers(2, examples(6)))
    assert not failures, "\n\n".join(map(str, failures))
    assert begun == examples(6)


@pytest.mark.parametrize(("kind", "bits"), [("f32", 32), ("f64", 64)])
def test_an_index_is_stored_as_the_bits_of_a_float(kind: str, bits: int) -> None:
    """PTX lets a register of bits be stored as a float; here threads' values differ by constants."""
    wide = "mov.u32" if bits == 32 else "cvt.u64.u32"
    text = f""".version 8.3
.target sm_90
.address_size 64
.visible .entry k(.param .u64 out) {{
.reg .b32 %t; .reg .b{bits} %v, %w; .reg .b64 %o, %s, %p;
ld.param.u64 %o, [out]; mov.u32 %t, %tid.x; {wide} %v, %t;
mad.lo.s{bits} %w, %v, 37, 5;
mul.wide.u32 %s, %t, {bits // 8}; add.s64 %p, %o, %s; st.global.{kind} [%p], %w; ret; }}"""
    for width in (32, 16, 1):
        virtual = device(width)
        out = virtual.zeros((40,), f"u{bits // 8}")
        virtual.load_ptx(text)["k"].launch(1, 40, (out,))
        np.testing.assert_array_equal(out.download(), np.arange(40) * 37 + 5)
