"""What kernels use, read from a compiled module: registers, shared and constant memory, spills."""

import math
import re
import struct
from dataclasses import dataclass

from nnkit.device.compile.nvrtc import Compiled
from nnkit.errors import CompileError, unknown_name
from nnkit.ptx.interface import Interface

VERBOSE = "--ptxas-options=-v"
"""The option under which ptxas writes what kernels use to the log."""

_USED = re.compile(r"Used (\d+) registers(?:, used (\d+) barriers)?(?:.*?, (\d+) bytes smem)?")


@dataclass(frozen=True)
class Resources:
    """What one kernel uses. Bytes, per block for shared memory and per thread for stack and spills."""

    name: str
    registers: int
    shared_bytes: int
    """Static shared memory."""
    constant_bytes: int
    """All banks: parameters, what the driver puts before them, and the module's __constant__ data."""
    stack_bytes: int
    """Local memory: arrays that are indexed, and spilled registers."""
    spill_store_bytes: int
    spill_load_bytes: int
    barriers: int


def kernel_resources(compiled: Compiled) -> list[Resources]:
    """What every kernel of a module uses that was compiled for sm_NN with the option `VERBOSE`."""
    sizes = _section_sizes(compiled.cubin or b"")
    shared_constants = sum(size for name, size in sizes.items() if re.fullmatch(r"\.nv\.constant\d+", name))
    found = []
    for part in compiled.log.split("Compiling entry function '")[1:]:
        name = part[: part.index("'")]
        used = _USED.search(part)
        frame = re.search(
            rf"Function properties for {re.escape(name)}\n\D*(\d+) bytes stack frame, "
            r"(\d+) bytes spill stores, (\d+) bytes spill loads",
            part,
        )
        if used is None or frame is None:
            raise CompileError(f"cannot read what ptxas says of {name}: {' '.join(part.split())}")
        registers, barriers, shared = (int(number or 0) for number in used.groups())
        constants = sum(
            size
            for bank, size in sizes.items()
            if re.fullmatch(rf"\.nv\.constant\d+\.{re.escape(name)}", bank)
        )
        stack, stores, loads = map(int, frame.groups())
        found.append(
            Resources(name, registers, shared, shared_constants + constants, stack, stores, loads, barriers)
        )
    return sorted(found, key=lambda resources: resources.name)


def warnings_of(log: str) -> str:
    """The log without what `VERBOSE` put there."""
    kept = [line for line in log.splitlines() if not re.match(r"ptxas info |ptxas +\. ", line)]
    return "\n".join(kept).strip()


def kernel_names(ptx: str) -> list[str]:
    """The names of the kernels of a module, in its order."""
    return list(Interface(ptx).kernels)


def entry_text(ptx: str, kernel: str) -> str:
    """The text of one kernel, from its linkage to its closing brace. Raises UsageError for an unknown one."""
    found = Interface(ptx).kernels
    if kernel not in found:
        raise unknown_name("kernel", kernel, list(found))
    return found[kernel].text


def declared_block(entry: str) -> int | None:
    """The threads of a block at most, or exactly, that a kernel declares by __launch_bounds__ or so."""
    (kernel,) = Interface(entry).kernels.values()
    blocks = kernel.blocks(".maxntid", ".reqntid")
    return math.prod(blocks[0]) if blocks else None


def _section_sizes(elf: bytes) -> dict[str, int]:
    """The size in bytes of every section of a 64-bit little-endian ELF file, which a cubin is."""
    (table,) = struct.unpack_from("<Q", elf, 40)
    count, names_index = struct.unpack_from("<HH", elf, 60)
    sections = [struct.unpack_from("<IIQQQQ", elf, table + 64 * number) for number in range(count)]
    names = sections[names_index][4]
    return {
        elf[names + name : elf.index(b"\0", names + name)].decode(): size
        for name, _, _, _, _, size in sections
    }
