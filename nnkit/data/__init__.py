"""Data sets: images of bytes with labels 0..9, read from IDX files; MNIST ships with the package."""

from nnkit.data.dataset import Dataset, Samples, load_dataset, split_validation

__all__ = ["Dataset", "Samples", "load_dataset", "split_validation"]
