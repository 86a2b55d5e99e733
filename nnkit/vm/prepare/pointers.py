"""What a kernel takes the memory behind its pointers for, where its code leaves no doubt.

A flow analysis over a kernel without calls. Registers that hold an address are followed from the parameter to
every access; the order of instructions plays no part, so that a register which held another pointer before
counts as both. Values are followed through copies, for compilers differ: some load `.f32`, others load `.b32`
and add `.f32`. Wherever an address gets out of sight, nothing is said of its parameter.
"""

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass

from nnkit.ptx.ir import (
    SIZES,
    Address,
    Function,
    Immediate,
    Instruction,
    Operand,
    Register,
    Special,
    Symbol,
    Vector,
)
from nnkit.vm.forms.registers import destinations, sources, writes_carry
from nnkit.vm.forms.table import access_by, form_of, meaning_of, space_of

_NOT_GLOBAL = frozenset(("shared", "local", "param", "const"))
_FLOATS = frozenset(("f32", "f64"))
_COPIES = frozenset(("copy", "choice", "exchange"))
_SUMS_OF_PRODUCTS = frozenset(("product and sum", "wide product and sum", "high product and sum"))
_NUMBERS = _SUMS_OF_PRODUCTS | {
    *("sum", "difference", "product", "wide product", "high product", "quotient", "remainder"),
    *("negation", "magnitude", "extreme", "arithmetic"),
}
"""What is done with numbers; bits are shifted and masked, hashed and put together."""

# An integer that was made of an address, to compare it or to look at its low bits, is no address any more.
_INTEGERS = frozenset(
    (
        *("product", "wide product", "high product", "quotient", "remainder", "negation", "magnitude"),
        *("left shift", "right shift", "not", "count", "comparison", "test", "conversion"),
    )
)
_UNIONS = frozenset(("copy", "choice", "and", "or", "extreme"))

FLOAT, INTEGER, EQUAL, COPY, CONSTANT, OTHER = "float", "integer", "equal", "copy", "constant", "other"
"""What an access says of the element: it is a float for certain; an integer of its own width; it is compared
with another for being equal; it is only moved; it is overwritten with a constant; anything else.
"""
_BESIDE = {
    FLOAT: frozenset((FLOAT, COPY, CONSTANT)),
    INTEGER: frozenset((INTEGER, EQUAL, COPY, CONSTANT)),
    COPY: frozenset((COPY, CONSTANT)),
}
"""What other accesses may say where one says so much."""

HALVES, HALF_FLOAT = "halves", "half float"
"""Of 64 bits: they are two times 32; of which one is a float for certain."""


@dataclass(frozen=True)
class Element:
    """What stands behind a pointer: elements of `size` bytes: 2, 4 or 8.

    `kind` is FLOAT or INTEGER where instructions of that kind work on them; COPY if they are only copied,
    which suits any type of that size.
    """

    size: int
    kind: str


def elements(function: Function) -> dict[str, Element]:
    """The parameters behind which numbers of one kind and size stand, or what is only copied, by name.

    `function` is a kernel after inlining. One access of another size, or one that takes a value for something
    else, for bits perhaps, and the parameter is not listed.
    """
    return _Analysis(function).result()


class _Analysis:
    def __init__(self, function: Function):
        self.items = [item for item in function.body or [] if isinstance(item, Instruction)]
        self.parameters = {p.name for p in function.parameters if p.size == 8 and p.type in ("u64", "b64")}
        self.origins: dict[str, frozenset[tuple[str, bool]]] = {}
        """Register -> the parameters its address may come from, and whether a cvta said that it is one."""
        self.lost: set[str] = set()
        """Parameters whose address went where it cannot be followed."""
        self.readers: dict[str, list[Instruction]] = defaultdict(list)
        self.writers: dict[str, list[Instruction]] = defaultdict(list)
        for item in self.items:
            for name in sources(item):
                self.readers[name].append(item)
            for name in destinations(item):
                self.writers[name].append(item)

    def result(self) -> dict[str, Element]:
        waiting = [item for item in self.items if self.parameter(item)]
        while waiting:
            item = waiting.pop()
            found = self.carried(item)
            for name in destinations(item) if found else ():
                known = self.origins.get(name, frozenset())
                if not found <= known:
                    self.origins[name] = known | found
                    waiting += self.readers[name]
        seen: dict[str, set[tuple[int, str, bool]]] = defaultdict(set)
        for item in self.items:
            for name, what in self.accesses(item):
                seen[name].add(what)
        made: dict[str, Element] = {}
        for name, uses in seen.items():
            # At least once through this parameter and no other.
            alone = {kind for _, kind, only in uses if only}
            kinds = {kind for _, kind, _ in uses}
            kind = next((kind for kind in (FLOAT, INTEGER) if kind in kinds), COPY)
            # Numbers may be copied by twos, too.
            sizes = {size for size, use, _ in uses if use == kind} or {size for size, _, _ in uses}
            whole = all(size % min(sizes) == 0 for size, _, _ in uses) and kinds <= _BESIDE[kind]
            if name not in self.lost and len(sizes) == 1 and whole and alone & {kind, COPY}:
                made[name] = Element(sizes.pop(), kind if kind in alone else COPY)
        return made

    # -- addresses ------------------------------------------------------------------------------------------

    def parameter(self, item: Instruction) -> str:
        """The pointer parameter that an instruction loads, or ""."""
        if access_by(item) != "load" or space_of(item) != "param":
            return ""
        place = item.operands[-1]
        if isinstance(place, Address) and isinstance(place.base, Symbol):
            name = place.base.name
            if name in self.parameters and not place.offset and not place.base.offset:
                return name
        return ""

    def of(self, operands: Iterable[Operand | None]) -> frozenset[tuple[str, bool]]:
        found: frozenset[tuple[str, bool]] = frozenset()
        for operand in operands:
            if isinstance(operand, Register):
                found |= self.origins.get(operand.name, frozenset())
            elif isinstance(operand, Vector):
                found |= self.of(operand.parts)
        return found

    def carried(self, item: Instruction) -> frozenset[tuple[str, bool]]:
        """Where the address in an instruction's result comes from; notes what is lost."""
        nothing: frozenset[tuple[str, bool]] = frozenset()
        if name := self.parameter(item):
            return frozenset({(name, False)})
        meaning = meaning_of(item)
        if meaning in _INTEGERS or _is_hint(item):
            return nothing
        if access_by(item):
            self.lose(self.of(item.operands))
            return nothing
        given = item.operands[1:]
        if any(isinstance(operand, Vector) for operand in item.operands):
            # Halves of an address.
            self.lose(self.of(item.operands))
            return nothing
        if meaning == "address":
            return frozenset((name, True) for name, _ in self.of(given))
        if meaning == "sum":
            return _bases(self.of(given))
        if meaning == "difference":
            return nothing if self.of(given[1:]) else self.of(given[:1])
        if meaning in _SUMS_OF_PRODUCTS:
            return self.of(given[2:])
        if meaning in _UNIONS:
            return self.of(given)
        self.lose(self.of(item.operands))
        return nothing

    def lose(self, origins: frozenset[tuple[str, bool]]) -> None:
        self.lost |= {name for name, _ in origins}

    # -- accesses -------------------------------------------------------------------------------------------

    def accesses(self, item: Instruction) -> list[tuple[str, tuple[int, str, bool]]]:
        """For every parameter that an instruction may access: size, kind, and whether it is the only one."""
        places = [operand for operand in item.operands if isinstance(operand, Address)]
        if not places or not isinstance(places[0].base, Register) or _is_hint(item):
            return []
        origins = _bases(self.of([places[0].base]))
        if not access_by(item):
            self.lose(origins)
            return []
        if not origins or space_of(item) in _NOT_GLOBAL:
            return []
        names = {name for name, _ in origins}
        what = (*self.size_and_kind(item), len(names) == 1)
        return [(name, what) for name in names]

    def size_and_kind(self, item: Instruction) -> tuple[int, str]:
        """What one access says of the element."""
        size = SIZES.get(item.type, 0)
        if size not in (2, 4, 8):
            return size, OTHER
        access = access_by(item)
        if access == "update":
            return size, _kind(item)
        value = item.operands[1 if access == "store" else 0]
        kinds: set[str] = set()
        for part in value.parts if isinstance(value, Vector) else (value,):
            if isinstance(part, Register):
                kinds |= self.makers_of(part.name) if access == "store" else self.uses_of(part.name)
            elif part is not None:
                kinds.add(CONSTANT if isinstance(part, Immediate) else OTHER)
        if HALVES in kinds and not kinds & {OTHER, FLOAT, INTEGER, EQUAL}:
            return 4, FLOAT if HALF_FLOAT in kinds else COPY
        if HALVES in kinds:
            return size, OTHER
        if FLOAT in kinds and kinds & {INTEGER, EQUAL}:
            return size, OTHER
        return size, next((kind for kind in (OTHER, FLOAT, INTEGER, EQUAL, COPY) if kind in kinds), CONSTANT)

    def uses_of(self, register: str) -> set[str]:
        """What the instructions that read a register, or copies of it, take it for."""
        kinds = {COPY}
        waiting, known = [register], {register}
        while waiting:
            name = waiting.pop()
            for item in self.readers[name]:
                meaning = meaning_of(item)
                if (meaning in _COPIES or _widens(item)) and not _is_vector(item):
                    fresh = set(destinations(item)) - known
                    waiting += fresh
                    known |= fresh
                elif meaning == "copy" and item.type == "b64" and _is_pair(item.operands[0]):
                    kinds |= self.of_halves([self.uses_of(half) for half in destinations(item)])
                elif meaning == "copy" and item.type == "b64" and _is_pair(item.operands[1]):
                    # Two that are put together, to be stored.
                    readers = [other for made in destinations(item) for other in self.readers[made]]
                    kinds |= {COPY if access_by(reader) == "store" else OTHER for reader in readers}
                elif access_by(item) != "store" or not _stores(item, name):
                    kinds.add(_kind(item))
        return kinds

    def makers_of(self, register: str) -> set[str]:
        """What the instructions that made a register's value make."""
        kinds = {CONSTANT}
        waiting, known = [register], {register}
        while waiting:
            for item in self.writers[waiting.pop()]:
                types = [modifier for modifier in item.modifiers if modifier in SIZES]
                meaning = meaning_of(item)
                if meaning == "copy" and item.type == "b64" and _is_pair(item.operands[1]):
                    kinds |= self.of_halves([self.makers_of(half) for half in sources(item)])
                elif meaning in _COPIES and not _is_vector(item):
                    given = item.operands[1 : 3 if meaning == "choice" else 2]
                    fresh = {part.name for part in given if isinstance(part, Register)} - known
                    waiting += fresh
                    known |= fresh
                    kinds |= {INTEGER for part in given if isinstance(part, Special)}
                    if not all(isinstance(part, Register | Immediate | Special) for part in given):
                        kinds.add(OTHER)
                elif access_by(item) == "load" or _is_vector(item):
                    # A half of what was loaded as two.
                    kinds.add(COPY)
                elif types and types[0] in _FLOATS:
                    kinds.add(FLOAT)
                else:
                    is_number = meaning in _NUMBERS and not access_by(item) and not writes_carry(item)
                    kinds.add(INTEGER if is_number else OTHER)
        return kinds

    @staticmethod
    def of_halves(halves: list[set[str]]) -> set[str]:
        """What 64 bits are that are made of, or taken apart to, two times 32."""
        kinds = set().union(*halves)
        if kinds & {OTHER, HALVES, INTEGER, EQUAL}:
            return {OTHER}
        return {HALVES, HALF_FLOAT} if FLOAT in kinds else {HALVES}


def _bases(origins: frozenset[tuple[str, bool]]) -> frozenset[tuple[str, bool]]:
    """Of a sum: where one part is an address for certain, the others are what is added to it."""
    certain = frozenset(origin for origin in origins if origin[1])
    return certain or origins


def _kind(item: Instruction) -> str:
    """What an instruction takes for which it reads; of conversions and comparisons that is the last type."""
    if item.type in _FLOATS:
        return FLOAT
    if writes_carry(item):
        # A part of a longer number.
        return OTHER
    meaning = meaning_of(item)
    if meaning == "comparison":
        return EQUAL if {"eq", "ne"} & set(item.modifiers) else INTEGER
    if meaning == "conversion":
        return INTEGER if item.modifiers[-2] in _FLOATS else OTHER
    return INTEGER if meaning in _NUMBERS else OTHER


def _widens(item: Instruction) -> bool:
    """Whether an integer gets more bits: what is done with these tells what it is."""
    if meaning_of(item) != "conversion":
        return False
    wide, narrow = item.modifiers[-2:]
    return wide[0] == narrow[0] and wide[0] in "su" and SIZES[wide] > SIZES[narrow]


def _is_hint(item: Instruction) -> bool:
    """Whether an instruction with an address neither reads nor writes what stands there."""
    form = form_of(item)
    return form is not None and form.operands == "[]"


def _is_vector(item: Instruction) -> bool:
    return any(isinstance(operand, Vector) for operand in item.operands)


def _is_pair(operand: Operand) -> bool:
    return isinstance(operand, Vector) and len(operand.parts) == 2


def _stores(item: Instruction, register: str) -> bool:
    """Whether a store writes that register's value, and does not use it as the address."""
    address = item.operands[0]
    return not (isinstance(address, Address) and address.base == Register(register))
