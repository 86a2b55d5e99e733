"""Finds backends through the entry point group `nnkit`, chooses one by name, reports the broken ones.

Plugins are loaded one at a time, and each fault stays with the plugin that has it: an import that fails, a
misspelled hook, a hook that raises, a backend that lacks something or whose name is taken. nnkit's own
backends come in through the same door; they are only asked first, so that nobody can take their names.
"""

from collections.abc import Iterator, Set
from dataclasses import KW_ONLY, dataclass, replace
from importlib.metadata import EntryPoint, entry_points
from typing import Any, cast

import pluggy

from nnkit import hookspecs
from nnkit.contracts import Array, CommBackend, GemmBackend, TransportBackend
from nnkit.errors import PluginError, UsageError, reason, unknown_name

KINDS = {
    "gemm": "nnkit_gemm_backends",
    "comm": "nnkit_comm_backends",
    "transport": "nnkit_transports",
}
"""Kind of backend -> the hook that offers it. A transport counts as a kind of backend here."""

REQUIRED = {
    "gemm": ("name", "devices", "dtypes", "gemm"),
    "comm": ("name", "strategy"),
    "transport": ("name", "connect"),
}
"""Kind of backend -> the attributes it must have."""


@dataclass(frozen=True)
class Entry:
    """One row of `nnkit backends`: a backend, or a plugin that offers none because of `error`."""

    name: str
    """The backend's; the plugin's entry point where the backend has none."""
    kind: str
    """"gemm", "comm", "transport", or "plugin" where the fault lies with the plugin as a whole."""
    devices: tuple[str, ...] = ()
    _: KW_ONLY
    distribution: str
    backend: Any = None
    error: str = ""

    @property
    def status(self) -> str:
        """ "ok" or "broken"."""
        return "broken" if self.error else "ok"


class Registry:
    """The backends that are installed.

    >>> Registry.discover().gemm("numpy").name
    'numpy'
    """

    def __init__(self, entries: list[Entry]):
        self.entries = entries

    @classmethod
    def discover(cls) -> "Registry":
        """Ask every installed plugin; never raises because of one."""
        found = sorted(entry_points(group=hookspecs.GROUP), key=_own_first)
        entries: list[Entry] = []
        seen: set[tuple[str, str]] = set()
        for point in found:
            # An editable install may list an entry point twice (checkout and site-packages).
            if (point.name, point.value) in seen:
                continue
            seen.add((point.name, point.value))
            for entry in _entries_of(point):
                entries.append(_unless_taken(entry, entries))
        return cls(entries)

    def gemm(self, name: str) -> GemmBackend[Array]:
        """The GEMM backend of that name."""
        return cast(GemmBackend[Array], self._find("gemm", name, "--backend"))

    def comm(self, name: str) -> CommBackend:
        """The communication backend of that name."""
        return cast(CommBackend, self._find("comm", name, "--comm"))

    def transport(self, name: str) -> TransportBackend:
        """The transport of that name."""
        return cast(TransportBackend, self._find("transport", name, "--transport"))

    def names(self, kind: str) -> list[str]:
        """The names of the healthy backends of one kind."""
        return [entry.name for entry in self.entries if entry.kind == kind and not entry.error]

    def __repr__(self) -> str:
        parts = [f"{kind} {', '.join(self.names(kind)) or 'none'}" for kind in KINDS]
        if broken := [entry.name for entry in self.entries if entry.error]:
            parts.append(f"broken {', '.join(broken)}")
        return f"<registry: {'; '.join(parts)}>"

    def _find(self, kind: str, name: str, option: str) -> Any:
        matches = [entry for entry in self.entries if entry.kind in (kind, "plugin") and entry.name == name]
        for entry in matches:
            if not entry.error:
                return entry.backend
        if matches:
            broken = matches[0]
            raise PluginError(f"{option} {name}: {broken.distribution} is broken: {broken.error}")
        error = unknown_name(kind if kind == "transport" else f"{kind} backend", name, self.names(kind))
        if any(entry.error for entry in self.entries):
            raise UsageError(f"{error} Some are broken: nnkit backends says what is wrong with them.")
        raise error


def check_serves(backend: GemmBackend[Array], device: str, dtype: str) -> None:
    """Raise UsageError unless the GEMM backend serves that device and dtype."""
    if device not in backend.devices:
        served = ", ".join(sorted(backend.devices))
        raise UsageError(
            f"backend {backend.name!r} does not run on device {device!r}: give --device {served}"
        )
    if dtype not in backend.dtypes:
        served = ", ".join(sorted(backend.dtypes))
        raise UsageError(f"backend {backend.name!r} does not compute in {dtype}: give --dtype {served}")


def _own_first(point: EntryPoint) -> tuple[bool, str, str]:
    return (_distribution_name(point) != "nnkit", _distribution_name(point), point.name)


def _distribution_name(point: EntryPoint) -> str:
    return point.dist.name if point.dist else "unknown"


def _distribution(point: EntryPoint) -> str:
    return f"{point.dist.name} {point.dist.version}" if point.dist else "unknown"


def _entries_of(point: EntryPoint) -> Iterator[Entry]:
    """The backends that one plugin offers; each of its faults is an entry of its own."""
    distribution = _distribution(point)

    def fault(kind: str, name: str, error: str) -> Entry:
        return Entry(name, kind, distribution=distribution, error=error)

    # A plugin is foreign code: whatever it raises, SystemExit too, is its fault and ours to report.
    try:
        plugin = point.load()
        manager = pluggy.PluginManager(hookspecs.GROUP)
        manager.add_hookspecs(hookspecs)
        manager.register(plugin)
    except (Exception, SystemExit) as error:
        yield fault(
            "plugin", point.name, f"{point.value} does not load: {type(error).__name__}: {reason(error)}"
        )
        return

    callers = manager.get_hookcallers(plugin) or []
    for caller in callers:
        if not caller.has_spec():
            near = unknown_name("hook", caller.name, KINDS.values())
            yield fault("plugin", point.name, f"{point.value}: {near}")
    if not callers:
        hooks = " or ".join(KINDS.values())
        yield fault("plugin", point.name, f"{point.value} has no function marked @hookimpl named {hooks}")

    for kind, hook in KINDS.items():
        caller = getattr(manager.hook, hook)
        if caller.name not in {known.name for known in callers}:
            continue
        try:
            offered = list(caller()[0])
        except (Exception, SystemExit) as error:
            yield fault(kind, point.name, f"{hook} failed: {type(error).__name__}: {reason(error)}")
            continue
        for backend in offered:
            yield _checked(backend, kind, point.name, distribution)


def _checked(backend: Any, kind: str, plugin: str, distribution: str) -> Entry:
    """The entry of a backend that was offered, broken if it lacks what its contract asks for."""
    try:
        return Entry(*_identity(backend, kind), distribution=distribution, backend=backend)
    except _ContractError as error:
        what = f"{error} (see nnkit.contracts)"
    except Exception as error:
        what = f"raises {type(error).__name__} when asked what it is: {reason(error)}"
    return Entry(plugin, kind, distribution=distribution, error=f"{type(backend).__name__} {what}")


class _ContractError(Exception):
    """A backend is not what its contract asks for; the message continues its class name."""


def _identity(backend: Any, kind: str) -> tuple[str, str, tuple[str, ...]]:
    """Name, kind and devices of a backend. Raises _ContractError, or whatever its properties raise."""
    if not isinstance(getattr(backend, "name", None), str) or not backend.name:
        raise _ContractError("has no name: `name` must be a non-empty string")
    missing = [attribute for attribute in REQUIRED[kind] if not hasattr(backend, attribute)]
    if missing:
        raise _ContractError(f"lacks {', '.join(missing)}")
    if kind != "gemm":
        return backend.name, kind, ()
    for attribute in ("devices", "dtypes"):
        names = getattr(backend, attribute)
        if not isinstance(names, Set) or not all(isinstance(name, str) for name in names):
            raise _ContractError("is wrong: devices and dtypes must be sets of names")
    return backend.name, kind, tuple(sorted(backend.devices))


def _unless_taken(entry: Entry, earlier: list[Entry]) -> Entry:
    """The entry itself, or a broken one where a healthy backend of its kind has the name already."""
    for other in earlier:
        if not entry.error and not other.error and (other.kind, other.name) == (entry.kind, entry.name):
            error = f"the name {entry.name!r} is taken by {other.distribution}: give the backend another name"
            return replace(entry, backend=None, error=error)
    return entry
