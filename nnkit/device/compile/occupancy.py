"""How many warps of a kernel an SM can hold at once, from what the kernel uses: theoretical occupancy."""

import re
from dataclasses import dataclass

MAX_BLOCK = 1024
"""Threads of a block at most, on every architecture."""

_WARP = 32
_REGISTERS = 65536  # 32-bit registers of an SM, and of a block at most.
_REGISTER_UNIT = 256  # Registers are given to a warp in multiples of this.
_PARTITIONS = 4  # Each has a quarter of the registers, and a warp lives in one.


@dataclass(frozen=True)
class Limits:
    """What one SM holds at most."""

    warps: int
    blocks: int
    shared_kib: int
    barriers: int
    """Named barriers of all resident blocks together."""


# CUDA C++ Programming Guide, "Technical Specifications per Compute Capability", and the headers
# cuda/__device/arch_traits.h (warps, blocks, shared memory) and cuda_occupancy.h (barriers) of CUDA 13.5.
LIMITS = {
    75: Limits(warps=32, blocks=16, shared_kib=64, barriers=32),
    80: Limits(warps=64, blocks=32, shared_kib=164, barriers=64),
    86: Limits(warps=48, blocks=16, shared_kib=100, barriers=16),
    87: Limits(warps=48, blocks=16, shared_kib=164, barriers=16),
    89: Limits(warps=48, blocks=24, shared_kib=100, barriers=24),
    90: Limits(warps=64, blocks=32, shared_kib=228, barriers=64),
    100: Limits(warps=64, blocks=32, shared_kib=228, barriers=64),
    120: Limits(warps=48, blocks=24, shared_kib=100, barriers=24),
}
"""The limits of an SM by compute capability times ten."""


@dataclass(frozen=True)
class Occupancy:
    """How full an SM can be with one kernel."""

    blocks: int
    """Blocks that an SM holds at once."""
    fraction: float
    """Resident warps of those that the SM could hold, 0 to 1."""
    limited_by: str
    """What runs out first: warps, blocks, registers, shared memory or barriers; several joined by comma."""


def occupancy(
    arch: str, block: int, registers: int, shared_bytes: int, barriers: int = 0
) -> Occupancy | None:
    """The occupancy of a kernel with `block` threads, 1 to `MAX_BLOCK`; None for an `arch` not in `LIMITS`.

    `registers` is per thread, `shared_bytes` (static and dynamic) and `barriers` per block; shared memory is
    taken to have as much of its memory shared with L1 as it can get. The rules are those of NVIDIA's
    cuda_occupancy.h.
    """
    capability = int(re.sub(r"\D", "", arch))
    if (limits := LIMITS.get(capability)) is None:
        return None
    warps = -(-block // _WARP)
    ceilings = {
        "warps": limits.warps // warps,
        "blocks": limits.blocks,
        "registers": _blocks_by_registers(warps, registers),
    }
    if allocated := _shared_allocated(capability, shared_bytes):
        ceilings["shared memory"] = limits.shared_kib * 1024 // allocated
    if barriers:
        ceilings["barriers"] = limits.barriers // barriers
    fitting = min(ceilings.values())
    tight = [what for what, ceiling in ceilings.items() if ceiling == fitting]
    return Occupancy(fitting, fitting * warps / limits.warps, ", ".join(tight))


def _blocks_by_registers(warps: int, registers: int) -> int:
    per_warp = _round_up(max(registers, 1) * _WARP, _REGISTER_UNIT)
    # A launch is refused as if every partition got equally many of the block's warps.
    if per_warp * _round_up(warps, _PARTITIONS) > _REGISTERS:
        return 0
    return _REGISTERS // _PARTITIONS // per_warp * _PARTITIONS // warps


def _shared_allocated(capability: int, shared_bytes: int) -> int:
    # From compute capability 8.0 on the driver takes 1 KiB of every block, and units are smaller.
    reserved, unit = (1024, 128) if capability >= 80 else (0, 256)
    return _round_up(shared_bytes + reserved, unit)


def _round_up(value: int, unit: int) -> int:
    return -(-value // unit) * unit
