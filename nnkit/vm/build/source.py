"""A module's text, and what is known of it: read from the store where it can be, parsed where it must be."""

import contextlib
import gc
import json
import struct
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any

from nnkit.ptx.ir import Instruction, Module, PtxError, Relocation, Variable
from nnkit.ptx.parse import parse
from nnkit.vm.build import store
from nnkit.vm.prepare.program import Program, Traits, prepare, refuse_constants


@dataclass(frozen=True)
class Outline:
    """What loading a module needs: its variables in memory, and what is called how."""

    variables: tuple[Variable, ...]
    """Those in global and constant memory, in the order of the table of their addresses."""
    functions: tuple[str, ...]
    kernels: dict[str, Traits]
    refused: dict[str, str]
    """Kernels that the machine cannot run, and why."""


class Source:
    """PTX text; parsed only where the store knows nothing of it, or when code must be made of it."""

    def __init__(self, ptx: str):
        self.ptx = ptx
        self._programs: dict[str, Program] = {}

    @cached_property
    def outline(self) -> Outline:
        """Its variables and kernels. Raises PtxError for text that is no PTX, or if no kernel can be used."""
        key = store.key("outline", self.ptx)
        kept = store.store.get(key)
        found = _unpack(kept) if kept is not None else None
        if found is None:
            refuse_constants(self.module)
            variables = tuple(v for v in self.module.variables.values() if v.space in ("global", "const"))
            kernels: dict[str, Traits] = {}
            refused: dict[str, PtxError] = {}
            for name in self.module.kernels:
                try:
                    kernels[name] = self.program(name).traits
                except PtxError as error:
                    refused[name] = error
            if refused and not kernels:
                raise next(iter(refused.values()))
            reasons = {name: str(error) for name, error in refused.items()}
            found = Outline(variables, tuple(self.module.functions), kernels, reasons)
            store.store.put(key, _pack(found))
        return found

    @cached_property
    def module(self) -> Module:
        """The whole of it as records. Raises PtxError."""
        # Tens of thousands of small records and no garbage: the collector would look at them in vain.
        collects = gc.isenabled()
        gc.disable()
        try:
            return parse(self.ptx)
        except RecursionError:
            raise PtxError("the PTX is nested too deeply") from None
        finally:
            if collects:
                gc.enable()

    def program(self, kernel: str) -> Program:
        """The kernel without calls, all of it known; errors name the kernel and the source line."""
        found = self._programs.get(kernel)
        if found is None:
            module = self.module
            with self.refusing(kernel):
                found = self._programs[kernel] = prepare(module, kernel)
        return found

    @contextlib.contextmanager
    def refusing(self, kernel: str) -> Iterator[None]:
        """Whatever goes wrong while a kernel is compiled is a PtxError that names it.

        Text that no compiler wrote can be wrong in more ways than are looked for: an operand of another
        kind, a constant that does not fit. What trips over it is the cause of the error.
        """
        try:
            yield
        except PtxError as error:
            raise self._located(kernel, error) from error.__cause__
        except (ArithmeticError, AssertionError, AttributeError, LookupError) as error:
            raise _unfit(kernel, error) from error
        except (RuntimeError, TypeError, ValueError, struct.error) as error:
            raise _unfit(kernel, error) from error

    def _located(self, kernel: str, error: PtxError) -> PtxError:
        """The error with the kernel and the source line, as far as they are known and not yet in it."""
        text = str(error)
        if not error.line or text.startswith("kernel "):
            return error
        bodies = [item for function in self.module.functions.values() for item in function.body or []]
        # A declaration has no place of its own: the instruction before it is near enough.
        found = [i.location for i in bodies if isinstance(i, Instruction) and 0 < i.line <= error.line]
        where = f" ({found[-1]})" if found and found[-1].line else ""
        made = PtxError(f"kernel {kernel}, PTX line {error.line}{where}: {text.partition(': ')[2]}")
        made.line = error.line
        return made


def _unfit(kernel: str, error: Exception) -> PtxError:
    words = " ".join(f"{type(error).__name__} {error}".split())
    return PtxError(f"kernel {kernel} cannot be compiled; its PTX may be malformed: {words[:200]}")


def _pack(outline: Outline) -> bytes:
    document = asdict(outline)
    for variable in document["variables"]:
        variable["initial"] = variable["initial"] and variable["initial"].hex()
    return json.dumps(document).encode()


def _unpack(data: bytes) -> Outline | None:
    try:
        document: dict[str, Any] = json.loads(data)
        return Outline(
            tuple(_variable(fields) for fields in document["variables"]),
            tuple(document["functions"]),
            {name: Traits(**fields) for name, fields in document["kernels"].items()},
            dict(document["refused"]),
        )
    except (ValueError, TypeError, KeyError, AttributeError):
        return None


def _variable(fields: dict[str, Any]) -> Variable:
    initial = fields.pop("initial")
    relocations = tuple(Relocation(**each) for each in fields.pop("relocations"))
    return Variable(
        **fields, initial=None if initial is None else bytes.fromhex(initial), relocations=relocations
    )
