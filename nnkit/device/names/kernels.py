"""Kernels by the names of their source: `add`, `ns::add`, `add(float*)`, `fill<float, 3>`."""

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from nnkit.device.names.demangle import demangle, is_reserved
from nnkit.errors import UsageError, unknown_name
from nnkit.ptx.interface import Interface

Found = TypeVar("Found")

UNNAMED = re.compile(r"\$|__unnamed_|_param")
"""How the names of variables begin that the compiler made itself."""

_WORDS = re.compile(r"\w+|[^\w\s]")
_SUFFIX = re.compile(r"^(\d+)[uUlL]+$")


@dataclass
class KernelTable(Generic[Found]):
    """A module's kernels, found by what people call them, made when they are first asked for.

    `own` holds the names in the PTX. `make` gives the kernel of such a name. `instantiate` compiles the
    source once more for a name expression such as `fill<float, 3>`; it gives the name in the PTX and a maker.
    `templates` are the names of the templates that the source has, without their namespaces.
    """

    own: tuple[str, ...]
    make: Callable[[str], Found]
    instantiate: Callable[[str], tuple[str, Callable[[str], Found]]] | None = None
    templates: tuple[str, ...] = ()
    _made: dict[str, Found] = field(default_factory=dict)

    @property
    def names(self) -> tuple[str, ...]:
        """What the kernels are called in the source, with their parameters; as it is for extern "C"."""
        return tuple(map(demangle, self.own))

    def __getitem__(self, name: str) -> Found:
        """The kernel of that name; raises UsageError for one that is not there, or not the only one."""
        if not isinstance(name, str):
            raise unknown_name("kernel", name, self.names)
        made = self._made.get(name)
        if made is None:
            made = self._made[name] = self._find(name)
        return made

    def _find(self, name: str) -> Found:
        name = name.strip().removeprefix("void ")  # as debuggers and profilers call templates
        own = find_kernel(name, self.own)
        if own is None and self.instantiate is not None and ("<" in name or "(" in name):
            wanted = expression(name)
            try:
                own, make = self.instantiate(wanted)
            except UsageError as error:
                raise UsageError(str(error).replace(repr(wanted), repr(name))) from None
            if own not in self.own:
                return make(own)
        if own is None:
            if name.rpartition("::")[2] in self.templates:
                raise UsageError(
                    f"kernel {name!r} is a template: ask for it with its arguments, like {name + '<float>'!r}"
                )
            raise unknown_name("kernel", name, (*self.names, *(f"{it}<...>" for it in self.templates)))
        made = self._made.get(own)
        if made is None:
            made = self._made[own] = self.make(own)
        return made


def find_kernel(name: str, own: Iterable[str]) -> str | None:
    """Which of the names in the PTX is called so, with or without namespaces, parameters, template arguments.

    None if there is none; raises UsageError if there are several, with all of them.
    """
    own = tuple(own)
    if name in own:
        return name
    wanted = _plain(name)
    readable = {mangled: demangle(mangled) for mangled in own}
    for forms in (_whole_forms, _short_forms):
        found = [mangled for mangled, spelled in readable.items() if wanted in forms(spelled)]
        if len(found) > 1:
            candidates = ", ".join(repr(readable[mangled]) for mangled in found)
            raise UsageError(f"there are {len(found)} kernels {name!r}: ask for one of {candidates}")
        if found:
            return found[0]
    return None


def expression(name: str) -> str:
    """`f(int*)` as the expression that names it in C++; a name without parameters is one already."""
    if name.count("\n") or "#" in name or "\\" in name or ";" in name:
        raise UsageError(f"kernel {name!r}: that is no name: give one like 'f', 'f(int*)' or 'f<float, 3>'")
    head, parameters = split_parameters(name)
    if parameters is None:
        return name
    return f"static_cast<void (*){parameters}>({head})"


def variables(module: Interface) -> list[str]:
    """The names in the PTX of the variables that a kernel may share with another.

    Those of CUDA's headers are constants.
    """
    own = (found.name for found in module.variables if not found.is_external)
    return [name for name in own if not UNNAMED.match(name) and not is_reserved(name)]


def split_parameters(name: str) -> tuple[str, str | None]:
    """A name without and its parameters with their parentheses; None if it has none."""
    depth = 0
    spelled = name.rstrip()
    if not spelled.endswith(")"):
        return name, None
    for index in range(len(spelled) - 1, -1, -1):
        depth += {")": 1, "(": -1}.get(spelled[index], 0)
        if depth == 0:
            return spelled[:index].rstrip(), spelled[index:]
    return name, None


def _plain(name: str) -> str:
    """Without blanks that mean nothing, and without suffixes of numbers."""
    words = [_SUFFIX.sub(r"\1", word) for word in _WORDS.findall(name)]
    text = "".join(f" {word}" if word[0].isalnum() or word[0] == "_" else word for word in words)
    return re.sub(r"(?<!\w) ", "", text).removeprefix("::")


def _whole_forms(spelled: str) -> set[str]:
    head, parameters = split_parameters(spelled)
    bare = _without_arguments(head)
    return {_plain(form) for form in (spelled, head, bare, bare + (parameters or ""))}


def _short_forms(spelled: str) -> set[str]:
    head, parameters = split_parameters(spelled)
    bare = _without_arguments(head)
    last = bare.rpartition("::")[2]
    short = last + head[len(bare) :]
    return {_plain(form) for form in (last, short, last + (parameters or ""), short + (parameters or ""))}


def _without_arguments(head: str) -> str:
    """`ns::fill<A<int>, 3>` as `ns::fill`."""
    if not head.endswith(">"):
        return head
    depth = 0
    for index in range(len(head) - 1, -1, -1):
        depth += {">": 1, "<": -1}.get(head[index], 0)
        if depth == 0:
            return head[:index]
    return head
