"""What operands an instruction has: a form's signature, and whether given operands fit it.

A signature is a text with a word for each operand: `">t t u32"`. A word is a type, written as

    t  d  w     the instruction's last type, its first one, or one twice as wide as the last
    b32, ...    that type
    []          an address; label: a label or a table of them; any: not looked at

with marks before it: `>` for a result, `~` if a wider register will do, `#` if only a constant will;
and behind it: `|` a predicate may stand beside it, `_` it may be thrown away, `*` as many elements as the
instruction's `.v2` or `.v4` says, `{` it may be put together of parts, `@` the address of a variable, `%` a
special register, `<16` a constant below 16, `:32` a constant that is a multiple of 32.

The rules are the PTX ISA's, "Operand Type Checking" and "Operand Size Exceeding Instruction-Type Size".
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache

from nnkit.ptx.ir import (
    SIZES,
    Address,
    Immediate,
    Instruction,
    Negated,
    Operand,
    Pair,
    Register,
    Special,
    Symbol,
    Vector,
)

_WORD = re.compile(r"(>?)(~?)(#?)(\[\]|[a-z]\w*?)(\|?)(_?)(\*?)(\{?)(@?)(%?)(?:<(\d+))?(?::(\d+))?")

SPACES = frozenset({"global", "const", "shared", "local", "param"})
_LONG = frozenset({"%clock64", "%globaltimer", "%gridid", "%current_graph_exec"})
_LONG |= {f"%pm{number}_64" for number in range(8)}
"""Special registers of 64 bits."""
_WIDE_ADDRESSES = frozenset({"global", "const", "generic"})
"""Spaces whose addresses have 64 bits."""


@dataclass(frozen=True)
class Slot:
    """What one operand may be."""

    type: str
    result: bool
    relaxed: bool
    constant: bool
    pair: bool
    discard: bool
    vector: bool
    parts: bool
    symbol: bool
    special: bool
    below: int
    multiple: int


@cache
def slots(signature: str) -> tuple[Slot, ...]:
    """The operands of a signature."""
    found = []
    for word in signature.split():
        match = _WORD.fullmatch(word)
        assert match is not None, word
        result, relaxed, constant, kind, *marks = match.groups()
        pair, discard, vector, parts, symbol, special, below, multiple = marks
        flags = [
            bool(mark) for mark in (result, relaxed, constant, pair, discard, vector, parts, symbol, special)
        ]
        found.append(Slot(kind, *flags, int(below or 0), int(multiple or 0)))  # type: ignore[call-arg]
    return tuple(found)


def type_of(letter: str, item: Instruction) -> str:
    """The PTX type that a letter of a signature stands for."""
    if letter == "t":
        return item.type
    if letter == "d":
        return next(m for m in item.modifiers if m in SIZES)
    if letter == "w":
        return f"{item.type[0]}{16 * SIZES[item.type]}"
    return letter


def _family(kind: str) -> str:
    return {"b": "bits", "u": "integer", "s": "integer", "p": "predicate"}.get(kind[0], "float")


@cache
def fits(register: str, wanted: str, relaxed: bool = False) -> bool:
    """Whether a register of one type may stand where another type is meant."""
    if "pred" in (register, wanted):
        return register == wanted
    family, meant = _family(register), _family(wanted)
    if SIZES[register] == SIZES[wanted]:
        return meant == "bits" or family in ("bits", meant)
    if not relaxed or SIZES[register] < SIZES[wanted]:
        return False
    return meant == "bits" or family == "bits" or (family == meant == "integer")


Kind = str | tuple[object, ...]


def _kind(operand: Operand | None, registers: Mapping[str, str], spaces: Mapping[str, str]) -> Kind:
    """All that the rules look at of an operand: few enough that verdicts can be remembered."""
    match operand:
        case Register(name):
            return registers.get(name, "b32")
        case Immediate(_, bits):
            return f"#{bits}"
        case Symbol(name):
            return f"@{spaces.get(name, '')}"
        case Special(name):
            return "%64" if name in _LONG else "%32"
        case Negated(register):
            return f"!{registers.get(register.name, 'b32')}"
        case Address(base):
            return ("[", _kind(base, registers, spaces))
        case Vector(parts):
            return ("{", *(_kind(part, registers, spaces) for part in parts))
        case Pair(None, None):
            return "_"
        case Pair(first, second):
            return ("|", _kind(first, registers, spaces), _kind(second, registers, spaces))
    return "_"


_VERDICTS: dict[tuple[str, str, tuple[Kind, ...]], str] = {}


def complaint(
    item: Instruction, signature: str, registers: Mapping[str, str], spaces: Mapping[str, str]
) -> str:
    """What is wrong with the operands, or "". `spaces` holds where every variable is."""
    kinds = tuple(_kind(operand, registers, spaces) for operand in item.operands)
    key = (item.name, signature, kinds)
    found = _VERDICTS.get(key)
    if found is None:
        if len(_VERDICTS) > 100_000:
            _VERDICTS.clear()
        found = _VERDICTS[key] = _judge(item, slots(signature), kinds)
    return found or (_out_of_range(item, slots(signature)) if "<" in signature or ":" in signature else "")


def _judge(item: Instruction, wanted: tuple[Slot, ...], kinds: tuple[Kind, ...]) -> str:
    if len(kinds) != len(wanted):
        return f"it has {len(kinds)} operands, not {len(wanted)}"
    for number, (slot, kind) in enumerate(zip(wanted, kinds, strict=True), 1):
        words = _wrong(item, slot, kind, number == 1)
        if words:
            return f"operand {number} {words}"
    if wanted and wanted[0].parts and all(isinstance(kind, tuple) for kind in kinds):
        return "only one side can be in parts"
    return ""


def _wrong(item: Instruction, slot: Slot, kind: Kind, first: bool) -> str:
    """Why an operand does not fit, or ""."""
    if slot.type == "any":
        return ""
    if slot.type == "[]":
        return _wrong_address(item, kind, written=first)
    if slot.type == "label":
        return "" if isinstance(kind, str) and kind[0] == "@" else "must be a label"
    wanted = type_of(slot.type, item)
    if isinstance(kind, tuple):
        return _wrong_group(item, slot, kind, wanted)
    if slot.vector and _length(item) > 1:
        return f"must be {_length(item)} registers in braces"
    return _wrong_single(slot, kind, wanted)


def _wrong_single(slot: Slot, kind: str, wanted: str) -> str:
    if kind == "_":
        return "" if slot.discard else "must be a register, not _"
    if kind[0] == "#":
        return "must be a register" if slot.result else _wrong_constant(int(kind[1:]), wanted)
    if kind[0] == "@":
        if not slot.symbol or _family(wanted) not in ("bits", "integer"):
            return "must be a register, not a name"
        short = kind[1:] in _WIDE_ADDRESSES and SIZES[wanted] < 8
        return f"is an address of 64 bits, where .{wanted} is read" if short else ""
    if kind[0] == "%":
        if not slot.special or _family(wanted) not in ("bits", "integer"):
            return "is a special register, which only mov and cvt read, as an integer"
        return (
            "" if (SIZES[wanted] == 8) == (kind == "%64") else f"has {kind[1:]} bits, where .{wanted} is read"
        )
    if kind[0] == "!":
        if wanted != "pred" or slot.result:
            return "cannot be negated"
        kind = kind[1:]
    if slot.constant:
        return "must be a constant"
    if not fits(kind, wanted, slot.relaxed):
        verb = "written" if slot.result else "read"
        return f"is a register of type .{kind}, where .{wanted} is {verb}"
    return ""


def _wrong_constant(bits: int, wanted: str) -> str:
    if _family(wanted) == "float":
        return "" if bits else f"is an integer, where .{wanted} is read"
    if bits and (_family(wanted) != "bits" or wanted == "pred" or bits != 8 * SIZES[wanted]):
        return f"is a float of {bits} bits, where .{wanted} is read"
    return ""


def _wrong_address(item: Instruction, kind: Kind, written: bool) -> str:
    """What is wrong with an address; in front of all other operands it is that of a store."""
    if not isinstance(kind, tuple) or kind[0] != "[":
        return "must be an address in brackets"
    base = str(kind[1])
    names = [m.partition("::")[0] for m in item.modifiers]
    space = next((m for m in names if m in SPACES), "generic")
    if base == "@input" and (written or space == "generic"):
        return "is a parameter that the function is given: ld.param alone can read it"
    if base[0] == "@":
        base = base.replace("input", "param")
        other = base[1:] not in ("", space) and space != "generic"
        return f"is the address of a .{base[1:]} variable" if other else ""
    if base[0] == "#":
        return "" if space in ("local", "shared", "param") else "must be a register or a name"
    if _family(base) == "float" or base == "pred":
        return f"is an address in a register of type .{base}"
    least = 8 if space in _WIDE_ADDRESSES else 4
    if SIZES[base] < least:
        return f"is an address of {8 * SIZES[base]} bits, where {8 * least} are needed"
    return ""


def _length(item: Instruction) -> int:
    """How many elements .v2 and the like ask for."""
    return next((int(m[1:]) for m in item.modifiers if m in ("v2", "v4", "v8")), 1)


def _wrong_group(item: Instruction, slot: Slot, kind: tuple[object, ...], wanted: str) -> str:
    """A vector, a result with a predicate beside it, or an address where there must be none."""
    if kind[0] == "|":
        if not slot.pair:
            return "can have no predicate beside it"
        words = "" if kind[2] in ("_", "pred") else "has something beside it that is no predicate"
        return words or _wrong_single(slot, str(kind[1]), wanted)
    if kind[0] != "{":
        return "must be a register, not an address"
    parts = [str(part) for part in kind[1:]]
    if slot.parts:
        if len(parts) not in (1, 2, 4) or wanted[0] != "b" or SIZES[wanted] % len(parts):
            return "has a number of parts that the type cannot be cut into"
        wanted = f"b{8 * SIZES[wanted] // len(parts)}"
    elif not slot.vector or len(parts) != _length(item):
        return f"is a vector of {len(parts)}" + (f", not {_length(item)}" if slot.vector else "")
    for part in parts:
        if part[0] in "({[":
            return "has a part that is no register"
        if part == "_" and slot.result:
            continue
        # Vectors are taken more freely: integers for floats.
        if (
            slot.vector
            and _family(wanted) == "float"
            and part in SIZES
            and fits(part, f"b{8 * SIZES[wanted]}")
        ):
            continue
        if words := _wrong_single(slot, part, wanted):
            return f"has a part that {words}"
    if all(part == "_" for part in parts):
        return "has no register"
    return ""


def _out_of_range(item: Instruction, wanted: tuple[Slot, ...]) -> str:
    for number, (slot, operand) in enumerate(zip(wanted, item.operands, strict=True), 1):
        if isinstance(operand, Immediate):
            if slot.below and not 0 <= operand.value < slot.below:
                return f"operand {number} is {operand.value}, which is not in 0 to {slot.below - 1}"
            if slot.multiple and operand.value % slot.multiple:
                return f"operand {number} is {operand.value}, which is no multiple of {slot.multiple}"
    return ""
