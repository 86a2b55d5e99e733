"""The table of instructions: one record a form, which everything else asks."""

from pathlib import Path

import pytest

from nnkit.ptx.parse import parse
from nnkit.vm.forms import table
from nnkit.vm.forms.table import FORMS, Effect, Ending, Pure
from nnkit.vm.instructions import families


def form(line: str) -> table.Form:
    """The form of an instruction as PTX writes it."""
    text = f".version 8.0\n.target sm_90\n.address_size 64\n.visible .entry k()\n{{\nL:\n{line}\n}}"
    item = next(item for item in parse(text).functions["k"].body or [] if hasattr(item, "opcode"))
    found = table.form_of(item)
    assert found, line
    return found


def test_every_family_is_imported() -> None:
    folder = Path(families.__file__).parent
    texts = {path.stem: path.read_text("utf-8") for path in folder.glob("*.py")}
    registers = {name for name, text in texts.items() if "\n@pure(" in text or "\n@effect(" in text}
    assert registers == {module.__name__.rpartition(".")[2] for module in families.FAMILIES}


@pytest.mark.parametrize(
    ("line", "kind", "lanes"),
    [
        ("add.s32 %r1, %r2, %r3;", Pure, "computed"),
        ("add.cc.u32 %r1, %r2, %r3;", Effect, "joined"),
        ("ld.global.f32 %f1, [%rd1];", Effect, "loaded"),
        ("atom.global.add.u32 %r1, [%rd1], %r2;", Effect, "varying"),
        ("red.global.add.u32 [%rd1], %r2;", Effect, ""),
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
    assert isinstance(found, Effect)
    assert found.access == access


def test_what_needs_a_whole_warp() -> None:
    names = {
        opcode for opcode, forms in FORMS.items() for f in forms if isinstance(f, Effect) and f.warp_level
    }
    assert names == {"shfl", "vote", "match", "redux", "activemask", "elect", "bar", "barrier"}
    assert not getattr(form("bar.sync 0;"), "warp_level", False)
    assert getattr(form("barrier.warp.sync -1;"), "warp_level", False)


def test_a_form_has_lanes_where_it_has_a_result() -> None:
    """The first word of a signature says whether there is one."""
    for forms in FORMS.values():
        for each in forms:
            if each.operands != "any":
                assert each.operands.startswith(">") == bool(each.lanes), each
