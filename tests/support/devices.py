"""Devices of which a test does not know the kind, as unions: their arrays do more than the contract says."""

from nnkit.device.cpu import CpuDevice
from nnkit.device.cuda import CudaDevice
from nnkit.device.virtual import VirtualDevice

HostDevice = CpuDevice | VirtualDevice
"""Those whose memory is the host's."""

AnyDevice = HostDevice | CudaDevice


def host_device_of(name: str) -> HostDevice:
    """A new one, "cpu" or "virtual"."""
    return CpuDevice() if name == "cpu" else VirtualDevice()
