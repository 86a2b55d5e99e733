"""The forms of PTX instructions that the machine knows: types, and which emitter makes the result."""
