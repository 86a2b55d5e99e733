"""The metrics file: one JSON document a line, one line an epoch, and a last one with the outcome."""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Literal, TextIO

from nnkit.errors import OutputError, reason


class MetricsFile:
    """`--metrics FILE`. Each line reaches the file as soon as it is written. Raises OutputError."""

    def __init__(self, path: Path):
        self.path = path
        self._stream: TextIO | None = None
        # Appending nothing shows whether the file can be written, and leaves what it holds.
        self._open("a").close()

    def start(self, history: Iterable[dict[str, Any]]) -> None:
        """Begin the file anew with the epochs that a resumed run has behind it."""
        self._stream = self._open("w")
        for record in history:
            self.write(record)

    def write(self, record: dict[str, Any]) -> None:
        """Add one line."""
        assert self._stream is not None, "start() comes first"
        try:
            self._stream.write(json.dumps(record, allow_nan=False) + "\n")
            self._stream.flush()
        except OSError as error:
            raise self._error(error) from None

    def _open(self, mode: Literal["a", "w"]) -> TextIO:
        try:
            return open(self.path, mode, encoding="utf-8")
        except OSError as error:
            raise self._error(error) from None

    def _error(self, error: OSError) -> OutputError:
        return OutputError(f"--metrics {self.path}: cannot write: {reason(error)}: give another file")
