import gzip
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image, ImageDraw

from nnkit.data import Dataset, dataset, load_dataset, split_validation
from nnkit.data.picture import read_picture
from nnkit.errors import DataError
from tests.support.idx_files import TEST, TRAIN, write_dataset, write_idx

TRAIN_COUNTS = [5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949]
TEST_COUNTS = [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009]


@pytest.fixture(scope="module")
def mnist() -> Dataset:
    return load_dataset()


def test_mnist_ships(mnist: Dataset) -> None:
    assert mnist.train.images.shape == (60000, 784)
    assert mnist.test.images.shape == (10000, 784)
    assert mnist.train.image_shape == mnist.test.image_shape == (28, 28)
    assert mnist.train.images.dtype == np.uint8
    assert mnist.pixels == 784
    assert np.bincount(mnist.train.labels).tolist() == TRAIN_COUNTS
    assert np.bincount(mnist.test.labels).tolist() == TEST_COUNTS


def test_mnist_has_the_known_mean_and_deviation(mnist: Dataset) -> None:
    # From a histogram: exact, and without 47 million floats.
    counts = np.bincount(mnist.train.images.ravel(), minlength=256)
    grey = np.arange(256) / 255
    mean = np.average(grey, weights=counts)
    assert round(float(mean), 4) == 0.1307
    assert round(float(np.sqrt(np.average((grey - mean) ** 2, weights=counts))), 4) == 0.3081


def test_a_changed_shipped_file_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for file in dataset.SHIPPED.glob("*.gz"):
        (tmp_path / file.name).symlink_to(file)
    changed = tmp_path / "train-labels-idx1-ubyte.gz"
    content = bytearray(gzip.decompress(changed.read_bytes()))
    content[100] ^= 1
    changed.unlink()
    changed.write_bytes(gzip.compress(content, 1))
    monkeypatch.setattr(dataset, "SHIPPED", tmp_path)
    with pytest.raises(DataError, match=r"train-labels.* is not the file that was shipped"):
        load_dataset()


@pytest.mark.parametrize("suffix", ["", ".gz"])
def test_a_directory_of_files_is_read(tmp_path: Path, small_data: Path, suffix: str) -> None:
    read = load_dataset(write_dataset(tmp_path, suffix))
    assert (len(read.train), len(read.test)) == (TRAIN, TEST)
    # What the files hold counts, not how they are packed.
    assert read.fingerprint == load_dataset(small_data).fingerprint
    assert read.fingerprint != load_dataset(write_dataset(tmp_path / "other", seed=1)).fingerprint


@pytest.mark.parametrize(
    ("name", "array", "words"),
    [
        ("train-labels-idx1-ubyte", np.zeros(299, np.uint8), "has 300 images, but .* 299 labels"),
        ("t10k-labels-idx1-ubyte", np.full(TEST, 10, np.uint8), "label 0 is 10, but labels are 0 to 9"),
        ("t10k-labels-idx1-ubyte", np.r_[np.zeros(59), 255].astype(np.uint8), "label 59 is 255"),
        ("t10k-labels-idx1-ubyte", np.zeros(TEST, np.int32), "holds int32 of rank 1: labels are uint8"),
        ("t10k-labels-idx1-ubyte", np.zeros((TEST, 1), np.uint8), "holds uint8 of rank 2: labels are"),
        ("train-images-idx3-ubyte", np.zeros((300, 28, 28), np.float32), "holds float32 of rank 3"),
        ("train-images-idx3-ubyte", np.zeros(300, np.uint8), "holds uint8 of rank 1: images are"),
        ("train-images-idx3-ubyte", np.zeros((300, 0, 28), np.uint8), "is an empty set"),
        ("t10k-images-idx3-ubyte", np.zeros((TEST, 27, 28), np.uint8), r"\(28, 28\), test images \(27, 28\)"),
    ],
)
def test_files_that_do_not_fit_are_refused(
    tmp_path: Path, name: str, array: npt.NDArray[np.uint8], words: str
) -> None:
    write_idx(write_dataset(tmp_path) / name, array)
    with pytest.raises(DataError, match=words):
        load_dataset(tmp_path)


def test_an_empty_set_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"t10k-images.* is an empty set: its shape is \(0, 28, 28\)"):
        load_dataset(write_dataset(tmp_path, counts=(10, 0)))


def test_missing_files_and_directories_are_named(tmp_path: Path) -> None:
    file = write_dataset(tmp_path) / "t10k-labels-idx1-ubyte"
    file.unlink()
    with pytest.raises(DataError, match=r"neither t10k-labels-idx1-ubyte nor t10k-labels-idx1-ubyte\.gz"):
        load_dataset(tmp_path)
    for directory in (tmp_path / "none", tmp_path / "train-labels-idx1-ubyte"):
        with pytest.raises(DataError, match=f"--data {directory}: no such directory"):
            load_dataset(directory)


@pytest.mark.parametrize("fraction", [0.0, 0.1, 0.5, 0.999999])
def test_a_split_depends_on_the_seed_alone(small_data: Path, fraction: float) -> None:
    samples = load_dataset(small_data).train
    training, validation = split_validation(samples, fraction, seed=3)
    assert len(training) >= 1
    assert len(validation) == min(round(fraction * TRAIN), TRAIN - 1)
    assert sorted([*training, *validation]) == list(range(TRAIN))
    again = split_validation(samples, fraction, seed=3)
    assert all(np.array_equal(*pair) for pair in zip(again, (training, validation), strict=True))


def drawing(mode: str, paper: str | tuple[int, ...], ink: str | tuple[int, ...]) -> Image.Image:
    """A seven, off the middle of a page."""
    picture = Image.new(mode, (120, 90), paper)
    ImageDraw.Draw(picture).line([(20, 15), (60, 15), (35, 75)], ink, width=7)
    return picture


def read(picture: Image.Image, path: Path) -> npt.NDArray[np.uint8]:
    """The picture after a way through a PNG file."""
    picture.save(path)
    return read_picture(path)


def test_strokes_become_white_on_black_in_the_middle(tmp_path: Path) -> None:
    path = tmp_path / "seven.png"
    dark = read(drawing("L", "white", "black"), path)
    assert dark.shape == (1, 784)
    assert dark.dtype == np.uint8
    image = dark.reshape(28, 28).astype(float)
    assert image.max() > 200
    inked = np.argwhere(image > 0)
    assert (np.ptp(inked, axis=0) < 20).all()
    assert np.ptp(inked, axis=0).max() >= 18
    centre = (np.indices((28, 28)) * image).sum(axis=(1, 2)) / image.sum()
    assert np.abs(centre - 13.5).max() <= 0.5 + 1e-9

    for same in (
        drawing("L", "black", "white"),
        drawing("RGB", "white", "black"),
        drawing("RGBA", (255, 0, 0, 0), (0, 0, 0, 255)),
        drawing("1", "white", "black"),
        drawing("P", "black", "white").convert("L"),
    ):
        assert np.array_equal(read(same, path), dark), same.mode


def test_a_picture_like_the_samples_is_taken_as_it_is(tmp_path: Path, mnist: Dataset) -> None:
    image = mnist.test.images[0].reshape(28, 28)
    assert np.array_equal(read(Image.fromarray(image), tmp_path / "a.png")[0], mnist.test.images[0])


@pytest.mark.parametrize("colour", ["white", "black", "grey"])
def test_a_blank_picture_is_refused(tmp_path: Path, colour: str) -> None:
    with pytest.raises(DataError, match="shows nothing"):
        read(Image.new("L", (50, 40), colour), tmp_path / "blank.png")


def test_a_single_line_is_a_picture(tmp_path: Path) -> None:
    picture = Image.new("L", (300, 300), "white")
    ImageDraw.Draw(picture).line([(150, 20), (150, 280)], "black")
    assert read(picture, tmp_path / "one.png").any()


def test_what_is_no_picture_is_refused(tmp_path: Path) -> None:
    whole, path = tmp_path / "whole.png", tmp_path / "no.png"
    drawing("L", "white", "black").save(whole)
    for content in (b"", b"no picture", whole.read_bytes()[:60], whole.read_bytes()[:120]):
        path.write_bytes(content)
        with pytest.raises(DataError, match="cannot read the picture"):
            read_picture(path)
    for missing in (tmp_path, tmp_path / "none.png"):
        with pytest.raises(DataError, match="cannot read the picture"):
            read_picture(missing)


def test_a_picture_of_16_bits_is_read(tmp_path: Path) -> None:
    narrow = drawing("L", "white", "black")
    wide = Image.fromarray(np.asarray(narrow).astype(np.uint16) * 257)
    expected = read(narrow, tmp_path / "8.png")
    assert np.array_equal(read(wide, tmp_path / "16.png"), expected)
