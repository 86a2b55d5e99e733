"""PTX text to records: parsing, inlining, control flow. Imports nothing else of nnkit."""
