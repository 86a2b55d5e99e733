import gzip
import math
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis.extra.numpy import array_shapes, arrays
from hypothesis.strategies import sampled_from

from nnkit.data.idx import parse_idx, read_idx
from nnkit.errors import DataError
from tests.support.idx_files import CODES, idx_bytes

PATH = Path("some-idx")
GOOD = idx_bytes(np.arange(6, dtype=np.uint8).reshape(2, 3))
DTYPES = sampled_from(sorted(CODES, key=CODES.__getitem__))


@given(arrays(DTYPES, array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=4)))
def test_what_is_written_is_read(array: npt.NDArray[Any]) -> None:
    read = parse_idx(idx_bytes(array), PATH)
    assert read.shape == array.shape
    assert read.dtype == array.dtype.newbyteorder("=")
    assert read.dtype.isnative
    # As bytes: the many NaNs are to survive, too.
    assert read.tobytes() == array.astype(read.dtype).tobytes()


@given(arrays(DTYPES, array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=3)))
def test_no_shorter_and_no_longer_content_is_read(array: npt.NDArray[Any]) -> None:
    content = idx_bytes(array)
    for end in range(len(content)):
        with pytest.raises(DataError, match=r"^some-idx is truncated"):
            parse_idx(content[:end], PATH)
    with pytest.raises(DataError, match=r"^some-idx has 1 trailing bytes"):
        parse_idx(content + b"x", PATH)


def test_unknown_types_are_refused() -> None:
    for code in set(range(256)) - set(CODES.values()):
        with pytest.raises(DataError) as caught:
            parse_idx(bytes([0, 0, code, 0]) + bytes(8), PATH)
        assert str(caught.value) == (
            f"some-idx is not an IDX file: its magic number is 0x0000{code:02x}00, not 0x0000TTRR"
        )


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "some-idx is truncated: 0 bytes do not hold an IDX magic number"),
        (GOOD[:3], "some-idx is truncated: 3 bytes do not hold an IDX magic number"),
        (
            b"\x89PNG\r\n\x1a\n",
            "some-idx is not an IDX file: its magic number is 0x89504e47, not 0x0000TTRR",
        ),
        (GOOD[:11], "some-idx is truncated: its header needs 12 bytes, the file has 11"),
        (GOOD[:17], "some-idx is truncated: shape (2, 3) of uint8 needs 18 bytes, the file has 17"),
        (
            GOOD + b"xy",
            "some-idx has 2 trailing bytes: shape (2, 3) of uint8 needs 18, the file has 20",
        ),
    ],
)
def test_errors_say_what_is_wrong(content: bytes, message: str) -> None:
    with pytest.raises(DataError) as caught:
        parse_idx(content, PATH)
    assert str(caught.value) == message


def test_a_huge_shape_is_refused_without_memory_for_it() -> None:
    content = bytes([0, 0, 0x0E, 4]) + b"\xff" * 16 + bytes(100)
    with pytest.raises(DataError, match="truncated") as caught:
        parse_idx(content, PATH)
    assert str(16 + 4 + 8 * math.prod([2**32 - 1] * 4)) in str(caught.value)


@pytest.mark.parametrize(
    "shape", [(1,) * 65, (1,) * 255, (0, 2**32 - 1, 2**32 - 1, 2**32 - 1)], ids=["65", "255", "wide"]
)
def test_a_shape_that_no_array_can_have_is_refused(shape: tuple[int, ...]) -> None:
    header = bytes([0, 0, 0x08, len(shape)]) + b"".join(n.to_bytes(4, "big") for n in shape)
    with pytest.raises(DataError, match="some-idx"):
        parse_idx(header + bytes(math.prod(shape)), PATH)


@pytest.mark.parametrize("name", ["images.gz", "images"])
def test_gzip_is_told_by_its_content(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    path.write_bytes(gzip.compress(GOOD))
    assert read_idx(path).tolist() == [[0, 1, 2], [3, 4, 5]]


def test_plain_content_is_read_under_a_gz_name(tmp_path: Path) -> None:
    path = tmp_path / "images.gz"
    path.write_bytes(GOOD)
    assert read_idx(path).shape == (2, 3)


def test_a_gzip_file_of_several_members_is_one_file(tmp_path: Path) -> None:
    path = tmp_path / "images"
    path.write_bytes(b"".join(gzip.compress(GOOD[i : i + 5]) for i in range(0, len(GOOD), 5)))
    assert read_idx(path).tolist() == [[0, 1, 2], [3, 4, 5]]


def test_damaged_gzip_files_are_refused(tmp_path: Path) -> None:
    path, packed = tmp_path / "images", gzip.compress(GOOD)
    wrong_checksum = packed[:-5] + bytes([packed[-5] ^ 1]) + packed[-4:]
    wrong_data = packed[:10] + b"\xff" * 8 + packed[18:]
    for content in (
        wrong_checksum,
        wrong_data,
        packed + b"rest",
        *(packed[:n] for n in range(2, len(packed))),
    ):
        path.write_bytes(content)
        with pytest.raises(DataError) as caught:
            read_idx(path)
        assert str(caught.value).startswith(f"{path} is a damaged gzip file (")
        assert str(caught.value).endswith("): copy it anew")


def test_a_missing_file_and_a_directory_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError) as caught:
        read_idx(tmp_path / "none")
    assert str(caught.value) == f"cannot read {tmp_path}/none: No such file or directory"
    with pytest.raises(DataError, match="Is a directory"):
        read_idx(tmp_path)
