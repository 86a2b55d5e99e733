"""LLVM IR as text, and the memory that Python shares with it. Imports nothing of the machine."""
