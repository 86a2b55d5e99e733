"""CUDA C++ to PTX (and to machine code) with NVRTC; every result is kept on disk."""

import base64
import json
import os
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from os import PathLike
from typing import Any

from nnkit.device.arrays.inputs import in_words, several
from nnkit.device.cache.disk import DiskCache, digest
from nnkit.device.compile.advice import advice
from nnkit.device.compile.nvrtc import Compiled
from nnkit.device.compile.nvrtc import load as _nvrtc
from nnkit.device.compile.nvrtc import version_of as _version_of
from nnkit.device.compile.ordinary import Compilation
from nnkit.device.cpp import tokens as cpp_tokens
from nnkit.device.names.types import TypeNames
from nnkit.device.source import host_headers
from nnkit.device.source.excerpts import as_given
from nnkit.device.source.headers import (
    cuda_folders,
    included_files,
    library_versions,
    option_values,
    own_folder,
    wheel_versions,
    where_to_get,
)
from nnkit.errors import CompileError, DeviceError, UsageError, reason
from nnkit.files import read_file
from nnkit.ptx.locations import place_of
from nnkit.ptx.tokens import first_word

CACHE_BYTES = 64 << 20
"""How much compiled code is kept on disk."""

_FORMAT = "3"  # Of a cached result, and of what its key holds.
_MOST_OPTIONS = 1 << 16
_ARCH = re.compile(r"(compute|sm)_\d+[af]?")
_LINE_OPTIONS = {"-lineinfo", "--generate-line-info", "-G", "--device-debug"}
_ERROR = re.compile(r"^(.+)\((\d+)\): (?:catastrophic )?error(?: #\S+)?: (.*)$", re.MULTILINE)
_PTXAS_ERROR = re.compile(r"^ptxas .*?(?:, line (\d+); error|fatal)\s*: (.*)$", re.MULTILINE)
_TEMPLATE = re.compile(r"\btemplate\s*<[^;{}]*__global__[^;{}(]*(?:\([^()]*\)[^;{}(]*)?\b(\w+)\s*\(")
_FOREIGN = re.compile("[\udc80-\udcff]")
"""What "surrogateescape" makes of bytes that are not UTF-8."""

_PATH = re.compile(r"[^\s{};#\"'()]*[./\\][^\s{};#\"'()]*")
_NO_HEADER = re.compile(r'open source file "([^"]*)"')


def read_source(source: str | PathLike[str], name: str) -> tuple[str, str]:
    """The text of a source and what messages call it.

    A path is a PathLike, or a str without newline that ends in .cu or .cuh; any other str is the text itself.
    Raises UsageError for a file that cannot be read as text.
    """
    if not isinstance(source, str | PathLike):
        raise UsageError(f"a CUDA source is text or the path of a file, got {in_words(source)}")
    name = _file_name(name)
    if isinstance(source, str) and ("\n" in source or not source.endswith((".cu", ".cuh"))):
        text = source.removeprefix("\ufeff")  # which editors put before what they save as UTF-8
        if _PATH.fullmatch(text) and not text.startswith(("//", "/*")):
            raise UsageError(
                f"{text[:200]!r} is no CUDA source, and no path that ends in .cu or .cuh: give the path of"
                " another file as a pathlib.Path, PTX to load_ptx"
            )
    else:
        name = _file_name(source)
        try:
            text = _decoded(read_file(name), name)
        except OSError as error:
            raise UsageError(
                f"cannot read the CUDA source {name}: {reason(error)}: give a file that is there"
            ) from None
    if first_word(text) == ".version":
        raise UsageError(f"the CUDA source {name} is PTX: give it to load_ptx")
    if "\0" in text:
        # NVRTC takes a C string: it would silently compile what stands before.
        raise UsageError(f"the CUDA source {name} holds a zero byte: give text")
    if not _is_unicode(text):
        raise UsageError(f"the CUDA source {name} holds a lone surrogate, which is no character: give text")
    return text, name


def _decoded(content: bytes, name: str) -> str:
    """A file's text. Comments may be in another encoding, as they often are: they become question marks.

    Raises UsageError for other text that is not UTF-8: NVRTC would take the bytes behind for a part of it.
    """
    text = content.decode("utf-8-sig", "surrogateescape")
    if _is_unicode(text):
        return text
    text = cpp_tokens.with_comments(text, lambda comment: _FOREIGN.sub("?", comment))
    if left := _FOREIGN.search(text):
        line = text.count("\n", 0, left.start()) + 1
        raise UsageError(f"the CUDA source {name} is not text in UTF-8, see line {line}: save it as UTF-8")
    return text


def _file_name(name: Any) -> str:
    """A name or path as text that the file system can hold. Raises UsageError."""
    try:
        text = os.fsdecode(name)
        if "\0" not in os.fsencode(text).decode(errors="replace") and text:
            return text
    except (TypeError, ValueError):
        pass
    raise UsageError(f"the name of a CUDA source is text or a path, got {in_words(name)}")


def _is_unicode(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def compile_cuda(
    source: str | PathLike[str],
    name: str = "kernel.cu",
    options: Sequence[str] = (),
    arch: str = "compute_90",
    names: Sequence[str] = (),
) -> Compiled:
    """Compile CUDA C++ with NVRTC, or take the result from the cache on disk; safe in threads and processes.

    `source` is text or a path as `read_source` takes it. `options` are NVRTC's own, such as "-DTILE=32".
    `arch` compute_NN gives PTX alone, sm_NN machine code too, for which ptxas checks inline assembly. Line
    information is always in it. Headers are found in the source's folder, those of "-I", nnkit's own
    and CUDA's; those of the host (`nnkit.device.source.host_headers`) are always there. `names` are name
    expressions such as "fill<float, 3>": the result has these kernels too, and tells what their names became.

    Raises UsageError for a wrong option, arch or path, CompileError for source that the compiler refuses (one
    line with the first error, then its log), DeviceError without NVRTC.
    """
    text, name = read_source(source, name)
    options = _checked(options, arch)
    folders = (own_folder(), *cuda_folders())
    key = _key(text, name, options, arch, folders, names)
    cache = DiskCache("ptx", CACHE_BYTES)
    if key is not None and (found := cache.get(key)) is not None:
        compiled = _unpacked(found)
    else:
        compiled = _compile(text, name, options, arch, folders, names)
        if key is not None:
            cache.put(key, _packed(compiled))
    return replace(compiled, ptx=as_given(compiled.ptx, name))


@dataclass(frozen=True)
class Origin:
    """What a module was compiled from: more of its templates are compiled when they are asked for."""

    text: str
    name: str
    options: tuple[str, ...]
    arch: str

    def compile(self, names: Sequence[str] = ()) -> Compiled:
        """Compile it, with the kernels that these name expressions name; see `compile_cuda`."""
        text = self.text if "\n" in self.text else f"{self.text}\n"  # Else it might be taken for a path.
        return compile_cuda(text, self.name, self.options, self.arch, names)

    @cached_property
    def declared(self) -> TypeNames:
        """What the text says of types and constants."""
        return TypeNames(self.text, self.options)

    @cached_property
    def templates(self) -> tuple[str, ...]:
        """What templates of kernels the text seems to have, without their namespaces."""
        return tuple(dict.fromkeys(_TEMPLATE.findall(self.text)))

    def instantiate(self, expression: str) -> tuple[str, Compiled]:
        """Compile the kernel that a name expression names: its name in the PTX, and the whole result.

        Raises UsageError with the compiler's words where the expression names nothing.
        """
        try:
            compiled = self.compile([expression])
        except CompileError as error:
            said = re.search(r"^__nv_name_map\(\d+\): error: (.*)$", str(error), re.MULTILINE)
            if said is None:
                raise
            raise UsageError(f"there is no kernel {expression!r} in {self.name}: {said[1]}") from None
        return compiled.lowered[expression], compiled


def _checked(options: Sequence[str], arch: str) -> tuple[str, ...]:
    if isinstance(options, str):
        raise UsageError(f"options {options!r}: give a list of options, not one string")
    try:
        options = tuple(several(options, _MOST_OPTIONS))
        if len(options) > _MOST_OPTIONS:
            raise ValueError
    except Exception:
        raise UsageError(f"options {in_words(options)}: give a list of options") from None
    for option in options:
        if not isinstance(option, str) or "\0" in option or not _is_unicode(option):
            raise UsageError(f"options hold {in_words(option)}: each is text, such as '-DTILE=32'")
    if own := list(option_values(options, "-arch", "--gpu-architecture")):
        raise UsageError(
            f"options name the architecture {own[0]!r}: leave it out and give arch (--arch) instead"
        )
    if not isinstance(arch, str) or not _ARCH.fullmatch(arch):
        raise UsageError(
            f"arch {in_words(arch)}: give compute_NN for PTX or sm_NN for machine code, like sm_90"
        )
    return tuple(options)


def _key(
    text: str, name: str, options: Sequence[str], arch: str, folders: Sequence[str], names: Sequence[str]
) -> str | None:
    """Names all that the result depends on; None where that is not known.

    CUDA's own headers stand under the version of their wheel, or their folder. The name is absolute because
    line information is.
    """
    place = _absolute(name)
    searched = _searched(name, options)
    before = "".join(f'#include "{file}"\n' for file in option_values(options, "-include", "--pre-include"))
    files = included_files(before + text, [*searched, own_folder()])
    if files is None:
        return None
    # Without the wheel NVRTC comes from somewhere else, and only it knows its version.
    compiler = "" if wheel_versions()[0] else _version_of(_nvrtc())
    own, versions = (_FORMAT, host_headers.version()), (wheel_versions(), library_versions())
    parts = (own, name, place, arch, options, searched, folders, versions, compiler, list(files))
    return digest(repr(parts), repr(list(names)), text, *files.values())


def _searched(name: str, options: Sequence[str]) -> list[str]:
    """The folders whose headers are the user's own."""
    folders = option_values(options, "-I", "--include-path")
    return [os.path.dirname(_absolute(name)), *map(_absolute, folders)]


def _absolute(path: str) -> str:
    """An absolute path; as it is where the current directory is gone."""
    try:
        return os.path.abspath(path)
    except OSError:
        return os.path.normpath(path)


def _packed(compiled: Compiled) -> bytes:
    cubin = compiled.cubin if compiled.cubin is None else base64.b64encode(compiled.cubin).decode()
    return json.dumps({**asdict(compiled), "cubin": cubin}).encode()


def _unpacked(entry: bytes) -> Compiled:
    fields = json.loads(entry)
    cubin = fields["cubin"]
    return Compiled(**fields | {"cubin": None if cubin is None else base64.b64decode(cubin)})


def _compile(
    text: str,
    name: str,
    options: Sequence[str],
    arch: str,
    folders: Sequence[str],
    names: Sequence[str] = (),
) -> Compiled:
    nvrtc = _nvrtc()
    own, *searched = _searched(name, options)
    flags = [f"-arch={arch}", *options, *(f"-I{folder}" for folder in folders)]
    if not _LINE_OPTIONS.intersection(options):
        flags.append("-lineinfo")
    status, compiled, hint = Compilation(nvrtc, text, name, flags, names, own, searched).run()
    if status.name == "NVRTC_SUCCESS":
        if not compiled.ptx:
            raise UsageError(f"{name}: NVRTC made no PTX: leave out options for other output, such as -dlto")
        return compiled
    if status.name == "NVRTC_ERROR_INVALID_OPTION":
        raise UsageError(_wrong_option(nvrtc, compiled.log, arch))
    if status.name == "NVRTC_ERROR_COMPILATION":
        raise CompileError(f"{_first_error(compiled, name)}{hint}\n{compiled.log}")
    raise DeviceError(f"NVRTC cannot compile {name}: {status.name}: {reason(RuntimeError(compiled.log))}")


def _wrong_option(nvrtc: Any, log: str, arch: str) -> str:
    version = _version_of(nvrtc)
    if "gpu-architecture" in log:
        known = ", ".join(map(str, nvrtc.nvrtcGetSupportedArchs()[1]))
        return (
            f"arch {arch!r}: NVRTC {version} knows compute_NN and sm_NN for NN in {known}: give one of these"
        )
    said = reason(RuntimeError(log)).removeprefix("nvrtc: error: ")
    return f"options: NVRTC {version}: {said}: see https://docs.nvidia.com/cuda/nvrtc for those it takes"


def _first_error(compiled: Compiled, name: str) -> str:
    """One line: where and what."""
    errors = list(_ERROR.finditer(compiled.log))
    if errors:
        # A header that is missing ends the compilation, and is why names before it are not known.
        first = next((found for found in errors if _NO_HEADER.search(found[3])), errors[0])
        missing = _NO_HEADER.search(first[3])
        if not missing:
            # What the compiler makes of a type that it does not know comes before that it does not know it.
            same = (found for found in errors if found[1] == first[1] and found[2] == first[2])
            first = next((found for found in same if advice(found[3])), first)
        todo = where_to_get(missing[1]) if missing else advice(first[3])
        hint = f": {todo}" if todo else ""
        more = len(errors) - 1
        others = f" (and {more} more error{'s' if more > 1 else ''})" if more else ""
        return f"{first[1]}:{first[2]}: error: {first[3]}{hint}{others}"
    if error := _PTXAS_ERROR.search(compiled.log):
        return f"{_place_in_ptx(compiled.ptx, int(error[1] or 0), name)}: ptxas error: {error[2]}"
    said = (compiled.log.splitlines() or ["the compiler does not say why"])[0]
    return f"{name}: error: {said.removeprefix('error: ')}"


def _place_in_ptx(ptx: str, number: int, name: str) -> str:
    """Where line `number` of the PTX comes from, by the line information in it."""
    found = place_of(ptx, number)
    if found is None:
        return name
    path, line = found
    place = name if path in ("", _absolute(name)) else path
    return f"{place}:{line} (PTX line {number}, {ptx.splitlines()[:number][-1].strip()!r})"
