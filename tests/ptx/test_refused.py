"""PTX that the assembler refuses is refused here, with its line; PTX that it takes is taken.

tests/ptx/golden/ptx_lines.txt holds lines of a kernel with ptxas's verdict on each (of CUDA 13, for sm_90).
"""

# ruff: noqa: E501

import re
from pathlib import Path

import pytest

from tests.support.mutants import assembled, assembler, kernel_with
from tests.support.mutants import refusal as complaint

GOLDEN = Path(__file__).parent / "golden" / "ptx_lines.txt"
LINES = [line.split(" | ", 1) for line in GOLDEN.read_text().splitlines()]

UNSUPPORTED = re.compile(
    r"f16|L2::cache_hint|atom\S*\.v2|shared::cluster|lop3\.or|mov\.v4|match\.sync\.any|isspacep\.shared %p1, %r1"
    r"|b128|\.local \.b8 s\[\d{6,}\]|cvta\.\S*32|%pm0|mov\.u64 %rd1, f;"
)
"""What ptxas takes and the virtual device does not know, or has less room for."""

TAKEN = re.compile(
    # For other targets or versions than the one that ptxas was asked about.
    r"\.v8|\.v4\.[uf]64|^(shfl|vote)\.(?!sync)|noftz|volatile\.local"
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


REST = ".visible .entry f(.param .u64 p) { ret; }\n"
HEADS = {
    # As ptxas judges them.
    ".version 8.8\n.target sm_90\n.address_size 64\n": True,
    ".version 8.8\n.target sm_90\n": True,
    ".version 8.8\n.target sm_90, texmode_independent\n.address_size 64\n": True,
    ".version 8.8\n.target sm_90\n.target sm_80\n.address_size 64\n": True,
    ".version 8.8\n.target compute_90\n.address_size 64\n": True,
    ".version 8.8\n.target\n.address_size 64\n": False,
    ".version 8.8\n.target sm_90,\n.address_size 64\n": False,
    ".version 8.8\n.target nonsense\n.address_size 64\n": False,
    ".version 8.8\n.target texmode_independent, sm_90\n.address_size 64\n": False,
    ".version 8.8\n.address_size 64\n.target sm_90\n": False,
    ".version 8.8\n.target sm_90\n.address_size 64\n.target sm_90\n": False,
    ".version 8.8\n.target sm_90\n.address_size 64\n.address_size 64\n": False,
    ".version 8.8\n.target sm_90\n.address_size 16\n": False,
    ".version 8.8\n.target sm_90\n.address_size\n": False,
    ".version 8.8\n.target sm_90\n.global .u32 g;\n.address_size 64\n": False,
    '.version 8.8\n.target sm_90\n.file 1 "x.cu"\n.address_size 64\n': False,
    '.version 8.8\n.file 1 "x.cu"\n.target sm_90\n': False,
    ".version 8.8\n.version 8.8\n.target sm_90\n": False,
    ".version 8\n.target sm_90\n": False,
    ".version x\n.target sm_90\n": False,
    ".version 8.8\n.address_size 64\n": False,
    ".target sm_90\n": False,
}


@pytest.mark.parametrize("head", HEADS)
def test_heads_are_judged_as_ptxas_judges_them(head: str) -> None:
    words = complaint(head + REST)
    assert bool(words) != HEADS[head]
    assert "\n" not in words
    if (ptxas := assembler()) is not None:
        assert bool(assembled(ptxas, head + REST)) != HEADS[head]


@pytest.mark.parametrize("late", [".version 8.8", ".target sm_90", ".address_size 64"])
def test_what_belongs_to_the_head_stands_nowhere_else(late: str) -> None:
    text = next(iter(HEADS)) + REST + late + "\n"
    assert complaint(text) == f"PTX line 5: {late.split(maxsplit=1)[0]} must stand at the head of the module"
    if (ptxas := assembler()) is not None:
        assert assembled(ptxas, text)


@pytest.mark.parametrize("name", ["min.f32", "max.ftz.f32", "max.NaN.abs.f32"])
def test_extremes_of_three_need_a_target(name: str) -> None:
    text = kernel_with(f"{name} %f1, %f2, %f3, %f4;")
    assert "needs .target sm_100" in complaint(text)
    assert not complaint(text.replace("sm_90", "sm_100"))
    if (ptxas := assembler()) is not None:
        assert assembled(ptxas, text)
        assert not assembled(ptxas, text.replace("sm_90", "sm_100"))
