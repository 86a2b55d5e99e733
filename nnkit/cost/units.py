"""Bandwidth, latency and compute rate as people write them: 25GB/s, 200Gb/s, 2us, 10TFLOP/s."""

import math
import re
from collections.abc import Mapping

from nnkit.errors import UsageError

_DECIMAL = {"": 1.0, "k": 1e3, "M": 1e6, "G": 1e9, "T": 1e12}
_BINARY = {"Ki": 2.0**10, "Mi": 2.0**20, "Gi": 2.0**30, "Ti": 2.0**40}

BANDWIDTHS = {
    **{f"{prefix}B/s": factor for prefix, factor in (_DECIMAL | _BINARY).items()},
    # Networks are sold in bits.
    **{f"{prefix}b/s": factor / 8 for prefix, factor in _DECIMAL.items()},
}
TIMES = {"s": 1.0, "ms": 1e-3, "us": 1e-6, "µs": 1e-6, "μs": 1e-6, "ns": 1e-9}
RATES = {f"{prefix}FLOP/s": factor for prefix, factor in (_DECIMAL | {"P": 1e15}).items()}


def parse_bandwidth(text: str, option: str = "--bandwidth") -> float:
    """Bytes a second; a capital B means bytes, a small one bits. Raises UsageError."""
    return _parse(text, BANDWIDTHS, option, "25GB/s (bytes) or 200Gb/s (bits)")


def parse_latency(text: str, option: str = "--latency") -> float:
    """Seconds. Raises UsageError."""
    return _parse(text, TIMES, option, "2us, 500ns or 0.1ms", least=0.0)


def parse_rate(text: str, option: str = "--flops") -> float:
    """Floating-point operations a second. Raises UsageError."""
    return _parse(text, RATES, option, "10TFLOP/s or 80GFLOP/s")


def _parse(
    text: str, units: Mapping[str, float], option: str, example: str, least: float | None = None
) -> float:
    """A number and its unit; above 0, unless `least` says otherwise."""
    match = re.fullmatch(r"([0-9]+(?:\.[0-9]*)?(?:e[+-]?[0-9]+)?) ?(\S+)", text.strip(), flags=re.ASCII)
    unit = units.get(match[2]) if match else None
    if match is None or unit is None:
        raise UsageError(f"{option} {text}: give a number and its unit, for example {example}")
    value = float(match[1]) * unit
    if not math.isfinite(value) or (value <= 0 if least is None else value < least):
        raise UsageError(f"{option} {text}: give a finite number above 0, for example {example}")
    return value


def bytes_in_words(count: float) -> str:
    """3140040 as 3.14 MB."""
    return _in_words(count, ((1e9, "GB"), (1e6, "MB"), (1e3, "kB"), (1.0, "B")))


def seconds_in_words(seconds: float) -> str:
    """0.0031 as 3.1 ms."""
    return _in_words(seconds, ((1.0, "s"), (1e-3, "ms"), (1e-6, "us")))


def _in_words(value: float, units: tuple[tuple[float, str], ...]) -> str:
    # What rounds up to the next unit is written in it: 1 GB, not 1e+03 MB.
    factor, name = next((unit for unit in units if value >= 0.9995 * unit[0]), units[-1])
    return f"{value / factor:.3g} {name}"
