"""The version of nnkit."""

__version__ = "0.1.0"
