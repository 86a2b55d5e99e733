"""Addresses in registers of 32 and 64 bits, with offsets near and far: the address that counts is exact."""

from collections.abc import Iterator

import numpy as np
import pytest

from nnkit.device.virtual import VirtualArray, VirtualDevice, VirtualKernel
from nnkit.errors import CompileError, DeviceMemoryError

HEAD = ".version 8.3\n.target sm_90\n.address_size 64\n"


@pytest.fixture(scope="module")
def device() -> Iterator[VirtualDevice]:
    made = VirtualDevice(threads=1, width=16)
    yield made
    made.close()


def kernel(device: VirtualDevice, body: str) -> VirtualKernel:
    """A kernel (out, shift, low): thread t's %r0; %a and %wa hold 4 * t + shift in 32, 64 bits.

    Shared memory s and local memory l have 64 words of value 100 + number; %p says whether t >= low.
    """
    return device.load_ptx(f"""{HEAD}
.visible .entry k(.param .u64 out, .param .u64 shift, .param .u32 low) {{
    .reg .b32 %a, %r<9>; .reg .b64 %wa, %w<9>; .reg .pred %p;
    .shared .align 16 .b8 s[256];
    .local .align 16 .b8 l[256];
    mov.u32 %r0, %tid.x;
    ld.param.u64 %wa, [shift];
    // The maximum keeps the register from being taken for an index of 64 bits that was cut.
    cvt.u32.u64 %r1, %wa;
    max.u32 %a, %r1, 0;
    mad.lo.s32 %a, %r0, 4, %a;
    mul.wide.s32 %w0, %r0, 4;
    add.s64 %wa, %wa, %w0;
    mov.u32 %r2, s;
    mad.lo.s32 %r3, %r0, 4, %r2;
    add.s32 %r4, %r0, 100;
    st.shared.u32 [%r3], %r4;
    mov.u32 %r5, 0;
fill:
    add.s32 %r7, %r5, 100;
    shl.b32 %r6, %r5, 2;
    st.local.u32 [%r6], %r7;
    add.s32 %r5, %r5, 1;
    setp.lt.s32 %p, %r5, 64;
    @%p bra fill;
    bar.sync 0;
    ld.param.u32 %r1, [low];
    setp.ge.s32 %p, %r0, %r1;
    mov.u32 %r8, -1;
    {body}
    ld.param.u64 %w1, [out];
    add.s64 %w1, %w1, %w0;
    st.global.u32 [%w1], %r8;
    ret;
}}""")["k"]


def run(k: VirtualKernel, out: VirtualArray, shift: int, low: int) -> list[int]:
    k.launch(1, 64, (out, np.uint64(shift % (1 << 64)), np.uint32(low)))
    found: list[int] = out.download().tolist()
    return found


@pytest.mark.parametrize("space", ["shared", "local"])
@pytest.mark.parametrize("register", ["%a", "%wa"])
@pytest.mark.parametrize("offset", [0, -8, 8, -(1 << 30), (1 << 31) - 4, -(1 << 31)])
def test_base_and_offset_are_added_exactly(
    device: VirtualDevice, space: str, register: str, offset: int
) -> None:
    k = kernel(device, f"@%p ld.{space}.u32 %r8, [{register}+{offset}];")
    out = device.zeros((64,), np.int32)
    for first in (0, -1, -7, -15):
        # Threads from -first on are inside: lane 0 and others may hold addresses before the start.
        expected = [100 + t + first if t >= -first else -1 for t in range(64)]
        assert run(k, out, 4 * first - offset, -first) == expected
        if first:
            with pytest.raises(DeviceMemoryError, match=f"{-4 * first} bytes before the start: {space} mem"):
                run(k, out, 4 * first - offset, 0)
    for turns in (1, -1, 3):
        far = (turns << 32) - offset
        if register == "%a":
            # A register of 32 bits holds no more, and wraps as on a GPU.
            assert run(k, out, far, 0) == [100 + t for t in range(64)]
        else:
            with pytest.raises(
                DeviceMemoryError, match="behind the end" if turns > 0 else "before the start"
            ):
                run(k, out, far, 0)


@pytest.mark.parametrize("register", ["%a", "%wa"])
def test_far_members_of_one_base(device: VirtualDevice, register: str) -> None:
    """Accesses through one register share a check; 2^31 apart they cannot, and only one is inside."""
    near, far = -(1 << 31), (1 << 31) - 4
    k = kernel(
        device,
        f"""@!%p bra done;
        ld.shared.u32 %r8, [{register}+{near}];
        ld.shared.u32 %r7, [{register}+{near + 4}];
        add.s32 %r8, %r8, %r7;
        done:""",
    )
    out = device.zeros((64,), np.int32)
    expected = [201 + 2 * (t - 5) if t >= 5 else -1 for t in range(64)]
    with pytest.raises(DeviceMemoryError, match="4 bytes before the start"):
        run(k, out, -20 - near, 4)
    shifted = kernel(
        device,
        f"""@!%p bra done;
        ld.shared.u32 %r8, [{register}+{far}];
        ld.shared.u32 %r7, [{register}+{far - 4}];
        add.s32 %r8, %r8, %r7;
        done:""",
    )
    assert run(shifted, out, -16 - far, 5) == expected
    both = kernel(
        device,
        f"""@!%p bra done;
        ld.shared.u32 %r8, [{register}+{near}];
        ld.shared.u32 %r7, [{register}+{far}];
        done:""",
    )
    with pytest.raises(DeviceMemoryError):
        run(both, out, -near, 0)


def test_a_short_register_is_no_global_address(device: VirtualDevice) -> None:
    with pytest.raises(CompileError, match="an address of 32 bits, where 64 are needed"):
        kernel(device, "@%p ld.global.u32 %r8, [%a+4];")


def test_a_pattern_that_spans_all_addresses(device: VirtualDevice) -> None:
    """Lanes 2^61 bytes apart: the span of all, modulo 2^64, is tiny, and only lane 0 is inside."""
    k = kernel(
        device,
        """ld.param.u64 %w2, [out];
        shl.b64 %w3, %w0, 59;
        add.s64 %w2, %w2, %w3;
        @%p ld.global.u32 %r8, [%w2];""",
    )
    out = device.zeros((64,), np.int32)
    with pytest.raises(DeviceMemoryError):
        run(k, out, 0, 0)
    assert run(k, out, 0, 64) == [-1] * 64


NULL = """
struct Node { int pad[3]; int value; Node* next; };
extern "C" __global__ void load(int* p, long long i, int* out) { out[0] = p[i]; }
extern "C" __global__ void store(int* p, long long i, int* out) { p[i + threadIdx.x] = 1; }
extern "C" __global__ void atomic(int* p, long long i, int* out) { atomicAdd(p + i, 1); }
extern "C" __global__ void list(Node* p, long long i, int* out) {
    for (int k = 0; k < i; ++k) p = p->next;
    out[0] = p->value;
}
extern "C" __global__ void generic(int* p, long long i, int* out) {
    __shared__ int s[4];
    s[threadIdx.x & 3] = 3;
    int* q = i > 100 ? s : p;
    out[0] = *(volatile int*)q;
}
extern "C" __global__ void shared(int* p, long long i, int* out) {
    asm("{ .reg .b64 a; cvta.to.shared.u64 a, %1; ld.shared.u32 %0, [a+8]; }" : "=r"(out[0]) : "l"(p));
}
"""


def test_a_null_pointer_is_called_that(device: VirtualDevice) -> None:
    module = device.compile(NULL, name="null.cu")
    out = device.zeros((4,), np.int32)
    cases = {
        ("load", 0): "global address 0x0 is out of bounds: it is a null pointer",
        ("load", 3): "it lies 12 bytes behind a null pointer",
        ("load", -1): "it lies 4 bytes before a null pointer",
        ("load", (1 << 20) - 1): "it lies 4194300 bytes behind a null pointer",
        ("store", 0): "it is a null pointer",
        ("atomic", 2): "it lies 8 bytes behind a null pointer",
        ("list", 0): "it lies 12 bytes behind a null pointer",
        ("generic", 0): "it is a null pointer",
        ("shared", 0): "it lies 8 bytes behind a null pointer",
    }
    for (name, i), words in cases.items():
        with pytest.raises(DeviceMemoryError, match=rf"{words}(\n|$)"):
            module[name].launch(1, 1, (None, np.int64(i), out))
    # What lies far away is none, and neither is what is near an array.
    for base, i in ((None, 1 << 20), (None, -(1 << 21)), (out, 4), (out, -1)):
        with pytest.raises(
            DeviceMemoryError, match=r"out of bounds: it lies .* (behind the end of|before) an array"
        ):
            module["load"].launch(1, 1, (base, np.int64(i), out))
