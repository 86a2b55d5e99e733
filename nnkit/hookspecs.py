"""The hooks that a plugin answers to, and the marker it answers with.

A plugin is a module named by an entry point in the group `nnkit`; it decorates functions with `hookimpl`.
"""

from collections.abc import Iterable
from typing import Any

import pluggy

from nnkit.contracts import CommBackend, GemmBackend, TransportBackend

GROUP = "nnkit"
"""The entry point group, and the project name of the pluggy markers."""

hookspec = pluggy.HookspecMarker(GROUP)
hookimpl = pluggy.HookimplMarker(GROUP)


@hookspec
def nnkit_gemm_backends() -> Iterable[GemmBackend[Any]]:  # type: ignore[empty-body]
    """Return the plugin's GEMM backends; each has a name of its own. Called once, cheap: compile later."""


@hookspec
def nnkit_comm_backends() -> Iterable[CommBackend]:  # type: ignore[empty-body]
    """Return the plugin's communication backends; each has a name of its own. Called once."""


@hookspec
def nnkit_transports() -> Iterable[TransportBackend]:  # type: ignore[empty-body]
    """Return the plugin's transports; each has a name of its own. Called once, cheap: connect later."""
