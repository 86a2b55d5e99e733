"""The sections of NVIDIA's "Parallel Thread Execution ISA" that describe instructions, in its order.

By name: their numbers change from version to version. An instruction's own section is called
"Integer Arithmetic Instructions: add", and so on.
"""

INTEGER = "Integer Arithmetic Instructions"
EXTENDED = "Extended-Precision Integer Arithmetic Instructions"
FLOATING = "Floating-Point Instructions"
COMPARISON = "Comparison and Selection Instructions"
LOGIC = "Logic and Shift Instructions"
MOVEMENT = "Data Movement and Conversion Instructions"
CONTROL = "Control Flow Instructions"
COMMUNICATION = "Parallel Synchronization and Communication Instructions"
VIDEO = "SIMD Video Instructions"
OTHER = "Miscellaneous Instructions"

SECTIONS = (
    *(INTEGER, EXTENDED, FLOATING, COMPARISON, LOGIC, MOVEMENT),
    *(CONTROL, COMMUNICATION, VIDEO, OTHER),
)

NONE = ""
"""Of what NVIDIA does not know: an instruction of nnkit's own."""
