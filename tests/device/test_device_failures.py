"""What kernels print, and what comes of those that go wrong, on every device that runs them.

Each kernel has a process of its own: on cuda a process can use the GPU no more after one that went wrong,
and what the driver prints waits in the C library until the process ends.
"""

import subprocess
import sys
from pathlib import Path

import pytest

from nnkit.contracts import Array, Device


def run_alone(body: str, device: Device[Array], folder: Path) -> subprocess.CompletedProcess[str]:
    """Run the script in a process of its own, with the name of the device as its argument."""
    script = folder / "script.py"
    script.write_text(body, "utf-8")
    return subprocess.run(
        [sys.executable, str(script), device.name], capture_output=True, text=True, check=False, timeout=120
    )


def test_printf(kernel_device: Device[Array], tmp_path: Path) -> None:
    done = run_alone(
        r"""
import sys
import nnkit

SOURCE = r'''
extern "C" __global__ void hello(float x) {
    if (threadIdx.x < 2) printf("thread %d of %s: %.2f %lld%%\n", threadIdx.x, "hello", x, 1LL << 40);
}
'''
device = nnkit.open_device(sys.argv[1])
device.compile(SOURCE)["hello"].launch(1, 32, (1.25,))
device.synchronize()
""",
        kernel_device,
        tmp_path,
    )
    assert done.returncode == 0, done.stderr
    assert sorted(done.stdout.splitlines()) == [
        f"thread {thread} of hello: 1.25 1099511627776%" for thread in (0, 1)
    ]


FAILURES = {
    "x[1LL << 40] = 1;": "DeviceMemoryError",
    "*(double*)((char*)x + 4) = 1;": "DeviceMemoryError",
    "*(volatile float*)64 = 1;": "DeviceMemoryError",
    "assert(x[0] == 1);": "KernelError",
    "__trap();": "KernelError",
}


@pytest.mark.parametrize("statement", FAILURES)
def test_a_kernel_that_goes_wrong(kernel_device: Device[Array], tmp_path: Path, statement: str) -> None:
    done = run_alone(
        f"""
import sys
import numpy as np
import nnkit
from nnkit.errors import DeviceError, KernelError

source = '''
extern "C" __global__ void wrong(float* x) {{ {statement} }}
'''
device = nnkit.open_device(sys.argv[1])
x = device.zeros((64,), np.float32)
try:
    device.compile(source)["wrong"].launch(1, 1, (x,))
    device.synchronize()
except KernelError as error:
    print(type(error).__name__, "wrong" in str(error))
if device.name == "cuda":
    try:
        x.download()
    except DeviceError as error:
        print(error)
device.close()
""",
        kernel_device,
        tmp_path,
    )
    assert done.returncode == 0, done.stderr
    said = done.stdout.splitlines()
    assert f"{FAILURES[statement]} True" in said
    if kernel_device.name == "cuda":
        assert "start a new process" in said[-1]
