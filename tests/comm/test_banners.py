"""What mpiexec writes besides what its ranks say."""

import pytest

from nnkit.comm.banners import Banners


def test_what_ranks_write_passes_as_it_is() -> None:
    said: list[bytes] = []
    banners = Banners(said.append)
    rule = b"-" * 74 + b"\n"
    own = [b"half of a ", b"line\n\n", b"--- not a rule\n", b"\xff\r10 %\r20 %", b"\n", b"====\n", b"no end"]
    for piece in own:
        banners.feed(piece)
    banners.feed(rule + b"prterun detected that one or more processes exited with non-zero status,\n" + rule)
    last = [b"its last line\n", b"another's\n"]
    # Banners end with a NUL of their own, which may come late.
    banners.feed(b"\0" + last[0])
    banners.feed(rule + b"MPI_ABORT was invoked on rank 0\n" + rule + last[1] + b"\0")
    banners.feed(b"")
    assert b"".join(said) == b"".join(own + last)
    assert banners.rank_failed
    assert banners.troubles == []


def test_a_warning_is_shown_and_a_rule_of_a_rank_is_no_banner(monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[bytes] = []
    banners = Banners(said.append)
    rule = b"-" * 74 + b"\n"
    banners.feed(rule + b"my table\n")
    banners.tick()
    assert b"".join(said) == rule + b"my table\n"
    said.clear()
    warning = rule + b"A network is slow.\n" + rule
    banners.feed(warning)
    banners.tick()
    assert said == []
    monkeypatch.setattr("nnkit.comm.banners.HOLD_SECONDS", 0.0)
    banners.tick()
    assert b"".join(said) == warning
