"""What tests of the PTX machine share."""

from collections.abc import Callable
from functools import cache

import pytest
from llvmlite import binding

from nnkit.device.virtual import VirtualDevice
from nnkit.vm.build import compile as vm_compile
from nnkit.vm.build import native


@pytest.fixture
def avx2(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], VirtualDevice]:
    """Devices whose code is for a processor without AVX-512."""
    if not (vm_compile.is_x86() and binding.get_host_cpu_features().get("avx2")):
        pytest.skip("needs a processor with AVX2")

    def host() -> tuple[str, str]:
        return "x86-64-v3", ""

    monkeypatch.setattr(vm_compile, "host", host)
    # The key of stored code names the processor.
    monkeypatch.setattr(native, "host", host)
    monkeypatch.setattr(vm_compile, "target_machine", vm_compile.target_machine.__wrapped__)
    assert not vm_compile.has_avx512()
    return cache(lambda width: VirtualDevice(width=width, threads=1))
