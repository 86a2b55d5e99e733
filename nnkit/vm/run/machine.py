"""The machine: modules in, launches out."""

import weakref
from collections.abc import Mapping

from nnkit.vm.analysis.options import Options
from nnkit.vm.build.source import Source
from nnkit.vm.run.host import Host
from nnkit.vm.run.memory_table import Allocation
from nnkit.vm.run.module import LoadedModule, Variants


class Machine(Host):
    """A host that loads modules. Those of one text share their code; each has variables of its own."""

    def __init__(self, threads: int | None = None, options: Options | None = None):
        """As a host is made."""
        super().__init__(threads, options)
        self._sources: weakref.WeakValueDictionary[str, Source] = weakref.WeakValueDictionary()
        self._variants: weakref.WeakKeyDictionary[Source, Variants] = weakref.WeakKeyDictionary()

    def load(self, ptx: str, shared: Mapping[str, Allocation] | None = None) -> LoadedModule:
        """Give a module's variables memory; refuse what the machine does not know. Raises PtxError.

        Variables named in `shared` are those of another module, which must outlive this one.
        """
        source = self._sources.get(ptx)
        if source is None:
            source = self._sources[ptx] = Source(ptx)
        return LoadedModule(self, source, self._variants.setdefault(source, {}), shared or {})
