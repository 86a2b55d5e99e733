"""Kernels without calls: every device function's body is put where it is called.

Arguments and results pass through `.param` slots; a slot whose accesses agree on offsets and sizes becomes
registers, any other becomes local memory. What only the machine can do (`vprintf`, `__assertfail`, ...) stays
as the pseudo-instruction `extcall name, {results}, {arguments}`.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from itertools import pairwise

from nnkit.ptx.ir import (
    SIZES,
    Address,
    Function,
    Guard,
    Immediate,
    Instruction,
    Label,
    Module,
    Negated,
    Operand,
    Pair,
    PtxError,
    Register,
    Symbol,
    Variable,
    Vector,
)
from nnkit.vm.forms.registers import CARRY, reads_carry, writes_carry
from nnkit.vm.forms.table import access_by, way_of
from nnkit.vm.prepare.arguments import check_call

DEEPEST = 100
"""Functions that call each other in a chain."""

LONGEST = 200_000
"""Instructions of one kernel after inlining; more is refused rather than compiled for minutes."""


def inline(module: Module, kernel: str) -> Function:
    """The kernel with all calls resolved: one body, its registers and its variables."""
    entry = module.functions[kernel]
    inliner = _Inliner(module, entry)
    inliner.copy(entry, {}, ())
    made = inliner.made
    _resolve(made, inliner.slots)
    return made


@dataclass
class _Names:
    """How one copy of a function calls its registers, labels, variables and parameters."""

    suffix: str
    symbols: dict[str, str] = field(default_factory=dict)

    def operand(self, operand: Operand | None) -> Operand | None:
        match operand:
            case Register(name):
                return Register(name + self.suffix)
            case Negated(register):
                return Negated(Register(register.name + self.suffix))
            case Symbol(name, offset):
                return Symbol(self.symbols.get(name, name), offset)
            case Address(base, offset):
                renamed = self.operand(base)
                assert isinstance(renamed, Register | Symbol | Immediate)
                return Address(renamed, offset)
            case Vector(parts):
                return Vector(tuple(self.operand(part) for part in parts))
            case Pair(first, second):
                names = (part and Register(part.name + self.suffix) for part in (first, second))
                return Pair(*names)
        return operand

    def given(self, operand: Operand) -> Operand:
        found = self.operand(operand)
        assert found is not None
        return found

    def guard(self, guard: Guard | None) -> Guard | None:
        return guard and Guard(Register(guard.register.name + self.suffix), guard.negated)


class _Inliner:
    def __init__(self, module: Module, entry: Function):
        self.module = module
        given = tuple(replace(v, name=v.name + self.hiding(v)) for v in entry.parameters)
        self.made = replace(entry, registers={}, variables=[], body=[], branch_targets={}, parameters=given)
        self.slots: dict[str, Variable] = {}
        self.declared: set[str] = set()
        """The names of the variables that are not slots."""
        self.copies = 0

    def copy(self, function: Function, symbols: dict[str, str], callers: tuple[str, ...]) -> None:
        """Append one copy of the function's body, with its own names."""
        if function.error is not None:
            raise function.error
        if not callers:
            symbols = {v.name: v.name + self.hiding(v) for v in function.parameters}
        assert function.body is not None
        assert self.made.body is not None
        number = self.copies
        self.copies += 1
        names = _Names(f"@{number}" if number else "", dict(symbols))
        if len(callers) > DEEPEST:
            raise PtxError(f"more than {DEEPEST} functions call each other in a chain", function.line)
        self.declare(function, names)
        for item in function.body:
            if isinstance(item, Label):
                names.symbols[item.name] = item.name + names.suffix
        for table, targets in function.branch_targets.items():
            self.made.branch_targets[table + names.suffix] = tuple(t + names.suffix for t in targets)
            names.symbols[table] = table + names.suffix
        end = Label(f"end{names.suffix}")
        for item in function.body:
            if isinstance(item, Label):
                self.made.body.append(Label(names.symbols[item.name]))
            else:
                self.instruction(item, names, end if callers else None, (*callers, function.name))
        if callers:
            self.made.body.append(end)
        if len(self.made.body) > LONGEST:
            raise PtxError(f"kernel {self.made.name} has more than {LONGEST} instructions", function.line)

    def hiding(self, variable: Variable) -> str:
        """What is put behind the name of a kernel's variable that hides one of the module."""
        return "@0" if variable.name in self.module.variables else ""

    def declare(self, function: Function, names: _Names) -> None:
        for name, kind in function.registers.items():
            self.made.registers[name + names.suffix] = kind
        for variable in function.variables:
            unique = variable.name + (names.suffix or self.hiding(variable))
            if variable.space == "shared" and names.suffix:
                # One instance for the block, however often the function is inlined.
                unique = f"{function.name}.{variable.name}"
            names.symbols[variable.name] = unique
            if variable.space == "param":
                self.slots[unique] = variable
            elif unique not in self.declared:
                self.declared.add(unique)
                self.made.variables.append(replace(variable, name=unique))

    def instruction(
        self, item: Instruction, names: _Names, end: Label | None, callers: tuple[str, ...]
    ) -> None:
        assert self.made.body is not None
        operands = tuple(names.given(operand) for operand in item.operands)
        renamed = replace(item, operands=operands, guard=names.guard(item.guard))
        if writes_carry(item) or reads_carry(item):
            # There is one carry flag, which nobody names.
            self.made.registers[CARRY] = "pred"
        way = way_of(item)
        if way == "call":
            self.call(renamed, callers)
        elif way == "return" and end is not None:
            operands = (Symbol(end.name),)
            self.made.body.append(replace(renamed, opcode="bra", modifiers=(), operands=operands))
        else:
            self.made.body.append(renamed)

    def call(self, item: Instruction, callers: tuple[str, ...]) -> None:
        assert self.made.body is not None
        results, target, arguments = item.operands
        assert isinstance(results, Vector)
        assert isinstance(arguments, Vector)
        if not isinstance(target, Symbol):
            raise PtxError("calls through a function pointer are not supported", item.line)
        callee = self.module.functions.get(target.name)
        if target.name in callers:
            raise PtxError(f"{target.name} calls itself: recursion is not supported", item.line)
        after = Label(f"after@{self.copies}${len(self.made.body)}")
        if item.guard:
            skip = Guard(item.guard.register, not item.guard.negated)
            jump = replace(item, opcode="bra", modifiers=(), operands=(Symbol(after.name),), guard=skip)
            self.made.body.append(jump)
        if callee is not None:
            check_call(callee, item, self.made.registers, self.slots)
        if callee is None or callee.body is None:
            self.extern(item, target.name, results, arguments)
        else:
            self.pass_on(item, callee, results, arguments, callers)
        if item.guard:
            self.made.body.append(after)

    def pass_on(
        self,
        item: Instruction,
        callee: Function,
        results: Vector,
        arguments: Vector,
        callers: tuple[str, ...],
    ) -> None:
        """The callee's body, with moves before and behind it where either side uses registers."""
        assert self.made.body is not None
        suffix = f"@{self.copies}"
        slots: dict[str, str] = {}
        for declared, given in zip(callee.parameters, arguments.parts, strict=True):
            assert given is not None
            self.made.body += self.passed(item, declared, given, suffix, slots)
        behind: list[Instruction] = []
        for declared, given in zip(callee.results, results.parts, strict=True):
            behind += self.returned(item, declared, given, suffix, slots)
        self.copy(callee, slots, callers)
        self.made.body += behind

    def passed(
        self, item: Instruction, declared: Variable, given: Operand, suffix: str, slots: dict[str, str]
    ) -> list[Instruction]:
        """An argument on its way in: slot to slot needs no instruction."""
        if declared.space == "reg":
            inside = Register(declared.name + suffix)
            self.made.registers[inside.name] = declared.type
            if isinstance(given, Symbol):
                return [_moved(item, "ld", declared.type, inside, Address(given))]
            return [_copied(item, declared.type, inside, given)]
        if isinstance(given, Symbol):
            slots[declared.name] = given.name
            return []
        place = self.slot(declared, suffix, slots)
        return [_moved(item, "st", declared.type, place, given)]

    def returned(
        self,
        item: Instruction,
        declared: Variable,
        given: Operand | None,
        suffix: str,
        slots: dict[str, str],
    ) -> list[Instruction]:
        """A result on its way out."""
        if declared.space == "reg":
            inside = Register(declared.name + suffix)
            self.made.registers[inside.name] = declared.type
            if given is None:
                return []
            if isinstance(given, Symbol):
                return [_moved(item, "st", declared.type, Address(given), inside)]
            return [_copied(item, declared.type, given, inside)]
        if isinstance(given, Symbol):
            slots[declared.name] = given.name
            return []
        place = self.slot(declared, suffix, slots)
        return [] if given is None else [_moved(item, "ld", declared.type, given, place)]

    def slot(self, declared: Variable, suffix: str, slots: dict[str, str]) -> Address:
        """A slot that nobody declared, for an argument or a result that the caller has in a register."""
        name = f"{declared.name}{suffix}@slot"
        self.slots[name] = replace(declared, name=name)
        slots[declared.name] = name
        return Address(Symbol(name))

    def extern(self, item: Instruction, name: str, results: Vector, arguments: Vector) -> None:
        """Read the slots into registers, call, write the results back into slots."""
        assert self.made.body is not None

        def register_of(slot: Operand | None) -> tuple[Register, Symbol, str]:
            size = self.slots[slot.name].size if isinstance(slot, Symbol) and slot.name in self.slots else 0
            if not isinstance(slot, Symbol) or size not in (1, 2, 4, 8):
                raise PtxError(f"function {name} is not supported by the virtual device", item.line)
            register = Register(f"{slot.name}@value{len(self.made.registers)}")
            self.made.registers[register.name] = f"b{8 * size}"
            return register, slot, f"b{8 * size}"

        def move(opcode: str, kind: str, *operands: Operand) -> Instruction:
            return replace(item, opcode=opcode, modifiers=("param", kind), operands=operands, guard=None)

        taken, given = [], []
        for slot in arguments.parts:
            register, symbol, kind = register_of(slot)
            self.made.body.append(move("ld", kind, register, Address(symbol)))
            taken.append(register)
        stores = []
        for slot in results.parts:
            register, symbol, kind = register_of(slot)
            stores.append(move("st", kind, Address(symbol), register))
            given.append(register)
        operands = (Symbol(name), Vector(tuple(given)), Vector(tuple(taken)))
        self.made.body.append(replace(item, opcode="extcall", modifiers=(), operands=operands, guard=None))
        self.made.body += stores


def _moved(item: Instruction, opcode: str, kind: str, *operands: Operand) -> Instruction:
    """A load or a store of a slot."""
    return replace(item, opcode=opcode, modifiers=("param", kind), operands=operands, guard=None)


def _copied(item: Instruction, kind: str, to: Operand, given: Operand) -> Instruction:
    """A move from one register to another."""
    type_ = "pred" if kind == "pred" else f"b{8 * max(SIZES[kind], 2)}"
    return replace(item, opcode="mov", modifiers=(type_,), operands=(to, given), guard=None)


def _resolve(function: Function, slots: dict[str, Variable]) -> None:
    """Put registers or local memory in the place of all slots, in one pass over the body for each step."""
    assert function.body is not None
    accesses: dict[str, list[Instruction]] = {name: [] for name in slots}
    for item in function.body:
        name = _slot_of(item) if isinstance(item, Instruction) else None
        if name in accesses and isinstance(item, Instruction):
            accesses[name].append(item)
    moves: dict[int, list[Instruction]] = {}
    for name, declared in slots.items():
        _Slot(name, declared).resolve(function, accesses[name], moves)
    function.body = [new for item in function.body for new in moves.get(id(item), (item,))]


def _slot_of(item: Instruction) -> str | None:
    """The name of the `.param` variable that an instruction reads or writes, if it does."""
    if item.modifiers[:1] != ("param",) or access_by(item) not in ("load", "store"):
        return None
    _, place = _value_and_place(item)
    return place.base.name if isinstance(place, Address) and isinstance(place.base, Symbol) else None


def _value_and_place(item: Instruction) -> tuple[Operand, Operand]:
    """What a load or a store moves, and where to or from."""
    first, second = item.operands
    return (first, second) if access_by(item) == "load" else (second, first)


class _Slot:
    """One `.param` variable of a call sequence, on its way to registers or to local memory."""

    def __init__(self, name: str, declared: Variable):
        self.name = name
        self.declared = declared

    def resolve(
        self, function: Function, accesses: list[Instruction], moves: dict[int, list[Instruction]]
    ) -> None:
        """Declare what stands for the slot; what replaces an access goes into `moves`, by its id."""
        slices = {piece for item in accesses for piece in self.slices(item)}
        for item in accesses:
            if any(at < 0 or at + size > self.declared.size for at, size in self.slices(item)):
                raise PtxError(f"{item.name} leaves {self.declared.name}", item.line)
        if self.disjoint(slices):
            for offset, size in slices:
                function.registers[self.register(offset)] = f"b{8 * max(size, 2)}"
            moves |= {id(item): self.as_moves(function, item) for item in accesses}
        else:
            function.variables.append(replace(self.declared, name=self.name, space="local"))
            for item in accesses:
                item.modifiers = ("local", *item.modifiers[1:])

    def address(self, item: Instruction) -> Address | None:
        _, place = _value_and_place(item)
        if isinstance(place, Address) and isinstance(place.base, Symbol) and place.base.name == self.name:
            return place
        return None

    def slices(self, item: Instruction) -> Iterable[tuple[int, int]]:
        address = self.address(item)
        assert address is not None
        assert isinstance(address.base, Symbol)
        size = SIZES[item.type]
        value, _ = _value_and_place(item)
        count = len(value.parts) if isinstance(value, Vector) else 1
        start = address.offset + address.base.offset
        return [(start + index * size, size) for index in range(count)]

    @staticmethod
    def disjoint(slices: set[tuple[int, int]]) -> bool:
        ordered = sorted(slices)
        return all(a + size <= b for (a, size), (b, _) in pairwise(ordered))

    def register(self, offset: int) -> str:
        return f"{self.name}@{offset}"

    def as_moves(self, function: Function, item: Instruction) -> list[Instruction]:
        value, _ = _value_and_place(item)
        parts = value.parts if isinstance(value, Vector) else (value,)
        moves = []
        for part, (offset, size) in zip(parts, self.slices(item), strict=True):
            slot = Register(self.register(offset))
            if part is None:
                continue
            if access_by(item) == "store":
                modifiers: tuple[str, ...] = (f"b{8 * max(size, 2)}",)
                moves.append(replace(item, opcode="mov", modifiers=modifiers, operands=(slot, part)))
                continue
            assert isinstance(part, Register)
            wide = SIZES[function.registers[part.name]]
            if wide == max(size, 2) and size > 1:
                moves.append(replace(item, opcode="mov", modifiers=(f"b{8 * wide}",), operands=(part, slot)))
            else:
                sign = "s" if item.type[0] == "s" else "u"
                modifiers = (f"{sign}{8 * wide}", f"{sign}{8 * size}")
                moves.append(replace(item, opcode="cvt", modifiers=modifiers, operands=(part, slot)))
        return moves
