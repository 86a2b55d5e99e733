"""The lists of nnkit/ in the README and in the docstring of the package are complete and in order."""

import re
import tomllib
from itertools import pairwise

import pytest

import nnkit
from tests.support.places import ROOT

README = (ROOT / "README.md").read_text("utf-8")
LAYERS: list[str] = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["tool"]["importlinter"][
    "contracts"
][0]["layers"]


def listed(text: str, indent: int) -> dict[str, str]:
    """Name -> its line, without the suffix: `cli/  the command` is cli."""
    rows = re.findall(rf"^ {{{indent}}}(\w+)(?:/|\.py) +(\S.*)$", text, re.MULTILINE)
    assert len(dict(rows)) == len(rows)
    return dict(rows)


def on_disk() -> set[str]:
    """The folders and modules of nnkit/ that are parts of the package, without `__init__` and `__main__`."""
    names = {path.stem for path in (ROOT / "nnkit").glob("*.py")}
    names |= {path.parent.name for path in (ROOT / "nnkit").glob("*/__init__.py")}
    return {name for name in names if not name.startswith("__")}


def out_of_order(names: list[str]) -> list[tuple[str, str]]:
    """Pairs of neighbours in the list of which the second stands in a higher layer than the first."""
    floor = {
        name.strip().removeprefix("nnkit."): number
        for number, layer in enumerate(LAYERS)
        for name in layer.split("|")
    }
    known = [name for name in names if name in floor]
    return [pair for pair in pairwise(known) if floor[pair[0]] > floor[pair[1]]]


MAPS = {
    "README": listed(README.partition("    nnkit/\n")[2].partition("    backends/")[0], 6),
    "package": listed(nnkit.__doc__ or "", 4),
}


@pytest.mark.parametrize("name", MAPS)
def test_everything_is_listed_once(name: str) -> None:
    assert set(MAPS[name]) == on_disk()


@pytest.mark.parametrize("name", MAPS)
def test_what_stands_lower_is_imported_by_what_stands_higher(name: str) -> None:
    assert out_of_order(list(MAPS[name])) == []


def test_the_order_is_looked_at() -> None:
    assert out_of_order(["train", "cli", "vm", "ptx"]) == [("train", "cli")]


def test_the_map_of_the_package_is_short() -> None:
    assert nnkit.__doc__
    assert len(nnkit.__doc__.splitlines()) <= 30


def test_the_folders_of_the_folders_are_in_the_pictures() -> None:
    pictures = (ROOT / "docs" / "architecture.md").read_text("utf-8")
    for init in (ROOT / "nnkit").glob("*/*/__init__.py"):
        parts = init.parent.relative_to(ROOT).parts
        assert f"    {'_'.join(parts)}[" in pictures, parts
