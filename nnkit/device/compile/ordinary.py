"""One source through NVRTC: as it is, else without its host code; headers that are missing stood in for."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from nnkit.device.compile.nvrtc import Compiled, bundled_folders, run
from nnkit.device.names.demangle import demangle
from nnkit.device.names.kernels import split_parameters, variables
from nnkit.device.source import host_headers
from nnkit.device.source.host_code import CannotSeparateError, NoDeviceCodeError, Separated, separate
from nnkit.device.source.host_cuts import POISON
from nnkit.device.source.host_libraries import stand_in
from nnkit.errors import CompileError
from nnkit.ptx.interface import Interface

DEFAULT_DEVICE = "-default-device"
"""NVRTC's option that takes what nothing marks for device code."""

_MISSING = re.compile(r'could not open source file "([^"]+)"|cannot open source file "([^"]+)"')
_ERROR = re.compile(r"^.+\(\d+\): (?:catastrophic )?error\b", re.MULTILINE)
_NAME_ERROR = re.compile(r"^__nv_name_map\(\d+\): error\b", re.MULTILINE)
_OF_THE_RUNTIME = re.compile(r"vprintf|malloc|free|__assertfail|cuda\w+|__nv_\w+|__cuda\w+")


@dataclass
class Compilation:
    """A source and how NVRTC is called for it."""

    nvrtc: Any
    text: str
    name: str
    flags: Sequence[str]
    names: Sequence[str]
    own: str
    """The folder of the source."""
    searched: Sequence[str]
    """The folders of "-I"."""

    def __post_init__(self) -> None:
        self._headers = host_headers.beside(self.text, self.own, self.searched)
        self._bundled: tuple[str, ...] | None = None
        self._last: tuple[Any, Compiled] | None = None

    def run(self) -> tuple[Any, Compiled, str]:
        """NVRTC's status and output, and what there is to say about host code, "" if nothing."""
        status, compiled = self._attempt(self.text, {}, (), self.names)
        if status.name != "NVRTC_ERROR_COMPILATION" or not self._host_code_may_be_why(compiled.log):
            return status, compiled, ""
        try:
            separated, good, _ = separate(self.name, self.text, self.searched, self._compiles)
        except NoDeviceCodeError as error:
            first = next((line for line in compiled.log.splitlines() if "error" in line), "")
            if error.functions and "not allowed in JIT mode" in first:
                raise CompileError(
                    f"{self.name}: error: there is no device code in it: mark functions __global__ or"
                    f" __device__\n{compiled.log}"
                ) from None
            return status, compiled, ""
        except CannotSeparateError as error:
            if (ended := self._ended_by_header()) is not None:
                return *ended, ""
            return status, compiled, f"; host code cannot be left out: {error}" if str(error) else ""
        assert self._last is not None
        if good and self.names:
            self._last = self._attempt(separated.text, separated.headers, self._as_nvcc(), self.names)
        last_status, last = self._last
        if good:
            _check_uses(last.ptx, separated)
            return last_status, replace(last, host_code_left_out=True), ""
        if not separated.left_out:
            return status, compiled, ""
        return last_status, last, _what_was_left_out(last.log, separated)

    def _compiles(self, text: str, headers: Mapping[str, str]) -> tuple[bool, str]:
        self._last = self._attempt(text, headers, self._as_nvcc(), ())
        return self._last[0].name == "NVRTC_SUCCESS", self._last[1].log

    def _as_nvcc(self) -> list[str]:
        """Options under which a file finds what nvcc gives it unasked."""
        default = [] if DEFAULT_DEVICE in self.flags else [DEFAULT_DEVICE]
        return [*default, f"--pre-include={host_headers.AS_NVCC}", "--diag-suppress=177"]

    def _attempt(
        self, text: str, headers: Mapping[str, str], more: Sequence[str], names: Sequence[str]
    ) -> tuple[Any, Compiled]:
        """Compile; where a header is missing, again with NVRTC's own or with one that stands in for it."""
        while True:
            flags = [*self.flags, *more, *(f"-I{folder}" for folder in self._bundled or ())]
            status, compiled = run(self.nvrtc, text, self.name, flags, {**self._headers, **headers}, names)
            missing = _MISSING.search(compiled.log)
            if status.name != "NVRTC_ERROR_COMPILATION" or missing is None:
                return status, compiled
            header = missing[1] or missing[2]
            instead = stand_in(header)
            if instead is not None and header not in self._headers:
                self._headers[header] = instead
            elif self._bundled is None:
                # The libraries <cuda/...>, <cub/...> are in no wheel that nnkit needs, but NVRTC has them.
                self._bundled = bundled_folders(self.nvrtc)
            else:
                return status, compiled

    def _ended_by_header(self) -> tuple[Any, Compiled] | None:
        """What the last attempt says of a header that is missing; None where none is.

        The first attempt may have had too many errors in host code to get there.
        """
        if self._last is None or (missing := _MISSING.search(self._last[1].log)) is None:
            return None
        status, last = self._last
        return status, replace(last, log=last.log[last.log.rfind("\n", 0, missing.start()) + 1 :])

    def _host_code_may_be_why(self, log: str) -> bool:
        return not _MISSING.search(log) and len(_NAME_ERROR.findall(log)) < len(_ERROR.findall(log))


def _check_uses(ptx: str, separated: Separated) -> None:
    """Raises CompileError where device code uses functions or variables of the host, or might mean others."""
    for name, place in separated.lost.items():
        raise CompileError(
            f"{place}: error: {name} is host code, which cannot be left out: device code has something else"
            " of that name: give one of them another name"
        )
    module = Interface(ptx)
    called = [found.name for found in module.functions if found.is_external]
    external = [found.name for found in module.variables if found.is_external]
    for what, names, host in (
        ("calls", [name for name in called if not _OF_THE_RUNTIME.fullmatch(name)], separated.left_out),
        ("uses", external, separated.left_out),
        ("uses", variables(module), separated.host_variables),
    ):
        for mangled in names:
            name = _last_name(mangled)
            place = host.get("operator" if name.startswith("operator") else name, "")
            if place and any(mangled in by.words for by in module.declarations if by.name != mangled):
                raise CompileError(
                    f"{place}: error: a kernel {what} {name}, which is host code: mark it __device__"
                )


def _last_name(mangled: str) -> str:
    """`f` for the name of `ns::f<int>(float)` in PTX."""
    head = split_parameters(demangle(mangled))[0]
    if "operator" in head:
        return head[head.rindex("operator") :]
    return re.sub(r"<.*", "", head).rpartition("::")[2]


def _what_was_left_out(log: str, separated: Separated) -> str:
    """A word on the first name that is missing because it was left out."""
    for quoted in re.findall(
        r'"([^"\n]+)"', next((line for line in log.splitlines() if "error" in line), "")
    ):
        name = re.split(r"\W", quoted.strip())[0]
        if name in separated.left_out:
            return f"; {name} is host code ({separated.left_out[name]}), which is left out"
    # A variable that was left out has a type that nothing takes; the log shows its line.
    told = re.split(r"^.+\(\d+\): (?:catastrophic )?error\b", log, maxsplit=2, flags=re.MULTILINE)
    if len(told) > 1 and POISON in told[1]:
        for name in re.findall(r"\w+", told[1].partition("\n")[2]):
            if place := separated.left_out.get(name, "") or separated.host_variables.get(name, ""):
                return (
                    f"; {name} is host code ({place}), which is left out: mark it __device__ or __constant__"
                )
    return ""
