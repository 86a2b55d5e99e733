"""Starting ranks: `mpiexec` with the right flags, passing signals on, and leaving nothing behind.

The user shall see what the ranks say and nothing else. So mpiexec's own stderr is read: its banners about
ranks that failed are dropped, as the rank has said its line; those about a start that failed become one line.
"""

import contextlib
import ctypes
import os
import select
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from types import FrameType

from nnkit.comm.banners import Banners
from nnkit.comm.mpiexec import Mpi, check_hostfile, check_startable, find_mpi
from nnkit.comm.world import STATUS_FILE, Share, share_of_this_machine, world_from_environment
from nnkit.errors import STOPPED, UsageError, reason

GRACE_SECONDS = 3.0
"""How long mpiexec may take to end its ranks before all are killed."""
TICK_SECONDS = 0.2
LOOK_SECONDS = 1.0
START_ATTEMPTS = 3
PASSING = "listener thread failed to start"
"""What Open MPI 5.0 says now and then on a busy machine; the next attempt succeeds."""

_MARK = "STARTED_BY_NNKIT"
_RANK = b"\0OMPI_COMM_WORLD_RANK="
_PR_SET_PDEATHSIG = 1


def launch(
    ranks: int,
    arguments: Sequence[str],
    *,
    hostfile: Path | None = None,
    elastic: bool = False,
    rescue: Callable[[], str] = str,
    program: Sequence[str] = (sys.executable, "-m", "nnkit"),
) -> int:
    """Run `program` with `arguments` in `ranks` ranks under mpiexec; returns their exit status.

    A first SIGINT, SIGHUP or SIGTERM reaches the ranks as SIGUSR1, which asks them to stop after their step
    and to save; a second one ends them. The status of a rank that signal N killed is 128 + N. Raises
    UsageError if the ranks cannot be started. `rescue` says how to go on after ranks that could not say it,
    or nothing.
    """
    if ranks < 1:
        raise UsageError(f"--ranks {ranks}: give at least 1")
    if world := world_from_environment():
        raise UsageError(
            f"--ranks {ranks} inside mpirun or srun, which has started {world[1]} ranks already: "
            "leave --ranks out"
        )
    if hostfile is not None:
        check_hostfile(hostfile)
    share = share_of_this_machine(ranks, hostfile, os.environ)
    if share.one_host:
        check_startable(ranks)
    mpi = find_mpi()
    if elastic and not mpi.survives:
        raise UsageError(f"--elastic needs mpiexec of Open MPI 5 or newer, and {mpi.path} is another one")
    command = [*mpi.command(share, os.environ, hostfile, elastic), *program, *arguments]
    environment = {**os.environ, **mpi.variables(share, os.environ)}
    start = partial(_Ranks, mpi, command, environment, share, elastic, rescue)
    if not elastic or not share.one_host:
        return _run(start)
    with tempfile.TemporaryDirectory(prefix="nnkit-") as folder:
        file = Path(folder, "status")
        environment[STATUS_FILE] = str(file)
        ended = _run(start)
        try:
            return int(file.read_text("ascii"))
        except (OSError, ValueError):
            if ended == 0:
                _say(f"all ranks were lost, or one of them while MPI started: {rescue() or 'start again'}")
            return ended or 1


def _run(start: Callable[[], "_Ranks"]) -> int:
    """Run them; once more where mpiexec has failed before any rank began, for a reason that passes."""
    for _ in range(START_ATTEMPTS - 1):
        try:
            return start().run()
        except UsageError as error:
            if PASSING not in str(error):
                raise
    return start().run()


class _Ranks:
    """The ranks while they run: mpiexec, what it says, and what signals have asked for."""

    def __init__(
        self,
        mpi: Mpi,
        command: Sequence[str],
        environment: Mapping[str, str],
        share: Share,
        elastic: bool,
        rescue: Callable[[], str],
    ):
        self.mpi = mpi
        self.ranks = share.ranks
        # Hydra puts its banners among the results, Open MPI those about other hosts.
        self.reads_results = mpi.kind == "hydra" or not share.one_host
        self.command = command
        # By this every rank can be found, wherever in the tree of processes and in whatever session it is.
        self.mark = f"{_MARK}={os.getpid()}.{os.urandom(8).hex()}"
        self.environment = {**environment, _MARK: self.mark.partition("=")[2]}
        self.elastic = elastic
        self.rescue = rescue
        self.signals = 0
        self.deadline = float("inf")
        self.abandoned = False
        self.most = self.empty = 0
        self.look_again = 0.0

    def run(self) -> int:
        """Start the ranks and wait for their end."""
        writers = (_write, _write_result) if self.reads_results else (_write,)
        banners = [Banners(write, hydra=self.mpi.kind == "hydra") for write in writers]
        with self._signals_passed_on():
            try:
                self.process = self._start()
            except OSError as error:
                raise UsageError(f"{self.mpi.path} cannot be run: {reason(error)}") from None
            try:
                self._watch(banners)
            finally:
                if self.process.poll() is None:
                    self._kill()
                self.process.wait()
                for stream in (self.process.stderr, self.process.stdout):
                    if stream is not None:
                        stream.close()
                # mpiexec can die before its ranks, and after an abort under ULFM it leaves them running.
                self._kill()
        return self._status(banners)

    def _start(self) -> "subprocess.Popen[bytes]":
        """mpiexec in a session of its own, so that a Ctrl-C of the terminal comes here alone."""
        libc = ctypes.CDLL(None) if sys.platform == "linux" else None

        def end_with_parent() -> None:
            if libc is not None:
                libc.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)

        return subprocess.Popen(
            self.command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE if self.reads_results else None,
            stderr=subprocess.PIPE,
            env=self.environment,
            start_new_session=True,
            preexec_fn=end_with_parent,  # noqa: PLW1509 - no thread of ours holds a lock yet
        )

    def _watch(self, banners: Sequence[Banners]) -> None:
        """Pass on what the ranks say until mpiexec has ended and its output is read."""
        streams = [stream for stream in (self.process.stderr, self.process.stdout) if stream is not None]
        unread = {stream.fileno(): own for stream, own in zip(streams, banners, strict=True)}
        poll = select.poll()
        for output in unread:
            poll.register(output)
        if self.signals:
            self._pass_on()  # It came while mpiexec was being started.
        while unread:
            # Signals arrive in between: poll goes on after their handler.
            readable = poll.poll(TICK_SECONDS * 1000)
            if time.monotonic() > self.deadline:
                self._kill()
            for output, _ in readable:
                data = os.read(output, 1 << 16)
                unread[output].feed(data)
                if not data:
                    poll.unregister(output)
                    del unread[output]
            if not readable:
                for own in unread.values():
                    own.tick()
                if self.process.poll() is not None:
                    return  # Somebody else holds the pipe open.
                if self._is_abandoned():
                    self.abandoned = True
                    self._kill()

    def _is_abandoned(self) -> bool:
        """Whether mpiexec goes on although all its ranks are gone: under ULFM it can miss their end."""
        if not self.elastic or time.monotonic() < self.look_again:
            return False
        self.look_again = time.monotonic() + LOOK_SECONDS
        here = len(_marked(self.mark, rank=True))
        self.most = max(self.most, here)
        self.empty = self.empty + 1 if self.most and not here else 0
        return self.empty * LOOK_SECONDS >= GRACE_SECONDS

    @contextlib.contextmanager
    def _signals_passed_on(self) -> Iterator[None]:
        """Handle SIGINT, SIGTERM, SIGHUP, unless this is a thread, or whoever started us has them ignored."""
        previous = {}
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
                if signal.getsignal(number) is not signal.SIG_IGN:
                    previous[number] = signal.signal(number, self._on_signal)
        try:
            yield
        finally:
            for number, handler in previous.items():
                signal.signal(number, handler)

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        self.signals += 1
        if hasattr(self, "process"):
            self._pass_on()

    def _pass_on(self) -> None:
        """First ask the ranks to stop, then have mpiexec end them, then kill."""
        if self.signals == 1:
            # mpiexec kills its ranks on SIGINT and SIGTERM, but passes SIGUSR1 on.
            self.process.send_signal(signal.SIGUSR1)
        elif self.signals == 2:
            self.process.terminate()
            self.deadline = time.monotonic() + GRACE_SECONDS
        else:
            self._kill()

    def _kill(self) -> None:
        """Kill mpiexec and every rank on this machine."""
        if self.process.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.process.pid, signal.SIGKILL)
        for process in _marked(self.mark):
            with contextlib.suppress(ProcessLookupError):
                os.kill(process, signal.SIGKILL)

    def _status(self, banners: Sequence[Banners]) -> int:
        """The exit status; says what no rank could say."""
        status = self.process.returncode
        if self.abandoned:
            # The ranks have said why they ended.
            return 1
        if status < 0:
            status = 128 - status
        killed = next((own.killed for own in banners if own.killed), None)
        if killed is not None and status:
            status = 128 + killed.signal
        said_nothing = STATUS_FILE in self.environment and not Path(self.environment[STATUS_FILE]).exists()
        if self.signals > 1 or (self.signals and (status == 128 + signal.SIGUSR1 or said_nothing)):
            # Ranks that were still starting know no SIGUSR1, and end by it.
            _say("stopped")
            return STOPPED
        trouble = next((own.first_trouble() for own in banners if own.troubles), None)
        if status and trouble and not any(own.rank_failed for own in banners):
            raise UsageError(f"mpiexec could not start {self.ranks} ranks: {trouble}")
        for own in banners:
            # Beside a rank's end mpiexec also complains about its connections to the ranks.
            if not (status and own.rank_failed):
                own.release()
        ended = next((own.ended for own in banners if own.ended), None)
        silent = status and not self.signals and not any(own.spoke for own in banners) and not _nobody_reads()
        if killed is not None and status:
            self._report_loss(str(killed))
        elif silent and ended:
            self._report_loss(ended)
        elif self.process.returncode < 0 and not _nobody_reads():
            _say(f"mpiexec was killed by signal {-self.process.returncode}, and the ranks with it")
        elif silent:
            _say(f"mpiexec ended with status {status}, and the ranks with it")
        return status

    def _report_loss(self, end: str) -> None:
        advice = self.rescue()
        _say(f"{end}; the others were ended{f': {advice}' if advice else ''}")


def _nobody_reads() -> bool:
    """Whether our standard output is a pipe whose reader has gone, which ends the ranks: news to nobody."""
    with contextlib.suppress(OSError, ValueError):
        poll = select.poll()
        poll.register(sys.stdout.fileno(), 0)
        return any(event & select.POLLERR for _, event in poll.poll(0))
    return False


def _marked(mark: str, rank: bool = False) -> list[int]:
    """The processes with that variable in their environment, or of them the ranks; none without /proc."""
    found = []
    wanted = b"\0" + mark.encode() + b"\0"
    with contextlib.suppress(OSError):
        for entry in os.listdir("/proc"):
            if entry.isdecimal():
                with contextlib.suppress(OSError):
                    variables = b"\0" + Path("/proc", entry, "environ").read_bytes()
                    if wanted in variables and (not rank or _RANK in variables):
                        found.append(int(entry))
    return found


def _write(data: bytes) -> None:
    """To standard error; whoever does not read it does not stop the ranks."""
    with contextlib.suppress(OSError):
        sys.stderr.buffer.write(data)
        sys.stderr.buffer.flush()


def _write_result(data: bytes) -> None:
    """To standard output; BrokenPipeError if nobody reads it any more."""
    sys.stdout.buffer.write(data)
    sys.stdout.buffer.flush()


def _say(line: str) -> None:
    _write(f"nnkit: {line}\n".encode())
