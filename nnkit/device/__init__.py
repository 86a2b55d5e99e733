"""Devices: where arrays live and operations run. The seam between kinds of hardware lies here, low."""

from nnkit.contracts import Device
from nnkit.device.cpu import CpuDevice
from nnkit.errors import unknown_name

DEVICES = {"cpu": CpuDevice}


def open_device(name: str = "auto") -> Device:
    """The device of that name; "auto" is the fastest one at hand. Raises UsageError for an unknown name."""
    chosen = "cpu" if name == "auto" else name
    if chosen not in DEVICES:
        raise unknown_name("device", name, ["auto", *DEVICES])
    return DEVICES[chosen]()
