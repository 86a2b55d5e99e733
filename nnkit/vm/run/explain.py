"""What a worker's record says of the fault that ended a launch."""

import ctypes
from typing import Any

from nnkit.vm.build.compile import Native
from nnkit.vm.emit.values import Site
from nnkit.vm.run.faults import FaultRecord, absent_lane, near_window, null_pointer, threads_in_words
from nnkit.vm.run.kernel import Kernel
from nnkit.vm.text.layout import BARRIERS, WINDOW_REACH, WINDOWS, Fault, Worker

Words = Any
"""A record of 64-bit words: an array or a pointer of ctypes, which share no type that says so."""


class Explanation:
    """Knows the launch: the kernel, its code, the shape of a block, the bytes of shared memory."""

    def __init__(self, kernel: Kernel, native: Native, block: tuple[int, int, int], shared: int):
        self.kernel = kernel
        self.native = native
        self.block = block
        self.shared = shared

    def at(self, kind: Fault, record: Words, site: Site, lane: int, **more: Any) -> FaultRecord:
        """A fault of the thread in some lane of the vector that has stopped."""
        x, y, _ = self.block
        thread = record[Worker.FAULT_VECTOR] * self.native.width + lane
        place = (thread % x, thread // x % y, thread // (x * y))
        return FaultRecord(kind, self.kernel.name, site, self._block(record), place, **more)

    @staticmethod
    def _block(record: Words) -> tuple[int, int, int]:
        return record[Worker.BLOCK_X], record[Worker.BLOCK_Y], record[Worker.BLOCK_Z]

    def fault(self, kind: Fault, record: Words) -> FaultRecord:
        """What a thread met at the instruction that the worker noted."""
        site, lane = self.native.sites[record[Worker.FAULT_SITE]], record[Worker.FAULT_LANE]
        if kind is Fault.ABSENT_LANE:
            return self._absent(record, site)
        if not site.space:
            return self.at(kind, record, site, lane)
        space, address = site.space, record[Worker.FAULT_ADDRESS]
        if space == "generic":
            # The slow check cuts a window's addresses down to offsets; the lane's address tells which window.
            whole = ctypes.c_int64.from_address(record[Worker.ADDRESSES] + 8 * lane).value
            space = "global"
            for name, window in WINDOWS.items():
                # Before and behind a window an access was meant for it too: host addresses are far below.
                if abs(whole - window) < WINDOW_REACH:
                    space, address = name, whole - window
        traits = self.kernel.traits
        sizes = {"shared": self.shared, "local": traits.local_bytes, "param": traits.parameter_bytes}
        nearest = null_pointer(space, address)
        if not nearest and space in sizes:
            nearest = near_window(space, address, sizes[space])
        elif not nearest:
            nearest = self.kernel.host.memory.nearest(address & (1 << 64) - 1, site.size)
        return self.at(kind, record, site, lane, space=space, address=address, nearest=nearest)

    def _absent(self, record: Words, used: Site) -> FaultRecord:
        shuffle, word = self.native.sites[record[Worker.ABSENT_SITE]], record[Worker.ABSENT_LANE]
        lane, width = word & 31, self.native.width
        x, y, z = self.block
        exists = record[Worker.FAULT_VECTOR] * width + lane < x * y * z
        why = absent_lane(used, lane, bool(word >> 5), exists)
        reader = record[Worker.ABSENT_READER]
        return self.at(Fault.ABSENT_LANE, record, shuffle, reader, detail=why)

    def deadlock(self, record: Words) -> FaultRecord:
        """Who waits where."""
        native = self.native
        strands = record[Worker.STRANDS] or native.vectors
        resume = (ctypes.c_int32 * strands).from_address(record[Worker.RESUME])
        waits = (ctypes.c_int64 * strands).from_address(record[Worker.BARRIER])
        alive = (ctypes.c_int64 * strands).from_address(record[Worker.ALIVE])
        last = self.block[0] * self.block[1] * self.block[2]
        what = dict.fromkeys(range(last), "left the kernel")
        for strand in range(strands):
            if resume[strand] < 0:
                continue
            number, expected = waits[strand] & 255, waits[strand] >> 8
            here = f"wait at barrier {number}" + (f" for {expected} threads" if expected else "")
            if native.barriers[resume[strand]]:
                here += f" ({native.barriers[resume[strand]]})"
            # Without threads that leave early the generated code keeps no masks: 0 stands for all.
            mask = alive[strand] or -1
            start = strand % native.vectors * native.width
            what |= {t: here for t in range(start, min(start + native.width, last)) if mask >> t - start & 1}
        groups: dict[str, list[int]] = {}
        for thread, doing in what.items():
            groups.setdefault(doing, []).append(thread)
        parts = [f"{threads_in_words(threads)} {what}" for what, threads in groups.items()]
        parts += [
            f"{record[Worker.ARRIVED + number]} threads arrived at barrier {number} without waiting"
            for number in range(BARRIERS)
            if record[Worker.ARRIVED + number]
        ]
        block, detail = self._block(record), "; ".join(parts)
        return FaultRecord(Fault.DEADLOCK, self.kernel.name, block=block, detail=detail)
