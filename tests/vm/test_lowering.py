"""No access goes round the lowering: what is attached sees every form of the table that has an address."""

import re
from collections import Counter
from collections.abc import Iterable
from re import _constants as kinds  # type: ignore[attr-defined]
from re import _parser  # type: ignore[attr-defined]
from typing import Any

import pytest

from nnkit.ptx.ir import Instruction, PtxError
from nnkit.vm.analysis.geometry import Launch
from nnkit.vm.analysis.options import Options
from nnkit.vm.build.compile import llvm_text
from nnkit.vm.build.source import Source
from nnkit.vm.emit.emitter import Emitter
from nnkit.vm.emit.values import Value
from nnkit.vm.forms import table
from nnkit.vm.forms.form import Effect, Form, MemoryAccess
from nnkit.vm.forms.table import FORMS
from nnkit.vm.instructions import families  # noqa: F401  it fills the table
from nnkit.vm.memory.access import Access
from nnkit.vm.memory.attachments import ATTACHMENTS

HINTS = {"prefetch", "prefetchu"}
"""They have an address, and do nothing with it."""


class Spy:
    """An attachment that notes the lines in front of which it stood, and behind which."""

    def __init__(self) -> None:
        self.before_lines: list[int] = []
        self.behind_lines: list[int] = []

    def before(self, e: Emitter, access: Access, base: Value, mask: str) -> None:
        self.before_lines.append(access.item.line)

    def behind(self, e: Emitter, access: Access, base: Value, mask: str) -> None:
        self.behind_lines.append(access.item.line)


@pytest.fixture
def spy(monkeypatch: pytest.MonkeyPatch) -> Spy:
    """Attached as "spy"."""
    made = Spy()
    monkeypatch.setitem(ATTACHMENTS, "spy", made)
    monkeypatch.setattr(table, "_FOUND", {})
    return made


def addressed() -> list[tuple[str, Form]]:
    """All forms that have an address, with their opcodes."""
    return [
        (opcode, form)
        for opcode, forms in FORMS.items()
        for form in forms
        if any(slot.type == "[]" for slot in form.slots) and opcode not in HINTS
    ]


def names(nodes: Iterable[Any]) -> list[str]:
    """Names that match a parsed pattern, so many that each alternative of each part is in one of them."""
    parts = [_alternatives(kind, value) for kind, value in nodes]
    most = max(map(len, parts), default=1)
    return ["".join(part[i % len(part)] for part in parts) for i in range(most)]


def _alternatives(kind: Any, value: Any) -> list[str]:
    if kind is kinds.LITERAL:
        return [chr(value)]
    if kind is kinds.IN:
        return ["x" if what is kinds.CATEGORY else chr(code) for what, code in value]
    if kind is kinds.SUBPATTERN:
        return names(value[3])
    if kind is kinds.BRANCH:
        return [name for branch in value[1] for name in names(branch)]
    if kind is kinds.MAX_REPEAT:
        least, _, nodes = value
        return ([""] if least == 0 else []) + names(nodes)
    raise AssertionError(f"{kind} in a pattern of names")


def examples(form: Form) -> set[str]:
    """Instructions of a form. A type decides what else may stand there: every one is in many of them."""
    shapes = names(_parser.parse(form.pattern.pattern))
    found = {name for name in shapes if form.pattern.fullmatch(name)}
    types = {name.rpartition(".")[2] for name in found}
    found |= {f"{name.rpartition('.')[0]}.{type_}" for name in found for type_ in types}
    return {name for name in found if form.pattern.fullmatch(name)}


def written(form: Form, name: str) -> str:
    """An instruction with operands, as PTX has it."""
    letter = {"b8": "h", "b16": "h", "b32": "r", "b64": "d"}["b" + re.sub(r"\D", "", name.rpartition(".")[2])]
    if name.rpartition(".")[2][0] == "f":
        letter = {"r": "f", "d": "e"}[letter]
    count = re.search(r"\.v([248])\.", name)
    operands = []
    for slot in form.slots:
        if slot.type == "[]":
            operands.append("[%a]")
        elif slot.vector and count:
            operands.append("{" + ", ".join(f"%{letter}{i}" for i in range(int(count[1]))) + "}")
        else:
            operands.append(f"%{letter}{len(operands)}")
    return f"{name} {', '.join(operands)};"


HEAD = """.version 8.8
.target sm_100
.address_size 64
.visible .entry k(.param .u64 p)
{
.reg .b16 %h<9>; .reg .b32 %r<9>; .reg .b64 %d<9>; .reg .f32 %f<9>; .reg .f64 %e<9>; .reg .b64 %a;
ld.param.u64 %a, [p];
"""
FIRST = HEAD.count("\n") + 1


def emit(lines: list[str]) -> None:
    """Make LLVM IR of a kernel with these instructions, each in a line of its own."""
    program = Source(HEAD + "\n".join(lines) + "\nret;\n}\n").program("k")
    llvm_text(program, Launch((64, 1, 1), True, Options(16, attached=("bounds", "spy"))), False)


def unseen(spy: Spy, lines: list[str]) -> list[str]:
    """The instructions around which the attachment did not stand exactly once."""
    emit(lines)
    before, behind = Counter(spy.before_lines), Counter(spy.behind_lines)
    numbered = enumerate(lines, FIRST)
    return [line for number, line in numbered if (before[number], behind[number]) != (1, 1)]


def all_lines() -> list[str]:
    """Examples of all forms with an address, but for those that are refused."""
    lines = [written(form, name) for _, form in addressed() for name in sorted(examples(form))]
    return [line for line in lines if not re.match(r"st\S*\.param", line)]


def test_every_access_is_lowered_at_one_place(spy: Spy) -> None:
    lines = all_lines()
    opcodes = Counter(line.partition(".")[0] for line in lines)
    assert opcodes.keys() == {"ld", "ldu", "st", "atom", "red"}
    assert len(lines) > 300
    assert not unseen(spy, lines)
    assert all(isinstance(form, MemoryAccess) for _, form in addressed())


def test_a_form_that_goes_round_it_is_found(spy: Spy, monkeypatch: pytest.MonkeyPatch) -> None:
    """What somebody might write who does not know better."""

    def store_zero(e: Emitter, item: Instruction) -> None:
        e.text.line("store i32 0, ptr null")

    section = FORMS["st"][0].section
    form = Effect(section, re.compile(r"st\.zero\.b32"), "[]", 0, "", "", store_zero)
    monkeypatch.setitem(FORMS, "st", [*FORMS["st"], form])
    assert unseen(spy, all_lines()) == ["st.zero.b32 [%a];"]


def test_parameters_are_not_written(spy: Spy) -> None:
    with pytest.raises(PtxError, match="parameters cannot be written"):
        emit(["st.param.b32 [%a], %r1;"])
    assert FIRST not in spy.before_lines
