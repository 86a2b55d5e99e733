"""The IDX format: a magic number, the length of every axis, then the elements, all big-endian.

Source: the description that Yann LeCun published with MNIST. Byte 2 of the magic number is the element type,
byte 3 the rank. A file may be compressed with gzip, whatever its name.
"""

import gzip
import math
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from nnkit.errors import DataError, reason
from nnkit.files import read_file

DTYPES = {0x08: ">u1", 0x09: ">i1", 0x0B: ">i2", 0x0C: ">i4", 0x0D: ">f4", 0x0E: ">f8"}
GZIP_MAGIC = b"\x1f\x8b"


def read_idx(path: Path) -> npt.NDArray[Any]:
    """The array in an IDX file of any rank and element type, in native byte order, perhaps read-only.

    Raises DataError with the path and what is wrong.
    """
    return parse_idx(read_bytes(path), path)


def read_bytes(path: Path) -> bytes:
    """The content of a file, decompressed if it is a gzip file. Raises DataError."""
    try:
        raw = read_file(path)
    except OSError as error:
        raise DataError(f"cannot read {path}: {reason(error)}") from None
    if not raw.startswith(GZIP_MAGIC):
        return raw
    try:
        return gzip.decompress(raw)
    except (EOFError, OSError, zlib.error) as error:
        raise DataError(f"{path} is a damaged gzip file ({reason(error)}): copy it anew") from None


def parse_idx(content: bytes, path: Path) -> npt.NDArray[Any]:
    """The array in the content of an IDX file; raises DataError, with `path` in its message."""
    if len(content) < 4:
        raise DataError(f"{path} is truncated: {len(content)} bytes do not hold an IDX magic number")
    code, rank = content[2], content[3]
    if content[0] or content[1] or code not in DTYPES:
        magic = int.from_bytes(content[:4], "big")
        raise DataError(f"{path} is not an IDX file: its magic number is 0x{magic:08x}, not 0x0000TTRR")
    start = 4 + 4 * rank
    if len(content) < start:
        raise DataError(f"{path} is truncated: its header needs {start} bytes, the file has {len(content)}")
    shape = tuple(int.from_bytes(content[i : i + 4], "big") for i in range(4, start, 4))
    dtype = np.dtype(DTYPES[code])
    expected = start + math.prod(shape) * dtype.itemsize
    if len(content) < expected:
        raise DataError(
            f"{path} is truncated: shape {shape} of {dtype.name} needs {expected} bytes, "
            f"the file has {len(content)}"
        )
    if len(content) > expected:
        raise DataError(
            f"{path} has {len(content) - expected} trailing bytes: shape {shape} of {dtype.name} "
            f"needs {expected}, the file has {len(content)}"
        )
    try:
        array = np.frombuffer(content, dtype, offset=start).reshape(shape)
    except ValueError as error:
        raise DataError(f"{path} has a shape that NumPy cannot hold ({reason(error)})") from None
    return array.astype(dtype.newbyteorder("="), copy=False)
