"""What names mean inside a function: registers, variables and labels, by the braces that they stand in."""

import re

from nnkit.ptx.ir import Function, Instruction, Label, PtxError, Register, Symbol, Variable

_NUMBERED = re.compile(r"(.*?)(0|[1-9]\d*)$")
PARTS = ("x", "y", "z", "w")
"""Elements of a vector register."""
COLOURS = dict(zip("rgba", PARTS, strict=True))


class Scope:
    """The names declared between a pair of braces; an inner name hides an outer one."""

    def __init__(self, number: int, outer: "Scope | None"):
        # A character that no name in PTX has.
        self.suffix = f"^{number}" if number else ""
        self.outer = outer
        self.registers: dict[str, str] = {}
        self.families: dict[str, tuple[str, int]] = {}
        self.vectors: dict[str, int] = {}
        self.symbols: dict[str, Variable] = {}
        self.labels: set[str] = set()
        self.tables: dict[str, tuple[str, ...]] = {}

    def declares(self, name: str) -> bool:
        """Whether the name is taken here."""
        if name in self.registers or name in self.symbols or name in self.labels or name in self.tables:
            return True
        return name in self.vectors or self.numbered(name) is not None

    def numbered(self, name: str) -> str | None:
        """The type of a register that was declared with others, %r<9>."""
        found = _NUMBERED.match(name)
        if found:
            kind, count = self.families.get(found[1], ("", 0))
            # Python refuses to read thousands of digits, and no count has so many.
            if len(found[2]) < 20 and int(found[2]) < count:
                return kind
        return None

    def register(self, name: str) -> str | None:
        """The type of a register that is declared here."""
        return self.registers.get(name) or self.numbered(name)


class Names:
    """The scopes around a place in a function's body."""

    def __init__(self, function: Function, parameters: dict[str, Variable]):
        self.function = function
        self.scope: Scope | None = Scope(0, None)
        self.scope.symbols.update(parameters)
        self.count = 1
        self.found: dict[str, tuple[Register, str] | None] = {}
        """What a register's name means here, as long as no scope opens or closes and nothing is declared."""
        self.jumps: list[tuple[Instruction, Scope]] = []

    def open(self) -> None:
        """A brace opens."""
        self.found.clear()
        self.scope = Scope(self.count, self.scope)
        self.count += 1

    def close(self) -> None:
        """A brace closes."""
        assert self.scope is not None
        self.found.clear()
        self.scope = self.scope.outer

    def take(self, name: str, line: int) -> Scope:
        """The innermost scope, in which the name is about to be declared; refuses one that is taken."""
        assert self.scope is not None
        self.found.clear()
        if self.scope.declares(name):
            self.refuse(f"{name} is declared twice", line)
        return self.scope

    def refuse(self, message: str, line: int) -> None:
        """Note what is wrong with the function; the first fault is the one that is told."""
        if self.function.error is None:
            self.function.error = PtxError(message, line)

    def declare_registers(self, name: str, kind: str, count: int | None, vector: int, line: int) -> None:
        """.reg: one register, `count` numbered ones, or a vector of `vector` elements."""
        assert self.scope is not None
        # %r and %r<9> do not get in each other's way: the second is %r0, %r1 and so on.
        scope = self.scope if count is not None else self.take(name, line)
        if vector:
            scope.vectors[name] = vector
            for part in PARTS[:vector]:
                scope.registers[f"{name}.{part}"] = kind
        elif count is not None:
            if name in scope.families or any(
                found and found[1] == name and int(found[2][:19]) < count
                for found in map(_NUMBERED.match, scope.registers)
            ):
                self.refuse(f"register {name}<{count}> is declared twice", line)
            self.found.clear()
            scope.families[name] = (kind, count)
        else:
            scope.registers[name] = kind

    def lookup(self, name: str) -> tuple[Register, str] | None:
        """The register of that name in the innermost scope that declares it, and its type."""
        if name not in self.found:
            self.found[name] = self._lookup(name)
        return self.found[name]

    def _lookup(self, name: str) -> tuple[Register, str] | None:
        base, point, part = name.partition(".")
        if point:
            name = f"{base}.{COLOURS.get(part, part)}"
        scope = self.scope
        while scope is not None:
            kind = scope.register(name)
            if kind is not None:
                return Register(name + scope.suffix), kind
            if scope.declares(base):
                return None
            scope = scope.outer
        return None

    def vector(self, name: str) -> int:
        """How many elements a vector register has; 0 for what is none."""
        scope = self.scope
        while scope is not None:
            if scope.declares(name):
                return scope.vectors.get(name, 0)
            scope = scope.outer
        return 0

    def variable(self, name: str) -> tuple[str, Variable] | None:
        """The unique name and the record of a variable of the function."""
        scope = self.scope
        while scope is not None:
            if name in scope.symbols:
                return name + scope.suffix, scope.symbols[name]
            scope = scope.outer
        return None

    def declare_label(self, name: str, line: int) -> Label:
        """A label, with a name of its own."""
        scope = self.take(name, line)
        scope.labels.add(name)
        return Label(name + scope.suffix)

    def declare_table(self, name: str, targets: tuple[str, ...], line: int) -> None:
        """.branchtargets"""
        scope = self.take(name, line)
        scope.tables[name] = targets

    def jump(self, item: Instruction) -> None:
        """A jump, whose label may come later."""
        assert self.scope is not None
        self.jumps.append((item, self.scope))
        table = item.operands[1] if item.opcode == "brx" and len(item.operands) == 2 else None
        if isinstance(table, Symbol) and self._home(table.name, self.scope, "tables") is None:
            self.refuse(f"brx.idx without its .branchtargets {table.name}, which stand before it", item.line)

    def resolve(self) -> None:
        """Give all jumps the unique names of their labels; refuse those that lead nowhere."""
        for item, scope in self.jumps:
            if item.opcode == "bra":
                item.operands = tuple(self._target(part, scope, item.line) for part in item.operands)
                continue
            table = item.operands[1] if len(item.operands) == 2 else None
            home = self._home(table.name, scope, "tables") if isinstance(table, Symbol) else None
            if home is None or not isinstance(table, Symbol):
                self.refuse("brx.idx needs an index and its .branchtargets", item.line)
                continue
            unique = table.name + home.suffix
            names = [self._target(Symbol(name), home, item.line) for name in home.tables[table.name]]
            self.function.branch_targets[unique] = tuple(s.name for s in names if isinstance(s, Symbol))
            item.operands = (item.operands[0], Symbol(unique))

    def _target(self, operand: object, scope: Scope, line: int) -> Symbol:
        name = operand.name if isinstance(operand, Symbol) else "?"
        home = self._home(name, scope, "labels") if isinstance(operand, Symbol) else None
        if home is None:
            self.refuse(f"there is no label {name} here" if name != "?" else "a jump needs a label", line)
            return Symbol(name)
        return Symbol(name + home.suffix)

    @staticmethod
    def _home(name: str, scope: Scope | None, kind: str) -> Scope | None:
        """The innermost scope with that label or table."""
        while scope is not None:
            if name in getattr(scope, kind):
                return scope
            scope = scope.outer
        return None
