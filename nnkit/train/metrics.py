"""The metrics file: one JSON document a line, one line an epoch, and a last one with the outcome."""

import contextlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TextIO

from nnkit.errors import OutputError, reason
from nnkit.train.files import check_writable


class MetricsFile:
    """`--metrics FILE`, begun anew by every run. A line reaches the file as soon as it is written.

    Raises OutputError.
    """

    def __init__(self, path: Path):
        self.path = path
        self._stream: TextIO | None = None
        self._lines = 0
        try:
            check_writable(path)
        except OSError as error:
            raise self._error(error) from None

    def write(self, records: Sequence[dict[str, Any]]) -> None:
        """Append those records that the file does not hold yet; `records` are all of the run so far."""
        try:
            if self._stream is None:
                self._stream = open(self.path, "w", encoding="utf-8")  # noqa: SIM115  it outlives this call
            for record in records[self._lines :]:
                self._stream.write(json.dumps(record, allow_nan=False) + "\n")
                self._stream.flush()
                self._lines += 1
        except OSError as error:
            raise self._error(error) from None

    def close(self) -> None:
        """Close the file; a second call does nothing."""
        if self._stream is not None:
            # Every line was flushed, and a full disk reported then.
            with contextlib.suppress(OSError):
                self._stream.close()
            self._stream = None

    def _error(self, error: OSError) -> OutputError:
        return OutputError(f"--metrics {self.path}: cannot write: {reason(error)}: give another file")
