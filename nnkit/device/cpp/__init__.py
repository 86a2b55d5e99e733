"""C++ text: tokens, macros, conditions, and the declarations in it. Imports nothing else of nnkit."""
