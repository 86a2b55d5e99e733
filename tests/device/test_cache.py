"""The cache on disk: what it gives back is what was put, or nothing, whatever happened to the files."""

import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nnkit.device.cache.disk import DiskCache, cache_folder, digest

KEY, OTHER = digest("key"), digest("other")
DATA = bytes(range(256)) * 4


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> DiskCache:
    monkeypatch.setenv("NNKIT_CACHE_DIR", str(tmp_path / "cache"))
    return DiskCache("things", 1 << 20)


def entry(cache: DiskCache, key: str = KEY) -> Path:
    assert cache.folder is not None
    return cache.folder / key


def used(cache: DiskCache) -> int:
    assert cache.folder is not None
    return sum(path.stat().st_size for path in cache.folder.iterdir())


@given(st.binary(max_size=300))
def test_what_was_put_comes_back(tmp_path_factory: pytest.TempPathFactory, data: bytes) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("NNKIT_CACHE_DIR", str(tmp_path_factory.getbasetemp() / "round trip"))
        cache = DiskCache("things", 1 << 20)
        key = digest(data)
        cache.put(key, data)
        assert cache.get(key) == DiskCache("things", 1 << 20).get(key) == data


def test_a_new_value_replaces_the_old_one(cache: DiskCache) -> None:
    assert cache.get(KEY) is None
    cache.put(KEY, b"old")
    cache.put(KEY, b"new")
    assert cache.get(KEY) == b"new"
    assert cache.get(OTHER) is None
    assert os.listdir(entry(cache).parent) == [KEY]


@given(st.lists(st.binary(max_size=4), max_size=4), st.lists(st.binary(max_size=4), max_size=4))
def test_parts_of_a_key_do_not_run_together(one: list[bytes], two: list[bytes]) -> None:
    assert (digest(*one) == digest(*two)) == (one == two)


def test_text_and_bytes_of_a_key() -> None:
    assert digest("é") == digest("é".encode())
    assert digest("ab", "c") != digest("a", "bc") != digest("abc")
    assert set(digest("\ud800")) <= set("0123456789abcdef")


def _flip(path: Path, position: int) -> None:
    content = bytearray(path.read_bytes())
    content[position] ^= 0x20
    path.write_bytes(content)


def _turn_into_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


def _dangling(path: Path) -> None:
    path.unlink()
    path.symlink_to("nowhere")


DAMAGES: dict[str, Callable[[Path], object]] = {
    "truncated": lambda path: os.truncate(path, path.stat().st_size // 2),
    "less than a checksum": lambda path: os.truncate(path, 7),
    "one byte short": lambda path: os.truncate(path, path.stat().st_size - 1),
    "one byte more": lambda path: path.write_bytes(path.read_bytes() + b"\0"),
    "empty": lambda path: os.truncate(path, 0),
    "zeros": lambda path: path.write_bytes(bytes(path.stat().st_size)),
    "first byte": lambda path: _flip(path, 0),
    "middle": lambda path: _flip(path, 500),
    "last byte": lambda path: _flip(path, -1),
    "a folder": _turn_into_folder,
    "gone": Path.unlink,
    "dangling link": _dangling,
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_entry_is_a_miss_and_can_be_put_again(cache: DiskCache, damage: str) -> None:
    cache.put(KEY, DATA)
    DAMAGES[damage](entry(cache))
    assert cache.get(KEY) is None
    assert not entry(cache).exists()
    cache.put(KEY, DATA)
    assert cache.get(KEY) == DATA


def test_every_flipped_byte_is_noticed(cache: DiskCache) -> None:
    cache.put(KEY, b"short")
    whole = entry(cache).read_bytes()
    for position in range(len(whole)):
        entry(cache).write_bytes(whole)
        assert cache.get(KEY) == b"short"
        _flip(entry(cache), position)
        assert cache.get(KEY) is None


def test_another_keys_entry_is_no_answer(cache: DiskCache) -> None:
    cache.put(KEY, DATA)
    shutil.copy(entry(cache), entry(cache, OTHER))
    assert cache.get(OTHER) is None
    assert cache.get(KEY) == DATA


def test_a_folder_that_cannot_be_made_is_no_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("NNKIT_CACHE_DIR", str(tmp_path / "file"))
    cache = DiskCache("things", 1 << 20)
    cache.put(KEY, DATA)
    assert cache.get(KEY) is None


def test_a_full_entry_in_the_way_is_no_error(cache: DiskCache) -> None:
    (entry(cache) / "inside").mkdir(parents=True)
    cache.put(KEY, DATA)
    assert cache.get(KEY) is None
    assert os.listdir(entry(cache).parent) == [KEY]


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write into a read-only folder")
def test_a_read_only_folder_still_answers(cache: DiskCache) -> None:
    cache.put(KEY, DATA)
    entry(cache).parent.chmod(0o500)
    cache.put(OTHER, DATA)
    assert (cache.get(KEY), cache.get(OTHER)) == (DATA, None)
    entry(cache).parent.chmod(0o700)


def test_a_full_disk_is_no_error(cache: DiskCache, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(source: object, target: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    cache.put(KEY, DATA)
    assert cache.get(KEY) is None
    assert os.listdir(entry(cache).parent) == []


def test_the_bound_is_kept_and_the_least_recently_used_go_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NNKIT_CACHE_DIR", str(tmp_path))
    cache = DiskCache("things", 20_000)
    keys = [digest(str(number)) for number in range(100)]
    kept = digest("kept")
    cache.put(kept, DATA)
    for number, key in enumerate(keys):
        cache.put(key, DATA)
        # Time stands still on a fast disk: give every entry a time of its own.
        os.utime(entry(cache, key), ns=(number, number))
        assert used(cache) <= 20_000
        assert cache.get(kept) == DATA
    found = [cache.get(key) is not None for key in keys]
    assert 14 <= sum(found) < 19
    assert found == sorted(found)
    # A process that has measured nothing yet keeps the bound too.
    small = DiskCache("things", 5_000)
    small.put(digest("one more"), DATA)
    assert used(small) <= 5_000


def test_what_is_larger_than_the_cache_is_not_kept(
    cache: DiskCache, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    small = DiskCache("small", 1000)
    small.put(KEY, b"x")
    small.put(OTHER, bytes(1000))
    assert (small.get(KEY), small.get(OTHER)) == (b"x", None)


def test_what_killed_processes_left_is_removed(cache: DiskCache) -> None:
    small = DiskCache("things", 10_000)
    small.put(KEY, DATA)
    left = entry(small).with_name(f"{OTHER}.0123.tmp")
    left.write_bytes(bytes(9_000))
    os.utime(left, (0, 0))
    DiskCache("things", 10_000).put(OTHER, DATA)
    assert not left.exists()
    assert small.get(KEY) == DATA


HAMMER = """
import sys
from nnkit.device.cache.disk import DiskCache, digest
cache = DiskCache("shared", 50_000)
for turn in range(300):
    number = turn * int(sys.argv[1]) % 37
    key, data = digest(str(number)), str(number).encode() * 900
    assert cache.get(key) in (None, data)
    cache.put(key, data)
"""


def test_processes_share_it(cache: DiskCache) -> None:
    running = [subprocess.Popen([sys.executable, "-c", HAMMER, str(step)]) for step in (1, 2, 3)]
    assert [process.wait(timeout=60) for process in running] == [0, 0, 0]
    assert used(DiskCache("shared", 0)) <= 50_000 * (1 + 2 / 8)


def test_threads_share_it(cache: DiskCache) -> None:
    wrong = []

    def work(step: int) -> None:
        for turn in range(100):
            key, data = digest(str(turn * step % 11)), str(turn * step % 11).encode() * 900
            if cache.get(key) not in (None, data):
                wrong.append(turn)
            cache.put(key, data)

    threads = [threading.Thread(target=work, args=(step,)) for step in (1, 2, 3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


def test_where_it_lies(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NNKIT_CACHE_DIR", "/own")
    monkeypatch.setenv("XDG_CACHE_HOME", "/xdg")
    monkeypatch.setenv("HOME", "/home/someone")
    assert cache_folder("ptx") == Path("/own/ptx")
    monkeypatch.setenv("NNKIT_CACHE_DIR", "")
    assert cache_folder("ptx") == Path("/xdg/nnkit/ptx")
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")
    assert cache_folder("ptx") == Path("/home/someone/.cache/nnkit/ptx")


def test_a_tilde_is_the_home(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("NNKIT_CACHE_DIR", "~/x")
    assert cache_folder("ptx") == tmp_path / "x" / "ptx"
    monkeypatch.setenv("NNKIT_CACHE_DIR", "~nobody-of-that-name/x")
    assert cache_folder("ptx") == Path("~nobody-of-that-name/x/ptx")


def test_without_a_home_nothing_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    def homeless() -> Path:
        raise RuntimeError("Could not determine home directory.")

    for variable in ("NNKIT_CACHE_DIR", "XDG_CACHE_HOME"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setattr(Path, "home", homeless)
    cache = DiskCache("things", 1000)
    cache.put(KEY, DATA)
    assert cache.get(KEY) is None
