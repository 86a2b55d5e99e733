"""The PTX machine: PTX to native code, and its execution. Imports `nnkit.ptx` and nothing else of nnkit."""
