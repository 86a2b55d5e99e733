"""What a plugin sees, and all that it may import besides `nnkit.hookspecs`.

A device holds arrays and offers the operations of a training step; a GEMM backend multiplies its arrays; a
communication backend says how parameters and batch are split over ranks and what is summed when; a transport
moves the bytes. All but TransportBase are Protocols: a plugin needs no base class.
"""

from nnkit.contracts.comm import (
    CommBackend,
    Grid,
    LayerWorkload,
    PredictableBackend,
    Strategy,
    Task,
    Workload,
    part,
)
from nnkit.contracts.devices import (
    ACTIVATIONS,
    Array,
    Device,
    DeviceArray,
    Dimensions,
    Event,
    HostArray,
    Kernel,
    Module,
    Operations,
    Stream,
    SupportsDlpack,
)
from nnkit.contracts.gemm import C_NAMES, DtypeName, FusedGemmBackend, GemmBackend
from nnkit.contracts.transport import (
    Communicator,
    GroupControl,
    Sum,
    Traffic,
    Transport,
    TransportBackend,
)
from nnkit.contracts.transport_base import TransportBase

__all__ = [
    "ACTIVATIONS",
    "C_NAMES",
    "Array",
    "CommBackend",
    "Communicator",
    "Device",
    "DeviceArray",
    "Dimensions",
    "DtypeName",
    "Event",
    "FusedGemmBackend",
    "GemmBackend",
    "Grid",
    "GroupControl",
    "HostArray",
    "Kernel",
    "LayerWorkload",
    "Module",
    "Operations",
    "PredictableBackend",
    "Strategy",
    "Stream",
    "Sum",
    "SupportsDlpack",
    "Task",
    "Traffic",
    "Transport",
    "TransportBackend",
    "TransportBase",
    "Workload",
    "part",
]
