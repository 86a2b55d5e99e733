"""A kernel before it is compiled: one body, its variables' places, what must be explicit or wide again."""

from nnkit.vm.instructions import families  # noqa: F401  it fills the table of forms, which this room asks
