"""Native code in this process: from the cache if it holds it, compiled if not, linked either way."""

import hashlib
import itertools
import json
from functools import cache
from pathlib import Path
from typing import Any, Protocol

from nnkit.ptx.ir import Location
from nnkit.vm.compile import Native, Program, as_document, compile_kernel, host, llvm
from nnkit.vm.emitter import Site
from nnkit.vm.geometry import Launch


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
"""Where native code is kept between processes; whoever embeds the machine may set it."""


def native_code(ptx: str, program: Program, launch: Launch, poison: bool) -> Native:
    """The code for one kind of launch. Raises PtxError for what cannot be emitted."""
    key = _key(ptx, program.function.name, launch, poison)
    kept = store.get(key)
    if kept is not None:
        found = _unpack(kept)
        if found is not None:
            return found
    native = compile_kernel(program, launch, poison)
    store.put(key, _pack(native))
    return native


def _key(ptx: str, kernel: str, launch: Launch, poison: bool) -> str:
    from llvmlite import __version__

    parts = [ptx, kernel, repr(launch), str(poison), *host(), __version__, _own_source()]
    text = json.dumps(parts)
    return hashlib.sha256(text.encode()).hexdigest()


@cache
def _own_source() -> str:
    """A digest of the compiler itself: code that an older one made is not used."""
    digest = hashlib.sha256()
    here = Path(__file__).parent
    for folder in (here, here.parent / "ptx"):
        for path in sorted(folder.glob("*.py")):
            digest.update(path.read_bytes())
    return digest.hexdigest()


def _pack(native: Native) -> bytes:
    """A JSON document, its length before it and the code behind it."""
    head = json.dumps(as_document(native)).encode()
    return len(head).to_bytes(8, "little") + head + native.code


def _unpack(data: bytes) -> Native | None:
    try:
        length = int.from_bytes(data[:8], "little")
        document: dict[str, Any] = json.loads(data[8 : 8 + length])
        sites = [
            Site(**(site | {"location": Location(**site["location"])})) for site in document.pop("sites")
        ]
        return Native(code=data[8 + length :], sites=sites, **document)
    except (ValueError, TypeError, KeyError, AttributeError):
        return None


@cache
def _linker() -> Any:
    return llvm().create_lljit_compiler()


_numbers = itertools.count()


def load_native(code: bytes) -> tuple[object, int]:
    """Link an object file; returns what keeps it loaded and the address of its `run`."""
    binding = llvm()
    builder = binding.JITLibraryBuilder().add_object_img(code).add_current_process().export_symbol("run")
    library = builder.link(_linker(), f"kernel{next(_numbers)}")
    return library, library["run"]
