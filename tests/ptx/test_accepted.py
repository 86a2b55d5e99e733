"""PTX that the assembler takes, in unusual spellings, runs and gives what it says."""

# ruff: noqa: E501  one program a line

from pathlib import Path

import numpy as np
import pytest

from nnkit.device.virtual import VirtualDevice
from nnkit.errors import CompileError, NnkitError

HEAD = ".version 8.0\n.target sm_90\n.address_size 64\n"
OPEN = """.visible .entry f(.param .u64 p)
{
    .reg .b64 %rd<9>; .reg .b32 %r<9>; .reg .f32 %f<9>; .reg .f64 %fd<9>; .reg .b16 %rs<9>; .reg .pred %p<9>;
    ld.param.u64 %rd1, [p];
"""
STORE = "st.global.u32 [%rd1], %r1;"


def program(body: str, top: str = "") -> str:
    return f"{HEAD}{top}\n{OPEN}{body}\nret;\n}}\n"


@pytest.fixture(scope="module")
def device() -> VirtualDevice:
    return VirtualDevice()


def result(device: VirtualDevice, text: str) -> int:
    out = device.zeros((1,), np.uint64)
    device.load_ptx(text)["f"].launch(1, 1, (out,))
    return int(out.download()[0])


TWICE = ".func (.reg .u32 %o) twice(.reg .u32 %i) { add.u32 %o, %i, %i; ret; }"
SLOTS = """.func (.param .b32 o) plus(.param .b32 a, .reg .b32 %b)
{ .reg .b32 %x; ld.param.b32 %x, [a]; add.s32 %x, %x, %b; st.param.b32 [o], %x; ret; }"""
LOOP = "{ L: add.u32 %r1, %r1, 1; setp.lt.u32 %p1, %r1, LIMIT; @%p1 bra L; }\n"
RUNS = {
    "float initialiser": (
        ".global .f32 x[3] = {-1.0, 0f40000000, .5};",
        "ld.global.f32 %f1, [x+4]; ld.global.f32 %f2, [x+8]; add.f32 %f1, %f1, %f2; mov.b32 %r1, %f1;" + STORE,
        0x40200000,
    ),
    "double initialiser": (
        ".const .f64 x = -2.5;",
        "ld.const.f64 %fd1, [x]; cvt.rzi.s32.f64 %r1, %fd1;" + STORE,
        0xFFFFFFFE,
    ),
    "nested initialiser": (
        ".global .u32 x[2][2] = {{1}, {3, 4}};",
        "ld.global.u32 %r1, [x+4]; ld.global.u32 %r2, [x+12]; mad.lo.u32 %r1, %r1, 10, %r2;" + STORE,
        4,
    ),
    "function with registers": (TWICE, "mov.u32 %r1, 21; call (%r1), twice, (%r1);" + STORE, 42),
    "function with a constant": (TWICE, "call.uni (%r1), twice, (21);" + STORE, 42),
    "two calls": (TWICE, "call (%r1), twice, (5); call (%r1), twice, (%r1);" + STORE, 20),
    "result thrown away": (TWICE, "mov.u32 %r1, 7; call (_), twice, (%r1);" + STORE, 7),
    "function with both kinds": (SLOTS, "mov.u32 %r1, 5; call (%r1), plus, (%r1, 3);" + STORE, 8),
    "slots for registers": (
        TWICE,
        "{.param .b32 a; .param .b32 b; st.param.b32 [a], 4; call (b), twice, (a); ld.param.b32 %r1, [b];}"
        + STORE,
        8,
    ),
    "label in two scopes": (
        "",
        "mov.u32 %r1, 0;" + LOOP.replace("LIMIT", "5") + LOOP.replace("LIMIT", "9") + STORE,
        9,
    ),
    "label outside": ("", "mov.u32 %r1, 1; { bra L; } mov.u32 %r1, 2; L: " + STORE, 1),
    "inner label hides": ("", "mov.u32 %r1, 1; { bra L; mov.u32 %r1, 2; L: } bra M; L: trap; M: " + STORE, 1),
    "no blanks": (".global.u32 x=5;", "{.reg.b32 q;ld.global.u32 q,[x];mov.u32 %r1,q;}" + STORE, 5),
    "label and instruction together": ("", "bra L;L:mov.u32 %r1,3;" + STORE, 3),
    "blanks between modifiers": ("", "mov .u32 %r1, 6; st .global .u32 [%rd1], %r1;", 6),
    "constant expression": ("", "mov.u32 %r1, (3 + 4) * 2 - (1 << 3) / 2 + (5 > 3 ? 1 : 0) + !0 + ~-1;" + STORE, 12),
    "WARP_SZ": ("", "mov.u32 %r1, WARP_SZ + 1;" + STORE, 33),
    "binary, octal, unsigned": ("", "mov.u32 %r1, 0b101 + 017 + 0x10U;" + STORE, 36),
    "vector registers": (
        "",
        "{.reg .v2 .u32 v; mov.u32 v.x, 3; mov.u32 v.y, 4; st.global.v2.u32 [%rd1], v;}",
        3 + (4 << 32),
    ),
    "registers without %": ("", "{.reg .u32 a, b; mov.u32 a, 3; add.u32 b, a, a; st.global.u32 [%rd1], b;}", 6),
    "wide source of a store": ("", "mov.u64 %rd2, 0x10000000a; st.global.u32 [%rd1], %rd2;", 10),
    "wide source of a store of a float": ("", "mov.u64 %rd2, 0x3f800000; st.global.f32 [%rd1], %rd2;", 0x3F800000),
    "wide sources of a vector": (
        "",
        "mov.u64 %rd2, 0x100000001; mov.u64 %rd3, 0x200000002; st.global.v2.u32 [%rd1], {%rd2, %rd3};",
        0x2_0000_0001,
    ),
    "wide source of a conversion": ("", "mov.u64 %rd2, 0x1ffffffff; cvt.s64.s32 %rd2, %rd2; st.global.u64 [%rd1], %rd2;", 2**64 - 1),
    "wide result of a conversion": ("", "mov.u32 %r2, 0x1ffff; cvt.s16.s32 %r1, %r2;" + STORE, 2**32 - 1),
    "wide result of a load": ("", "mov.u32 %r2, -5; st.global.u32 [%rd1], %r2; ld.global.s32 %rd2, [%rd1]; st.global.u64 [%rd1], %rd2;", 2**64 - 5),
    "ordered modifiers": ("", "mov.f32 %f1, 1.5; add.ftz.rn.f32 %f1, %f1, %f1; mov.b32 %r1, %f1;" + STORE, 0x40400000),
}  # fmt: skip
for _name in (
    *("global.sys.add", "cta.global.add", "global.gpu.acq_rel.add", "relaxed.sys.global.add"),
    *("add.global.gpu.relaxed", "gpu.add.acquire.global", "global.acq_rel.gpu.add"),
):
    RUNS[f"atom.{_name}"] = ("", f"atom.{_name}.u32 %r1, [%rd1], 7;", 7)
    if "acq" not in _name:
        RUNS[f"red.{_name}"] = ("", f"red.{_name}.u32 [%rd1], 7;", 7)


@pytest.mark.parametrize("what", RUNS)
def test_unusual_spellings(device: VirtualDevice, what: str) -> None:
    top, body, want = RUNS[what]
    assert result(device, program(body, top)) == want


def test_one_refused_kernel_leaves_the_others(device: VirtualDevice) -> None:
    good = program("mov.u32 %r1, 3;" + STORE)
    bad = OPEN.replace(" f(", " g(") + "\n mma.nonsense %r1;\n ret;\n}\n"
    wrong = OPEN.replace(" f(", " h(") + "\n add.u32 %r1, %nobody, 1;\n ret;\n}\n"
    module = device.load_ptx(good + bad + wrong)
    assert module.kernels == ("f", "g", "h")
    assert result(device, good + bad + wrong) == 3
    lines = (good + bad + wrong).splitlines()
    for name, what in (("g", "mma.nonsense"), ("h", "%nobody")):
        number = next(i for i, line in enumerate(lines, 1) if what in line)
        with pytest.raises(CompileError, match=rf"kernel {name}, PTX line {number}: .*{what}"):
            module[name]
    with pytest.raises(CompileError, match="expected"):
        device.load_ptx(good + "\n.visible .entry broken( {")


HEADER = '__device__ int helper(int a) { int r; asm("bad.s32 %0, %1;" : "=r"(r) : "r"(a)); return r; }'


def test_a_fault_in_a_header_names_the_line_that_includes_it(device: VirtualDevice, tmp_path: Path) -> None:
    (tmp_path / "h.cuh").write_text(f"\n\n{HEADER}\n")
    source = '#include "h.cuh"\n__device__ int mine(int a) {\n  return helper(a);\n}\n'
    source += 'extern "C" __global__ void k(int *x) {\n  x[0] = mine(x[0]);\n}\n'
    (tmp_path / "k.cu").write_text(source)
    with pytest.raises(
        CompileError, match=r"kernel k, PTX line \d+ \(.*k\.cu:3, inside .*h\.cuh:3\): .*bad\.s32"
    ):
        device.compile(tmp_path / "k.cu")


CALLS = {
    "no arguments": "call.uni __assertfail, ();",
    "too few": "{.param .b64 a; st.param.b64 [a], %rd1; .param .b32 r; call.uni (r), vprintf, (a);}",
    "too narrow": "{.param .b32 a; .param .b64 b; .param .b32 r; call.uni (r), vprintf, (a, b);}",
    "two results": "{.param .b64 a; .param .b64 b; .param .b32 r; .param .b32 s; call (r, s), vprintf, (a, b);}",
    "malloc": "{.param .b64 a; .param .b64 r; call (r), malloc, (a);}",
}  # fmt: skip


@pytest.mark.parametrize("what", CALLS)
@pytest.mark.parametrize("declared", [True, False])
def test_calls_out_of_the_machine_have_their_own_arguments(
    device: VirtualDevice, what: str, declared: bool
) -> None:
    """Else they would read what stands on the stack of this process."""
    name = next(n for n in ("__assertfail", "vprintf", "malloc") if n in CALLS[what])
    top = f".extern .func {name}();" if not declared else ".extern .func (.param .b32 r) vprintf(.param .b64 a, .param .b64 b); .extern .func __assertfail(); .extern .func (.param .b64 r) malloc(.param .b64 a);"  # fmt: skip
    with pytest.raises(CompileError, match=r"PTX line \d+: .*function"):
        result(device, program(CALLS[what], top))


ATTACKS = {
    "deep braces in an operand": "mov.b64 %rd1, " + "{" * 20000,
    "deep parentheses": "mov.u32 %r1, " + "(" * 20000,
    "a slot left": "{.param .b32 a; .param .b32 b; st.param.b32 [a+400], 1; call (b), twice, (a);}",
    "huge shared array": ".shared .b8 s[99999999999]; mov.u32 %r1, s; st.shared.u8 [%r1], 1;",
    "huge local array": ".local .b8 s[99999999999]; mov.u32 %r1, s; st.local.u8 [%r1], 1;",
    "negative size": ".shared .b8 s[-4];",
    "many digits": "mov.u32 %r1, " + "9" * 10000 + ";",
    "many digits of a register": "mov.u32 %r1, %r" + "9" * 10000 + ";",
    "table without its label": "T: .branchtargets A, B; brx.idx %r1, T; A:",
    "table that is none": "brx.idx %r1, nothing;",
}


HIDING = {
    "a variable of the module": (
        ".global .u32 s = 5; .func (.reg .u32 o) get() { ld.global.u32 o, [s]; ret; }",
        ".shared .u32 s; st.shared.u32 [s], 8; call (%r1), get; ld.shared.u32 %r2, [s]; mad.lo.u32 %r1, %r1, 10, %r2;"
        + STORE,
        58,
    ),
    "the parameter's name": (".global .u32 p = 5;", "mov.u32 %r1, 4;" + STORE, 4),
    "names like those made up": (
        "",
        "{ .reg .b32 a$1, a; mov.u32 a$1, 1; { .reg .b32 a; mov.u32 a, 2; } mov.u32 %r1, a$1; }" + STORE,
        1,
    ),
    "labels like those made up": (
        "",
        "mov.u32 %r1, 3; setp.eq.u32 %p1, %r1, 3; {{{ bra after; trap; after: @%p1 add.u32 %r1, %r1, 1; @%p1 add.u32 %r1, %r1, 1; }}}"
        + STORE,
        5,
    ),
}


@pytest.mark.parametrize("what", HIDING)
def test_names_that_hide_others(device: VirtualDevice, what: str) -> None:
    top, body, want = HIDING[what]
    assert result(device, program(body, top)) == want


def test_an_index_outside_of_a_table_is_reported(device: VirtualDevice) -> None:
    body = "mov.u32 %r1, %tid.x; T: .branchtargets A, B; brx.idx %r1, T; A: mov.u32 %r1, 7; B:" + STORE
    kernel = device.load_ptx(program(body))["f"]
    kernel.launch(1, 2, (device.zeros((1,), np.uint64),))
    with pytest.raises(NnkitError, match=r"thread \(2, 0, 0\).*a jump outside its table"):
        kernel.launch(1, 8, (device.zeros((1,), np.uint64),))


def test_deep_nesting_that_is_legal(device: VirtualDevice) -> None:
    body = "{" * 20000 + "mov.u32 %r1, " + "-" * 20000 + "1;" + STORE + "}" * 20000
    assert result(device, program(body)) == 1


HUGE = {
    "global": ".global .b8 x[999999999999];",
    "initial": ".global .u32 x[4][1000000000] = {{1}, {2}, {3}};",
    "larger than addresses": ".global .b8 x[99999999999999999999];",
    "recursion": ".func g(); .func h() { call g; ret; } .func g() { call h; ret; }",
    "a long chain": ".func g0() { ret; }\n"
    + "\n".join(f".func g{i}() {{ call g{i - 1}; ret; }}" for i in range(1, 3000))
    + ".func g() { call g2999; ret; }",
    "calls that double": ".func g0() { ret; }\n"
    + "\n".join(f".func g{i}() {{ call g{i - 1}; call g{i - 1}; ret; }}" for i in range(1, 40))
    + ".func g() { call g39; ret; }",
}


@pytest.mark.parametrize("what", HUGE)
def test_hostile_declarations_are_refused_in_a_line(device: VirtualDevice, what: str) -> None:
    call = "call g;" if ".func" in HUGE[what] else ""
    with pytest.raises(NnkitError) as caught:
        result(device, program(call + STORE, HUGE[what]))
    assert "\n" not in str(caught.value)
    assert "Error" not in str(caught.value)


@pytest.mark.parametrize(
    "parameter", [".param .b8 p[999999999]", ".param .u64 q, .param .align 1073741824 .b8 p[8]"]
)
def test_parameters_larger_than_any_kernel_has(device: VirtualDevice, parameter: str) -> None:
    text = program(STORE).replace(".param .u64 p", parameter)
    with pytest.raises(CompileError, match="bytes of parameters"):
        device.load_ptx(text)


@pytest.mark.parametrize("what", ATTACKS)
def test_hostile_text_is_refused_in_a_line(device: VirtualDevice, what: str) -> None:
    with pytest.raises(NnkitError) as caught:
        result(device, program(ATTACKS[what] + STORE, TWICE))
    assert "\n" not in str(caught.value)
    assert "Error" not in str(caught.value)
