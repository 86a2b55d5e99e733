"""Nearly right PTX is judged as NVIDIA's assembler judges it, and ends in nothing but a line of ours."""

import json
import re

import pytest

from tests.support.mutants import (
    RECORD,
    assembled,
    assembler,
    digest,
    mutant,
    recorded_mutant,
    recorded_seeds,
    refusal,
)

ENTRIES = [(int(number), mark, verdict) for number, mark, verdict in json.loads(RECORD.read_text())]


def test_the_record_is_of_these_mutants() -> None:
    changed = [number for number, mark, _ in ENTRIES if digest(recorded_mutant(number)) != mark]
    assert not changed, "seeds or mutations have changed: record anew with tools/ptx_mutants --record"
    verdicts = [verdict for _, _, verdict in ENTRIES]
    assert 0.2 < verdicts.count("") / len(verdicts) < 0.5, "both verdicts must be there"


def test_mutants_are_judged_as_recorded() -> None:
    """At most 2 % otherwise; each refusal is one line, which names its place in the PTX."""
    different = []
    for number, _, verdict in ENTRIES:
        said = refusal(recorded_mutant(number))
        assert "\n" not in said
        assert not said or re.search(r"PTX line \d+|no \.target", said), f"mutant {number}: {said}"
        if bool(said) != bool(verdict):
            different.append(f"mutant {number}: {said or 'taken'}; ptxas: {verdict or 'taken'}")
    assert len(different) < 0.02 * len(ENTRIES), "\n".join(different)


def test_mutants_are_judged_as_the_assembler_judges_now() -> None:
    ptxas = assembler()
    if ptxas is None:
        pytest.skip("ptxas is not installed: pip install nvidia-cuda-nvcc")
    seeds = recorded_seeds()
    if any(assembled(ptxas, seed) for seed in seeds):
        pytest.skip("this ptxas is of another version than the seeds: it does not take them all")
    texts = [mutant(seeds[number % len(seeds)], number) for number in range(900000, 900060)]
    different = [text for text in texts if bool(assembled(ptxas, text)) != bool(refusal(text))]
    assert len(different) <= 3, "\n\n".join(different)
