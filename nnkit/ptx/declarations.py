"""Declarations of variables, with their initial values."""

from dataclasses import replace

from nnkit.ptx.constants import DEEPEST, constant
from nnkit.ptx.ir import SIZES, PtxError, PtxSyntaxError, Relocation, Variable
from nnkit.ptx.tokens import Cursor, as_float

LINKAGE = frozenset({".visible", ".extern", ".weak", ".common"})
"""Who else sees a declaration."""

SPACES = frozenset({".global", ".const", ".shared", ".local", ".param"})

LARGEST = 1 << 40
"""Bytes of one variable: more than any device has."""


LARGEST_INITIAL = 1 << 28
"""Bytes of one initial value, zeros between its elements included."""


def variables(cursor: Cursor, space: str, is_extern: bool = False) -> list[Variable]:
    """Everything declared by one statement, initial values included; for parameters one at a time."""
    found = []
    align, kind, vector, pointer = 0, "", 1, False
    while cursor.now.text.startswith(".") and cursor.now.kind == "word":
        line = cursor.now.line
        directive = cursor.word()
        if directive == ".align":
            asked = cursor.number()
            if asked < 1 or asked & (asked - 1):
                raise PtxError(f".align {asked}: an alignment is a power of two", line)
            # Behind .ptr it is that of what is pointed to.
            align = align if pointer else asked
        elif directive == ".ptr":
            pointer = True
        elif directive[1:] in SIZES and not kind:
            kind = directive[1:]
        elif directive in (".v2", ".v4"):
            vector = int(directive[2:])
        elif directive == ".attribute":
            attribute(cursor)
        elif directive in SPACES:
            continue
        else:
            raise PtxSyntaxError(f"unexpected {directive!r} in a declaration", line)
    while True:
        found.append(_variable(cursor, space, kind, vector, align, pointer, is_extern))
        if space in (".param", ".reg") or not cursor.take(","):
            return found


def attribute(cursor: Cursor) -> None:
    """(.managed), (.unified(1, 2)), or several: where a variable lies on a GPU, which is one place here."""
    cursor.expect("(")
    depth = 1
    while depth:
        token = cursor.next()
        if token.kind == "end":
            raise PtxSyntaxError("an .attribute is not closed", token.line)
        depth += (token.text == "(") - (token.text == ")")


def _variable(
    cursor: Cursor, space: str, kind: str, vector: int, align: int, pointer: bool, is_extern: bool
) -> Variable:
    line = cursor.now.line
    name = cursor.name()
    if not kind:
        raise PtxSyntaxError(f"{name} is declared without a type", line)
    if (kind == "pred" and space != ".reg") or (space in (".param", ".reg") and vector > 1):
        raise PtxError(f"{name}: a variable in {space} cannot have that type", line)
    element = SIZES[kind]
    lengths: list[int] = []
    while cursor.take("["):
        # The first length may be left to the initial value, or to the launch: 0.
        lengths.append(0 if cursor.at("]") and not lengths else cursor.number())
        cursor.expect("]")
    made = Variable(name, space[1:], 0, max(align, element * vector), kind, pointer, is_array=bool(lengths))
    if cursor.take("="):
        if space not in (".global", ".const"):
            raise PtxError(f"{name}: a variable in {space} can have no initial value", line)
        made = _initialised(cursor, made, lengths, vector)
    size = element * vector
    for length in lengths:
        size *= length
    if size > LARGEST or made.align > LARGEST:
        raise PtxError(f"{name} is larger than any memory", line)
    if not size and space != ".param" and not (is_extern and len(lengths) == 1):
        raise PtxError(f"{name} has no size", line)
    return replace(made, size=size)


def _initialised(cursor: Cursor, variable: Variable, lengths: list[int], vector: int) -> Variable:
    """The variable with its initial value; fills in a first length that was left out."""
    kind = variable.type
    size = SIZES[kind]
    if kind in ("f16", "bf16", "f16x2", "bf16x2", "tf32", "b128"):
        raise PtxError(f"{variable.name}: a .{kind} can have no initial value", cursor.now.line)
    data = bytearray()
    relocations: list[Relocation] = []
    shape = [*lengths, vector] if vector > 1 else lengths
    if len(shape) > DEEPEST:
        raise PtxError(f"{variable.name} has too many dimensions", cursor.now.line)
    strides = [size] * (len(shape) + 1)
    for axis in reversed(range(len(shape))):
        strides[axis] = strides[axis + 1] * max(shape[axis], 1)

    def fill(axis: int, at: int) -> int:
        """The values along an axis, from byte `at` on; returns how many there are."""
        line = cursor.now.line
        if at > LARGEST_INITIAL:
            raise PtxError(f"{variable.name} has an initial value of over {LARGEST_INITIAL} bytes", line)
        if axis == len(shape):
            data.extend(bytes(at - len(data)))
            data.extend(_element(cursor, kind, at, relocations))
            return 1
        cursor.expect("{")
        count = 0
        while not cursor.take("}"):
            if count and shape[axis] == count:
                raise PtxSyntaxError(f"{variable.name} has too many initial values", line)
            fill(axis + 1, at + count * strides[axis + 1])
            count += 1
            if not cursor.at("}"):
                cursor.expect(",")
        return count

    count = fill(0, 0)
    if lengths and not lengths[0]:
        lengths[0] = count
    return replace(variable, initial=bytes(data), relocations=tuple(relocations))


def _element(cursor: Cursor, kind: str, at: int, relocations: list[Relocation]) -> bytes:
    """The bytes of one element: a number of the element's kind, or an address, which is filled in later."""
    size = SIZES[kind]
    token = cursor.now
    if token.kind == "word" and token.text != "WARP_SZ":
        relocations.append(_address(cursor, at, size, 0))
        return bytes(size)
    value = constant(cursor)
    if bool(value.float_bits) != (kind[0] == "f") and (kind[0] != "b" or (value.float_bits and size < 4)):
        raise PtxSyntaxError(f"{token.text} is no initial value for a .{kind}", token.line)
    if value.float_bits:
        return as_float(value, size).to_bytes(size, "little")
    if cursor.take("("):
        # 0xFF00(name): one byte of the address, where a packed struct holds it.
        mask = value.value
        relocations.append(_address(cursor, at, size, (mask & -mask).bit_length() // 8))
        cursor.expect(")")
        return bytes(size)
    return (value.value & ((1 << (8 * size)) - 1)).to_bytes(size, "little")


def _address(cursor: Cursor, at: int, size: int, first: int) -> Relocation:
    """The bytes of an address from `first` on: name, generic(name), with an offset behind it."""
    line = cursor.now.line
    if first + size > 8 or size not in (1, 8):
        raise PtxError("only 8-byte elements can hold an address", line)
    generic = cursor.take("generic")
    if generic:
        cursor.expect("(")
    name = cursor.name()
    if generic:
        cursor.expect(")")
    offset = 0
    if cursor.take("+"):
        found = constant(cursor)
        offset = found.value if not found.float_bits and abs(found.value) < 1 << 63 else 0
    return Relocation(at, name, offset, first, size)
