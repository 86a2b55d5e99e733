"""What is wrong with a backend: the faults of all cases and sizes, grouped so that a mistake shows once."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from nnkit.verify.gemm_check import Case
from nnkit.verify.sizes import Size, describe_sizes, volume

PROPERTIES: tuple[tuple[str, Callable[[Case], bool]], ...] = (
    ("A transposed", lambda case: case.trans_a),
    ("B transposed", lambda case: case.trans_b),
    ("A not transposed", lambda case: not case.trans_a),
    ("B not transposed", lambda case: not case.trans_b),
    ("beta = 0", lambda case: case.beta == 0),
    ("beta not 0", lambda case: case.beta != 0),
    ("alpha = 0", lambda case: case.alpha == 0),
    ("alpha not 0", lambda case: case.alpha != 0),
    ("alpha not 1", lambda case: case.alpha != 1),
    ("beta not 0 or 1", lambda case: case.beta not in (0, 1)),
    ("one of A and B transposed", lambda case: case.trans_a != case.trans_b),
    ("both or none of A and B transposed", lambda case: case.trans_a == case.trans_b),
)
"""Properties that the failed cases may have in common."""


@dataclass(frozen=True)
class Finding:
    """Probably one mistake: in which cases and at which sizes it shows, and an example."""

    cases: str
    sizes: str
    what: str
    """The fault in words, at the simplest size."""
    count: int
    """How many cases have it."""
    notes: tuple[str, ...]
    """Lines to print below the message: the kernel's source."""

    def __str__(self) -> str:
        return f"{self.cases}, {self.sizes}: {self.what}"


def find(cases: Sequence[Case], sizes: Sequence[Size]) -> list[Finding]:
    """One finding for each kind of fault in `cases`. Each case was tried at all `sizes`."""
    kinds: dict[str, list[Case]] = {}
    for case in cases:
        for kind in dict.fromkeys(fault.kind for fault in case.faults):
            kinds.setdefault(kind, []).append(case)
    return [_finding(kind, failed, cases, set(sizes)) for kind, failed in kinds.items()]


def _finding(kind: str, failed: Sequence[Case], cases: Sequence[Case], sizes: set[Size]) -> Finding:
    faults = [fault for case in failed for fault in case.faults if fault.kind == kind]
    simplest = min(faults, key=lambda fault: volume(fault.size))
    where = describe_sizes({fault.size for fault in faults}, sizes)
    return Finding(describe_cases(failed, cases), where, simplest.what, len(failed), simplest.notes)


def describe_cases(failed: Sequence[Case], cases: Sequence[Case]) -> str:
    """Which of the cases failed, in words: "all 8 cases with B transposed"."""
    count = len(failed)
    if count == len(cases):
        return f"all {count} cases" if count > 1 else name_of(failed[0])
    if count == 1:
        return f"only {name_of(failed[0])}"
    have = [(words, {id(case) for case in cases if test(case)}) for words, test in PROPERTIES]
    wanted = {id(case) for case in failed}
    pairs = [
        (f"{first} and {second}", some & others)
        for number, (first, some) in enumerate(have)
        for second, others in have[number + 1 :]
    ]
    for words, those in (*have, *pairs):
        if those == wanted:
            return f"all {count} cases with {words}"
    return f"{count} of {len(cases)} cases, the first {name_of(failed[0])}"


def name_of(case: Case) -> str:
    """The case as a formula."""
    a, b = "A^T" if case.trans_a else "A", "B^T" if case.trans_b else "B"
    return f"C <- {case.alpha:g} {a} {b} + {case.beta:g} C"
