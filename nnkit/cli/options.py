"""Options that several commands share, and functions to print with."""

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
    """Print one JSON document, indented. Raises ValueError for NaN and infinity, which JSON lacks."""
    print(json.dumps(document, indent=2, allow_nan=False), flush=True)


def note(message: str) -> None:
    """Print a line that is not part of the result to standard error."""
    print(message, file=sys.stderr, flush=True)
