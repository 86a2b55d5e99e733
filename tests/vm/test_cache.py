"""The cache of native code: it gives what a compilation gives, whatever happened to it meanwhile."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import pytest

from nnkit.device.cache.disk import DiskCache
from nnkit.device.compile import compile_cuda
from nnkit.device.virtual import VirtualDevice
from nnkit.device.virtual.device import CACHE_BYTES
from nnkit.errors import CompileError, DeviceMemoryError
from nnkit.vm.analysis.geometry import Launch
from nnkit.vm.analysis.options import Options
from nnkit.vm.build import native
from nnkit.vm.build import store as kept
from nnkit.vm.build.source import Source

SOURCE = """
extern "C" __global__ void work(int n, const float* x, float* y) {
    __shared__ float here[64];
    int i = threadIdx.x;
    here[i] = i < n ? x[i] : 0;
    __syncthreads();
    y[i] = here[63 - i] * 2;
}
"""


class Counting:
    """A cache that counts what comes and goes of one kind."""

    def __init__(self, inner: DiskCache, kind: str = "native"):
        self.inner = inner
        self.kind = kind
        self.hits = self.misses = self.puts = 0
        self.keys: list[str] = []

    def get(self, key: str) -> bytes | None:
        found = self.inner.get(key)
        if key.startswith(self.kind):
            self.hits += found is not None
            self.misses += found is None
        return found

    def put(self, key: str, data: bytes) -> None:
        if key.startswith(self.kind):
            self.puts += 1
            self.keys.append(key)
        self.inner.put(key, data)


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Counting:
    """A cache of the test's own."""
    monkeypatch.setenv("NNKIT_CACHE_DIR", str(tmp_path))
    made = Counting(DiskCache("native", CACHE_BYTES))
    monkeypatch.setattr("nnkit.device.virtual.device._use_cache", lambda: None)
    monkeypatch.setattr(kept, "store", made)
    return made


@pytest.fixture(scope="module")
def ptx() -> str:
    return compile_cuda(SOURCE, "cached.cu").ptx


def run(ptx: str, block: int = 64, width: int | None = None) -> None:
    """A device of its own: load, launch, compare; then an error, whose message comes from the cache too."""
    device = VirtualDevice(width=width, threads=1)
    x, y = device.upload(np.arange(60, dtype=np.float32)), device.zeros((64,), np.float32)
    kernel = device.load_ptx(ptx)["work"]
    kernel.launch(1, block, (60, x, y))
    if block == 64:
        expected = 2 * np.concatenate([np.zeros(4), np.arange(59, -1, -1)])
        assert (y.host == expected).all()
    with pytest.raises(DeviceMemoryError, match=r"cached.cu:5, block .0, 0, 0., thread .60, 0, 0."):
        kernel.launch(1, 64, (64, x, y))
    device.close()


def test_a_second_process_or_device_compiles_nothing(store: Counting, ptx: str) -> None:
    run(ptx)
    assert (store.hits, store.misses, store.puts) == (0, 1, 1)
    run(ptx)
    run(ptx)
    assert (store.hits, store.misses, store.puts) == (2, 1, 1)


def test_a_second_process_parses_nothing(store: Counting, ptx: str, monkeypatch: pytest.MonkeyPatch) -> None:
    run(ptx)
    monkeypatch.setattr("nnkit.vm.build.source.parse", lambda _: pytest.fail("parsed again"))
    run(ptx)
    with pytest.raises(pytest.fail.Exception, match="parsed again"):
        run(ptx, width=8)


def test_variables_from_the_cache(store: Counting) -> None:
    """Values, constants, and addresses of each other, from an outline that another device has left."""
    source = """
    __device__ int table[3] = {3, 5, 7};
    __constant__ float factor = 0.5f;
    __device__ int *second = table + 1;
    __device__ double zero;
    #pragma pack(1)
    struct Odd { char c; int *p; short s; };
    __device__ Odd odd[2] = {{1, table + 1, 2}, {3, table, 4}};
    extern "C" __global__ void read(double *out)
    {
        out[0] = *second + factor * table[2] + zero + 10 * *odd[0].p + 100 * *odd[1].p + odd[1].s;
        table[2] = 1;
        odd[1].s = 4;
    }
    """
    text = compile_cuda(source, "variables.cu").ptx
    store.kind = "outline"
    for number in range(3):
        device = VirtualDevice(threads=1)
        out = device.zeros((1,), np.float64)
        kernel = device.load_ptx(text)["read"]
        for expected in (362.5, 359.5):
            kernel.launch(1, 1, (out,))
            assert out.host[0] == expected
        assert store.hits == number


def test_an_edit_anywhere_in_the_machine_makes_other_keys(tmp_path: Path) -> None:
    """Native code that an older version made would be wrong in silence: one file of each room is edited."""
    own = Path(kept.__file__).parents[1]
    folders = [Path(shutil.copytree(source, tmp_path / source.name)) for source in (own, own.parent / "ptx")]
    assert kept.digest_of(folders) == kept.digest_of([own, own.parent / "ptx"]), "it looks at other files"
    rooms = sorted({path.parent for folder in folders for path in folder.rglob("*.py")})
    assert len(rooms) > 10
    seen = {kept.digest_of(folders)}
    for room in rooms:
        edited = max(room.glob("*.py"))
        edited.write_text(edited.read_text("utf-8") + "# edited\n", "utf-8")
        seen.add(kept.digest_of(folders))
    assert len(seen) == len(rooms) + 1


def test_a_refusal_is_not_kept(store: Counting, ptx: str) -> None:
    bad = ptx.replace("mul.f32", "mul.f16").replace("add.f32", "add.f16").replace("add.rn.f32", "add.f16")
    assert bad != ptx
    store.kind = "outline"
    for _ in range(2):
        with pytest.raises(CompileError, match=r"kernel work, PTX line \d+ .*cached.cu:7.*f16"):
            VirtualDevice(threads=1).load_ptx(bad)
    assert store.puts == 0


def test_what_the_key_holds(store: Counting, ptx: str, monkeypatch: pytest.MonkeyPatch) -> None:
    run(ptx)
    for width in (8, 32):
        run(ptx, width=width)
    run(ptx, block=32)
    run(ptx.replace("mul", "mul", 1) + "\n// other text\n")
    monkeypatch.setenv("NNKIT_POISON", "1")
    run(ptx)
    monkeypatch.setattr(native, "host", lambda: ("another processor", ""))
    run(ptx)
    assert store.hits == 1  # The second launch of the block of 32 has 64 threads again.
    assert len(set(store.keys)) == len(store.keys) == store.puts == 7


FIRST = Options(width=16)
OTHERS = {
    "width": replace(FIRST, width=8),
    "poison": replace(FIRST, poison=True),
    "attached": replace(FIRST, attached=()),
}
"""For every field of the options, those of the first launch with another value of it."""


@pytest.mark.parametrize("field", [field.name for field in fields(Options)])
def test_every_option_changes_the_key(store: Counting, ptx: str, field: str) -> None:
    """Code that was made in another way would be wrong in silence."""
    launch = Launch((64, 1, 1), True, FIRST)
    other = replace(launch, options=OTHERS[field])
    different = [
        each.name
        for each in fields(Options)
        if getattr(FIRST, each.name) != getattr(other.options, each.name)
    ]
    assert different == [field], "give it, and nothing else, another value"
    for each in (launch, other, launch, other):
        native.native_code(Source(ptx), "work", each)
    assert (store.misses, store.hits) == (2, 2)
    assert len(set(store.keys)) == 2


def damages(entry: bytes) -> Iterator[bytes]:
    """Every kind of damage to a file."""
    head = 32 + 8
    code = entry.find(b"\x7fELF")
    yield b""
    yield entry[:10]
    yield entry[:head]
    yield entry[: len(entry) // 2]
    yield entry[:-1]
    yield entry + b"\0"
    yield bytes(len(entry))
    yield b"\xff" * 100
    # One bit: of the checksum, the length, the document, the code's header, the code.
    for place in (
        0,
        31,
        32,
        35,
        head,
        head + 30,
        code if code >= 0 else head,
        len(entry) * 2 // 3,
        len(entry) - 1,
    ):
        yield entry[:place] + bytes([entry[place] ^ 1]) + entry[place + 1 :]
    # Pieces swapped or doubled.
    yield entry[32:]
    yield entry[:32] + entry
    yield entry[:head] + entry[head:][::-1]


@pytest.mark.parametrize("kind", ["native", "outline"])
def test_a_damaged_entry_is_made_anew(store: Counting, ptx: str, kind: str) -> None:
    store.kind = kind
    run(ptx)
    (key,) = store.keys
    assert store.inner.folder
    path = store.inner.folder / key
    entry = path.read_bytes()
    for number, damaged in enumerate(damages(entry)):
        path.write_bytes(damaged)
        run(ptx)
        assert store.misses == store.puts == number + 2
        assert path.read_bytes() == entry
    # Another entry under this name.
    run(ptx + "\n// other text\n")
    path.write_bytes((store.inner.folder / store.keys[-1]).read_bytes())
    puts = store.puts
    run(ptx)
    assert store.puts == puts + 1
    path.unlink()
    path.mkdir()
    run(ptx)
    assert path.read_bytes() == entry


def test_an_entry_of_another_form(store: Counting, ptx: str) -> None:
    """With a right checksum, as another version of nnkit might have left it."""
    run(ptx)
    (key,) = store.keys
    good = store.inner.get(key)
    assert good
    length = int.from_bytes(good[:8], "little")
    document, code = json.loads(good[8 : 8 + length]), good[8 + length :]
    others: list[object] = [
        {},
        [],
        None,
        7,
        "text",
        [1, 2],
        {"sites": []},
        {**document, "sites": 3},
        {**document, "sites": [3]},
        {**document, "sites": [{"what": "load"}]},
        {**document, "more": 1},
        {name: value for name, value in document.items() if name != "width"},
    ]
    for other in others:
        head = json.dumps(other).encode()
        store.inner.put(key, len(head).to_bytes(8, "little") + head + code)
        puts = store.puts
        run(ptx)
        assert store.puts == puts + 1, other
    for data in (b"", good[:4], b"\xff" * 64, (1 << 40).to_bytes(8, "little") + good[8:]):
        store.inner.put(key, data)
        puts = store.puts
        run(ptx)
        assert store.puts == puts + 1, data[:8]


def test_an_outline_of_another_form(store: Counting, ptx: str) -> None:
    store.kind = "outline"
    run(ptx)
    (key,) = store.keys
    good = store.inner.get(key)
    assert good
    document = json.loads(good)
    others: list[object] = [
        *({}, [], None, 7, "text"),
        {**document, "kernels": {"work": {}}},
        {**document, "kernels": {"work": 3}},
        {**document, "kernels": ["work"]},
        {**document, "variables": [{}]},
        {**document, "variables": [3]},
        {name: value for name, value in document.items() if name != "functions"},
    ]
    for data in (b"", b"\xff", good[:-1], *(json.dumps(other).encode() for other in others)):
        store.inner.put(key, data)
        puts = store.puts
        run(ptx)
        assert store.puts == puts + 1, data[:80]


SCRIPT = """
import sys
import numpy as np
from nnkit.device.virtual import VirtualDevice

device = VirtualDevice(threads=1)
ptx = sys.stdin.read()
for width in (8, 16, 32):
    device = VirtualDevice(width=width, threads=1)
    x, y = device.upload(np.arange(64, dtype=np.float32)), device.zeros((64,), np.float32)
    device.load_ptx(ptx)["work"].launch(1, 64, (64, x, y))
    assert (y.host == 2 * x.host[::-1]).all()
print("fine")
"""


def test_two_processes_at_once(tmp_path: Path, ptx: str) -> None:
    environment = {**os.environ, "NNKIT_CACHE_DIR": str(tmp_path)}

    def start(_: int) -> str:
        done = subprocess.run(
            [sys.executable, "-c", SCRIPT],
            input=ptx,
            capture_output=True,
            text=True,
            env=environment,
            check=False,
            timeout=60,
        )
        return done.stdout + done.stderr

    with ThreadPoolExecutor(3) as pool:
        assert list(pool.map(start, range(3))) == ["fine\n"] * 3
    assert len(list((tmp_path / "native").glob("native-*"))) == 3


def test_threads_that_compile_and_launch_at_once(store: Counting, ptx: str) -> None:
    """One device, one kernel, many threads of the program's: each launch has memory of its own."""
    device = VirtualDevice(threads=2)
    kernel = device.load_ptx(ptx)["work"]

    def start(seed: int) -> None:
        for _ in range(50):
            x = device.upload(np.random.default_rng(seed).random(64, np.float32))
            y = device.zeros((64,), np.float32)
            kernel.launch(20, 64, (64, x, y))
            assert (y.host == 2 * x.host[::-1]).all()

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(start, range(4)))
    device.close()


def test_it_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, store: Counting, ptx: str) -> None:
    run(ptx)
    assert store.inner.folder
    folder = store.inner.folder
    size = sum(path.stat().st_size for path in folder.iterdir())
    store.inner = DiskCache("native", 3 * size)
    for width in (8, 16, 32):
        for block in (33, 64):
            run(ptx, block, width)
    total = sum(path.stat().st_size for path in folder.iterdir())
    assert 0 < total <= 3 * size
    store.inner = DiskCache("native", 100)
    run(ptx, 64)


def test_a_folder_that_cannot_be_written(store: Counting, tmp_path: Path, ptx: str) -> None:
    (tmp_path / "file").write_text("no folder")
    store.inner.folder = tmp_path / "file" / "native"
    run(ptx)
    assert store.hits == 0


def test_the_device_uses_the_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ptx: str) -> None:
    monkeypatch.setenv("NNKIT_CACHE_DIR", str(tmp_path))
    monkeypatch.setattr(kept, "store", kept.store)
    run(ptx)
    assert isinstance(kept.store, DiskCache)
    assert sorted(path.name[:7] for path in (tmp_path / "native").iterdir()) == ["native-", "outline"]
