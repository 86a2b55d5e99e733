"""What emitters hand to each other: a register's value, a place that can go wrong, where variables are."""

from dataclasses import dataclass

from nnkit.ptx.ir import Location
from nnkit.vm.analysis.shapes import Shape


@dataclass
class Value:
    """A register's value: a scalar (uniform or base), a vector, or both, as its shape says."""

    shape: Shape
    kind: str
    """The LLVM type of one lane."""
    scalar: str = ""
    vector: str = ""
    flag: str = ""
    """Of a likely pattern: whether it holds."""


@dataclass(frozen=True)
class Site:
    """A place in the kernel that can go wrong, for messages."""

    what: str
    space: str
    size: int
    line: int
    location: Location


@dataclass(frozen=True)
class Memory:
    """Where a kernel's variables are: known sizes, and the order of the table of global addresses."""

    static_shared: int
    local_bytes: int
    parameter_bytes: int
    addresses: dict[str, int]
    """Of shared, local and param variables, within their space."""
    globals: dict[str, int]
    """Of global and const variables, their number in the table of addresses."""
