"""Sums over ranks with a clock: what of their time the rank waited, and what it computed meanwhile."""

import time
from collections.abc import Callable
from typing import Any, Protocol

import numpy.typing as npt

from nnkit.contracts import Sum, Traffic

Begin = Callable[[Any], Sum]
"""Starts the sum of a buffer, in place: a NumPy array, or an array on a GPU."""


class Copied(Protocol):
    """An array as a sum needs it where the memory is not the host's."""

    def download(self) -> npt.NDArray[Any]:
        """A copy in host memory."""

    def write(self, host: npt.NDArray[Any]) -> None:
        """Overwrite the array with that."""


class TimedSum:
    """A sum that counts into a rank's traffic.

    An array whose memory the host sees is summed where it is. One on a GPU is too if the transport reaches
    it there (`direct`); if not it is copied to the host, and back when the sum is complete.
    """

    def __init__(self, array: Copied, begin: Begin, traffic: Traffic, direct: bool = False):
        self.traffic = traffic
        entered = self._enter()
        self._done = False
        self._copied: Copied | None = None
        self._buffer: Any = array
        if hasattr(array, "host"):
            self._buffer = array.host
        elif direct and hasattr(array, "device"):
            # The kernels that compute it are only launched yet.
            array.device.synchronize()
        else:
            self._copied, self._buffer = array, array.download()
        traffic.sums += 1
        traffic.bytes += self._buffer.nbytes
        self._sum = begin(self._buffer)
        traffic.under_way += 1
        self._leave(entered)

    def progress(self) -> bool:
        """Let it go on as far as it can without waiting."""
        if not self._done:
            entered = self._enter()
            if self._sum.progress():
                self._complete()
            self._leave(entered)
        return self._done

    def wait(self) -> None:
        """Return when it is complete."""
        if not self._done:
            entered = self._enter()
            self._sum.wait()
            self._complete()
            self._leave(entered)

    def _enter(self) -> float:
        """The time; from the last call of any sum to this one the rank has computed."""
        now = time.perf_counter()
        if self.traffic.under_way:
            self.traffic.hidden += now - self.traffic.left
        return now

    def _leave(self, entered: float) -> None:
        self.traffic.left = time.perf_counter()
        self.traffic.exposed += self.traffic.left - entered

    def _complete(self) -> None:
        if self._copied is not None:
            self._copied.write(self._buffer)
        self._done = True
        self.traffic.under_way -= 1
