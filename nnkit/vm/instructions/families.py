"""Every family of instructions: importing this fills the table of forms."""

from nnkit.vm.instructions import (
    approximate,
    atomics,
    bits,
    calls,
    carry,
    convert,
    floating,
    integer,
    load_store,
    logic,
    packed,
    warp,
)

FAMILIES = (
    *(integer, logic, bits, packed, carry, floating, approximate, convert),
    *(load_store, atomics, warp, calls),
)
"""In the order of the documentation."""
