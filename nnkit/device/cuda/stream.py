"""Streams and events on a GPU."""

from typing import Any

from nnkit.contracts import Event, Stream
from nnkit.device.bound import Bound
from nnkit.device.cuda.driver import Context
from nnkit.device.cuda.memory import Pool
from nnkit.errors import UsageError


class CudaStream(Bound):
    """`nnkit.contracts.Stream`. Launches in two of them may run at once.

    It is ordered with the default stream, where copies are made (CUDA calls it a blocking stream): a download
    sees what was launched before it in any stream.
    """

    def __init__(self, context: Context, pool: Pool):
        self.context = context
        self._pool = pool
        self._handle = context.call("cuStreamCreate", 0, doing="making a stream")
        pool.streams += 1

    @property
    def handle(self) -> Any:
        """The driver's handle; raises UsageError once the stream is closed."""
        if self._handle is None:
            raise UsageError("the stream is closed; make a new one with device.stream()")
        return self._handle

    def synchronize(self) -> None:
        """Wait until everything launched in it is done; raises what a kernel did wrong."""
        self.context.call("cuStreamSynchronize", self.handle, doing="waiting for a stream")

    def close(self) -> None:
        """Wait and give it back; a second call does nothing, nor does one after the device is closed."""
        if self._handle is None:
            return
        handle, self._handle = self._handle, None
        self._pool.streams -= 1
        if not self.context.unusable:
            self.context.call("cuStreamSynchronize", handle, doing="waiting for a stream")
            self.context.call("cuStreamDestroy", handle, doing="closing a stream")


class CudaEvent(Bound):
    """`nnkit.contracts.Event`; the GPU takes the time, to about half a microsecond."""

    def __init__(self, context: Context):
        self.context = context
        self._recorded = False
        flags = context.driver.CUevent_flags.CU_EVENT_DEFAULT
        self._handle = context.call("cuEventCreate", flags, doing="making an event")

    def record(self, stream: Stream | None = None) -> None:
        """Place the mark behind everything launched so far."""
        if stream is not None and (not isinstance(stream, CudaStream) or stream.context is not self.context):
            raise UsageError("the stream is not one of this device; make it with device.stream()")
        queue = self.context.stream if stream is None else stream.handle
        self.context.call("cuEventRecord", self._handle, queue, doing="recording an event")
        self._recorded = True

    def synchronize(self) -> None:
        """Wait until the mark is reached; raises what a kernel before it did wrong."""
        self.context.call("cuEventSynchronize", self._handle, doing="waiting for an event")

    def elapsed_ms(self, since: Event) -> float:
        """Milliseconds from the event `since` to this one; raises UsageError for one not recorded."""
        if not isinstance(since, CudaEvent) or not (self._recorded and since._recorded):
            raise UsageError("an event has no time before it is recorded; call record() on both first")
        since.synchronize()
        self.synchronize()
        return float(
            self.context.call(
                "cuEventElapsedTime", since._handle, self._handle, doing="reading the time of an event"
            )
        )

    def __del__(self) -> None:
        # Timing loops make events by the thousand. The driver frees one that is still under way later.
        handle = getattr(self, "_handle", None)
        if handle is not None and not self.context.unusable:
            self.context.driver.cuEventDestroy(handle)
