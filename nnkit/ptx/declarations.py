"""Declarations of variables, with their initial values."""

from nnkit.ptx.ir import SIZES, Immediate, PtxError, Relocation, Variable
from nnkit.ptx.tokens import Cursor, floating

SPACES = frozenset({".global", ".const", ".shared", ".local", ".param"})


def variables(cursor: Cursor, space: str) -> list[Variable]:
    """Everything declared by one statement, initial values included."""
    found = []
    align, kind, pointer = 0, "", False
    while cursor.now.text.startswith("."):
        directive = cursor.word()
        if directive == ".align":
            align = cursor.number()
        elif directive == ".ptr":
            pointer = True
        elif directive[1:] in SIZES:
            kind = directive[1:]
        elif directive in (".v2", ".v4"):
            kind = f"{directive[1:]}:"
        elif directive == ".attribute":
            _attribute(cursor)
        elif directive in SPACES:
            continue
        else:
            raise PtxError(f"unexpected {directive!r} in a declaration", cursor.now.line)
    while True:
        found.append(_variable(cursor, space, kind, align, pointer))
        if space == ".param" or not cursor.take(","):
            return found


def _attribute(cursor: Cursor) -> None:
    """(.managed), (.unified(1, 2)), or several: where a variable lies on a GPU, which is one place here."""
    cursor.expect("(")
    while not cursor.take(")"):
        if cursor.at("("):
            _attribute(cursor)
        elif cursor.now.kind == "end":
            raise PtxError("an .attribute is not closed", cursor.now.line)
        else:
            cursor.next()


def _variable(cursor: Cursor, space: str, kind: str, align: int, pointer: bool) -> Variable:
    name = cursor.word()
    element = SIZES.get(kind, 1)
    count, is_array = 1, False
    while cursor.take("["):
        is_array = True
        count = count * cursor.number() if not cursor.at("]") else 0
        cursor.expect("]")
    initial: bytes | None = None
    relocations: tuple[Relocation, ...] = ()
    if cursor.take("="):
        initial, relocations = _initial_value(cursor, element)
        if is_array and not count:
            count = len(initial) // element
        initial = initial.ljust(count * element, b"\0")
    return Variable(
        name, space[1:], count * element, max(align, element), kind, pointer, initial, relocations
    )


def _initial_value(cursor: Cursor, element: int) -> tuple[bytes, tuple[Relocation, ...]]:
    data = bytearray()
    relocations: list[Relocation] = []

    def one() -> None:
        if cursor.take("{"):
            while not cursor.take("}"):
                one()
                cursor.take(",")
            return
        token = cursor.now
        if token.kind == "float":
            bits = floating(cursor.next().text)
            data.extend(_float_bytes(bits, element))
        elif token.kind == "word":
            relocations.append(_address(cursor, len(data), element, 0))
            data.extend(bytes(element))
        else:
            number = cursor.number()
            if not cursor.take("("):
                data.extend((number & ((1 << (8 * element)) - 1)).to_bytes(element, "little"))
                return
            # 0xFF00(name): one byte of the address, where a packed struct holds it.
            relocations.append(_address(cursor, len(data), element, (number & -number).bit_length() // 8))
            cursor.expect(")")
            data.extend(bytes(element))

    one()
    return bytes(data), tuple(relocations)


def _address(cursor: Cursor, at: int, size: int, first: int) -> Relocation:
    """The bytes of an address from `first` on: name, generic(name), with an offset behind it."""
    if first + size > 8 or size not in (1, 8):
        raise PtxError("only 8-byte elements can hold an address", cursor.now.line)
    generic = cursor.take("generic") and cursor.take("(")
    name = cursor.word()
    if generic:
        cursor.expect(")")
    # "-4" is a number with its sign already.
    offset = cursor.number() if cursor.take("+") or cursor.at("-") else 0
    return Relocation(at, name, offset, first, size)


def _float_bytes(bits: Immediate, element: int) -> bytes:
    if bits.float_bits != 8 * element:
        raise PtxError(f"a {bits.float_bits}-bit float does not fit an element of {element} bytes")
    return bits.value.to_bytes(element, "little")
