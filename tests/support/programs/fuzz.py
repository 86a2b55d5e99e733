"""Random programs in processes of their own, in guarded memory: wrong results, errors and crashes are told
with the program that made them.

A worker gets seeds, runs each program in a child of its own, and says line by line, in JSON, which it begins
and which failed: so the program that ends its process is known.
"""

import argparse
import json
import os
import re
import signal
import subprocess
import sys
import traceback
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.support.places import ROOT
from tests.support.programs.trials import KINDS, Trial


@dataclass(frozen=True)
class Failure:
    """A program that went wrong, and how."""

    kind: str
    name: str
    """What makes it again: a seed, and the numbers of statements that were left out."""
    what: str
    program: str

    def __str__(self) -> str:
        return f"{self.kind} {self.name}: {self.what}\n{self.program}"


# -- the worker ---------------------------------------------------------------------------------------------


def break_checks() -> None:
    """For controls: every check passes, whatever it found."""
    from nnkit.vm.build import compile as compiler
    from nnkit.vm.build import large

    # The process in which LLVM compiles large kernels would know nothing of this.
    large.WORTH_A_PROCESS = 1 << 60
    plain = compiler.object_code

    def planted(text: str, machine: Any) -> bytes:
        broken, count = re.subn(r"br i1 %\S+, (label %(?:checked|fine)\d+,)", r"br i1 true, \1", text)
        assert count or "%slow" not in text, "the checks are written otherwise now"
        return plain(broken, machine)

    compiler.object_code = planted


def _tell(**record: Any) -> None:
    print(json.dumps(record), flush=True)


def _work(trial: Trial) -> None:
    """Run it in a child."""
    about = {"name": trial.name, "program": trial.program}
    _tell(begin=True, **about)
    child = os.fork()
    if not child:
        try:
            said = trial.run()
        except BaseException as error:
            last = traceback.extract_tb(error.__traceback__)[-1]
            said = f"{type(error).__name__}: {error} ({Path(last.filename).name}:{last.lineno})"
        if said:
            _tell(failed=said, **about)
        os._exit(0)
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    if status:
        name = signal.Signals(-status).name if status < 0 else f"status {status}"
        _tell(failed=f"ended by {name}", **about)


def main() -> None:
    """The worker's command line."""
    parser = argparse.ArgumentParser()
    parser.add_argument("kind", choices=list(KINDS))
    parser.add_argument("names", nargs="+")
    parser.add_argument("--where", default="", help="which end of memory is guarded to the byte, for all")
    parser.add_argument("--broken", action="store_true", help="no check finds anything")
    given = parser.parse_args()
    if given.broken:
        break_checks()
    for trial in KINDS[given.kind](given.names, given.where):
        _work(trial)


# -- who starts workers -------------------------------------------------------------------------------------


def numbers(first: int, count: int) -> list[str]:
    """The names of so many programs."""
    return [str(seed) for seed in range(first, first + count)]


def run(kind: str, names: Sequence[str], *options: str, **environment: str) -> tuple[int, list[Failure]]:
    """Run these programs; returns how many were begun, and what failed."""
    command = [sys.executable, "-m", "tests.support.programs.fuzz", kind, *options, *names]
    done = subprocess.run(
        command, capture_output=True, text=True, check=False, cwd=ROOT, env={**os.environ, **environment}
    )
    records = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    failures = [Failure(kind, r["name"], r["failed"], r["program"]) for r in records if "failed" in r]
    begun = sum("begin" in r for r in records)
    if done.returncode or begun < len(names):
        said = f"the worker ended with status {done.returncode}: {done.stderr[-2000:]}"
        failures.append(Failure(kind, " ".join(names[begun:]), said, ""))
    return begun, failures


def shrunk(failure: Failure) -> Failure:
    """The same failure with fewer statements, where leaving one out keeps it."""
    if failure.kind != "neighbours" or not failure.program:
        return failure
    best = failure
    for statement in range(5):
        _, found = run(best.kind, [f"{best.name}-{statement}"])
        if len(found) == 1 and found[0].what[:9] == best.what[:9]:
            best = found[0]
    return best


def many(kind: str, first: int, count: int, batch: int, jobs: int) -> Iterator[tuple[int, list[Failure]]]:
    """Batches of programs, on several processes at once."""
    starts = range(0, count, batch)
    batches = [numbers(first + at, min(batch, count - at)) for at in starts]
    with ThreadPoolExecutor(jobs) as pool:
        yield from pool.map(lambda names: run(kind, names), batches)


if __name__ == "__main__":
    main()
