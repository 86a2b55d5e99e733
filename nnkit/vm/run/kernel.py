"""A kernel as a launch sees it."""

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
