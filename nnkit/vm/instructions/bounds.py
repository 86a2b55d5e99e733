"""`index < n` for consecutive lanes: the guard of nearly every kernel, as a few scalar operations.

Where lane l holds base + l and nothing wraps, the lanes below a bound are the first so many: their number is
a clamped difference, and their mask a shift.
"""

from nnkit.ptx.ir import SIZES, Instruction
from nnkit.vm.analysis import shapes
from nnkit.vm.analysis.shapes import INTEGERS, VARYING, Shape
from nnkit.vm.emit.emitter import Emitter
from nnkit.vm.emit.masks import every_lane
from nnkit.vm.emit.values import Value

_BELOW = {"lt", "lo"}
_UPTO = {"le", "ls"}
_MIRRORED = {"lt": "gt", "le": "ge", "gt": "lt", "ge": "le", "lo": "hi", "ls": "hs", "hi": "lo", "hs": "ls"}
_OPPOSITE = {"ge": "lt", "hs": "lo", "gt": "le", "hi": "ls"}


def compare_lanes(e: Emitter, item: Instruction, values: list[Value]) -> Value | None:
    """The result of a `setp` between consecutive lanes and a uniform bound; None where it is another one."""
    if item.type not in INTEGERS or len(values) != 2 or len(item.modifiers) != 2:
        return None
    name, (a, b) = item.modifiers[0], values
    if a.shape.kind == "uniform":
        name, a, b = _MIRRORED.get(name, ""), b, a
    is_signed = item.type[0] == "s" and name not in ("lo", "ls", "hi", "hs")
    if name not in _MIRRORED or b.shape.kind != "uniform" or not _consecutive(e, a.shape, item, is_signed):
        return None
    negated = name in _OPPOSITE
    mask = _first_lanes(e, a, b, _OPPOSITE.get(name, name), is_signed)
    if negated:
        mask = e.one.binary("xor", f"i{e.width}", mask, every_lane(e.width))
    lanes = e.text.op(f"bitcast i{e.width} {mask} to {e.all.type('i1')}")
    return Value(VARYING, "i1", vector=lanes)


def _consecutive(e: Emitter, shape: Shape, item: Instruction, is_signed: bool) -> bool:
    if shape.kind != "pattern" or shape.pattern != tuple(range(e.width)):
        return False
    return not shapes.wraps(shape, 8 * SIZES[item.type], is_signed)


def _first_lanes(e: Emitter, index: Value, bound: Value, name: str, is_signed: bool) -> str:
    """The mask of lanes whose index is below (or up to) the bound."""
    x, kind = e.one, index.kind
    sign = "s" if is_signed else "u"
    some = x.compare(f"{sign}{'gt' if name in _BELOW else 'ge'}", kind, bound.scalar, index.scalar)
    # As an unsigned number the distance is right, whatever the signs.
    distance = x.resize(kind, x.binary("sub", kind, bound.scalar, index.scalar), "i64")
    if name in _UPTO:
        last = x.call("umin", "i64", distance, str(e.width - 1))
        distance = x.binary("add", "i64", last, "1")
    count = x.call("umin", "i64", distance, str(e.width))
    # Shifting ones down is defined for 1 to 64 lanes; where there are none the select decides.
    by = x.binary("sub", "i64", "64", x.call("umax", "i64", count, "1"))
    ones = x.binary("lshr", "i64", "-1", by)
    return x.resize("i64", x.select(some, "i64", ones, "0"), f"i{e.width}")
