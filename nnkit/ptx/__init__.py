"""PTX text to an intermediate representation: parsing, types, control flow. Imports nothing else of nnkit."""
