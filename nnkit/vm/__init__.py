"""The PTX machine: PTX to native code, and its execution. Imports `nnkit.ptx` and nothing else of nnkit.

Its rooms, from the top down; each imports only what stands below it (import-linter sees to it):

    run           launching: memory, threads, calls into Python, what went wrong
    build         PTX text to native code, kept between processes
    prepare       a kernel before it is compiled: one body, its variables' places
    code          regions as functions, how lanes move, barriers, who takes which block
    instructions  emitters, one family a file
    memory        how every access is lowered: space, address, what is attached, the access
    emit          the state of one kernel's text: registers, masks, frames, strands
    analysis      how lanes relate, which part, where a kernel is cut
    forms         the forms of PTX instructions that the machine knows
    text          LLVM IR as text, and the memory that Python shares with it
"""
