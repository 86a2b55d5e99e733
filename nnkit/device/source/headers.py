"""Where the headers of CUDA and of nnkit lie, and which headers a source includes."""

import os
import re
from collections.abc import Iterator, Sequence
from functools import cache
from importlib import metadata, resources, util
from pathlib import Path

WHEELS = ("nvidia-cuda-nvrtc", "nvidia-cuda-runtime", "nvidia-cuda-crt", "nvidia-cuda-cccl")
"""The wheels that hold NVRTC and CUDA's headers."""

LIBRARIES = {
    "nvidia-curand": re.compile(r"curand\w*\.h"),
    "nvidia-cuda-cccl": re.compile(r"(?:cub|thrust|cuda|nv)/.*"),
    "nvidia-cuda-runtime": re.compile(r"cuda\w*\.h|cooperative_groups.*|vector_types\.h|math_constants\.h"),
    "nvidia-cuda-crt": re.compile(r"crt/.*|mma\.h"),
}
"""The wheels that hold the headers of these names."""

_INCLUDE = re.compile(r"^[ \t]*#[ \t]*include\b[ \t]*(.*)$|\b__has_include[ \t]*\(([^)]*)", re.MULTILINE)
_NAME = re.compile(r'"([^"\n]+)"|<([^>\n]+)>')


def cuda_folders() -> tuple[str, ...]:
    """The folders of CUDA's own headers: those of the wheels, else of CUDA_HOME; none where neither is there.

    The wheels share the namespace package `nvidia`: nvidia/cu13/include since CUDA 13, before that
    nvidia/cuda_runtime/include and nvidia/cuda_nvcc/include. The newest of several versions comes first.
    """
    spec = util.find_spec("nvidia")
    roots = list(spec.submodule_search_locations or ()) if spec else []
    found = [folder for root in roots for folder in Path(root).glob("*/include") if _has_cuda(folder)]
    found.sort(key=lambda folder: _version(folder.parent.name), reverse=True)
    home = os.environ.get("CUDA_HOME") or os.environ.get("CUDA_PATH")
    if not found and home:
        found = [folder for folder in [Path(home, "include").resolve()] if _has_cuda(folder)]
    libraries = [folder / "cccl" for folder in found if (folder / "cccl").is_dir()]
    return tuple(map(str, found + libraries))


@cache
def own_folder() -> str:
    """The folder of nnkit's own kernels and headers."""
    return str(resources.files("nnkit_cuda_src"))


@cache
def wheel_versions() -> tuple[str, ...]:
    """The version of each of `WHEELS`, empty for one that is not installed; needs no CUDA library."""
    return tuple(map(_wheel_version, WHEELS))


@cache
def library_versions() -> tuple[str, ...]:
    """The version of each wheel of `LIBRARIES`, empty for one that is not installed."""
    return tuple(map(_wheel_version, LIBRARIES))


def where_to_get(header: str) -> str:
    """What to do where a header is missing."""
    for wheel, names in LIBRARIES.items():
        if names.fullmatch(header):
            return f"pip install {wheel}"
    return "give its folder as -IFOLDER"


def option_values(options: Sequence[str], short: str, long: str) -> Iterator[str]:
    """The values of an option, given as `-sV`, `-s=V`, `-s V`, `--long=V` or `--long V`."""
    rest = iter(options)
    for option in rest:
        if option in (short, long):
            yield next(rest, "")
        elif option.startswith(f"{long}="):
            yield option.removeprefix(f"{long}=")
        elif option.startswith(short):
            yield option.removeprefix(short).removeprefix("=")


def included_files(source: str, folders: Sequence[str]) -> dict[str, bytes] | None:
    """The content, by path, of every file in `folders` that the source may include, directly or not.

    It may be more than the compiler reads, never less: conditions are not evaluated, and a name that several
    folders have counts in all of them. None where it cannot be known, because an include names a macro.
    """
    found: dict[str, bytes] = {}
    todo = [(source, list(folders))]
    while todo:
        text, searched = todo.pop()
        for line, argument in _INCLUDE.findall(text):
            name = _NAME.match(line or argument)
            if name is None:
                return None
            for folder in searched:
                path = os.path.normpath(os.path.join(folder, name[1] or name[2]))
                if path not in found and os.path.isfile(path):
                    found[path] = Path(path).read_bytes()
                    todo.append((found[path].decode("latin-1"), [os.path.dirname(path), *folders]))
    return found


def _has_cuda(folder: Path) -> bool:
    return (folder / "cuda_runtime.h").is_file() or (folder / "crt" / "host_defines.h").is_file()


def _version(folder_name: str) -> int:
    """13 for cu13; 0 for a folder without a version."""
    digits = folder_name.removeprefix("cu")
    return int(digits) if digits.isdecimal() else 0


def _wheel_version(name: str) -> str:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return ""
