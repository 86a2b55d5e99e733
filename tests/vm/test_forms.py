"""The table of instructions: one record a form, which everything else asks."""

import ast
import re
from pathlib import Path

import pytest

from nnkit.ptx.ir import Instruction
from nnkit.ptx.parse import parse
from nnkit.vm.forms import registers, table
from nnkit.vm.forms.form import Effect, Ending, Form, MemoryAccess, Pure
from nnkit.vm.forms.table import FORMS
from nnkit.vm.instructions import families

DECLARED = """.version 8.0\n.target sm_90\n.address_size 64
.visible .entry k()\n{\n.reg .pred %p<9>;\n.reg .b32 %r<9>;\n.reg .b64 %rd<9>;
L:\nT: .branchtargets L;
"""


def instruction(line: str) -> Instruction:
    """An instruction as PTX writes it."""
    body = parse(f"{DECLARED}{line}\n}}").functions["k"].body or []
    return next(item for item in body if isinstance(item, Instruction))


def form(line: str) -> Form:
    """Its form."""
    found = table.form_of(instruction(line))
    assert found, line
    return found


def test_every_family_is_imported() -> None:
    folder = Path(families.__file__).parent
    texts = {path.stem: path.read_text("utf-8") for path in folder.glob("*.py")}
    mark = re.compile(r"^@(pure|effect|memory_access)\(", re.MULTILINE)
    registers = {name for name, text in texts.items() if mark.search(text)}
    assert registers == {module.__name__.rpartition(".")[2] for module in families.FAMILIES}


@pytest.mark.parametrize(
    ("line", "kind", "lanes"),
    [
        ("add.s32 %r1, %r2, %r3;", Pure, "computed"),
        ("add.cc.u32 %r1, %r2, %r3;", Effect, "joined"),
        ("ld.global.f32 %f1, [%rd1];", MemoryAccess, "loaded"),
        ("atom.global.add.u32 %r1, [%rd1], %r2;", MemoryAccess, "varying"),
        ("red.global.add.u32 [%rd1], %r2;", MemoryAccess, ""),
        ("vote.sync.ballot.b32 %r1, %p1, %r2;", Effect, "members"),
        ("vote.ballot.b32 %r1, %p1;", Effect, "uniform"),
        ("activemask.b32 %r1;", Effect, "uniform"),
        ("bar.red.popc.u32 %r1, 0, %p1;", Ending, "uniform"),
        ("bar.sync 0;", Ending, ""),
        ("bar.arrive 1, 64;", Effect, ""),
        ("bar.warp.sync -1;", Effect, ""),
        ("bra L;", Ending, ""),
    ],
)
def test_what_a_form_is(line: str, kind: type, lanes: str) -> None:
    found = form(line)
    assert type(found) is kind
    assert found.lanes == lanes


@pytest.mark.parametrize(
    ("line", "access"),
    [
        ("ld.shared.v4.f32 {%f1, %f2, %f3, %f4}, [%r1];", "load"),
        ("ldu.global.u32 %r1, [%rd1];", "load"),
        ("st.local.u8 [%rd1], %rs1;", "store"),
        ("red.shared.and.b32 [%r1], %r2;", "update"),
        ("atom.cas.b64 %rd1, [%rd2], %rd3, %rd4;", "update"),
        ("prefetch.global.L1 [%rd1];", ""),
        ("membar.gl;", ""),
    ],
)
def test_what_it_does_to_memory(line: str, access: str) -> None:
    found = form(line)
    assert isinstance(found, MemoryAccess if access else Effect)
    assert getattr(found, "access", "") == access


def test_what_needs_a_whole_warp() -> None:
    names = {
        opcode for opcode, forms in FORMS.items() for f in forms if isinstance(f, Effect) and f.warp_level
    }
    assert names == {"shfl", "vote", "match", "redux", "activemask", "elect", "bar", "barrier"}
    assert not getattr(form("bar.sync 0;"), "warp_level", False)
    assert getattr(form("barrier.warp.sync -1;"), "warp_level", False)


def test_a_form_has_lanes_where_it_has_a_result() -> None:
    """The signature says whether there is one."""
    for forms in FORMS.values():
        for each in forms:
            assert bool(each.results) == bool(each.lanes), each


@pytest.mark.parametrize(
    ("line", "written", "read"),
    [
        ("add.s32 %r1, %r2, %r3;", "%r1", "%r2 %r3"),
        ("@!%p1 mov.u32 %r1, %tid.x;", "%r1", "%p1"),
        ("mov.b64 {%r1, %r2}, %rd1;", "%r1 %r2", "%rd1"),
        ("setp.eq.or.s32 %p1|%p2, %r1, 3, !%p3;", "%p1 %p2", "%r1 %p3"),
        ("ld.global.v2.u32 {%r1, _}, [%rd1+4];", "%r1", "%rd1"),
        ("st.global.u32 [%rd1], %r1;", "", "%rd1 %r1"),
        ("red.global.add.u32 [%rd1], %r1;", "", "%rd1 %r1"),
        ("atom.global.cas.b32 %r1, [%rd1], %r2, %r3;", "%r1", "%rd1 %r2 %r3"),
        ("bar.sync %r1, 64;", "", "%r1"),
        ("barrier.red.popc.u32 %r1, %r2, %p1;", "%r1", "%r2 %p1"),
        ("brx.idx %r1, T;", "", "%r1"),
        ("add.cc.u32 %r1, %r2, %r3;", "%r1 %cc", "%r2 %r3"),
        ("addc.u32 %r1, %r2, %r3;", "%r1", "%r2 %r3 %cc"),
        ("madc.hi.cc.u32 %r1, %r2, %r3, %r4;", "%r1 %cc", "%r2 %r3 %r4 %cc"),
        # What nobody knows is taken for what most are.
        ("tex.base.f32 %r1, [%rd1];", "%r1", "%rd1"),
        ("cp.async.ca.shared.global [%r1], [%rd1], 4;", "", "%r1 %rd1"),
    ],
)
def test_what_is_written_and_read(line: str, written: str, read: str) -> None:
    item = instruction(line)
    assert registers.destinations(item) == written.split()
    assert registers.sources(item) == read.split()


@pytest.mark.parametrize(
    ("line", "way"),
    [
        ("bra.uni L;", "jump"),
        ("brx.idx %r1, T;", "switch"),
        ("ret;", "return"),
        ("exit;", "exit"),
        ("bar.red.or.pred %p1, 0, %p2;", "barrier"),
        ("barrier.cta.sync 0;", "barrier"),
        ("bar.arrive 1, 64;", ""),
        ("barrier.warp.sync -1;", ""),
        ("trap;", ""),
        ("ld.global.u32 %r1, [%rd1];", ""),
    ],
)
def test_what_ends_a_block(line: str, way: str) -> None:
    assert table.way_of(instruction(line)) == way


def test_whether_the_threads_of_a_warp_come_to_a_barrier_together() -> None:
    def aligned(line: str) -> bool:
        found = form(line)
        assert isinstance(found, Ending)
        return found.aligned

    assert all(map(aligned, ("bar.sync 0;", "barrier.sync.aligned 0;", "bar.red.popc.u32 %r1, 0, %p1;")))
    assert not any(map(aligned, ("barrier.sync 0;", "barrier.cta.red.and.pred %p1, 0, %p2;")))


def test_whose_threads_a_fence_is_for() -> None:
    def fence(line: str) -> str:
        return getattr(form(line), "fence", "")

    assert [fence(f"{name};") for name in ("membar.cta", "fence.sc.cta")] == ["block", "block"]
    assert [fence(f"{name};") for name in ("membar.gl", "fence.acq_rel.gpu")] == ["device", "device"]
    assert fence("fence.proxy.async;") == fence("bar.sync 0;") == ""


SPELLING = {
    # What stands in an instruction's text, before anybody knows its form.
    "nnkit/ptx/modifiers.py": "the order in which modifiers are written",
    "nnkit/ptx/names.py": "labels, which jumps may name before they stand there",
    "nnkit/ptx/parse.py": "operands of a call and of a jump are written in other ways than those of the rest",
    # Looking a form up.
    "nnkit/vm/forms/table.py": "the table's key",
    "nnkit/vm/forms/check.py": "for its words: whether another form of the instruction is known",
}
"""Files that may ask for an opcode, besides those that register forms: these know their own family."""


def asked(path: Path) -> list[str]:
    """The comparisons of an opcode in a file: `x.opcode == "ld"`, `opcode in LIST`, `match x.opcode`."""

    def names_it(node: ast.AST) -> bool:
        return (isinstance(node, ast.Attribute) and node.attr == "opcode") or (
            isinstance(node, ast.Name) and node.id == "opcode"
        )

    found = []
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        parts: list[ast.AST] = []
        match node:
            case ast.Compare():
                parts = [node.left, *node.comparators]
            case ast.Match():
                parts = [node.subject]
            case ast.Subscript():
                parts = [node.slice]
            case ast.Call(func=ast.Attribute(value=value)):
                # LIST.get(x.opcode), x.opcode.startswith("ld")
                parts = [value, *node.args]
        if any(map(names_it, parts)) and isinstance(node, ast.expr | ast.stmt):
            found.append(f"{path}:{node.lineno}: {ast.unparse(node)}")
    return found


def test_nobody_else_decides_by_an_instructions_name() -> None:
    """Whoever does keeps a list beside the table, which nobody thinks of who adds an instruction."""
    top = Path(families.__file__).parents[3]
    registered = {Path(module.__file__ or "") for module in families.FAMILIES}
    asking = {
        str(path.relative_to(top)): found
        for path in sorted(top.glob("nnkit/**/*.py"))
        if path not in registered and (found := asked(path))
    }
    assert set(asking) == set(SPELLING), [line for lines in asking.values() for line in lines]


def test_a_comparison_of_an_opcode_is_found(tmp_path: Path) -> None:
    file = tmp_path / "some.py"
    for line in (
        'x = item.opcode == "ld"',
        "x = item.opcode not in LIST",
        "x = LIST.get(item.opcode)",
        "x = LIST[item.opcode]",
        'x = item.opcode.startswith("ld")',
        "match item.opcode:\n    case _: pass",
    ):
        file.write_text(line)
        assert asked(file), line
    file.write_text('x = replace(item, opcode="bra")\nprint(item.opcode)')
    assert not asked(file)


@pytest.mark.parametrize(
    ("line", "meaning"),
    [
        ("add.u64 %rd1, %rd2, %rd3;", "sum"),
        ("sub.cc.u32 %r1, %r2, %r3;", "difference"),
        # One that is cut at the type's ends, or made of pairs, is no sum for those who follow addresses.
        ("add.sat.s32 %r1, %r2, %r3;", "arithmetic"),
        ("add.u16x2 %r1, %r2, %r3;", "arithmetic"),
        ("mad.wide.u32 %rd1, %r1, %r2, %rd3;", "wide product and sum"),
        ("mul.hi.s32 %r1, %r2, %r3;", "high product"),
        ("fma.rn.f32 %r1, %r2, %r3, %r4;", "product and sum"),
        ("shfl.sync.idx.b32 %r1, %r2, 0, 31, -1;", "exchange"),
        ("red.global.max.s32 [%rd1], %r1;", "arithmetic"),
        ("atom.global.exch.b32 %r1, [%rd1], %r2;", ""),
        ("ld.global.u32 %r1, [%rd1];", ""),
    ],
)
def test_what_it_does_to_values(line: str, meaning: str) -> None:
    assert form(line).meaning == meaning


@pytest.mark.parametrize(
    ("line", "space"),
    [
        ("ld.u32 %r1, [%rd1];", "generic"),
        ("ldu.u32 %r1, [%rd1];", "global"),
        ("ld.volatile.shared::cta.u32 %r1, [%r2];", "shared"),
        ("atom.acquire.gpu.global.add.u32 %r1, [%rd1], 1;", "global"),
    ],
)
def test_where_an_access_is_to(line: str, space: str) -> None:
    assert table.space_of(instruction(line)) == space
