"""A kernel as a launch sees it."""

import threading
from collections import Counter

import numpy as np
from numpy.typing import NDArray

from nnkit.vm.prepare.program import Traits
from nnkit.vm.run.host import Host


class Kernel:
    """Its name, what is known of it, the host that runs it, and where its module's variables lie."""

    def __init__(self, host: Host, name: str, traits: Traits, addresses: NDArray[np.int64]):
        self.host = host
        self.name = name
        self.traits = traits
        self.addresses = addresses
        self.counts: Counter[str] = Counter()
        """What its launches have counted together, also those that failed, see `nnkit.vm.emit.counters`."""
        self._counting = threading.Lock()

    def counted(self, counts: dict[str, int]) -> None:
        """Add what a launch has counted."""
        with self._counting:
            self.counts.update(counts)
