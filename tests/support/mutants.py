"""Mutants of PTX: text that is nearly right, made from a seed, and what the assembler and nnkit say of it.

The assembler is NVIDIA's ptxas, from the wheel nvidia-cuda-nvcc; where it is not installed, recorded verdicts
stand in for it (tests/ptx/golden/ptx_mutants.json).
"""

import hashlib
import importlib.util
import os
import random
import re
import shutil
import subprocess
import tempfile
from pathlib import Path

from tests.support.places import ROOT

_TOKEN = re.compile(
    r"//[^\n]*|\"[^\"]*\"|%?[A-Za-z_$][\w$]*(?:\.\w+(?:::\w+)?)*|0[fFdD][0-9a-fA-F]+|-?\d[\w.]*|\s+|."
)
_TYPES = ("b8", "b16", "b32", "b64", "u8", "u16", "u32", "u64", "s16", "s32", "s64", "f32", "f64", "pred")
_MODIFIERS = (
    *("global", "shared", "local", "const", "param", "sync", "wide", "lo", "hi", "rn", "rz", "approx", "ftz"),
    *(
        "sat",
        "to",
        "v2",
        "v4",
        "nc",
        "volatile",
        "relaxed",
        "gpu",
        "add",
        "min",
        "eq",
        "lt",
        "uni",
        "nonsense",
    ),
)
_WORDS = (
    "0",
    "-1",
    "7",
    "99999",
    "0f3F800000",
    "1.5",
    "%tid.x",
    "_",
    "[",
    "]",
    "{",
    "}",
    ",",
    ";",
    "@",
    "!",
    "+",
)


def assembler() -> Path | None:
    """Where ptxas is, if it is installed: that of the wheel, which is as new as NVRTC, before any other."""
    spec = importlib.util.find_spec("nvidia")
    for folder in spec.submodule_search_locations or [] if spec else []:
        for place in sorted(Path(folder).glob("cu*/bin/ptxas")):
            return place
    found = shutil.which("ptxas")
    return Path(found) if found else None


def assembled(ptxas: Path, text: str) -> str:
    """The first error that ptxas reports, or "" if it takes the text for the target that stands in it."""
    target = re.search(r"(?m)^\.target (sm_\d+)", text)
    arch = target[1] if target else "sm_90"
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "k.ptx"
        path.write_text(text)
        command = [str(ptxas), f"-arch={arch}", "-O0", "-c", str(path), "-o", str(path.with_suffix(".o"))]
        try:
            done = subprocess.run(
                command, check=False, capture_output=True, text=True, timeout=60, errors="replace"
            )
        except subprocess.TimeoutExpired:
            return "fatal: takes over a minute"
    if done.returncode == 0:
        return ""
    errors = [line for line in (done.stderr + done.stdout).splitlines() if "error" in line or "fatal" in line]
    return (errors or ["fatal: no message"])[0].replace(str(path), "").strip()


def kernels_of(text: str) -> list[str]:
    """A module's kernels one by one, with all that stands outside of kernels; without line information."""
    entries = list(re.finditer(r"(?ms)^(?:\.visible |\.weak )?\.entry .*?^\}\n?", text))
    outside = text[: entries[0].start()] if entries else text
    outside = "".join(line for line in outside.splitlines(True) if not line.lstrip().startswith("//"))
    found = []
    for entry in entries:
        body = re.sub(r"(?m)^\s*(\.(loc|file|pragma)\s|//).*\n", "", entry[0])
        # A function that nobody calls is nothing that nnkit looks at.
        functions = re.finditer(r"(?ms)^\.func .*?(\w+)\(\.(?:reg|param)[^(]*\)\n\{.*?^\}\n", outside)
        before = outside
        for function in functions:
            if not re.search(rf"\b{function[1]}\b", body):
                before = before.replace(function[0], "")
        found.append(before + body)
    return found


def mutant(seed: str, number: int) -> str:
    """The seed with one to three small changes; the same for the same number."""
    chance = random.Random(f"{number} {len(seed)}")
    lines = seed.splitlines()
    first = next((i for i, line in enumerate(lines) if ".entry" in line or ".func" in line), 0)
    for _ in range(chance.choice((1, 1, 1, 2, 3))):
        places = [i for i in range(len(lines)) if lines[i].strip() and (i >= first or chance.random() < 0.2)]
        change = chance.choice(_CHANGES)
        change(chance, lines, chance.choice(places))
    return "\n".join(lines) + "\n"


def _pieces(line: str) -> list[str]:
    return _TOKEN.findall(line)


def _names(lines: list[str]) -> list[str]:
    return sorted(
        {piece for line in lines for piece in _pieces(line) if re.fullmatch(r"[%$_A-Za-z][\w$]*", piece)}
    )


def _replace(
    chance: random.Random, lines: list[str], at: int, pattern: str, by: list[str] | tuple[str, ...]
) -> None:
    pieces = _pieces(lines[at])
    places = [i for i, piece in enumerate(pieces) if re.fullmatch(pattern, piece)]
    if places and by:
        pieces[chance.choice(places)] = chance.choice(by)
        lines[at] = "".join(pieces)


def _other_name(chance: random.Random, lines: list[str], at: int) -> None:
    _replace(chance, lines, at, r"[%$_A-Za-z][\w$]*", _names(lines))


def _other_operand(chance: random.Random, lines: list[str], at: int) -> None:
    _replace(chance, lines, at, r"%\w+|-?\d\w*", [*_WORDS[:8], *_names(lines)])


def _other_opcode(chance: random.Random, lines: list[str], at: int) -> None:
    opcodes = sorted(
        {m[1] for line in lines if (m := re.match(r"\s+(?:@!?%\w+ )?([a-z]\w*[.\w:]*)\s", line))}
    )
    found = re.match(r"(\s+(?:@!?%\w+ )?)[a-z][.\w:]*", lines[at])
    if found and opcodes:
        lines[at] = found[1] + chance.choice(opcodes) + lines[at][found.end() :]


def _modifier(chance: random.Random, lines: list[str], at: int) -> None:
    """One modifier or type added, left out, doubled, moved or replaced."""
    found = list(re.finditer(r"\.[a-z]\w*", lines[at]))
    if not found:
        return
    one, other = chance.choice(found), f".{chance.choice((*_TYPES, *_MODIFIERS))}"
    new = chance.choice((other, other, other, "", one[0] + other, other + one[0], one[0] * 2))
    lines[at] = lines[at][: one.start()] + new + lines[at][one.end() :]


def _type(chance: random.Random, lines: list[str], at: int) -> None:
    found = list(re.finditer(rf"\.({'|'.join(_TYPES)})\b", lines[at]))
    if found:
        one = chance.choice(found)
        lines[at] = f"{lines[at][: one.start()]}.{chance.choice(_TYPES)}{lines[at][one.end() :]}"


def _operands(chance: random.Random, lines: list[str], at: int) -> None:
    """An operand left out, doubled, or two of them exchanged."""
    found = re.match(r"(\s+(?:@!?%\w+ )?[a-z][.\w:]*\s+)(.*);", lines[at])
    if not found:
        return
    parts = [part.strip() for part in found[2].split(",")]
    place = chance.randrange(len(parts))
    match chance.randrange(3):
        case 0:
            del parts[place]
        case 1:
            parts.insert(place, parts[place])
        case _:
            other = chance.randrange(len(parts))
            parts[place], parts[other] = parts[other], parts[place]
    lines[at] = f"{found[1]}{', '.join(parts)};"


def _number(chance: random.Random, lines: list[str], at: int) -> None:
    numbers = (
        "0",
        "1",
        "-1",
        "3",
        "16",
        "255",
        "4096",
        "65536",
        "2147483648",
        "99999999999",
        "0x7f",
        "08",
        "1.0",
    )
    _replace(chance, lines, at, r"-?\d\w*", numbers)


def _line(chance: random.Random, lines: list[str], at: int) -> None:
    """A line left out, doubled, or moved."""
    line = lines.pop(at)
    match chance.randrange(3):
        case 1:
            lines[at:at] = [line, line]
        case 2:
            lines.insert(chance.randrange(max(1, at - 5), min(len(lines), at + 6) + 1), line)


def _word(chance: random.Random, lines: list[str], at: int) -> None:
    """A word or a mark put in, left out, or doubled."""
    pieces = _pieces(lines[at])
    place = chance.randrange(len(pieces))
    pieces[place] = chance.choice(("", pieces[place] * 2, pieces[place] + chance.choice(_WORDS)))
    lines[at] = "".join(pieces)


def _character(chance: random.Random, lines: list[str], at: int) -> None:
    place = chance.randrange(len(lines[at]))
    new = chance.choice(("", lines[at][place] * 2, chance.choice("%.;,[]{}()@!+-0x_a$~")))
    lines[at] = lines[at][:place] + new + lines[at][place + 1 :]


def _guard(chance: random.Random, lines: list[str], at: int) -> None:
    found = re.match(r"(\s+)(?:@!?%\w+ )?([a-z].*)", lines[at])
    if found:
        guard = chance.choice(("@%p1 ", "@!%p1 ", "@%r1 ", "@%nobody ", ""))
        lines[at] = found[1] + guard + found[2]


def _braces(chance: random.Random, lines: list[str], at: int) -> None:
    lines[at] = chance.choice(("{ {0} }", "{ {0}", "{0} }", "{ .reg .b32 %r1; {0} }")).replace(
        "{0}", lines[at]
    )


_CHANGES = (
    *(_other_name, _other_operand, _other_operand, _other_opcode, _modifier, _modifier, _type, _type),
    *(_operands, _operands, _number, _line, _word, _character, _guard, _braces),
)


def kernel_with(line: str) -> str:
    """A kernel of that line, with registers of all types and variables in all spaces."""
    types = "rd=b64 r=b32 f=f32 fd=f64 rs=b16 p=pred u=u32 i=s32 ul=u64 sl=s64 us=u16 ss=s16 rb=b8 ub=u8"
    registers = "".join(f".reg .{kind} %{name}<9>; " for name, kind in (t.split("=") for t in types.split()))
    return (
        ".version 8.8\n.target sm_90\n.address_size 64\n.global .u32 gv[16]; .const .u32 cv[16];\n"
        f".visible .entry f(.param .u64 p)\n{{\n{registers}\n"
        f".shared .align 8 .b8 sh[64]; .local .align 8 .b8 lo[64];\n{line}\nret;\n}}\n"
    )


def refusal(text: str) -> str:
    """What nnkit says against a text with one kernel, or ""; anything but a line of ours is let through."""
    from nnkit.ptx.ir import PtxError
    from nnkit.vm.analysis.geometry import Launch
    from nnkit.vm.analysis.options import Options
    from nnkit.vm.build.compile import llvm_text
    from nnkit.vm.build.source import Source

    source = Source(text)
    try:
        outline = source.outline
        if outline.refused:
            return next(iter(outline.refused.values()))
        for name in outline.kernels:
            with source.refusing(name):
                width = 32 if outline.kernels[name].warp_level else 16
                llvm_text(source.program(name), Launch((64, 1, 1), True, Options(width)), False)
    except PtxError as error:
        return str(error)
    return ""


def environment() -> dict[str, str]:
    """For processes that run mutants: kernels end, and nothing is kept."""
    return os.environ | {"NNKIT_MAX_INSTRUCTIONS": "200000", "NNKIT_THREADS": "1"}


RECORD = ROOT / "tests" / "ptx" / "golden" / "ptx_mutants.json"


def recorded_seeds() -> list[str]:
    """The kernels whose mutants the tests judge: those that lie beside the record."""
    return [kernel for path in sorted(RECORD.parent.glob("*.ptx")) for kernel in kernels_of(path.read_text())]


def recorded_mutant(number: int) -> str:
    """The mutant of that number in the record."""
    seeds = recorded_seeds()
    return mutant(seeds[number % len(seeds)], number)


def digest(text: str) -> str:
    """What tells that a mutant is the one that was recorded."""
    return hashlib.sha256(text.encode()).hexdigest()[:12]
