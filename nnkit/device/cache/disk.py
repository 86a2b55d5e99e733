"""Results that are expensive to make, kept on disk between runs: bytes by key, bounded, safe to lose."""

import contextlib
import hashlib
import os
from pathlib import Path

from nnkit.device.cache.private_folder import is_private, make_private, read_own, write_own

_CHECKSUM_BYTES = hashlib.sha256().digest_size


def digest(*parts: bytes | str) -> str:
    """The hex SHA-256 of the parts, each with its length before it, so that parts cannot run together."""
    total = hashlib.sha256()
    for part in parts:
        content = part.encode("utf-8", "surrogatepass") if isinstance(part, str) else part
        total.update(len(content).to_bytes(8, "little"))
        total.update(content)
    return total.hexdigest()


def cache_folder(name: str) -> Path | None:
    """The folder of that name in nnkit's cache, existing or not; None where this user has no home.

    The cache is NNKIT_CACHE_DIR, else nnkit in XDG_CACHE_HOME, else ~/.cache/nnkit.
    """
    if own := os.environ.get("NNKIT_CACHE_DIR"):
        try:
            return Path(own).expanduser() / name
        except RuntimeError:
            # There is no such user: a name like any other.
            return Path(own) / name
    shared = os.environ.get("XDG_CACHE_HOME", "")
    # The XDG base directory specification: a relative path is to be ignored.
    if os.path.isabs(shared):
        return Path(shared) / "nnkit" / name
    try:
        return Path.home() / ".cache" / "nnkit" / name
    except RuntimeError:
        return None


class DiskCache:
    """Bytes by key in a folder of `limit_bytes` at most; any number of processes and threads share it.

    It never fails: what cannot be read is a miss, what cannot be written is not kept. Nor is anything read or
    written where another user could have put it (`nnkit.device.cache.private_folder`).
    """

    def __init__(self, folder_name: str, limit_bytes: int) -> None:
        self.folder = cache_folder(folder_name)
        self.limit_bytes = limit_bytes
        # How much may be put before the folder must be measured again; 0 until it has been measured.
        self._room = 0

    def get(self, key: str) -> bytes | None:
        """What was put under `key` (of `digest`), or None; it counts as used now. Removes a damaged entry."""
        if self.folder is None:
            return None
        if not is_private(self.folder):
            return None
        path = self.folder / key
        try:
            entry = read_own(path)
        except FileNotFoundError:
            return None
        except OSError:
            entry = None
        if entry is None:
            _remove(path)
            return None
        data = entry[_CHECKSUM_BYTES:]
        if entry[:_CHECKSUM_BYTES] != _checksum(key, data):
            _remove(path)
            return None
        with contextlib.suppress(OSError):
            os.utime(path)
        return data

    def put(self, key: str, data: bytes) -> None:
        """Keep `data` under `key` (of `digest`); whoever reads meanwhile finds all of it or nothing."""
        entry = _checksum(key, data) + data
        if self.folder is None or len(entry) > self.limit_bytes or not is_private(self.folder):
            return
        temporary = self.folder / f"{key}.{os.urandom(8).hex()}.tmp"
        try:
            make_private(self.folder)
            if not is_private(self.folder):
                return
            write_own(temporary, entry)
            os.replace(temporary, self.folder / key)
        except OSError:
            _remove(temporary)
            return
        except BaseException:
            # Ctrl-C: nothing half-written stays.
            _remove(temporary)
            raise
        self._room -= len(entry)
        if self._room < 0:
            self._trim()

    def _trim(self) -> None:
        """Remove the least recently used files if there is too much; what a killed process left is one too.

        Then nothing is measured until an eighth of the limit has been put, less if less is free: this process
        alone never exceeds the limit, and each other one that puts meanwhile adds an eighth at most.
        """
        assert self.folder is not None
        files = _files(self.folder)
        total = sum(size for _, size, _ in files)
        if total > self.limit_bytes:
            for _, size, path in sorted(files):
                if total <= self.limit_bytes * 7 // 8:
                    break
                _remove(Path(path))
                total -= size
        self._room = min(self.limit_bytes // 8, self.limit_bytes - total)


def _checksum(key: str, data: bytes) -> bytes:
    """Of the key too: an entry under another one's name is damaged."""
    return hashlib.sha256(key.encode() + data).digest()


def _files(folder: Path) -> list[tuple[int, int, str]]:
    """(time of last use in ns, bytes, path) of every file; those that vanish meanwhile are left out."""
    found = []
    with contextlib.suppress(OSError), os.scandir(folder) as entries:
        for entry in entries:
            with contextlib.suppress(OSError):
                if entry.is_file(follow_symlinks=False):
                    state = entry.stat(follow_symlinks=False)
                    found.append((state.st_mtime_ns, state.st_size, entry.path))
    return found


def _remove(path: Path) -> None:
    """Remove a file or an empty folder, if that can be done."""
    with contextlib.suppress(OSError):
        if path.is_dir() and not path.is_symlink():
            path.rmdir()
        else:
            path.unlink()
