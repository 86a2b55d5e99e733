"""What belongs to a device of this process, and so means nothing elsewhere."""

from typing import Any, NoReturn

from nnkit.errors import UsageError


class Bound:
    """An array, a kernel, a module, a device: neither pickled nor copied by `copy`."""

    __slots__ = ()
    instead = "open the device and compile where it is needed"

    def __reduce_ex__(self, protocol: Any) -> NoReturn:
        """Refuses: pickle and copy ask for this."""
        raise UsageError(
            f"{type(self).__name__} belongs to a device of this process, so it is neither pickled nor copied"
            f" by copy: {self.instead}"
        )
