"""One thread out of bounds, in every space, type and mask, is named; and without any check, the guarded
memory in which random programs run ends the process.
"""

from pathlib import Path

from tests.support.programs.bounds import SPACES, stray
from tests.support.programs.fuzz import numbers, run
from tests.support.stress import examples


def test_a_thread_out_of_bounds_is_named() -> None:
    begun, failures = run("bounds", numbers(0, examples(8)))
    assert not failures, "\n\n".join(map(str, failures))
    assert begun == examples(8)


def test_a_guard_that_lets_one_thread_too_many_through() -> None:
    begun, failures = run("edges", numbers(0, examples(5)))
    assert not failures, "\n\n".join(map(str, failures))
    assert begun == examples(5)


def test_without_checks_the_guard_ends_the_process(tmp_path: Path) -> None:
    """Negative control: a thread that reaches out by a little, or by GiB, and no check that sees it."""
    programs = {name: stray(name) for name in numbers(0, 300)}
    chosen: dict[tuple[str, bool], str] = {}
    for name, p in programs.items():
        is_far, wraps = abs(p.first) > 1 << 20, abs(p.first) * p.element.size >= 1 << 31
        # A thread's local memory lies among that of the others: there only far is outside of all.
        if not wraps and (p.space != "local" or is_far):
            chosen.setdefault((p.space, is_far), name)
    names = list(chosen.values())
    assert {space for space, _ in chosen} == set(SPACES)
    begun, failures = run("bounds", names, "--broken", "--where=fitting", NNKIT_CACHE_DIR=str(tmp_path))
    assert begun == len(names)
    assert [(f.name, f.what) for f in failures] == [(name, "ended by SIGSEGV") for name in names]
