"""PTX text to records. Imports nothing else of nnkit."""
