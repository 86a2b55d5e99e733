"""Ctrl-C while a kernel is compiled: answered at once, nothing half-written stays, and it then compiles."""

import os
import signal
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from nnkit.device.compile import nvrtc
from nnkit.device.compile.waiting import interruptible
from nnkit.device.virtual import VirtualDevice
from nnkit.errors import CompileError
from nnkit.vm.analysis import kernel

KERNEL = 'extern "C" __global__ void k(int *o) { o[threadIdx.x] += 3; }'


def interrupt_soon() -> None:
    threading.Timer(0.2, os.kill, (os.getpid(), signal.SIGINT)).start()


def runs(device: VirtualDevice) -> bool:
    array = device.upload(np.arange(64, dtype=np.int32))
    device.compile(KERNEL, name="stopped.cu")["k"].launch(1, 64, (array,))
    return bool((array.host == np.arange(64) + 3).all())


def test_while_nvrtc_compiles(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NNKIT_CACHE_DIR", str(tmp_path))
    real, release, ended = nvrtc.load(), threading.Event(), threading.Event()

    def slow(*given: object) -> object:
        # As the compiler does: it holds no lock of Python's, and hears no signal.
        release.wait()
        try:
            return real.nvrtcCompileProgram(*given)
        finally:
            ended.set()

    names = {name: getattr(real, name) for name in dir(real) if name.startswith("nvrtc")}
    with monkeypatch.context() as patch:
        patch.setattr(nvrtc, "load", lambda: SimpleNamespace(**names | {"nvrtcCompileProgram": slow}))
        patch.setattr("nnkit.device.compile.compiler._nvrtc", nvrtc.load)
        interrupt_soon()
        with pytest.raises(KeyboardInterrupt):
            VirtualDevice(threads=1).compile(KERNEL, name="stopped.cu")
        assert not ended.is_set()
    release.set()
    assert ended.wait(60)
    assert not list(tmp_path.rglob("ptx/*"))
    assert not list(tmp_path.rglob("*.tmp"))
    assert runs(VirtualDevice(threads=1))
    assert list(tmp_path.rglob("ptx/*"))


def test_while_python_compiles(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NNKIT_CACHE_DIR", str(tmp_path))

    def endless(*given: object) -> None:
        while True:
            time.sleep(0.01)

    with monkeypatch.context() as patch:
        patch.setattr(kernel, "find_pending", endless)
        interrupt_soon()
        with pytest.raises(KeyboardInterrupt):
            runs(VirtualDevice(threads=1))
    assert not list(tmp_path.rglob("native-*"))
    assert not list(tmp_path.rglob("*.tmp"))
    assert runs(VirtualDevice(threads=1))
    assert list(tmp_path.rglob("native-*"))


def test_a_wait_gives_results_and_errors() -> None:
    assert interruptible(lambda: threading.current_thread() is threading.main_thread()) is False
    with pytest.raises(CompileError, match="as it is"):
        interruptible(fails)
    with pytest.raises(CompileError):
        VirtualDevice(threads=1).compile("no kernel", name="wrong.cu")


def fails() -> None:
    raise CompileError("as it is")


def test_another_thread_waits_itself() -> None:
    found: list[bool] = []
    thread = threading.Thread(
        target=lambda: found.append(interruptible(threading.current_thread) is threading.current_thread())
    )
    thread.start()
    thread.join()
    assert found == [True]
