"""The order of an instruction's modifiers.

The assembler takes many of them in any order, and compilers make use of that: `atom.gpu.global.add` is
`atom.global.gpu.add`. Here they are put into one order, so that everything behind knows one spelling.
"""

from functools import cache

from nnkit.ptx.ir import SIZES

_ORDERS = ("weak", "volatile", "mmio", "relaxed", "acquire", "release", "acq_rel")
_SCOPES = ("cta", "cluster", "gpu", "sys")
_SPACES = ("global", "shared", "const", "local", "param")
_CACHES = ("ca", "cg", "cs", "lu", "cv", "wb", "wt")
_ROUNDINGS = tuple(f"r{way}{whole}" for way in "nzmp" for whole in ("", "i"))

_MEMORY = {name: rank for rank, names in enumerate((_ORDERS, _SCOPES, _SPACES, _CACHES)) for name in names}
_MEMORY |= {"nc": 4}
_CACHE_HINT, _OPERATION, _TYPE = 5, 6, 20

_ARITHMETIC = dict.fromkeys(_ROUNDINGS, 7) | {"ftz": 8, "sat": 9, "NaN": 10, "xorsign": 11, "abs": 12}

_ORDERED_BY = dict.fromkeys(("ld", "ldu", "st", "atom", "red"), _MEMORY)
_ORDERED_BY |= dict.fromkeys(
    (
        *("add", "sub", "mul", "fma", "mad", "div", "rcp", "sqrt", "rsqrt", "min", "max", "abs", "neg"),
        *("setp", "set", "cvt", "ex2", "lg2", "sin", "cos", "slct"),
    ),
    _ARITHMETIC,
)


@cache
def split(name: str) -> tuple[str, tuple[str, ...]]:
    """The opcode and its modifiers in their usual order."""
    opcode, *modifiers = name.split(".")
    if opcode in ("cvta", "isspacep"):
        modifiers = [modifier.removesuffix("::cta") for modifier in modifiers]
    ranks = _ORDERED_BY.get(opcode)
    if ranks is None or len(modifiers) < 2:
        return opcode, tuple(modifiers)

    def rank(modifier: str) -> int:
        plain, _, hint = modifier.partition("::")
        if hint and plain in ("L1", "L2"):
            return _CACHE_HINT
        return ranks.get(plain, _TYPE if modifier in SIZES else _OPERATION)

    return opcode, tuple(sorted(modifiers, key=rank))
