"""The command nnkit, run by tests: its result, and how a refusal must look."""

import json
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

AS_ROOT = {"OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1"}
"""Environment variables without which Open MPI's mpirun refuses to run as root, as in a container."""


@dataclass(frozen=True)
class Result:
    """The exit status and the output of a command."""

    status: int
    stdout: str
    stderr: str


Command = Callable[..., Result]


def is_refusal(result: Result, *words: str) -> bool:
    """Assert that the command refused its input: status 2, and one line on stderr that has the words."""
    assert result.status == 2, result
    assert result.stdout == ""
    return is_one_line(result, *words)


def is_one_line(result: Result, *words: str) -> bool:
    """Assert that stderr is one line of nnkit's that has the words."""
    lines = result.stderr.splitlines()
    assert len(lines) == 1, result.stderr
    assert lines[0].startswith("nnkit: ")
    assert all(word in lines[0] for word in words), lines[0]
    return True


def arguments_of(*arguments: object) -> list[str]:
    """The command line of the command in a process of its own."""
    return [sys.executable, "-m", "nnkit", *map(str, arguments)]


def lines_of(path: Path) -> list[dict[str, Any]]:
    """The documents of a metrics file."""
    return [json.loads(line) for line in path.read_text("utf-8").splitlines()]
