"""The metrics file: one JSON document a line, one line an epoch, and a last one with the outcome."""

import contextlib
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any, TextIO

from nnkit.errors import OutputError, reason
from nnkit.train.files import check_writable


class MetricsFile:
    """`--metrics FILE`. Each line reaches the file as soon as it is written. Raises OutputError."""

    def __init__(self, path: Path):
        self.path = path
        self._stream: TextIO | None = None
        try:
            check_writable(path)
        except OSError as error:
            raise self._error(error) from None

    def start(self, history: Iterable[dict[str, Any]]) -> None:
        """Begin the file anew with the epochs that a resumed run has behind it."""
        try:
            self._stream = open(self.path, "w", encoding="utf-8")  # noqa: SIM115  it outlives this call
        except OSError as error:
            raise self._error(error) from None
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

    def close(self) -> None:
        """Give the file back; a second call does nothing."""
        if self._stream is not None:
            # Every line was flushed; what is left after a full disk was reported then.
            with contextlib.suppress(OSError):
                self._stream.close()
            self._stream = None

    def _error(self, error: OSError) -> OutputError:
        return OutputError(f"--metrics {self.path}: cannot write: {reason(error)}: give another file")
