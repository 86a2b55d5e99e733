"""The example in CONTRIBUTING.md is code of this repository."""

import re

from tests.support.places import ROOT

TEXT = (ROOT / "CONTRIBUTING.md").read_text("utf-8")


def examples(text: str) -> list[tuple[str, str]]:
    """Every block of Python, with the file that was named last before it."""
    found = []
    for block in re.finditer(r"^```python\n(.*?)^```$", text, flags=re.DOTALL | re.MULTILINE):
        named = re.findall(r"`([\w/]+\.py)`", text[: block.start()])
        found.append((named[-1], block[1]))
    return found


def missing(text: str) -> list[str]:
    """The files that do not hold what is shown of them."""
    return [file for file, code in examples(text) if code not in (ROOT / file).read_text("utf-8")]


def test_the_instruction_shown_is_there() -> None:
    files = [file for file, _ in examples(TEXT)]
    assert files == ["nnkit/vm/instructions/packed.py", "tests/vm/test_packed.py"]
    assert missing(TEXT) == []


def test_a_difference_from_the_file_would_be_seen() -> None:
    assert missing(TEXT.replace("1 << 15", "1 << 14")) == [file for file, _ in examples(TEXT)]


def test_files_and_names_exist() -> None:
    named = set(re.findall(r"`((?:nnkit|tests|docs|tools|benchmarks)/[\w/]+\.\w+)`", TEXT))
    # NAME stands for any name.
    real = {name for name in named if "NAME" not in name}
    assert real
    assert [name for name in real if not (ROOT / name).exists()] == []
