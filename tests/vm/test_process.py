"""What could end the process that uses the machine, though no kernel is at fault."""

import subprocess
import sys

from tests.support.places import ROOT

# Reservations of 4 GiB with holes of a page or two between them, as large arrays and freed small ones leave.
HOLES = r"""
import mmap
import numpy as np
from nnkit.device.virtual import VirtualDevice

device = VirtualDevice(threads=1)
out = device.zeros((64,), np.float32)
from tests.support import guard
libc, flags, page = guard._libc, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | 0x4000, mmap.PAGESIZE
step, count = (4 << 30) + page, 200
start = libc.mmap(None, step * count, 0, flags, -1, 0)
for pages in range(64, 0, -1):
    # Whatever other holes there are.
    for _ in range(8):
        libc.mmap(None, pages * page, 0, flags, -1, 0)
for number in range(count):
    libc.munmap(start + number * step, page)
for number in range(6):
    ptx = f'''.version 8.3
.target sm_90
.address_size 64
.visible .entry k(.param .u64 out) {{
.reg .b32 %t; .reg .f32 %f, %g, %h; .reg .b64 %o, %w;
ld.param.u64 %o, [out]; mov.u32 %t, %tid.x; mul.wide.u32 %w, %t, 4; add.s64 %o, %o, %w;
cvt.rn.f32.u32 %f, %t;
fma.rn.f32 %f, %f, 0f3F99999A, {number}.5; sin.approx.f32 %g, %f; ex2.approx.f32 %h, %g;
st.global.f32 [%o], %h; ret; }}'''
    device.load_ptx(ptx)["k"].launch(1, 64, (out,))
print("right")
"""


def test_code_is_linked_wherever_there_is_room() -> None:
    done = subprocess.run(
        [sys.executable, "-c", HOLES], capture_output=True, text=True, check=False, cwd=ROOT
    )
    assert done.stdout == "right\n", done.stderr[-2000:]
