"""Tokens to records: a recursive-descent parser for PTX, from NVRTC or written by hand.

Text that cannot be read at all raises PtxSyntaxError. What is wrong inside one function, such as a name that
nobody declares, is noted in that function's record, so that the others stay usable.
"""

import re
from dataclasses import replace

from nnkit.ptx.declarations import LINKAGE, SPACES, attribute, variables
from nnkit.ptx.ir import (
    SIZES,
    Function,
    Guard,
    Instruction,
    Module,
    Operand,
    PtxError,
    PtxSyntaxError,
    Register,
    Symbol,
    Variable,
    Vector,
)
from nnkit.ptx.locations import Locations
from nnkit.ptx.modifiers import split
from nnkit.ptx.names import Names
from nnkit.ptx.operands import Operands
from nnkit.ptx.tokens import Token, tokenise

_LIMITS = frozenset({".maxntid", ".reqntid", ".minnctapersm", ".maxnctapersm", ".maxnreg"})
_LIMITS |= {".reqnctapercluster", ".maxclusterrank", ".explicitcluster", ".blocksareclusters"}


def parse(text: str) -> Module:
    """The module that the text describes. Raises PtxError, which names the line, if the whole is unusable."""
    return _Parser(tokenise(text), Locations(text)).module()


class _Parser(Operands):
    def __init__(self, tokens: list[Token], locations: Locations):
        super().__init__(tokens)
        self.locations = locations

    # -- the module -----------------------------------------------------------------------------------------

    def module(self) -> Module:
        self.head()
        while self.now.kind != "end":
            self.top_level()
        return self.out

    def head(self) -> None:
        """What a module begins with, in this order: .version, .target, .address_size, which is optional."""
        if not self.take(".version"):
            raise PtxSyntaxError("this is not PTX: it does not begin with .version", self.now.line)
        self.out.version = self.next().text
        if not re.fullmatch(r"\d+\.\d+", self.out.version):
            raise PtxSyntaxError(f".version is {self.out.version!r}, not one like 8.8", self.now.line)
        if not self.at(".target"):
            raise PtxSyntaxError("there is no .target behind .version", self.now.line)
        while self.take(".target"):
            target = self.word()
            if not re.fullmatch(r"(?:sm|compute)_\d+[af]?", target):
                raise PtxSyntaxError(f".target is {target!r}, not one like sm_90", self.now.line)
            self.out.target = self.out.target or target
            while self.take(","):
                self.word()
        if self.take(".address_size") and self.number() != 64:
            raise PtxSyntaxError("only 64-bit addresses are supported", self.now.line)

    def top_level(self) -> None:
        linkage = self.next().text if self.now.text in LINKAGE else ""
        token = self.next()
        text = token.text
        if text in (".entry", ".func"):
            self.function(is_entry=text == ".entry", line=token.line)
        elif text in SPACES and text not in (".local", ".param"):
            for variable in variables(self, text, linkage == ".extern"):
                self.declare(variable, token.line)
            self.expect(";")
        elif linkage:
            raise PtxSyntaxError(f"unexpected {text!r} behind {linkage}", token.line)
        elif text in (".version", ".target", ".address_size"):
            raise PtxSyntaxError(f"{text} must stand at the head of the module", token.line)
        elif text == ".file":
            while self.now.line == token.line and self.now.kind != "end":
                self.next()
        elif text in (".pragma", ".alias"):
            self.skip_to(";")
            self.expect(";")
        elif text == ".section":
            self.skip_to("{")
            self.skip_braces()
        elif text == ".loc":
            self.locations.read(self)
        else:
            raise PtxSyntaxError(f"unexpected {text!r}", token.line)

    def declare(self, variable: Variable, line: int) -> None:
        """A variable of the module; external ones may be declared again."""
        known = self.out.variables.get(variable.name)
        if variable.name in self.out.functions or (known is not None and (known.size or variable.size)):
            raise PtxError(f"{variable.name} is declared twice", line)
        self.out.variables[variable.name] = variable

    # -- functions ------------------------------------------------------------------------------------------

    def function(self, is_entry: bool, line: int) -> None:
        made = Function("", is_entry, line=line)
        while self.now.text in (".attribute", ".noreturn"):
            if self.word() == ".attribute":
                attribute(self)
        if not is_entry and self.at("("):
            made.results = self.parameter_list(made)
        made.name = self.name()
        if self.at("("):
            made.parameters = self.parameter_list(made)
        names = [v.name for v in (*made.results, *made.parameters)]
        if len(set(names)) < len(names):
            made.error = made.error or PtxError(f"a parameter of {made.name} is declared twice", line)
        while not self.at("{") and not self.at(";"):
            self.directive(made)
        known = self.out.functions.get(made.name)
        if made.name in self.out.variables or (
            known and (known.is_entry != is_entry or (known.body is not None and self.at("{")))
        ):
            raise PtxError(f"{made.name} is declared twice", line)
        if known is None:
            # A function may call itself: it is known inside its own body.
            self.out.functions[made.name] = made
        if not self.take(";"):
            self.out.functions[made.name] = made
            self.body(made)

    def directive(self, function: Function) -> None:
        """What stands between a function's parameters and its body."""
        token = self.next()
        if token.text in _LIMITS:
            sizes = []
            while self.now.kind == "integer":
                sizes.append(self.number())
                self.take(",")
            if token.text == ".maxntid":
                x, y, z = (*sizes, 1, 1, 1)[:3]
                function.max_threads = (x, y, z)
            if token.text[-4:] == "ntid" and (0 in sizes or not sizes):
                function.error = function.error or PtxError(f"{token.text} must be above 0", token.line)
        elif token.text == ".pragma":
            self.skip_to(";")
            self.expect(";")
        elif token.text == ".noreturn" and not function.is_entry:
            return
        elif token.text in (".abi_preserve", ".abi_preserve_control"):
            self.number()
        else:
            found = token.text or "the end of the text"
            raise PtxSyntaxError(f"unexpected {found!r} before the body of {function.name}", token.line)

    def parameter_list(self, function: Function) -> tuple[Variable, ...]:
        self.expect("(")
        found: list[Variable] = []
        while not self.at(")"):
            line = self.now.line
            space = self.word()
            if space not in (".param", ".reg"):
                raise PtxSyntaxError(f"expected a parameter, found {space!r}", line)
            variable = variables(self, space)[0]
            if function.is_entry and (space == ".reg" or not variable.size):
                function.error = PtxError(f"{variable.name} can be no parameter of a kernel", line)
            found.append(variable)
            if not self.at(")"):
                self.expect(",")
                if self.at(")"):
                    raise PtxSyntaxError("expected a parameter, found ')'", self.now.line)
        self.expect(")")
        return tuple(found)

    def body(self, function: Function) -> None:
        function.body = []
        given = (*function.results, *function.parameters)
        self.names = Names(function, {v.name: v for v in given if v.space == "param"})
        for variable in given:
            if variable.space == "reg":
                self.names.declare_registers(variable.name, variable.type, None, 0, function.line)
                function.registers[variable.name] = variable.type
        self.expect("{")
        while self.names.scope is not None:
            token = self.now
            if token.kind == "end":
                raise PtxSyntaxError(f"the body of {function.name} is not closed", function.line)
            if self.take("{"):
                self.names.open()
            elif self.take("}"):
                self.names.close()
            else:
                self.statement(function)
        self.names.resolve()

    def statement(self, function: Function) -> None:
        assert function.body is not None
        token = self.now
        text = token.text
        if text == ".loc":
            self.next()
            self.locations.read(self)
        elif text == ".reg":
            self.next()
            self.register_declaration()
        elif text in SPACES:
            self.next()
            self.variable_declaration(function, text, token.line)
        elif text == ".pragma":
            self.skip_to(";")
            self.next()
        elif token.kind == "word" and self.tokens[self.position + 1].text == ":":
            self.position += 2
            self.label(function, text, token.line)
        else:
            function.body.append(self.instruction(function))

    def variable_declaration(self, function: Function, space: str, line: int) -> None:
        start = self.position
        try:
            found = variables(self, space)
        except PtxSyntaxError:
            raise
        except PtxError as error:
            self.names.refuse(str(error).partition(": ")[2], error.line)
            self.position = start
            self.skip_to(";")
            found = []
        for variable in found:
            scope = self.names.take(variable.name, line)
            scope.symbols[variable.name] = variable
            function.variables.append(replace(variable, name=variable.name + scope.suffix))
        self.expect(";")

    def label(self, function: Function, name: str, line: int) -> None:
        assert function.body is not None
        if self.take(".branchtargets"):
            targets = [self.word()]
            while self.take(","):
                targets.append(self.word())
            self.expect(";")
            self.names.declare_table(name, tuple(targets), line)
        elif self.at(".callprototype") or self.at(".calltargets"):
            self.skip_to(";")
            self.expect(";")
        else:
            function.body.append(self.names.declare_label(name, line))

    def register_declaration(self) -> None:
        line = self.now.line
        kind, vector = self.word()[1:], 0
        if kind in ("v2", "v4"):
            kind, vector = self.word()[1:], int(kind[1])
        if kind not in SIZES:
            raise PtxSyntaxError(f"unknown register type .{kind}", line)
        while True:
            name, count = self.name(), None
            if self.take("<"):
                count = self.number()
                self.expect(">")
            self.names.declare_registers(name, kind, count, vector, line)
            if not self.take(","):
                break
        self.expect(";")

    # -- instructions ---------------------------------------------------------------------------------------

    def instruction(self, function: Function) -> Instruction:
        line = self.now.line
        guard = None
        if self.take("@"):
            negated = self.take("!")
            guard = Guard(self.predicate(function, self.word()), negated)
        name = self.word()
        while self.now.kind == "word" and self.now.text[0] == ".":
            name += self.next().text
        opcode, modifiers = split(name)
        operands: list[Operand] = []
        if opcode == "call":
            operands = self.call_operands(function)
        elif not self.at(";"):
            is_jump = opcode in ("bra", "brx")
            operands.append(self.operand(function, is_jump))
            while self.take(","):
                operands.append(self.operand(function, is_jump))
        self.expect(";")
        made = Instruction(opcode, modifiers, tuple(operands), guard, line, self.locations.now, name)
        if opcode in ("bra", "brx"):
            self.names.jump(made)
        return made

    def predicate(self, function: Function, name: str) -> Register:
        register = self.register(function, name)
        if function.registers.get(register.name) != "pred":
            self.names.refuse(f"{name} is no predicate", self.now.line)
        return register

    def call_operands(self, function: Function) -> list[Operand]:
        """call (results), name, (arguments): two Vectors around a Symbol or a Register."""
        results = self.operand_list(function)
        if results.parts:
            self.expect(",")
        line, name = self.now.line, self.word()
        target: Operand = Symbol(name)
        if name not in self.out.functions:
            if self.names.lookup(name) is None:
                self.names.refuse(f"function {name} is not declared", line)
            else:
                target = self.register(function, name)
        arguments = Vector(())
        if self.take(","):
            if self.at("("):
                arguments = self.operand_list(function)
            else:
                self.word()
            if self.take(","):
                self.word()
        return [results, target, arguments]
