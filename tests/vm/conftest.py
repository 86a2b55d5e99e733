"""What tests of the PTX machine share."""

from collections.abc import Callable
from functools import cache

import pytest

from nnkit.device.virtual import VirtualDevice
from nnkit.vm.build import compile as vm_compile
from nnkit.vm.build import native


@pytest.fixture
def avx2(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], VirtualDevice]:
    """Devices whose code is for a processor without AVX-512."""

    def host() -> tuple[str, str]:
        return "x86-64-v3", ""

    monkeypatch.setattr(vm_compile, "host", host)
    # The key of stored code names the processor.
    monkeypatch.setattr(native, "host", host)
    monkeypatch.setattr(vm_compile, "target_machine", vm_compile.target_machine.__wrapped__)
    assert not vm_compile.has_avx512()
    return cache(lambda width: VirtualDevice(width=width, threads=1))
