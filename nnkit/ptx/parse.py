"""Tokens to records: a recursive-descent parser for PTX, from NVRTC or written by hand."""

import re
from dataclasses import replace

from nnkit.ptx.declarations import SPACES, variables
from nnkit.ptx.ir import (
    CARRY,
    SIZES,
    Address,
    Function,
    Guard,
    Immediate,
    Instruction,
    Label,
    Location,
    Module,
    Negated,
    Operand,
    Pair,
    PtxError,
    Register,
    Special,
    Symbol,
    Variable,
    Vector,
)
from nnkit.ptx.tokens import Cursor, Token, floating, integer, tokenise

LINKAGE = frozenset({".visible", ".extern", ".weak", ".common"})
_NUMBERED = re.compile(r"(.*?)(\d+)$")
_SPECIAL = re.compile(
    r"%(n?tid|n?ctaid|cluster_n?ctaid|n?clusterid)(\.[xyz])?$"
    r"|%(laneid|n?warpid|n?smid|gridid|clock(64|_hi)?|lanemask_(eq|le|lt|ge|gt)|globaltimer(_lo|_hi)?"
    r"|dynamic_smem_size|total_smem_size|aggr_smem_size|is_explicit_cluster|cluster_n?ctarank|pm\d+(_64)?"
    r"|envreg\d+|current_graph_exec|reserved_smem_offset_\w+)$"
)


def parse(text: str) -> Module:
    """The module that the text describes. Raises PtxError, which names the line."""
    return _Parser(tokenise(text), _file_names(text)).module()


def _file_names(text: str) -> dict[int, str]:
    """`.file` comes last in NVRTC's output, after the lines that refer to it."""
    found = re.finditer(r'^\s*\.file\s+(\d+)\s+"((?:[^"\\]|\\.)*)"', text, re.MULTILINE)
    return {int(match[1]): match[2] for match in found}


class _Scope:
    """The names declared between a pair of braces; an inner name hides an outer one."""

    def __init__(self, number: int):
        self.suffix = f"${number}" if number else ""
        self.registers: dict[str, str] = {}
        self.families: dict[str, tuple[str, int]] = {}
        self.symbols: set[str] = set()


class _Parser(Cursor):
    def __init__(self, tokens: list[Token], files: dict[int, str]):
        super().__init__(tokens)
        self.files = files
        self.out = Module()
        self.scopes: list[_Scope] = []
        self.found: dict[str, tuple[Register, str] | None] = {}
        """What a register's name means here, as long as no scope opens or closes and nothing is declared."""
        self.scope_count = 0
        self.location = Location()

    # -- the module -----------------------------------------------------------------------------------------

    def module(self) -> Module:
        while self.now.kind != "end":
            self.top_level()
        if not self.out.version:
            raise PtxError("this is not PTX: there is no .version")
        return self.out

    def top_level(self) -> None:
        token = self.next()
        text = token.text
        if text in LINKAGE or text == ";":
            return
        if text == ".version":
            self.out.version = self.next().text
        elif text == ".target":
            self.out.target = self.word()
            while self.take(","):
                self.word()
        elif text == ".address_size":
            if self.number() != 64:
                raise PtxError("only 64-bit addresses are supported", token.line)
        elif text in (".file", ".pragma", ".alias"):
            self.skip_statement(text)
        elif text == ".section":
            self.skip_to("{")
            self.skip_braces()
        elif text in (".entry", ".func"):
            self.function(is_entry=text == ".entry", line=token.line)
        elif text in SPACES:
            for variable in variables(self, text):
                self.out.variables[variable.name] = variable
        elif text == ".loc":
            self.loc()
        else:
            raise PtxError(f"unexpected {text!r}", token.line)

    def skip_statement(self, text: str) -> None:
        line = self.now.line
        if text == ".file":
            while self.now.line == line and self.now.kind != "end":
                self.next()
        else:
            self.skip_to(";")

    def loc(self) -> None:
        """.loc file line column [, function_name label [+ n], inlined_at file line column]"""
        line = self.now.line
        file, number = self.number(), self.number()
        while self.now.line == line and self.now.kind != "end":
            self.next()
        # Line 0 says that the instruction belongs to no line; the last real one helps a reader more.
        if number:
            self.location = Location(self.files.get(file, ""), number)

    # -- functions ------------------------------------------------------------------------------------------

    def function(self, is_entry: bool, line: int) -> None:
        results = self.parameter_list() if not is_entry and self.at("(") else ()
        while self.now.text.startswith("."):
            self.word()
        name = self.word()
        made = Function(name, is_entry, results=results, line=line)
        made.parameters = self.parameter_list() if self.at("(") else ()
        while not self.at("{") and not self.at(";"):
            directive = self.word() if self.now.kind == "word" else self.next().text
            if directive == ".maxntid":
                sizes = [self.number()]
                while self.take(","):
                    sizes.append(self.number())
                x, y, z = (*sizes, 1, 1)[:3]
                made.max_threads = (x, y, z)
            elif self.now.kind == "end":
                raise PtxError(f"function {name} has no body", line)
        if not self.take(";"):
            self.body(made)
        if made.body is not None or name not in self.out.functions:
            self.out.functions[name] = made

    def parameter_list(self) -> tuple[Variable, ...]:
        self.expect("(")
        found: list[Variable] = []
        while not self.take(")"):
            space = self.word()
            if space not in (".param", ".reg"):
                raise PtxError(f"expected a parameter, found {space!r}", self.now.line)
            found += variables(self, ".param")
            self.take(",")
        return tuple(found)

    def body(self, function: Function) -> None:
        function.body = []
        self.scopes = []
        self.scope_count = 0
        self.open_scope()
        self.expect("{")
        while self.scopes:
            token = self.now
            if token.kind == "end":
                raise PtxError(f"the body of {function.name} is not closed", function.line)
            if self.take("{"):
                self.open_scope()
            elif self.take("}"):
                self.scopes.pop()
                self.found.clear()
            else:
                self.statement(function)

    def open_scope(self) -> None:
        self.found.clear()
        self.scopes.append(_Scope(self.scope_count))
        self.scope_count += 1

    def statement(self, function: Function) -> None:
        assert function.body is not None
        token = self.now
        text = token.text
        if text == ".loc":
            self.next()
            self.loc()
        elif text == ".reg":
            self.next()
            self.register_declaration()
        elif text in SPACES:
            self.next()
            for variable in variables(self, text):
                scope = self.scopes[-1]
                scope.symbols.add(variable.name)
                function.variables.append(replace(variable, name=variable.name + scope.suffix))
            self.expect(";")
        elif text == ".pragma":
            self.skip_to(";")
            self.next()
        elif text == ";":
            self.next()
        elif self.tokens[self.position + 1].text == ":" and token.kind == "word":
            self.next()
            self.next()
            self.label(function, text)
        else:
            function.body.append(self.instruction(function))

    def label(self, function: Function, name: str) -> None:
        assert function.body is not None
        if self.take(".branchtargets"):
            targets = [self.word()]
            while self.take(","):
                targets.append(self.word())
            self.expect(";")
            function.branch_targets[name] = tuple(targets)
        elif self.at(".callprototype") or self.at(".calltargets"):
            self.skip_to(";")
            self.next()
        else:
            function.body.append(Label(name))

    def register_declaration(self) -> None:
        kind = self.word()[1:]
        if kind in ("v2", "v4"):
            raise PtxError("vector registers are not supported", self.now.line)
        if kind not in SIZES:
            raise PtxError(f"unknown register type .{kind}", self.now.line)
        scope = self.scopes[-1]
        self.found.clear()
        while True:
            name = self.word()
            if self.take("<"):
                scope.families[name] = (kind, self.number())
                self.expect(">")
            else:
                scope.registers[name] = kind
            if not self.take(","):
                break
        self.expect(";")

    # -- instructions ---------------------------------------------------------------------------------------

    def instruction(self, function: Function) -> Instruction:
        line = self.now.line
        guard = None
        if self.take("@"):
            negated = self.take("!")
            guard = Guard(self.register(function, self.word()), negated)
        opcode, *modifiers = self.word().split(".")
        operands: list[Operand] = []
        if opcode == "call":
            operands = self.call_operands(function)
        elif not self.at(";"):
            operands.append(self.operand(function))
            while self.take(","):
                operands.append(self.operand(function))
        self.expect(";")
        if "cc" in modifiers:
            function.registers[CARRY] = "pred"
        return Instruction(opcode, tuple(modifiers), tuple(operands), guard, line, self.location)

    def call_operands(self, function: Function) -> list[Operand]:
        """call (results), name, (arguments): two Vectors around a Symbol or a Register."""
        results = self.operand_list(function)
        if results.parts:
            self.expect(",")
        token = self.now
        target = self.operand(function)
        if not isinstance(target, Symbol | Register):
            raise PtxError(f"cannot call {token.text!r}", token.line)
        arguments = Vector(())
        if self.take(","):
            arguments = self.operand_list(function)
            self.skip_to(";")
        return [results, target, arguments]

    def operand_list(self, function: Function) -> Vector:
        parts: list[Operand | None] = []
        if self.take("("):
            while not self.take(")"):
                parts.append(self.operand(function))
                self.take(",")
        return Vector(tuple(parts))

    def operand(self, function: Function) -> Operand:
        token = self.now
        if self.take("["):
            return self.address(function)
        if self.take("{"):
            parts: list[Operand | None] = []
            while not self.take("}"):
                parts.append(None if self.take("_") else self.operand(function))
                self.take(",")
            return Vector(tuple(parts))
        if self.take("!"):
            return Negated(self.register(function, self.word()))
        if token.kind == "integer" or token.text == "-":
            return self.literal()
        if token.kind == "float":
            return floating(self.next().text)
        name = self.word()
        if name == "WARP_SZ":
            return Immediate(32)
        if name == "_" or self.is_register(name):
            first = None if name == "_" else self.register(function, name)
            if self.take("|"):
                second = self.word()
                return Pair(first, None if second == "_" else self.register(function, second))
            if first is None:
                return Pair(None, None)
            return first
        if name.startswith("%") and _SPECIAL.match(name):
            return Special(name)
        if name.startswith("%"):
            raise PtxError(f"register {name} is not declared", token.line)
        offset = 0
        if self.at("+") or self.at("-"):
            self.take("+")
            offset = self.number()
        return Symbol(self.symbol(name), offset)

    def literal(self) -> Immediate:
        negative = self.take("-")
        token = self.next()
        if token.kind == "float":
            bits = floating(token.text)
            return Immediate(bits.value ^ (negative << (bits.float_bits - 1)), bits.float_bits)
        if token.kind != "integer":
            raise PtxError(f"expected a number, found {token.text!r}", token.line)
        return Immediate(-integer(token.text) if negative else integer(token.text))

    def address(self, function: Function) -> Address | Vector:
        token = self.now
        base: Register | Symbol | Immediate
        if token.kind == "integer" or token.text == "-":
            base = Immediate(self.number())
        else:
            name = self.word()
            base = self.register(function, name) if self.is_register(name) else Symbol(self.symbol(name))
        offset = 0
        while self.at("+") or self.at("-"):
            self.take("+")
            offset += self.number()
        if self.take(","):
            # Coordinates of a texture or a tensor: the instruction is refused where its name is looked up.
            parts = Vector((base, self.operand(function)))
            self.expect("]")
            return parts
        self.expect("]")
        return Address(base, offset)

    # -- names ----------------------------------------------------------------------------------------------

    def symbol(self, name: str) -> str:
        for scope in reversed(self.scopes):
            if name in scope.symbols:
                return name + scope.suffix
        return name

    def is_register(self, name: str) -> bool:
        return self.lookup(name) is not None

    def register(self, function: Function, name: str) -> Register:
        found = self.lookup(name)
        if found is None:
            raise PtxError(f"register {name} is not declared", self.now.line)
        register, kind = found
        function.registers[register.name] = kind
        return register

    def lookup(self, name: str) -> tuple[Register, str] | None:
        """The register of that name in the innermost scope that declares it, and its type."""
        if name not in self.found:
            declared = self.declared(name)
            self.found[name] = declared and (Register(declared[0]), declared[1])
        return self.found[name]

    def declared(self, name: str) -> tuple[str, str] | None:
        """The unique name and the type of a register in the innermost scope that declares it."""
        numbered = _NUMBERED.match(name)
        for scope in reversed(self.scopes):
            if name in scope.registers:
                return name + scope.suffix, scope.registers[name]
            if numbered:
                kind, count = scope.families.get(numbered[1], ("", 0))
                if int(numbered[2]) < count:
                    return name + scope.suffix, kind
        return None
