"""Options that several commands share, and how commands print."""

import json
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

Backend = Annotated[str, typer.Option("--backend", help="The GEMM backend; nnkit backends lists them.")]
Device = Annotated[
    str, typer.Option("--device", help="Where to compute: auto, cpu, virtual, cuda or cuda:N.")
]
Data = Annotated[
    Path | None,
    typer.Option("--data", metavar="DIR", help="A directory with four IDX files; MNIST if not given."),
]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON document on standard output.")]
CheckpointPath = Annotated[
    Path, typer.Option("--checkpoint", metavar="DIR", help="The checkpoint that nnkit train made.")
]


def print_json(document: dict[str, Any] | list[Any]) -> None:
    """One document, indented for people, readable by machines (no NaN, no infinity)."""
    print(json.dumps(document, indent=2, allow_nan=False), flush=True)


def note(message: str) -> None:
    """A line for people that is no part of the result: on standard error."""
    print(message, file=sys.stderr, flush=True)
