"""What is checked before a commit is what CI checks of the text."""

import re

from tests.support.places import ROOT

TOOLS = ("ruff", "mypy", "lint-imports")


def commands(text: str, prefix: str) -> list[str]:
    """The linters' commands in a file, behind their prefix."""
    found = re.findall(rf"^\s*{re.escape(prefix)} (.*)$", text, re.MULTILINE)
    return [command for command in found if command.split()[0] in TOOLS]


def test_pre_commit_runs_what_ci_runs() -> None:
    ci = commands((ROOT / ".ci/run").read_text("utf-8"), "run")
    hooks = commands((ROOT / ".pre-commit-config.yaml").read_text("utf-8"), "entry: ./tools/run")
    assert len(ci) >= 4
    assert hooks == ci


def test_a_check_that_is_missing_would_be_seen() -> None:
    text = "        entry: ./tools/run ruff check .\n        entry: ./tools/run pytest\n"
    assert commands(text, "entry: ./tools/run") == ["ruff check ."]
