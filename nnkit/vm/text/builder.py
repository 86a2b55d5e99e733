"""LLVM IR as text, written line by line, in two forms that look the same to an emitter: scalar and vector.

Text parses fast and reads well in a debugger; llvmlite's own builder took several times as long.
"""

import math
import struct
from functools import cache

from nnkit.ptx.ir import SIZES

LLVM_TYPES = {"pred": "i1", "f32": "float", "f64": "double", "b128": "i128", "f16": "i16", "bf16": "i16"}
LLVM_TYPES |= {f"{kind}{bits}": f"i{bits}" for kind in "bsu" for bits in (8, 16, 32, 64)}
LLVM_TYPES |= {"f16x2": "i32", "bf16x2": "i32", "tf32": "i32", "s16x2": "i32", "u16x2": "i32"}

BITS = {"i1": 1, "i8": 8, "i16": 16, "i32": 32, "i64": 64, "i128": 128, "float": 32, "double": 64}


def register_type(ptx_type: str) -> str:
    """The LLVM type that holds a register: 8-bit ones live in 16 bits, as on the hardware."""
    return "i16" if SIZES[ptx_type] == 1 and ptx_type != "pred" else LLVM_TYPES[ptx_type]


class Text:
    """The lines of one function, the declarations and constants that it needs, and fresh names."""

    def __init__(self, has_avx512: bool = False) -> None:
        self.has_avx512 = has_avx512
        self.lines: list[str] = []
        self.declarations: set[str] = set()
        self.functions: dict[str, str] = {}
        """Definitions of helper functions, by name."""
        self.globals: list[str] = []
        self._names = 0

    def name(self, hint: str = "v") -> str:
        """A name that nothing else has."""
        self._names += 1
        return f"%{hint}{self._names}"

    def line(self, text: str) -> None:
        """Append one instruction."""
        self.lines.append(text)

    def op(self, text: str) -> str:
        """Append `name = text`; returns the name."""
        self._names += 1
        name = f"%v{self._names}"
        self.lines.append(f"{name} = {text}")
        return name

    def label(self, hint: str = "L") -> str:
        """A fresh label, without its %."""
        self._names += 1
        return f"{hint}{self._names}"

    def place(self, label: str) -> None:
        """Start the block of that label."""
        self.lines.append(f"{label}:")

    def jump(self, label: str) -> None:
        """br."""
        self.lines.append(f"br label %{label}")

    def branch(self, condition: str, then: str, otherwise: str) -> None:
        """br i1."""
        self.lines.append(f"br i1 {condition}, label %{then}, label %{otherwise}")

    def likely(self, condition: str, then: str, otherwise: str) -> None:
        """A branch that nearly always goes to `then`."""
        self.lines.append(f"br i1 {condition}, label %{then}, label %{otherwise}, !prof !0")


class Lanes:
    """Emits an operation once for a scalar (`width` 0) or for all lanes of a vector."""

    def __init__(self, text: Text, width: int):
        self.text = text
        self.width = width

    def type(self, base: str) -> str:
        """The scalar type or the vector of it."""
        return f"<{self.width} x {base}>" if self.width else base

    def constant(self, base: str, value: int) -> str:
        """An integer constant in every lane."""
        bits = BITS[base]
        value &= (1 << bits) - 1
        if bits == 1:
            literal = "true" if value else "false"
        else:
            literal = str(value - (1 << bits) if value >> (bits - 1) else value)
        return f"splat ({base} {literal})" if self.width else literal

    def real(self, base: str, value: float) -> str:
        """A float constant in every lane, which `base` must represent exactly."""
        literal = f"0x{struct.unpack('<Q', struct.pack('<d', value))[0]:016X}"
        return f"splat ({base} {literal})" if self.width else literal

    def op(self, text: str) -> str:
        """Append an instruction; returns its name."""
        return self.text.op(text)

    def binary(self, operation: str, base: str, a: str, b: str) -> str:
        """add, fsub, and, ..."""
        return self.text.op(f"{operation} {self.type(base)} {a}, {b}")

    def compare(self, predicate: str, base: str, a: str, b: str) -> str:
        """icmp or fcmp, by the type."""
        kind = "fcmp" if base in ("float", "double") else "icmp"
        return self.text.op(f"{kind} {predicate} {self.type(base)} {a}, {b}")

    def select(self, condition: str, base: str, a: str, b: str) -> str:
        """condition ? a : b, lane by lane."""
        kind = self.type(base)
        return self.text.op(f"select {self.type('i1')} {condition}, {kind} {a}, {kind} {b}")

    def cast(self, operation: str, source: str, value: str, target: str) -> str:
        """bitcast, trunc, zext, sext, fptrunc, ...; nothing where a bitcast changes no type."""
        if operation == "bitcast" and source == target:
            return value
        return self.text.op(f"{operation} {self.type(source)} {value} to {self.type(target)}")

    def resize(self, source: str, value: str, target: str, sign: bool = False) -> str:
        """An integer with more or fewer bits."""
        if BITS[source] == BITS[target]:
            return value
        if BITS[source] > BITS[target]:
            return self.cast("trunc", source, value, target)
        return self.cast("sext" if sign else "zext", source, value, target)

    def call(self, name: str, base: str, *arguments: str, tail: str = "", suffix: str = "") -> str:
        """An LLVM intrinsic whose arguments and result have one type; `tail` holds further arguments."""
        kind = self.type(base)
        mangled = suffix or self.mangled(base)
        given = ", ".join(f"{kind} {argument}" for argument in arguments)
        extra = "".join(f", {part.split()[0]}" for part in tail.split(", ") if part)
        self.text.declarations.add(
            f"declare {kind} @llvm.{name}.{mangled}({', '.join([kind] * len(arguments))}{extra})"
        )
        return self.text.op(f"call {kind} @llvm.{name}.{mangled}({given}{', ' + tail if tail else ''})")

    def mangled(self, base: str) -> str:
        """How LLVM spells the type inside an intrinsic's name."""
        short = {"float": "f32", "double": "f64"}.get(base, base)
        return f"v{self.width}{short}" if self.width else short


@cache
def ident(name: str) -> str:
    """A PTX name as part of an LLVM name."""
    return "".join(c if c.isalnum() or c in "._$" else f"-{ord(c):x}" for c in name)


def is_literal(value: str) -> bool:
    """Whether a value is a constant in the text."""
    return not value.startswith("%")


def float_literal(kind: str, value: int, bits: int) -> str:
    """A float constant as LLVM writes it: the bits of a double, whatever the type."""
    if bits == 0:
        number = float(value)
    elif bits == 32:
        number = struct.unpack("<f", struct.pack("<I", value))[0]
    else:
        number = struct.unpack("<d", struct.pack("<Q", value))[0]
    if kind == "float" and bits == 64:
        number = struct.unpack("<f", struct.pack("<f", number))[0]
    word = struct.unpack("<Q", struct.pack("<d", number))[0]
    if math.isnan(number):
        # Through Python a NaN keeps its sign and payload as a double's: widen it by hand.
        sign, payload = (value >> 31) << 63, (value & 0x7FFFFF) << 29
        word = value if bits == 64 else sign | 0x7FF << 52 | payload
        if kind == "float" and bits == 64:
            word &= ~((1 << 29) - 1)
    return f"0x{word:016X}"
