"""How a declaration of the host's is left out, so that nothing else silently takes its place.

The ways, from the mildest: "body" leaves it declared, "poison" leaves its names to something that cannot be
used, "whole" leaves nothing.
"""

from nnkit.device.cpp.items import Item, Reader
from nnkit.device.cpp.names import enumerators, outside, tags

POISON = "nnkit_left_out"
_TYPES = frozenset(
    {"struct", "class", "union", "enum", "const", "constexpr", "typedef", "using", "namespace"}
)


def ways(reader: Reader, item: Item) -> list[str]:
    """How an unmarked item may be left out, the best way first; nothing if it may not be.

    A specialisation must stay declared, else the general template takes its place, and a class must keep what
    decides its size.
    """
    words = [reader.text(index) for index in outside(reader, item.first, item.last)]
    template = words[0] if words else ""
    special = _specialises(reader, item)
    if template == "template" and words[1:2] != ["<"]:
        return ["whole"]  # An instantiation, which declares nothing.
    if item.kind == "function":
        return _ways_of_function(item, words, special)
    if item.member:
        return ["poison"] if item.kind == "variable" and item.static else []
    if item.kind == "declaration":
        return [] if item.constant else ["whole"] if item.qualified or special else ["poison", "whole"]
    if item.kind == "variable":
        return (
            []
            if special and item.constant
            else ["whole"]
            if item.qualified
            else []
            if special
            else _named(item)
        )
    if item.kind == "class" and not item.body:
        return []
    if item.kind == "class" and "enum" not in words and item.name:
        return ["body"] if template == "template" else ["body", "whole"]
    if item.kind == "macro":
        return ["whole"] if _declares_no_type(reader, item) else []
    return _named(item)


def _named(item: Item) -> list[str]:
    return ["poison", "whole"] if item.name or item.variables else ["whole"]


def _ways_of_function(item: Item, words: list[str], special: bool) -> list[str]:
    if special or item.constant:
        return ["body"]
    if item.qualified:
        return ["whole"]  # Its class, or another line, declares it.
    if not item.name or (item.member and "~" in words):
        return ["body"]
    if item.name == "main" and not item.member:
        return ["whole"]
    if item.name == "operator":
        keep = item.member and ("virtual" in words or "=" in words)
        return ["body"] if keep else ["body", "whole"]
    return ["body", "poison"] if item.member and "friend" not in words else ["body", "poison", "whole"]


def _specialises(reader: Reader, item: Item) -> bool:
    """Whether `template <>` stands before it, or may stand in a macro's arguments."""
    if reader.text(item.first) != "template":
        end = item.body if item.kind == "function" else item.last
        return any(reader.text(index) == "template" for index in range(item.first, end))
    at = reader.after(item.first, item.last)
    return reader.text(at) == "<" and reader.text(reader.after(at, item.last)) == ">"


def _declares_no_type(reader: Reader, item: Item) -> bool:
    name = reader.text(item.first)
    return not reader.macros.declares(name, _TYPES | {"template"})


def replacement(reader: Reader, item: Item, way: str) -> tuple[int, str]:
    """The token from which an item is left out, and what stands there instead."""
    if way == "whole":
        return item.first, ""
    externs = "".join(f" extern struct {POISON} {name};" for name in item.variables)
    if way == "body":
        if item.kind == "function":
            return item.body, ";"
        colon = (index for index in outside(reader, item.first, item.body) if reader.text(index) == ":")
        return next(colon, item.body), f";{externs}"
    words = [reader.text(index) for index in outside(reader, item.first, item.last)]
    if item.kind in ("function", "declaration"):
        virtual = "virtual " if "virtual" in words else "friend " if "friend" in words else ""
        own = (
            item.member
            and item.name in words
            and words[words.index(item.name) - 1] in ("", "explicit", "inline")
        )
        constructor = own or (item.member and words[0] == item.name)
        return item.first, f"{'' if constructor else f'{virtual}void '}{item.name}(struct {POISON});"
    if item.kind == "simple":
        return item.first, " ".join(f"struct {name};" for name in item.variables)
    if item.kind == "class":
        return item.first, f"struct {item.name};{externs}" if item.name else externs
    if item.member:
        return item.first, "".join(f"static struct {POISON} {name};" for name in item.variables)
    return item.first, externs.lstrip()


def lost(reader: Reader, item: Item, way: str) -> set[str]:
    """The names that are then declared no more, and might mean something else that has the same name.

    Functions are not among them: what is no constant expression and not marked no kernel may call.
    """
    words = [reader.text(index) for index in outside(reader, item.first, item.last)]
    names: set[str] = set()
    if item.kind in ("function", "declaration", "macro") or words[:1] == ["template"] or item.qualified:
        return names
    if way == "whole":
        names |= {item.name, *item.variables}
    if item.kind == "simple" and words[:1] == ["typedef"]:
        names |= tags(reader, item.first, item.last) - set(item.variables)
    if "enum" in words and not {"class", "struct"}.intersection(words):
        names |= enumerators(reader, item.first, item.last)
    if item.kind == "other":
        names |= {reader.text(index) for index in outside(reader, item.first, item.last)}
    return {name for name in names if name.isidentifier()}
