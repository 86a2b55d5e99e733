"""What is kept between processes: native code, and what there is in a module."""

import hashlib
import json
from functools import cache
from pathlib import Path
from typing import Protocol


class Store(Protocol):
    """Bytes by key, on disk or elsewhere."""

    def get(self, key: str) -> bytes | None:
        """What was put under the key, if it is still there."""

    def put(self, key: str, data: bytes) -> None:
        """Keep the data; may forget it any time."""


class _Nothing:
    def get(self, key: str) -> bytes | None:
        return None

    def put(self, key: str, data: bytes) -> None:
        pass


store: Store = _Nothing()
"""Where it is kept; whoever embeds the machine may set it."""


def key(kind: str, *parts: str) -> str:
    """The name of something that this version of the machine makes of the parts."""
    return f"{kind}-{hashlib.sha256(json.dumps([*parts, _own_source()]).encode()).hexdigest()}"


@cache
def _own_source() -> str:
    """A digest of the compiler itself: what an older one made is not used."""
    machine = Path(__file__).parents[1]
    return digest_of([machine, machine.parent / "ptx"])


def digest_of(folders: list[Path]) -> str:
    """A digest of all Python files in folders, and in those inside of them."""
    digest = hashlib.sha256()
    for folder in folders:
        for path in sorted(folder.rglob("*.py")):
            digest.update(path.read_bytes())
    return digest.hexdigest()
