"""NVRTC itself: one compilation, its outputs, the headers that it brings along."""

import contextlib
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from nnkit.device.cache.disk import cache_folder
from nnkit.device.cache.private_folder import is_private, make_private
from nnkit.device.compile.waiting import interruptible
from nnkit.errors import DeviceError, reason


@dataclass(frozen=True)
class Compiled:
    """What NVRTC made of a source."""

    ptx: str
    cubin: bytes | None
    """Machine code for one architecture; None if the source was compiled for a virtual one, compute_NN."""
    log: str
    """The compiler's warnings; empty if it had none."""
    lowered: dict[str, str] = field(default_factory=dict)
    """The names in the PTX of the name expressions that were asked for."""
    host_code_left_out: bool = False
    """Whether it compiles only without its host code."""


def load() -> Any:
    """The module of NVRTC's bindings, with its library loaded. Raises DeviceError if one is missing."""
    try:
        from cuda.bindings import nvrtc
    except ImportError as error:
        raise DeviceError(
            f"cannot compile CUDA: cuda-python is missing ({reason(error)}): pip install cuda-python"
        ) from None
    try:
        nvrtc.nvrtcVersion()
    except (RuntimeError, OSError):
        # The bindings load the library at the first call.
        raise DeviceError(
            "cannot compile CUDA: the library NVRTC is missing: pip install nvidia-cuda-nvrtc"
        ) from None
    return nvrtc


def version_of(nvrtc: Any) -> str:
    """Such as "13.5"."""
    _, major, minor = nvrtc.nvrtcVersion()
    return f"{major}.{minor}"


def run(
    nvrtc: Any,
    text: str,
    name: str,
    flags: Sequence[str],
    headers: Mapping[str, str] | None = None,
    names: Sequence[str] = (),
) -> tuple[Any, Compiled]:
    """NVRTC's status, and what it made: after an error the log, and the PTX if ptxas found the error.

    `headers` are texts that includes of these names get; `names` are name expressions. Ctrl-C ends the wait
    for it; the compiler then goes on to its end, and nothing is made of that.
    """
    return interruptible(lambda: _run(nvrtc, text, name, flags, headers or {}, names))


def _run(
    nvrtc: Any,
    text: str,
    name: str,
    flags: Sequence[str],
    headers: Mapping[str, str],
    names: Sequence[str],
) -> tuple[Any, Compiled]:
    texts = [os.fsencode(header) for header in headers.values()] or None
    titles = [os.fsencode(header) for header in headers] or None
    status, program = nvrtc.nvrtcCreateProgram(
        text.encode(), os.fsencode(name), len(texts or ()), texts, titles
    )
    if status.name != "NVRTC_SUCCESS":
        raise DeviceError(f"NVRTC cannot take {name}: {status.name}")
    try:
        for expression in names:
            nvrtc.nvrtcAddNameExpression(program, expression.encode())
        (status,) = nvrtc.nvrtcCompileProgram(program, len(flags), [os.fsencode(flag) for flag in flags])
        ptx, log = (
            _output(nvrtc, program, what).rstrip(b"\0").decode("utf-8", "replace")
            for what in ("PTX", "ProgramLog")
        )
        cubin = _output(nvrtc, program, "CUBIN") or None
        lowered = {}
        if status.name == "NVRTC_SUCCESS":
            lowered = {
                expression: nvrtc.nvrtcGetLoweredName(program, expression.encode())[1].decode()
                for expression in names
            }
    finally:
        nvrtc.nvrtcDestroyProgram(program)
    return status, Compiled(ptx, cubin, log.strip(), lowered)


def bundled_folders(nvrtc: Any) -> tuple[str, ...]:
    """The headers that NVRTC has within itself, unpacked into the cache; none if this version has none."""
    folder = cache_folder(f"headers-{version_of(nvrtc)}")
    if folder is None or not hasattr(nvrtc, "nvrtcInstallBundledHeaders") or not is_private(folder):
        return ()
    with contextlib.suppress(OSError):
        make_private(folder)
    # 0: do nothing if they are there. It locks the folder, and two processes take turns.
    status, _ = nvrtc.nvrtcInstallBundledHeaders(os.fsencode(folder), 0)
    return (str(folder), str(folder / "cccl")) if status.name == "NVRTC_SUCCESS" else ()


def _output(nvrtc: Any, program: Any, what: str) -> bytes:
    """One of the outputs of a program, empty if it has none."""
    status, size = getattr(nvrtc, f"nvrtcGet{what}Size")(program)
    if status.name != "NVRTC_SUCCESS" or not size:
        return b""
    buffer = bytearray(size)
    getattr(nvrtc, f"nvrtcGet{what}")(program, buffer)
    return bytes(buffer)
