"""The pictures in docs/architecture.md are what the code is."""

import importlib.util
import re
from importlib.machinery import SourceFileLoader
from types import ModuleType

import pytest

from tests.support.places import ROOT


@pytest.fixture(scope="module")
def tool() -> ModuleType:
    loader = SourceFileLoader("architecture", str(ROOT / "tools" / "architecture"))
    spec = importlib.util.spec_from_loader("architecture", loader)
    assert spec
    module = importlib.util.module_from_spec(spec)
    loader.exec_module(module)
    return module


def test_pictures_are_what_the_code_is(tool: ModuleType) -> None:
    text = (ROOT / "docs" / "architecture.md").read_text("utf-8")
    assert tool.page(text) == text, "./tools/run python tools/architecture --write draws them anew"


def test_only_what_does_not_follow_is_drawn(tool: ModuleType) -> None:
    imports = {"a": {"b", "c", "d"}, "b": {"c"}, "c": set(), "d": {"c"}}
    assert tool._direct(imports, "a") == {"b", "d"}


def test_a_room_without_a_head_shows(tool: ModuleType) -> None:
    """Each says what it is, in words short enough for the picture."""
    for name in tool.PICTURES:
        for line in tool.drawn(name).splitlines():
            if "<br/>" in line:
                head = line.partition("<br/>")[2].removesuffix('"]')
                assert 10 < len(head) < 120, line


def test_the_machine_reads_its_settings_at_one_place() -> None:
    texts = {path.name: path.read_text("utf-8") for path in (ROOT / "nnkit" / "vm").rglob("*.py")}
    assert [name for name, text in texts.items() if re.search("[\"']NNKIT_", text)] == ["settings.py"]
