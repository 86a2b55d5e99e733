"""What PTX text means, as plain records: modules, functions, instructions, operands.

The names are those of NVIDIA's "Parallel Thread Execution ISA". An instruction keeps its opcode and its
modifiers apart: `mad.lo.s32` is opcode "mad" with modifiers ("lo", "s32").
"""

from dataclasses import dataclass, field

SIZES = {"pred": 1} | {f"{kind}{bits}": bits // 8 for kind in "bsu" for bits in (8, 16, 32, 64)}
SIZES |= {
    "f16": 2,
    "bf16": 2,
    "f16x2": 4,
    "bf16x2": 4,
    "tf32": 4,
    "s16x2": 4,
    "u16x2": 4,
    "f32": 4,
    "f64": 8,
    "b128": 16,
}
"""Bytes of every fundamental type."""


class PtxError(Exception):
    """PTX that cannot be understood or is not supported; `line` is the PTX line, from 1."""

    def __init__(self, message: str, line: int = 0):
        super().__init__(f"PTX line {line}: {message}" if line else message)
        self.line = line


class PtxSyntaxError(PtxError):
    """Text that is not PTX at all: nothing behind it can be understood, so the whole file is refused."""


@dataclass(frozen=True, slots=True)
class Register:
    """A virtual register."""

    name: str


@dataclass(frozen=True, slots=True)
class Immediate:
    """A constant: an integer, or the bit pattern of a float of `float_bits` bits (0 for an integer)."""

    value: int
    float_bits: int = 0


@dataclass(frozen=True, slots=True)
class Symbol:
    """The address of a variable, plus an offset in bytes; or the name of a function or a label."""

    name: str
    offset: int = 0


@dataclass(frozen=True, slots=True)
class Special:
    """A read-only register of the machine, such as "%tid.x"."""

    name: str


@dataclass(frozen=True, slots=True)
class Address:
    """[base + offset]."""

    base: "Register | Symbol | Immediate"
    offset: int = 0


@dataclass(frozen=True, slots=True)
class Vector:
    """{a, b, c, d}: the parts of a vector access; a None part ("_") is dropped."""

    parts: tuple["Operand | None", ...]


@dataclass(frozen=True, slots=True)
class Pair:
    """a|p: a result with a predicate beside it."""

    first: "Register | None"
    second: "Register | None"


@dataclass(frozen=True, slots=True)
class Negated:
    """!p: a predicate operand, negated."""

    register: Register


Operand = Register | Immediate | Symbol | Special | Address | Vector | Pair | Negated


@dataclass(frozen=True, slots=True)
class Guard:
    """@p or @!p before an instruction."""

    register: Register
    negated: bool


@dataclass(frozen=True, slots=True)
class Location:
    """A line of the CUDA source, from `.loc`; line 0 is unknown.

    Code of a function that stands in another file than the kernel, such as a header, belongs to the line that
    calls it; `inside` tells where it stands itself.
    """

    file: str = ""
    line: int = 0
    inside: str = ""

    def __str__(self) -> str:
        where = f"{self.file}:{self.line}" if self.line else ""
        return f"{where}, inside {self.inside}" if self.inside else where


@dataclass(slots=True)
class Instruction:
    """One instruction, where it stands in the PTX and which line of the source it came from."""

    opcode: str
    modifiers: tuple[str, ...]
    operands: tuple[Operand, ...]
    guard: Guard | None = None
    line: int = 0
    location: Location = field(default_factory=Location)
    spelling: str = ""
    """Opcode and modifiers as written, for messages."""

    @property
    def name(self) -> str:
        """Opcode and modifiers, in their usual order."""
        return ".".join((self.opcode, *self.modifiers))

    @property
    def type(self) -> str:
        """The last modifier that is a type, or "" where there is none."""
        for modifier in reversed(self.modifiers):
            if modifier in SIZES:
                return modifier
        return ""


@dataclass(frozen=True, slots=True)
class Label:
    """A place to jump to."""

    name: str


@dataclass(frozen=True, slots=True)
class Relocation:
    """An address in a variable's initial value: that of `symbol` plus `offset`.

    At byte `at` stand `size` bytes of it, from the one with number `first` on, the lowest being 0.
    """

    at: int
    symbol: str
    offset: int
    first: int = 0
    size: int = 8


@dataclass(frozen=True, slots=True)
class Variable:
    """A variable in memory (`.global`, `.const`, `.shared`, `.local`, `.param`), or a parameter register.

    `size` is in bytes; 0 marks shared memory whose size the launch decides. `initial` may be shorter: zeros
    follow.
    """

    name: str
    space: str
    size: int
    align: int
    type: str = "b8"
    pointer: bool = False
    initial: bytes | None = None
    relocations: tuple[Relocation, ...] = ()
    is_array: bool = False


@dataclass(slots=True)
class Function:
    """An `.entry` (kernel) or a `.func`; `body` is None for a declaration."""

    name: str
    is_entry: bool
    parameters: tuple[Variable, ...] = ()
    results: tuple[Variable, ...] = ()
    registers: dict[str, str] = field(default_factory=dict)
    """The type of every register that the body names."""
    variables: list[Variable] = field(default_factory=list)
    body: list[Instruction | Label] | None = None
    branch_targets: dict[str, tuple[str, ...]] = field(default_factory=dict)
    """The labels of every `.branchtargets` table."""
    max_threads: tuple[int, int, int] | None = None
    """`.maxntid`."""
    line: int = 0
    error: PtxError | None = None
    """What is wrong with it, if anything: then no kernel that calls it can be used."""
    checked: bool = False
    """Whether somebody has looked at its instructions and noted in `error` what he found."""


@dataclass(slots=True)
class Module:
    """A translation unit."""

    version: str = ""
    target: str = ""
    variables: dict[str, Variable] = field(default_factory=dict)
    functions: dict[str, Function] = field(default_factory=dict)

    @property
    def kernels(self) -> tuple[str, ...]:
        """The names of the kernels."""
        return tuple(name for name, function in self.functions.items() if function.is_entry)
