"""The lists of instructions in docs/ are what the table of forms is."""

import importlib.util
from importlib.machinery import SourceFileLoader
from types import ModuleType

import pytest

from nnkit.vm.forms.sections import SECTIONS
from nnkit.vm.forms.table import FORMS
from tests.support.places import ROOT


@pytest.fixture(scope="module")
def tool() -> ModuleType:
    loader = SourceFileLoader("instructions", str(ROOT / "tools" / "instructions"))
    spec = importlib.util.spec_from_loader("instructions", loader)
    assert spec
    module = importlib.util.module_from_spec(spec)
    loader.exec_module(module)
    return module


def test_pages_are_what_the_table_is(tool: ModuleType) -> None:
    for page, text in tool.pages().items():
        assert page.read_text("utf-8") == text, "./tools/run python tools/instructions --write writes it anew"


def test_every_form_has_a_section(tool: ModuleType) -> None:
    """But for nnkit's own name of a call of printf or an assertion."""
    without = {opcode for opcode, forms in FORMS.items() for form in forms if form.section not in SECTIONS}
    assert without == {"extcall"}
    assert all(tool.listed().values())


@pytest.mark.parametrize(
    ("pattern", "spelled"),
    [
        (r"ret", ["ret"]),
        (r"bra(\.uni)?", ["bra{.uni}"]),
        (r"add\.[us](16|32)", ["add.(u16/u32/s16/s32)"]),
        (r"abs\.s(16|32)", ["abs.s(16/32)"]),
        (r"add\.[us]16x2", ["add.(u16x2/s16x2)"]),
        (r"selp\.([bu](16|32)|f32)", ["selp.(b16/b32/u16/u32/f32)"]),
        (r"ld(\.global|\.shared(::cta)?)?\.u32", ["ld{.global/.shared{::cta}}.u32"]),
        (r"min((\.ftz)?\.f32|\.f64)", ["min{.ftz}.f32", "min.f64"]),
        (r"fence\.proxy\.\w+(\.\w+)*", ["fence.proxy.NAME{.NAME}..."]),
    ],
)
def test_how_a_form_is_spelled(tool: ModuleType, pattern: str, spelled: list[str]) -> None:
    assert tool.spellings(pattern) == spelled
