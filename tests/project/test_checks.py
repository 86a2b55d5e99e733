"""What is checked before a commit is what CI checks of the text."""

import re
from pathlib import Path

from tests.support.places import ROOT

TOOLS = ("ruff", "mypy", "lint-imports")


def commands(text: str, prefix: str) -> list[str]:
    """The linters' commands in a file, behind their prefix."""
    found = re.findall(rf"^\s*{re.escape(prefix)} (.*)$", text, re.MULTILINE)
    return [command for command in found if command.split()[0] in TOOLS]


def scripts(folder: Path) -> set[str]:
    """The programs in Python that have no ending."""
    files = [path for path in folder.iterdir() if path.is_file() and not path.suffix]
    return {path.name for path in files if path.read_text("utf-8").partition("\n")[0].endswith("python3")}


def test_types_are_checked_everywhere() -> None:
    """Without an ending nothing tells mypy that a tool is a program in Python: each is named."""
    (line,) = [line for line in commands((ROOT / ".ci/run").read_text("utf-8"), "run") if "mypy" in line]
    assert {"nnkit", "backends", "tests", "benchmarks"} <= set(line.split())
    found = scripts(ROOT / "tools")
    assert len(found) >= 6
    assert {word for word in line.split() if word.startswith("tools/")} == {f"tools/{name}" for name in found}


def test_a_new_tool_would_be_seen(tmp_path: Path) -> None:
    (tmp_path / "new").write_text("#!/usr/bin/env python3\n", "utf-8")
    (tmp_path / "run").write_text("#!/bin/sh\n", "utf-8")
    (tmp_path / "list.txt").write_text("#!/usr/bin/env python3\n", "utf-8")
    assert scripts(tmp_path) == {"new"}


def test_pre_commit_runs_what_ci_runs() -> None:
    ci = commands((ROOT / ".ci/run").read_text("utf-8"), "run")
    hooks = commands((ROOT / ".pre-commit-config.yaml").read_text("utf-8"), "entry: ./tools/run")
    assert len(ci) >= 4
    assert hooks == ci


def test_a_check_that_is_missing_would_be_seen() -> None:
    text = "        entry: ./tools/run ruff check .\n        entry: ./tools/run pytest\n"
    assert commands(text, "entry: ./tools/run") == ["ruff check ."]
