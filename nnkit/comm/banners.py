"""What mpiexec says besides its ranks: told from their lines, and made short."""

import re
import time
from collections.abc import Callable
from dataclasses import dataclass

HOLD_SECONDS = 1.0
"""After so long without an end of mpiexec, what it has said was a warning, and is shown."""

_RULE = re.compile(rb"(.*?)-{60,}\s*", re.DOTALL)
# Open MPI's complaints that come without a frame, what Hydra says about itself, and ssh, which both call.
_OWN = re.compile(rb"\[[^\]\s]+:\d+\] (?:PMIX|PRTE|OPAL) ERROR: |\[(?:mpiexec|proxy:[\d:]+)@|ssh: ")
# Of Open MPI's sums, when a rank is lost under ULFM (a blank line follows); of a reader that has gone; of
# libevent, when mpiexec closes a rank's connections.
_LOST = re.compile(
    rb"NBC_Progress: an error \d+ was found during schedule"
    rb"|\[[^\]\s]+:\d+\] (?:\w+: SIGPIPE detected|pmix_ptl_base: )|\[warn\] Epoll "
    # Of a rank that has crashed, with the stack of its C code, or that was lost while MPI started.
    rb"|\[[^\]\s]+:\d+\] (?:\*\*\* |\[ ?\d+\] |Signal: |Signal code: |Failing at address: )"
    rb"|\[[^\]\s]+\]\[\[\d+,\d+\],\d+\]\[\S+\.c:\d+:"
)
# Behind a banner Open MPI writes an empty line, or the NUL of its string.
_NOTHING = b"\0 \r\n"
_HYDRA_FRAME = re.compile(
    rb"={70,}\n|=   |This typically refers to a problem with your app|Please see the FAQ page for debugging"
)
_HYDRA_KILLED = re.compile(r"EXIT STRING: .*\(signal (\d+)\)|KILLED BY SIGNAL: (\d+)")
_KILLED = re.compile(r"process rank (\d+) with PID \d+ on node (\S+) exited on signal (\d+)")
_LEFT = re.compile(r"process rank (\d+) with PID \d+ on node (\S+) exiting improperly")
_STATUS = re.compile(r"Process name: \[\S+,(\d+)\] Exit code: (\d+)")
_FAILED = re.compile(
    r"exited with non-zero status|returned a non-zero exit code|MPI_ABORT was invoked|calling \"abort\""
)


@dataclass(frozen=True)
class Killed:
    """A rank that a signal has ended."""

    signal: int
    rank: str | None = None
    host: str | None = None

    def __str__(self) -> str:
        who = "a rank" if self.rank is None else f"rank {self.rank} on {self.host}"
        return f"{who} was killed by signal {self.signal}"


class Banners:
    """Reads what mpiexec prints: what ranks wrote goes to `write`, at once; the rest is understood.

    mpiexec writes a banner in one piece, framed by lines of dashes.
    """

    def __init__(self, write: Callable[[bytes], None], *, hydra: bool = False):
        self.write = write
        self.hydra = hydra
        self.killed: Killed | None = None
        self.ended: str | None = None
        """Which rank has ended the others by its own end, in words."""
        self.spoke = False
        """Whether ranks have written anything."""
        self.rank_failed = False
        self.troubles: list[bytes] = []
        """What mpiexec said and is not about a rank that ended; shown by `release`."""
        self._since = 0.0
        self._line = b""
        self._banner: list[bytes] | None = None
        self._behind_banner = False

    def feed(self, data: bytes) -> None:
        """What was read; nothing at the end."""
        *lines, self._line = (self._line + data).split(b"\n")
        for line in lines:
            self._whole(line + b"\n")
        if not data:
            self._flush()
        elif self._line and self._banner is None and self._line[:1] not in b"-=[NTYP\0 ":
            # Part of a rank's line, as a progress bar has it; it cannot become the beginning of a banner.
            self._show(self._line)
            self._line = b""

    def tick(self) -> None:
        """Nothing was written for a while: what looks like a beginning is not one."""
        self._flush()
        if self.troubles and time.monotonic() - self._since > HOLD_SECONDS:
            self.release()

    def release(self) -> None:
        """Show what was held back."""
        for trouble in self.troubles:
            self.write(trouble)
        self.troubles.clear()

    def first_trouble(self) -> str:
        """The beginning of what mpiexec complained about, in one line."""
        paragraphs = [
            " ".join(text.split()) for text in self.troubles[0].decode("utf-8", "replace").split("\n\n")
        ]
        paragraphs = [text.strip("- ") for text in paragraphs if text.strip("- ")]
        said = paragraphs[0] if paragraphs else "it does not say why"
        if said.endswith(":") and len(paragraphs) > 1:
            said += f" {paragraphs[1]}"
        # Not where in mpiexec's source it was said.
        return re.sub(r"^\[[^\]]*\] |\w+ \(\S+:\d+\): ", "", said)

    def _whole(self, line: bytes) -> None:
        if self._behind_banner and self._banner is None:
            line = line.lstrip(b"\0 ")
        if self._banner is not None:
            self._banner.append(line)
            if _RULE.fullmatch(line):
                banner, self._banner = b"".join(self._banner), None
                self._behind_banner = True
                self._understand(banner)
        elif rule := _RULE.fullmatch(line):
            # What stands before the dashes is a rank's, without an end of line.
            self._show(rule[1])
            self._banner = [line[len(rule[1]) :]]
        elif self.hydra and (killed := _HYDRA_KILLED.search(line.decode("utf-8", "replace"))):
            self.rank_failed = True
            self.killed = Killed(int(killed[1] or killed[2]))
        elif self.hydra and _HYDRA_FRAME.match(line):
            self.rank_failed = self._behind_banner = True
        elif _OWN.match(line):
            self._hold(line)
        elif _LOST.match(line):
            self._behind_banner = True
        elif not self._behind_banner or (line := line.lstrip(_NOTHING)):
            self._show(line)

    def _understand(self, banner: bytes) -> None:
        text = " ".join(banner.decode("utf-8", "replace").split())
        if killed := _KILLED.search(text):
            self.rank_failed = True
            self.killed = self.killed or Killed(int(killed[3]), killed[1], killed[2])
        elif left := _LEFT.search(text):
            self.rank_failed = True
            self.ended = f"rank {left[1]} on {left[2]} has left before the run was complete"
        elif _FAILED.search(text):
            self.rank_failed = True
            if status := _STATUS.search(text):
                self.ended = f"rank {status[1]} has ended with status {status[2]}"
        else:
            self._hold(banner)

    def _hold(self, said: bytes) -> None:
        self._since = self._since if self.troubles else time.monotonic()
        self.troubles.append(said)

    def _show(self, data: bytes) -> None:
        # A rank's line can come between a banner and its NUL; in text there are no others.
        if data := data.replace(b"\0", b""):
            self._behind_banner = False
            self.spoke = True
            self.write(data)

    def _flush(self) -> None:
        """Show the beginnings of a banner or of a line that were held back."""
        rest = b"".join(self._banner or []) + self._line
        self._banner, self._line = None, b""
        self._show(rest.lstrip(_NOTHING) if self._behind_banner else rest)
