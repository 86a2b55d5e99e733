"""Indices of 64 bits that the compiler has cut to 32, as addresses of shared memory are: made whole again.

`s[i]` with a `long long i` becomes, in NVRTC's PTX, 32-bit arithmetic on the lower half of i, since pointers
to shared memory have 32 bits. An index of 2^30 then wraps and would pass every check.

Here the share that the kernel's 64-bit parameters have in an address is carried along in 64 bits. The rest
of the address, all that is left when that share is taken away modulo 2^32, must be a signed number of 32
bits; the access uses the sum of both. Where nothing was lost that is the address as it was, and where
something was, the check sees it.

The compiler keeps only the bits that it needs: constants, masks and extensions may be wrong above them. So
nothing counts but parameters and what is linear in them: sums, multiples, left shifts, moves, choices. A
register that depends on a parameter in any other way (`(unsigned)key % 100`, `(i + t) % 64`) is not
followed, nor is any sum with one, or with what is not certainly small (`nnkit.vm.prepare.small`): nobody
knows the upper bits that it had, and `s[time[i] - start]` is right though both are large. Nor is what is
cut but serves for something besides addresses, since a program may mean to cut.
"""

from collections.abc import Callable, Container, Iterator
from dataclasses import replace

from nnkit.ptx.ir import (
    Address,
    Function,
    Immediate,
    Instruction,
    Label,
    Operand,
    Register,
    Special,
    Symbol,
    Vector,
)
from nnkit.vm.forms.form import Meaning
from nnkit.vm.forms.registers import destinations, names_in, sources
from nnkit.vm.forms.table import access_by, meaning_of, space_of
from nnkit.vm.prepare.small import LARGEST, Small

_WINDOWS = {"shared", "local", "param"}
_TYPES = {f"{kind}{bits}" for kind in "bsu" for bits in (32, 64)}
_FACTORS = {"product", "product and sum", "left shift"}
"""What multiplies its first two operands, or the first by a power of two."""

_TERMS: dict[Meaning, tuple[int, ...]] = {
    "copy": (1,),
    "choice": (1, 2),
    "sum": (1, 2),
    "difference": (1, 2),
    "negation": (1,),
    "product and sum": (3,),
    "or": (1, 2),
}
"""Operands that count 1 or -1 times. One of an `or`'s may be a parameter's, the other adds bits to it."""


def restore(function: Function) -> Function:
    """The same kernel, with whole addresses where the compiler has cut them."""
    return _Shares(function).rewritten()


class _Shares:
    """The registers in which a 64-bit parameter has a known share, from the parameters to addresses."""

    def __init__(self, function: Function):
        self.function = function
        self.wide = {p.name for p in function.parameters if p.size == 8 and p.type[1:] == "64"}
        self.definitions: dict[str, list[Instruction]] = {}
        self.readers: dict[str, list[Instruction]] = {}
        self.items = [item for item in function.body or [] if isinstance(item, Instruction)]
        for item in self.items:
            for name in destinations(item):
                self.definitions.setdefault(name, []).append(item)
            for name in sources(item):
                self.readers.setdefault(name, []).append(item)
        self.bases: set[str] = set()
        """The 32-bit registers whose addresses are to be whole."""
        self.needed: set[str] = set()
        """Those whose share must be known for that."""
        if any(self._cuts(item) for item in self.items):
            self._find()

    def _cuts(self, item: Instruction) -> bool:
        """Whether the lower half of 64 bits is taken."""
        if access_by(item) == "load":
            return item.type[1:] == "32" and self._reads_wide(item)
        return _is_cut(item)

    def _reads_wide(self, item: Instruction) -> bool:
        """Whether it loads a 64-bit parameter, or the lower half of one, into one register."""
        if access_by(item) != "load" or space_of(item) != "param":
            return False
        target, place = item.operands
        if not isinstance(target, Register):
            return False
        if item.type[1:] not in ("32", "64") or not isinstance(place, Address) or place.offset:
            return False
        return isinstance(place.base, Symbol) and place.base.name in self.wide and not place.base.offset

    def _find(self) -> None:
        roots = [item for item in self.items if self._reads_wide(item)]
        # All that depends on a parameter in whatever way, except through memory.
        self.dependent: set[str] = set()
        work = [name for item in roots for name in destinations(item)]
        while work:
            name = work.pop()
            if name not in self.dependent:
                self.dependent.add(name)
                for item in self.readers.get(name, ()):
                    work += () if access_by(item) else destinations(item)
        self.small = Small(self.definitions)
        # Of these the largest set that is linear, ...
        self.linear = set(self.dependent)
        work = list(self.linear)
        while work:
            name = work.pop()
            if name in self.linear and not all(
                self._is_linear(item, name) for item in self.definitions[name]
            ):
                self.linear.discard(name)
                work += [n for item in self.readers.get(name, ()) for n in destinations(item)]
        # ... and of those with 32 bits the largest set that serves for addresses alone.
        short = {name for name in self.linear if self.function.registers[name][1:] == "32"}
        pure = set(short)
        work = list(pure)
        while work:
            name = work.pop()
            if name in pure and not all(
                self._serves(item, name, pure) for item in self.readers.get(name, ())
            ):
                pure.discard(name)
                work += [n for item in self.definitions[name] for n in sources(item)]
        for item in self.items:
            address = _address(item)
            if address is None or not isinstance(address.base, Register) or abs(address.offset) >= LARGEST:
                continue
            if address.base.name in pure:
                self.bases.add(address.base.name)
        self._need(short - pure)

    def _need(self, impure: set[str]) -> None:
        """What the bases are computed from; a base that needs an impure register is none."""
        for base in sorted(self.bases):
            found: set[str] = set()
            work = [base]
            while work:
                name = work.pop()
                if name not in found:
                    found.add(name)
                    read = {n for item in self.definitions[name] for n in sources(item)}
                    work += read & self.linear
            if found & impure:
                self.bases.discard(base)
            else:
                self.needed |= found

    def _is_linear(self, item: Instruction, name: str) -> bool:
        """Whether this definition gives a register a known share of the parameters."""
        if self._reads_wide(item):
            return True
        if not self.dependent.intersection(sources(item)):
            return self.small.makes(item)
        if _is_cut(item):
            return _target(item) == name and _name(item.operands[1]) in self.linear
        if not _is_sum_or_product(item):
            return False
        meaning = meaning_of(item)
        factors = item.operands[1:3] if meaning in _FACTORS else ()
        if any(_name(o) in self.dependent for o in factors):
            others = [o for o in factors if _name(o) not in self.dependent]
            if len(others) != 1 or not self._is_factor(others[0], meaning == "left shift"):
                return False
        elif factors and not self.small.is_product(item):
            return False
        terms = [item.operands[index] for index in _TERMS.get(meaning, ())]
        if meaning == "or" and all(_name(o) in self.dependent for o in terms):
            return False
        known = {_name(o) for o in (*factors, *terms)} & self.dependent <= self.linear
        known &= all(self.small.holds(o) for o in terms if _name(o) not in self.dependent)
        return known and self.function.registers[name][1:] == item.type[1:]

    def _is_factor(self, operand: Operand, shift: bool) -> bool:
        """Whether a factor is known exactly: a small constant, or 32 bits that come from outside."""
        if isinstance(operand, Immediate):
            return 0 <= operand.value < 32 if shift else -LARGEST < _signed(operand.value) < LARGEST
        return not shift and self._is_given(_name(operand))

    def _is_given(self, name: str, depth: int = 3) -> bool:
        def is_given(item: Instruction) -> bool:
            source = item.operands[-1]
            meaning = meaning_of(item)
            if meaning == "conversion" and item.modifiers == ("s64", "s32") and depth:
                return self._is_given(_name(source), depth - 1)
            if meaning == "copy":
                return isinstance(source, Special)
            is_parameter = access_by(item) == "load" and space_of(item) == "param"
            return is_parameter and name not in self.dependent

        return name in self.definitions and all(map(is_given, self.definitions[name]))

    def _serves(self, item: Instruction, name: str, pure: Container[str | None]) -> bool:
        """Whether an instruction uses a register for nothing but an address."""
        if item.guard and item.guard.register.name == name:
            return False
        address = _address(item)
        if address is None:
            return _is_sum_or_product(item) and _target(item) in pure
        others = tuple(o for o in item.operands if o is not address)
        return name not in names_in(others)

    # -- the kernel, rewritten ------------------------------------------------------------------------------

    def rewritten(self) -> Function:
        """The kernel with the shares beside the registers."""
        if not self.bases:
            return self.function
        registers = dict(self.function.registers)
        for name in self.needed:
            registers[_share(name)] = "b64"
        for name in self.bases:
            registers |= {_whole(name): "b64", _rest(name): "b32"}
        body: list[Instruction | Label] = []
        for item in self.function.body or []:
            body += [item] if isinstance(item, Label) else self._with_shares(item, registers)
        return replace(self.function, registers=registers, body=body)

    def _with_shares(self, item: Instruction, registers: dict[str, str]) -> Iterator[Instruction]:
        for name in destinations(item):
            if name in self.needed:
                # First: an operand may be the target too.
                yield from self._share_of(item, name, registers)
        address = _address(item)
        if address is not None and isinstance(address.base, Register) and address.base.name in self.bases:
            better = Address(Register(_whole(address.base.name)), address.offset)
            yield replace(item, operands=tuple(better if o is address else o for o in item.operands))
        else:
            yield item
        for name in destinations(item):
            if name in self.bases:
                share, whole, rest = Register(_share(name)), Register(_whole(name)), Register(_rest(name))
                yield _made(item, "cvt.u32.u64", rest, share)
                yield _made(item, "sub.s32", rest, Register(name), rest)
                yield _made(item, "cvt.s64.s32", whole, rest)
                yield _made(item, "add.s64", whole, whole, share)

    def _share_of(self, item: Instruction, name: str, registers: dict[str, str]) -> Iterator[Instruction]:
        """The share that a register gets by a definition."""
        target = Register(_share(name))

        def term(index: int) -> Operand:
            given = _name(item.operands[index])
            return Register(_share(given)) if given in self.linear else Immediate(0)

        meaning = meaning_of(item)
        if self._reads_wide(item):
            yield _made(item, "ld.param.b64", target, item.operands[1])
        elif not self.dependent.intersection(sources(item)):
            yield _made(item, "mov.b64", target, Immediate(0))
        elif _is_cut(item) or meaning == "copy":
            yield _made(item, "mov.b64", target, term(1))
        elif meaning == "choice":
            yield _made(item, "selp.b64", target, term(1), term(2), item.operands[3])
        elif meaning == "negation":
            yield _made(item, "sub.s64", target, Immediate(0), term(1))
        elif meaning in _FACTORS:
            yield from self._multiple_of(item, target, term, registers)
        else:
            name = "sub.s64" if meaning == "difference" else "add.s64"
            yield _made(item, name, target, term(1), term(2))

    def _multiple_of(
        self,
        item: Instruction,
        target: Register,
        term: Callable[[int], Operand],
        registers: dict[str, str],
    ) -> Iterator[Instruction]:
        """The share of a product, plus that of a third operand."""
        meaning = meaning_of(item)
        last = term(3) if meaning == "product and sum" else Immediate(0)
        shares = [index for index in (1, 2) if _name(item.operands[index]) in self.linear]
        if not shares:
            yield _made(item, "mov.b64", target, last)
            return
        factor = item.operands[3 - shares[0]]
        if meaning == "left shift":
            yield _made(item, "shl.b64", target, term(1), factor)
            return
        if isinstance(factor, Immediate):
            factor = Immediate(_signed(factor.value))
        elif registers[_name(factor)][1:] == "32":
            wide = Register(f"{target.name}.{len(registers)}")
            registers[wide.name] = "b64"
            yield _made(item, "cvt.s64.s32", wide, factor)
            factor = wide
        yield _made(item, "mad.lo.s64", target, term(shares[0]), factor, last)


def _share(name: str) -> str:
    return f"{name}.share"


def _whole(name: str) -> str:
    return f"{name}.whole"


def _rest(name: str) -> str:
    return f"{name}.rest"


def _made(item: Instruction, name: str, *operands: Operand) -> Instruction:
    """An instruction under the same guard and at the same place as another."""
    opcode, *modifiers = name.split(".")
    return replace(item, opcode=opcode, modifiers=tuple(modifiers), operands=operands)


def _signed(value: int) -> int:
    """A constant of 32 or 64 bits that may be written without its sign."""
    for bits in (32, 64):
        if 1 << (bits - 1) <= value < 1 << bits and value > (1 << bits) - LARGEST:
            return value - (1 << bits)
    return value


def _name(operand: Operand) -> str:
    return operand.name if isinstance(operand, Register) else ""


def _target(item: Instruction) -> str | None:
    """The register that an instruction writes, or the lower one of two."""
    first = item.operands[0] if item.operands else None
    if isinstance(first, Vector) and meaning_of(item) == "copy":
        first = first.parts[0]
    return first.name if isinstance(first, Register) and first.name in destinations(item) else None


def _is_cut(item: Instruction) -> bool:
    """Whether the lower half of a register of 64 bits is taken."""
    meaning = meaning_of(item)
    if meaning == "copy":
        target = item.operands[0]
        return item.type == "b64" and isinstance(target, Vector) and len(target.parts) == 2
    return (
        meaning == "conversion" and _TYPES.issuperset(m := item.modifiers) and m[0][1:] == "32" != m[-1][1:]
    )


def _is_sum_or_product(item: Instruction) -> bool:
    """Whether it is one of the operations that commute with cutting, on plain integers."""
    meaning = meaning_of(item)
    if meaning not in _FACTORS and meaning not in _TERMS:
        return False
    if not {"lo", *_TYPES}.issuperset(item.modifiers):
        return False
    return all(isinstance(o, Register | Immediate | Symbol) for o in item.operands)


def _address(item: Instruction) -> Address | None:
    """The address of an access to a window."""
    if not access_by(item) or space_of(item) not in _WINDOWS:
        return None
    return next((o for o in item.operands if isinstance(o, Address)), None)
