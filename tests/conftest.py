"""What the tests share: a small data set, a trained checkpoint, and the command in and out of process."""

import os
import shutil
import signal
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import pytest
from threadpoolctl import threadpool_limits

from nnkit import cli
from nnkit.comm.world import THREAD_VARIABLES
from nnkit.contracts import Array, Device
from nnkit.device import open_device
from nnkit.device.cuda import CudaDevice
from nnkit.device.cuda import driver as cuda_driver
from nnkit.errors import DeviceError
from tests.support.commands import Command, Result, arguments_of
from tests.support.devices import AnyDevice, host_device_of
from tests.support.disturbed import DISTURBED, Disturb
from tests.support.fake_driver import FakeDriver
from tests.support.idx_files import write_dataset


def pytest_configure(config: pytest.Config) -> None:
    """Register the markers (tools/gpu_check selects tests by `cuda`), and undo that Ctrl-C is ignored."""
    config.addinivalue_line("markers", "cuda: runs on the device cuda, if there is one")
    config.addinivalue_line("markers", "slow: takes some seconds; -m 'not slow' leaves these out")
    # A shell starts background jobs with SIGINT ignored. The processes that tests start would inherit that.
    if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session", params=["virtual", pytest.param("cuda", marks=pytest.mark.cuda)])
def kernel_device(request: pytest.FixtureRequest) -> Iterator[Device[Array]]:
    """Each device that runs kernels, one for all tests; without a GPU, `cuda` skips and says why."""
    try:
        device = open_device(request.param)
    except DeviceError as error:
        pytest.skip(str(error))
    yield device
    device.close()


@pytest.fixture
def fake_driver(monkeypatch: pytest.MonkeyPatch) -> FakeDriver:
    """The driver that every CudaDevice of the test finds."""
    driver = FakeDriver()
    monkeypatch.setattr(cuda_driver, "load", lambda: driver)
    return driver


@pytest.fixture
def fake_cuda(fake_driver: FakeDriver) -> Iterator[CudaDevice]:
    """A device `cuda` on the fake driver; checks that all its memory was freed."""
    device = CudaDevice(0)
    yield device
    device.close()
    assert not fake_driver.memory


@pytest.fixture(params=["cpu", "virtual", "fake"])
def each_device(request: pytest.FixtureRequest) -> Iterator[AnyDevice]:
    """Every kind of device, the GPU's on the fake driver."""
    if request.param == "fake":
        yield request.getfixturevalue("fake_cuda")
        return
    found = host_device_of(request.param)
    yield found
    found.close()


@pytest.fixture(scope="session", autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Keeps the tests, and the commands that they start, out of the user's cache.

    Processes that share the tests (`pytest -n 2`) have it in common.
    """
    run = tmp_path_factory.getbasetemp()
    folder = run.parent if "PYTEST_XDIST_WORKER" in os.environ else run
    os.environ.setdefault("NNKIT_CACHE_DIR", str(folder / "cache"))


@pytest.fixture(scope="session", autouse=True)
def _plain_terminal() -> None:
    """Tables are as wide, and as plain, as they are where nobody has said anything of a terminal."""
    for name in ("COLUMNS", "LINES", "FORCE_COLOR", "NO_COLOR", "TTY_COMPATIBLE", "TTY_INTERACTIVE"):
        os.environ.pop(name, None)


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> Iterator[None]:
    """One BLAS thread: for small networks more only wait for each other, on a busy machine for minutes."""
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    with threadpool_limits(1, "blas"):
        yield


@pytest.fixture(scope="session", autouse=True)
def _guarded_memory() -> Iterator[None]:
    """NNKIT_GUARD=end or start: the memory of all kernels ends, or starts, at guard pages."""
    where = os.environ.get("NNKIT_GUARD")
    if not where:
        yield
        return
    from tests.support.guard import guarded

    # The address space holds some thousand pieces of this size; 16, as tests rely on that alignment.
    with guarded(where, 1 << 33, 16):
        yield


@pytest.fixture
def outside_mpi(monkeypatch: pytest.MonkeyPatch) -> None:
    """No environment variables of MPI and none that set threads, even if MPI runs these tests."""
    for name in list(os.environ):
        if name.startswith(("OMPI_", "PMI_", "SLURM_")) or name in THREAD_VARIABLES:
            monkeypatch.delenv(name)


@pytest.fixture(scope="session")
def small_data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with a small, learnable data set."""
    return write_dataset(tmp_path_factory.mktemp("small"))


@pytest.fixture(scope="session")
def nnkit() -> Command:
    """`nnkit(*arguments)` in a process of its own; `prefix` is a command that starts it."""

    def run(*arguments: object, env: Mapping[str, str] | None = None, prefix: Sequence[str] = ()) -> Result:
        done = subprocess.run(
            [*prefix, *arguments_of(*arguments)],
            capture_output=True,
            text=True,
            env={**os.environ, **(env or {})},
            check=False,
            timeout=60,
        )
        return Result(done.returncode, done.stdout, done.stderr)

    return run


@pytest.fixture
def main(capsys: pytest.CaptureFixture[str]) -> Command:
    """`main(*arguments)` runs the command in this process."""

    def run(*arguments: object) -> Result:
        capsys.readouterr()
        status = cli.main([str(argument) for argument in arguments])
        said = capsys.readouterr()
        return Result(status, said.out, said.err)

    return run


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory, small_data: Path, nnkit: Command) -> Path:
    """A checkpoint after two epochs on the small data, with the metrics beside it; copy it to change it."""
    folder = tmp_path_factory.mktemp("trained")
    result = nnkit(
        *("train", "--data", small_data, "--epochs", 2, "--batch", 10, "--quiet"),
        *("--checkpoint", folder / "checkpoint", "--metrics", folder / "metrics.jsonl"),
    )
    assert result.status == 0, result
    return folder / "checkpoint"


@pytest.fixture
def going_on(trained: Path, tmp_path: Path) -> Path:
    """A copy of the trained checkpoint, to be resumed."""
    return Path(shutil.copytree(trained, tmp_path / "going on"))


@pytest.fixture
def disturb(tmp_path: Path) -> Disturb:
    """`disturb(statement, who, call)`: the environment of a run in which ranks `who` run it in that call."""

    def install(statement: str, who: int | str = 1, call: int = 5) -> dict[str, str]:
        site = tmp_path / "site"
        info = site / "fake_disturbed-1.2.dist-info"
        info.mkdir(parents=True)
        (site / "fake_plugin_disturbed.py").write_text(DISTURBED + statement, "utf-8")
        (info / "METADATA").write_text("Metadata-Version: 2.1\nName: fake-disturbed\nVersion: 1.2\n", "utf-8")
        (info / "entry_points.txt").write_text("[nnkit]\ndisturbed = fake_plugin_disturbed\n", "utf-8")
        return {"PYTHONPATH": str(site), "WHO": str(who), "CALL": str(call)}

    return install


@pytest.fixture
def train(nnkit: Command, small_data: Path) -> Command:
    """`train(...)` on the small data."""

    def run(*arguments: object, env: dict[str, str] | None = None) -> Result:
        return nnkit("train", "--data", small_data, *arguments, env=env)

    return run
