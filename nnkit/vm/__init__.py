"""The PTX machine: the intermediate representation to native code, and its execution. Imports `nnkit.ptx` alone."""
