"""PTX that the assembler refuses is refused here, with its line; PTX that it takes is taken.

tests/golden/ptx_lines.txt holds lines of a kernel with ptxas's verdict on each (of CUDA 13, for sm_90).
"""

# ruff: noqa: E501

import re
from pathlib import Path

import pytest
from ptx_mutation import kernel_with
from ptx_mutation import refusal as complaint

GOLDEN = Path(__file__).parent / "golden" / "ptx_lines.txt"
LINES = [line.split(" | ", 1) for line in GOLDEN.read_text().splitlines()]

UNSUPPORTED = re.compile(
    r"f16|L2::cache_hint|atom\S*\.v2|shared::cluster|lop3\.or|mov\.v4|match\.sync\.any|isspacep\.shared %p1, %r1"
    r"|b128|\.local \.b8 s\[\d{6,}\]|cvta\.\S*32|%pm0|mov\.u64 %rd1, f;"
)
"""What ptxas takes and the virtual device does not know, or has less room for."""

TAKEN = re.compile(
    # For other targets or versions than the one that ptxas was asked about.
    r"\.v8|\.v4\.[uf]64|^(shfl|vote)\.(?!sync)|noftz|volatile\.local|min\.f32 %f1,%f2,%f3,%f4"
    # A modifier in a place where ptxas takes it for other instructions.
    r"|cvt\.u32\.u32\.sat"
    # Shared memory is limited for the kernel as a whole, slots of calls by their calls.
    r"|\.shared (\.align 1073741824 )?\.b8 s\[\d{5,}\]|\.align 1073741824|^\.param \.align 8 \.b8 q"
)
"""What ptxas refuses and the virtual device takes."""

REFUSED_TOO = re.compile(r"gv\[3\]|18446744073709551616|\[%(rb|ub|rs|us|ss)1\]")
"""Oddities that ptxas takes: an index behind a name, a constant of 2^64, addresses of 8 or 16 bits."""


def test_lines_are_judged_as_ptxas_judges_them() -> None:
    wrong = []
    for verdict, line in LINES:
        words = complaint(kernel_with(line))
        if words and not re.search(r"PTX line \d+", words):
            wrong.append(f"no line: {line}: {words}")
        if bool(words) != (verdict.strip() == "refuses"):
            known = (UNSUPPORTED, REFUSED_TOO) if words else (TAKEN,)
            if not any(pattern.search(line) for pattern in known):
                wrong.append(f"ptxas {verdict.strip()}: {line}: {words}")
    assert not wrong, "\n".join(wrong)


def test_what_is_excused_is_little() -> None:
    excused = [line for _, line in LINES if any(p.search(line) for p in (UNSUPPORTED, REFUSED_TOO, TAKEN))]
    assert len(excused) < 0.04 * len(LINES)


MESSAGES = {
    "add.s32 %r1, %rd1, 4;": "instruction add.s32: operand 2 is a register of type .b64, where .s32 is read",
    "mov.u32 %rd2, -1;": "instruction mov.u32: operand 1 is a register of type .b64, where .u32 is written",
    "bar.sync 16;": "instruction bar.sync: operand 1 is 16, which is not in 0 to 15",
    "ld.global.u32 %r1, %rd1;": "instruction ld.global.u32: operand 2 must be an address in brackets",
    "ld.shared.f32 %f2, [%f1];": "instruction ld.shared.f32: operand 2 is an address in a register of type .f32",
    "setp.lt.s32 %p1;": "instruction setp.lt.s32: it has 1 operands, not 3",
    "add.s32 %r1, %r2, 0f3F800000;": "instruction add.s32: operand 3 is a float of 32 bits, where .s32 is read",
    "mov.u32 %r1, 99999999999999999999999;": "the constant 99999999999999999999999 does not fit 64 bits",
    ".shared .align 11 .b8 s[16];": ".align 11: an alignment is a power of two",
    ".reg .b32 %r<9>;": "register %r<9> is declared twice",
    "A: A:": "A is declared twice",
    "bra nowhere;": "there is no label nowhere here",
    "st.global.f32.sat [gv], %f1;": "instruction st.global.f32.sat: this form of it is not supported",
}


@pytest.mark.parametrize("line", MESSAGES)
def test_messages_say_what_is_wrong(line: str) -> None:
    assert MESSAGES[line] in complaint(kernel_with(line))
