"""The options that decide what a training run computes, checked before any work is done."""

import math
from dataclasses import asdict, dataclass, fields
from numbers import Integral, Real
from typing import Any

from nnkit.contracts import ACTIVATIONS
from nnkit.errors import UsageError, unknown_name

MAX_NEURONS = 1_000_000
"""In one layer. Already this many have 3 GB of float32 weights to the 784 pixels."""


@dataclass(frozen=True)
class TrainConfig:
    """The options of `nnkit train` that decide the result. Raises UsageError for a value out of range."""

    hidden: tuple[int, ...] = (100,)
    epochs: int = 20
    batch: int = 100
    lr: float = 1.0
    l2: float = 1e-5
    activation: str = "sigmoid"
    seed: int = 0
    validation_fraction: float = 0.1
    backend: str = "numpy"
    device: str = "auto"
    comm: str = "none"

    def __post_init__(self) -> None:
        for field in fields(self):
            _of_type(field.name, getattr(self, field.name), field.default)
        if not self.hidden or not all(1 <= width <= MAX_NEURONS for width in self.hidden):
            raise UsageError(
                f"--hidden {_joined(self.hidden)}: give each hidden layer 1 to {MAX_NEURONS} neurons"
            )
        _at_least("--epochs", self.epochs, 1)
        _at_least("--batch", self.batch, 1)
        _at_least("--seed", self.seed, 0)
        if not (math.isfinite(self.lr) and self.lr > 0):
            raise UsageError(f"--lr {self.lr}: the learning rate is a finite number above 0, for example 0.5")
        if not (math.isfinite(self.l2) and self.l2 >= 0):
            raise UsageError(
                f"--l2 {self.l2}: the L2 penalty is a finite number, 0 or more, for example 1e-4"
            )
        if self.lr * self.l2 >= 1:
            raise UsageError(
                f"--lr {self.lr} times --l2 {self.l2} is 1 or more: every step would erase the weights"
            )
        if not 0 <= self.validation_fraction < 1:
            raise UsageError(
                f"--validation-fraction {self.validation_fraction}: give 0 or more, but less than 1"
            )
        if self.activation not in ACTIVATIONS:
            raise unknown_name("activation", self.activation, ACTIVATIONS)

    def sizes(self, pixels: int, classes: int) -> tuple[int, ...]:
        """The width of every layer, input first."""
        return (pixels, *self.hidden, classes)

    def to_json(self) -> dict[str, Any]:
        """A document that `from_json` reads."""
        return {**asdict(self), "hidden": list(self.hidden)}

    @classmethod
    def from_json(cls, document: dict[str, Any]) -> "TrainConfig":
        """The configuration in such a document; raises TypeError or UsageError for any other document."""
        known = {field.name for field in fields(cls)}
        if set(document) != known:
            raise TypeError(f"fields {sorted(set(document) ^ known)} are missing or unknown")
        values = {**document, "hidden": tuple(document["hidden"])}
        default = cls()
        for name, value in values.items():
            kind = type(getattr(default, name))
            # An int is good for a float: a caller from Python may have given 0 for 0.0.
            if type(value) is not kind and (kind, type(value)) != (float, int):
                raise TypeError(f"{name} is {value!r}")
        if not all(type(width) is int for width in values["hidden"]):
            raise TypeError(f"hidden is {document['hidden']!r}")
        return cls(**values)


SHAPING = ("hidden", "batch", "lr", "l2", "activation", "seed", "validation_fraction")
"""The fields that a resumed run must not change."""


def parse_hidden(text: str) -> tuple[int, ...]:
    """ "300,100" as (300, 100)."""
    try:
        return tuple(int(part) for part in text.split(","))
    except ValueError:
        raise UsageError(
            f"--hidden {text}: give the neurons of each hidden layer, for example 100 or 300,100"
        ) from None


def _of_type(name: str, value: Any, default: Any) -> None:
    """Raise UsageError unless a value has the default's type. NumPy's numbers are accepted as well."""
    if isinstance(default, tuple):
        right = isinstance(value, tuple | list) and all(_is_number(width, Integral) for width in value)
        expected = "a tuple of whole numbers"
    elif isinstance(default, str):
        right, expected = isinstance(value, str), "text"
    elif isinstance(default, int):
        right, expected = _is_number(value, Integral), "a whole number"
    else:
        right, expected = _is_number(value, Real), "a number"
    if not right:
        option = name.replace("_", "-")
        raise UsageError(f"--{option}: give {expected}, not a value of type {type(value).__name__}")


def _is_number(value: Any, kind: Any) -> bool:
    try:
        return isinstance(value, kind) and not isinstance(value, bool) and float(value) is not None
    except OverflowError:
        return False


def _joined(sizes: tuple[int, ...]) -> str:
    return ",".join(map(str, sizes))


def _at_least(option: str, value: int, least: int) -> None:
    if value < least:
        raise UsageError(f"{option} {value}: give {least} or more")
