"""What all modules of a machine share: memory, threads and settings."""

import sys
from collections.abc import Callable

from nnkit.vm.analysis import settings
from nnkit.vm.analysis.options import Options
from nnkit.vm.memory import attachments
from nnkit.vm.run.memory_table import MemoryTable
from nnkit.vm.run.team import Team


class Host:
    """Memory, threads and settings that all modules share."""

    def __init__(self, threads: int | None = None, options: Options | None = None):
        """How many threads share a grid's blocks, and how code is made; by default as the settings say.

        Raises ValueError for settings and options that are none.
        """
        self.memory = MemoryTable()
        self.threads = threads or settings.threads()
        self.options = options or settings.options()
        attachments.refuse_unknown(self.options)
        self.limit = settings.most_instructions()
        self.output: Callable[[str], object] = _to_stdout
        self.team = Team()

    def close(self) -> None:
        """Let the threads end; a second call does nothing."""
        self.team.close()


def _to_stdout(text: str) -> None:
    """To what sys.stdout is now, not what it was when the machine was made; nowhere if it is closed.

    Characters that it cannot write are escaped.
    """
    stream = sys.stdout
    if stream is None:
        return
    try:
        stream.write(text)
    except UnicodeEncodeError:
        code = getattr(stream, "encoding", None) or "ascii"
        stream.write(text.encode(code, "backslashreplace").decode(code))
