"""Operands of instructions: registers, constants, names, addresses, and several of them in braces."""

import re

from nnkit.ptx.constants import constant, whole
from nnkit.ptx.ir import (
    Address,
    Function,
    Immediate,
    Module,
    Negated,
    Operand,
    Pair,
    PtxSyntaxError,
    Register,
    Special,
    Symbol,
    Vector,
)
from nnkit.ptx.names import PARTS, Names
from nnkit.ptx.tokens import Cursor, Token

_SPECIAL = re.compile(
    r"%(n?tid|n?ctaid|cluster_n?ctaid|n?clusterid)(\.[xyz])?$"
    r"|%(laneid|n?warpid|n?smid|gridid|clock(64|_hi)?|lanemask_(eq|le|lt|ge|gt)|globaltimer(_lo|_hi)?"
    r"|dynamic_smem_size|total_smem_size|aggr_smem_size|is_explicit_cluster|cluster_n?ctarank|pm\d+(_64)?"
    r"|envreg\d+|current_graph_exec|reserved_smem_offset_\w+)$"
)


class Operands(Cursor):
    """The part of the parser that reads operands; names that nobody declares are noted in the function."""

    def __init__(self, tokens: list[Token]):
        super().__init__(tokens)
        self.out = Module()
        self.names = Names(Function("", False), {})

    def operand_list(self, function: Function) -> Vector:
        """(a, b): what a call passes or gets."""
        parts: list[Operand | None] = []
        if self.take("("):
            while not self.take(")"):
                if parts:
                    self.expect(",")
                parts.append(None if self.take("_") else self.operand(function))
        return Vector(tuple(parts))

    def operand(self, function: Function, is_jump: bool = False) -> Operand:
        """Any operand; a name that is no register is a label for a jump, else something in memory."""
        token = self.now
        if token.kind == "word":
            return self.named(function, is_jump)
        if token.kind == "mark":
            if self.take("["):
                return self.address(function)
            if self.take("{"):
                parts: list[Operand | None] = []
                while not self.take("}"):
                    if parts:
                        self.expect(",")
                    parts.append(None if self.take("_") else self.element(function))
                return Vector(tuple(parts))
            following = self.tokens[self.position + 1]
            if token.text == "!" and following.kind == "word" and following.text != "WARP_SZ":
                self.next()
                return Negated(self.register(function, self.word()))
        return constant(self)

    def element(self, function: Function) -> Operand:
        """A part of a vector: no vector itself."""
        if self.now.kind == "mark" and self.now.text in "[{":
            raise PtxSyntaxError(f"unexpected {self.now.text!r} inside a vector", self.now.line)
        return self.operand(function)

    def named(self, function: Function, is_jump: bool) -> Operand:
        """An operand that is a name: register, special register, variable, function or label."""
        token = self.now
        name = token.text
        following = self.tokens[self.position + 1].text
        if name == "WARP_SZ":
            return constant(self)
        self.position += 1
        found = self.names.lookup(name)
        if found is not None or name == "_":
            first = None if found is None else self.register(function, name)
            if following == "|":
                self.position += 1
                second = self.word()
                return Pair(first, None if second == "_" else self.register(function, second))
            return Pair(None, None) if first is None else first
        if name[0] == "%" and _SPECIAL.match(name):
            return Special(name)
        if is_jump:
            return Symbol(name)
        if count := self.names.vector(name):
            return Vector(tuple(self.register(function, f"{name}.{part}") for part in PARTS[:count]))
        offset = 0
        if following == "+":
            self.position += 1
            offset = whole(self)
        return self.symbol(name, offset, token.line)

    def symbol(self, name: str, offset: int, line: int) -> Symbol:
        """A variable or a function, by its unique name."""
        found = self.names.variable(name)
        if found is not None:
            return Symbol(found[0], offset)
        if name not in self.out.variables and name not in self.out.functions:
            what = "register" if name[0] == "%" else "variable"
            self.names.refuse(f"{what} {name} is not declared", line)
        return Symbol(name, offset)

    def address(self, function: Function) -> Address | Vector:
        """base + offset], behind the bracket that opens it."""
        token = self.now
        base: Register | Symbol | Immediate
        if token.kind == "word" and token.text != "WARP_SZ":
            name = self.word()
            known = self.names.lookup(name) is not None
            base = self.register(function, name) if known else self.symbol(name, 0, token.line)
        else:
            base = Immediate(whole(self))
        offset = 0
        while self.take("+"):
            offset += whole(self)
        if self.take(","):
            # Coordinates of a texture or a tensor: the instruction is refused where its name is looked up.
            parts = Vector((base, self.operand(function)))
            self.skip_to("]")
            self.expect("]")
            return parts
        self.expect("]")
        return Address(base, offset)

    def register(self, function: Function, name: str) -> Register:
        """The register of that name, noted as one that the function uses."""
        found = self.names.lookup(name)
        if found is None:
            self.names.refuse(f"register {name} is not declared", self.now.line)
            return Register(name)
        register, kind = found
        function.registers[register.name] = kind
        return register
