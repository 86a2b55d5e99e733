"""Streams and events of the devices whose work is done when a call returns: `cpu` and `virtual`."""

from time import perf_counter

from nnkit.contracts import Event, Stream
from nnkit.errors import UsageError


class HostStream:
    """A queue that is always empty: on the host a launch is done when it returns."""

    def synchronize(self) -> None:
        """Nothing to wait for."""

    def close(self) -> None:
        """Nothing to give back."""


class HostEvent:
    """The time at which it was recorded, by the host's clock."""

    def __init__(self) -> None:
        self.seconds: float | None = None

    def record(self, stream: Stream | None = None) -> None:
        """Take the time."""
        if stream is not None and not isinstance(stream, HostStream):
            raise UsageError("the stream is not one of this device; make it with device.stream()")
        self.seconds = perf_counter()

    def synchronize(self) -> None:
        """Nothing to wait for."""

    def elapsed_ms(self, since: Event) -> float:
        """Milliseconds from the event `since` to this one; raises UsageError for one not recorded."""
        if self.seconds is None or not isinstance(since, HostEvent) or since.seconds is None:
            raise UsageError("an event has no time before it is recorded; call record() on both first")
        return (self.seconds - since.seconds) * 1e3
