"""Unit tests of functions in LLVM IR: compiled alone, and called from Python with records made by hand.

A function that they call may be written in Python. A fault can be planted in their text, to see that a test
finds it.
"""

import ctypes
import re
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from nnkit.vm.build.compile import object_code, target_machine
from nnkit.vm.build.native import load_native
from nnkit.vm.text.layout import Context, Worker

Words = npt.NDArray[np.int64]
_TYPES: dict[str, Any] = {"void": None, "i1": ctypes.c_bool, "i32": ctypes.c_int32, "i64": ctypes.c_int64}
_TYPES["ptr"] = ctypes.c_int64
_HEAD = re.compile(r"^define (?:internal )?(\w+) @(\w+)\(([^)]*)\)", re.MULTILINE)


class Alone:
    """The functions of a text; `alone.name(...)` calls one. Arrays are given as they are."""

    def __init__(self, text: str, **python: Callable[..., int | None]):
        """`python`: functions that the text calls and does not have, by "name__result__types"."""
        self._keep: list[Any] = []
        parts = [text.replace("define internal ", "define ")]
        for signature, function in python.items():
            parts.append(self._calling(signature, function))
        heads = {name: (result, given) for result, name, given in _HEAD.findall(text)}
        library, *addresses = load_native(object_code("\n".join(parts), target_machine()), tuple(heads))
        self._keep.append(library)
        for (name, (result, given)), address in zip(heads.items(), addresses, strict=True):
            types = [_TYPES[part.split()[0]] for part in given.split(",") if part]
            setattr(self, name, self._callable(ctypes.CFUNCTYPE(_TYPES[result], *types)(address)))

    def _calling(self, signature: str, function: Callable[..., int | None]) -> str:
        """A definition that calls Python."""
        name, result, *types = signature.split("__")
        callback = ctypes.CFUNCTYPE(_TYPES[result], *(_TYPES[each] for each in types))(function)
        self._keep.append(callback)
        address = ctypes.cast(callback, ctypes.c_void_p).value
        given = ", ".join(f"{each} %{number}" for number, each in enumerate(types))
        value, assign = ("", "") if result == "void" else (" %made", "%made = ")
        return (
            f"define {result} @{name}({given}) {{\nentry:\n  %f = inttoptr i64 {address} to ptr\n"
            f"  {assign}call {result} %f({given})\n  ret {result}{value}\n}}\n"
        )

    def _callable(self, function: Callable[..., Any]) -> Callable[..., Any]:
        kept = self._keep

        def call(*given: Any) -> Any:
            assert kept
            return function(
                *(each.ctypes.data if isinstance(each, np.ndarray) else int(each) for each in given)
            )

        return call

    def __getattr__(self, name: str) -> Callable[..., Any]:
        raise AttributeError(name)


def words(count: int) -> Words:
    """A table of zeros."""
    return np.zeros(count, np.int64)


def worker(**tables: npt.NDArray[Any]) -> Words:
    """A worker's record, with its tables: `worker(RESUME=...)`."""
    record = words(Worker.WORDS)
    for name, table in tables.items():
        record[Worker[name]] = table.ctypes.data
    return record


def context(**fields: int | npt.NDArray[Any]) -> Words:
    """A launch's record: numbers, and tables by their address."""
    record = words(Context.WORDS)
    for name, field in fields.items():
        record[Context[name]] = field.ctypes.data if isinstance(field, np.ndarray) else field
    return record


def finds(check: Callable[[Callable[[str], str]], None], fault: tuple[str, str]) -> None:
    """A check of texts, given what changes them, must find the fault: what stands there is replaced."""
    before, after = fault
    planted = 0

    def change(text: str) -> str:
        nonlocal planted
        planted += text.count(before)
        return text.replace(before, after)

    with pytest.raises(AssertionError):
        check(change)
    assert planted, f"there is no {before}"


def each(faults: Sequence[tuple[str, str]]) -> pytest.MarkDecorator:
    """A test of each fault, named by what stands there instead."""
    return pytest.mark.parametrize("fault", faults, ids=[after for _, after in faults])
