"""Native code in this process: from the cache if it holds it, compiled if not, linked either way."""

import itertools
import json
from functools import cache
from typing import Any

from nnkit.ptx.ir import Location
from nnkit.vm.analysis.geometry import Launch
from nnkit.vm.build import store
from nnkit.vm.build.compile import Native, as_document, compile_kernel, host, llvm
from nnkit.vm.build.source import Source
from nnkit.vm.emit.values import Site


def native_code(source: Source, kernel: str, launch: Launch) -> Native:
    """The code for one kind of launch. Raises PtxError for what cannot be emitted."""
    from llvmlite import __version__

    key = store.key("native", source.ptx, kernel, repr(launch), *host(), __version__)
    kept = store.store.get(key)
    if kept is not None:
        found = _unpack(kept)
        if found is not None:
            return found
    native = compile_kernel(source.program(kernel), launch)
    store.store.put(key, _pack(native))
    return native


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
    # JITLink gets the memory for all sections of an object in one piece. LLVM's older linker asks for each by
    # itself, and ends the process where they come to lie more than 2 GiB apart, as between large arrays.
    return llvm().create_lljit_compiler(use_jit_link=True)


_numbers = itertools.count()


def load_native(code: bytes, names: tuple[str, ...] = ("run",)) -> tuple[Any, ...]:
    """Link an object file; returns what keeps it loaded and the addresses of its functions."""
    binding = llvm()
    builder = binding.JITLibraryBuilder().add_object_img(code).add_current_process()
    for name in names:
        builder.export_symbol(name)
    library = builder.link(_linker(), f"kernel{next(_numbers)}")
    return library, *(library[name] for name in names)
