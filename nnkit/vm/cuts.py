"""Indices of 64 bits that the compiler has cut to 32, as addresses of shared memory are: made whole again.

`s[i]` with a `long long i` becomes, in NVRTC's PTX, 32-bit arithmetic on the lower half of i, since pointers
to shared memory have 32 bits. An index of 2^30 then wraps and would pass every check. Here the arithmetic
from such a cut to an address is repeated in 64 bits, and the access uses that: where nothing was lost both
are the same, and where something was, the check sees it. All operations taken along commute with cutting:
sums, products, left shifts, bitwise operations, moves, choices.

A program may also mean to cut (`(unsigned)key % 100`, the lower half of a packed pair). So a cut counts only
where what was cut is an index: made of parameters, widened integers and arithmetic, never loaded, never
shifted left by 32 or more; and where the cut value serves for nothing but addresses. What is cut by a load
(`s[table[t]]` with a table of 64-bit integers: the compiler loads the lower half) cannot be seen.
"""

from collections.abc import Container, Iterator
from dataclasses import replace

from nnkit.ptx import cfg
from nnkit.ptx.ir import (
    SIZES,
    Address,
    Function,
    Immediate,
    Instruction,
    Label,
    Operand,
    Register,
    Symbol,
    Vector,
)

_COMMUTING = {"mov", "add", "sub", "neg", "shl", "mul", "mad", "selp", "and", "or", "xor", "not"}
_ARITHMETIC = _COMMUTING - {"or", "xor", "not"} | {"shr", "div", "rem", "min", "max"}
_WINDOWS = {"shared", "local", "param"}
_MODIFIERS = {"lo", *(f"{kind}{bits}" for kind in "bsu" for bits in (32, 64))}


def restore(function: Function) -> Function:
    """The same kernel, with every access whose address is known in 64 bits using those."""
    return _Slices(function).rewritten()


class _Slices:
    """The registers between cuts and addresses, and their counterparts of 64 bits."""

    def __init__(self, function: Function):
        self.function = function
        self.items = [item for item in function.body or [] if isinstance(item, Instruction)]
        self.wide_parameters = {p.name for p in function.parameters if p.size == 8 and p.type[1:] == "64"}
        self.definitions: dict[str, list[Instruction]] = {}
        self.readers: dict[str, list[Instruction]] = {}
        for item in self.items:
            for name in cfg.destinations(item):
                self.definitions.setdefault(name, []).append(item)
            for name in cfg.sources(item):
                self.readers.setdefault(name, []).append(item)
        self.whole: set[str] = set()
        """The registers that get a counterpart."""
        self.cuts: dict[int, Instruction] = {}
        cuts = [(item, source) for item in self.items if (source := self._uncut(item)) is not None]
        if cuts:
            indices = self._indices()
            self.cuts = {
                id(item): item
                for item, source in cuts
                if not isinstance(source, Register) or source.name in indices
            }
            self._find()

    def _uncut(self, item: Instruction) -> Operand | None:
        """What an instruction cuts to 32 bits: a register, or a parameter's address; None if it does not."""
        source = item.operands[-1] if item.operands else None
        if isinstance(source, Address):
            if item.opcode != "ld" or "param" not in item.modifiers or item.type[1:] != "32":
                return None
            place = source.base
            is_whole = isinstance(place, Symbol) and place.name in self.wide_parameters and not place.offset
            return source if is_whole and not source.offset else None
        is_cut = item.opcode == "cvt" and [m[1:] for m in item.modifiers] == ["32", "64"]
        if item.opcode == "mov" and item.type == "b64":
            is_cut = isinstance(item.operands[0], Vector)
        return source if is_cut and isinstance(source, Register) else None

    def _indices(self) -> set[str]:
        """The registers of 64 bits that are made of parameters, widened integers and arithmetic alone."""
        found = {name for name in self.definitions if self.function.registers.get(name, "")[1:] == "64"}
        work = list(found)
        while work:
            name = work.pop()
            if name in found and not all(_makes_index(item, found) for item in self.definitions[name]):
                found.discard(name)
                work += [n for item in self.readers.get(name, ()) for n in cfg.destinations(item)]
        return found

    def _find(self) -> None:
        # The largest set of registers that serve for addresses alone: drop what serves for anything else.
        pure = {name for name, type_ in self.function.registers.items() if type_[1:] == "32"}
        work = list(pure)
        while work:
            name = work.pop()
            if name in pure and not all(_serves(item, name, pure) for item in self.readers.get(name, ())):
                pure.discard(name)
                work += [n for item in self.definitions.get(name, ()) for n in cfg.sources(item)]
        forward = [target for target in map(_target, self.cuts.values()) if target in pure]
        while forward:
            name = forward.pop()
            if name not in self.whole:
                self.whole.add(name)
                forward += [
                    target
                    for item in self.readers.get(name, ())
                    if _commutes(item) and (target := _target(item))
                ]

    # -- the kernel, rewritten ------------------------------------------------------------------------------

    def rewritten(self) -> Function:
        if not self.whole:
            return self.function
        registers = self.function.registers | {_wide(name): "b64" for name in self.whole}
        body: list[Instruction | Label] = []
        for item in self.function.body or []:
            body += [item] if isinstance(item, Label) else self._with_whole(item, registers)
        return replace(self.function, registers=registers, body=body)

    def _with_whole(self, item: Instruction, registers: dict[str, str]) -> Iterator[Instruction]:
        target = _target(item)
        if target in self.whole and id(item) in self.cuts:
            is_load = item.opcode == "ld"
            source = item.operands[-1]
            # First: the target may be a part of what is cut, or an operand.
            yield replace(
                item,
                opcode="ld" if is_load else "mov",
                modifiers=("param", "b64") if is_load else ("b64",),
                operands=(Register(_wide(target)), source),
            )
        elif target in self.whole and _commutes(item):
            yield from self._repeated(item, target, registers)
        else:
            target = None
        address = _address(item)
        if address is not None and isinstance(address.base, Register) and address.base.name in self.whole:
            better = Address(Register(_wide(address.base.name)), address.offset)
            yield replace(item, operands=tuple(better if o is address else o for o in item.operands))
        else:
            yield item
        for name in cfg.destinations(item):
            if name in self.whole and name != target:
                yield _extended(item, _wide(name), Register(name))

    def _repeated(self, item: Instruction, target: str, registers: dict[str, str]) -> Iterator[Instruction]:
        """The operation in 64 bits; operands that have no counterpart are taken as signed numbers."""
        operands: list[Operand] = [Register(_wide(target))]
        for index, operand in enumerate(item.operands[1:], 1):
            if (item.opcode, index) in (("shl", 2), ("selp", 3)):
                operands.append(operand)
            elif isinstance(operand, Immediate):
                operands.append(Immediate((operand.value + (1 << 31)) % (1 << 32) - (1 << 31)))
            elif isinstance(operand, Register) and operand.name in self.whole:
                operands.append(Register(_wide(operand.name)))
            else:
                made = f"{_wide(target)}.{len(registers)}"
                registers[made] = "b64"
                yield _extended(item, made, operand)
                operands.append(Register(made))
        kind = "s64" if item.opcode in ("add", "sub", "neg", "mul", "mad") else "b64"
        modifiers = tuple(kind if m in SIZES else m for m in item.modifiers)
        yield replace(item, modifiers=modifiers, operands=tuple(operands))


def _makes_index(item: Instruction, indices: set[str]) -> bool:
    if item.opcode == "ld":
        return "param" in item.modifiers
    if item.opcode == "cvt":
        return item.modifiers[-1][1:] != "64" or item.modifiers[-1] == "f64"
    if "wide" in item.modifiers:
        return item.opcode == "mul" or _name(item.operands[3]) in indices
    if item.opcode not in _ARITHMETIC or item.type[1:] != "64" or "hi" in item.modifiers:
        return False
    if item.opcode == "shl" and _by(item) >= 32:
        return False
    given = item.operands[1 : 2 if item.opcode in ("shl", "shr") else 3 if item.opcode == "selp" else None]
    return all(isinstance(operand, Immediate) or _name(operand) in indices for operand in given)


def _name(operand: Operand) -> str:
    return operand.name if isinstance(operand, Register) else ""


def _by(item: Instruction) -> int:
    by = item.operands[2]
    return by.value if isinstance(by, Immediate) else 64


def _wide(name: str) -> str:
    return f"{name}.whole"


def _extended(item: Instruction, target: str, source: Operand) -> Instruction:
    """A value of 32 bits as a signed number of 64, under the same guard and at the same place."""
    if isinstance(source, Symbol):
        return replace(item, opcode="mov", modifiers=("b64",), operands=(Register(target), source))
    return replace(item, opcode="cvt", modifiers=("s64", "s32"), operands=(Register(target), source))


def _address(item: Instruction) -> Address | None:
    """The address of an access to a window."""
    if item.opcode not in ("ld", "ldu", "st", "atom", "red"):
        return None
    if not _WINDOWS.intersection(m.partition("::")[0] for m in item.modifiers):
        return None
    return next((o for o in item.operands if isinstance(o, Address)), None)


def _target(item: Instruction) -> str | None:
    """The one register that an instruction writes."""
    first = item.operands[0] if item.operands else None
    if isinstance(first, Vector) and item.opcode == "mov":
        first = first.parts[0]
    return first.name if isinstance(first, Register) and first.name in cfg.destinations(item) else None


def _commutes(item: Instruction) -> bool:
    """Whether the operation on cut values gives the cut result."""
    if item.opcode not in _COMMUTING or not _MODIFIERS.issuperset(item.modifiers):
        return False
    if item.type[1:] != "32" or not all(map(_is_plain, item.operands)):
        return False
    return item.opcode != "shl" or _by(item) < 32


def _is_plain(operand: Operand) -> bool:
    return isinstance(operand, Register | Symbol) or (
        isinstance(operand, Immediate) and not operand.float_bits
    )


def _serves(item: Instruction, name: str, pure: Container[str | None]) -> bool:
    """Whether an instruction uses a register for nothing but an address."""
    if item.guard and item.guard.register.name == name:
        return False
    address = _address(item)
    if address is not None:
        others = [o for o in item.operands if o is not address]
        return name not in cfg.sources(replace(item, opcode="red", operands=tuple(others), guard=None))
    return _commutes(item) and _target(item) in pure
