"""The cache holds code that is run: what another user could have put there is not used, and that is told."""

import grp
import os
import pwd
from pathlib import Path

import pytest

from nnkit.cli.info import collect
from nnkit.device.cache import private_folder
from nnkit.device.cache.disk import DiskCache, digest
from nnkit.device.cache.private_folder import is_group_of_one, make_private, read_own, refusal

KEY, DATA = digest("key"), b"machine code"
as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")
ANOTHER = 54321


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder for the cache, and nothing told yet; whoever runs this, others are in his group."""
    monkeypatch.setattr(private_folder, "is_group_of_one", lambda group, user: False)
    monkeypatch.setattr(private_folder, "_TOLD", set())
    monkeypatch.setenv("NNKIT_CACHE_DIR", str(tmp_path / "home" / "cache"))
    return tmp_path / "home"


def cached(home: Path) -> DiskCache:
    cache = DiskCache("native", 1 << 20)
    cache.put(KEY, DATA)
    assert cache.get(KEY) == DATA
    return cache


def told(capsys: pytest.CaptureFixture[str]) -> str:
    return capsys.readouterr().err


def test_folders_and_files_are_the_users_alone(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    old = os.umask(0)
    try:
        cached(home)
    finally:
        os.umask(old)
    modes = {path.name: path.stat().st_mode & 0o777 for path in (home, *home.rglob("*"))}
    assert modes == {"home": 0o700, "cache": 0o700, "native": 0o700, KEY: 0o600}
    assert told(capsys) == ""


@pytest.mark.parametrize("mode", [0o770, 0o707, 0o777, 0o1777, 0o722])
@pytest.mark.parametrize("which", ["", "cache", "cache/native"])
def test_where_others_may_write_nothing_is_read_or_written(
    home: Path, which: str, mode: int, capsys: pytest.CaptureFixture[str]
) -> None:
    cache = cached(home)
    place = home / which
    place.chmod(mode)
    if mode == 0o1777 and which != "cache/native":
        # As in /tmp: on the way to the cache the sticky bit is enough.
        assert (cache.get(KEY), told(capsys)) == (DATA, "")
        return
    for _ in range(2):
        assert cache.get(KEY) is None
    cache.put(digest("other"), DATA)
    assert os.listdir(home / "cache" / "native") == [KEY]
    lines = told(capsys).splitlines()
    assert len(lines) == 1
    assert f"others may write to {place}: chmod go-w {place}" in lines[0]
    place.chmod(0o755)
    assert cache.get(KEY) == DATA


USERS = [
    pwd.struct_passwd((name, "x", uid, gid, "", "", ""))
    for name, uid, gid in [
        ("ada", 71, 71),
        ("bob", 72, 72),
        ("eve", 73, 72),
        ("kim", 74, 100),
        ("lee", 75, 75),
    ]
]
GROUPS = [
    grp.struct_group((name, "x", gid, members))
    for name, gid, members in [
        ("ada", 71, ["ada"]),
        ("bob", 72, []),
        ("users", 100, []),
        ("lee", 75, ["eve"]),
    ]
]


@pytest.mark.parametrize(
    ("user", "group", "alone"),
    [
        (71, 71, True),
        (72, 72, False),  # Another user's group too.
        (74, 100, False),  # Of a name that is not the user's: who is in it may not be listed.
        (75, 75, False),  # It has a member.
        (71, 72, False),
        (76, 76, False),  # No such user.
    ],
)
def test_a_group_that_has_its_user_alone(
    home: Path, monkeypatch: pytest.MonkeyPatch, user: int, group: int, alone: bool
) -> None:
    """As where each user has a group of his own and the umask is 002."""
    monkeypatch.setattr(pwd, "getpwall", lambda: USERS)
    monkeypatch.setattr(pwd, "getpwuid", {found.pw_uid: found for found in USERS}.__getitem__)
    monkeypatch.setattr(grp, "getgrgid", {found.gr_gid: found for found in GROUPS}.__getitem__)
    is_group_of_one.cache_clear()
    try:
        assert is_group_of_one(group, user) is alone
    finally:
        is_group_of_one.cache_clear()
    monkeypatch.setattr(private_folder, "is_group_of_one", lambda group, user: alone)
    cache = cached(home)
    home.chmod(0o775)
    assert (cache.get(KEY) == DATA) is alone
    home.chmod(0o777)
    assert cache.get(KEY) is None


def test_reading_is_no_harm(home: Path) -> None:
    cache = cached(home)
    for place in (home, home / "cache", home / "cache" / "native"):
        place.chmod(0o755)
    (home / "cache" / "native" / KEY).chmod(0o644)
    assert cache.get(KEY) == DATA


@pytest.mark.parametrize("mode", [0o620, 0o602, 0o666])
def test_a_file_that_others_may_change(home: Path, mode: int) -> None:
    cache = cached(home)
    (home / "cache" / "native" / KEY).chmod(mode)
    assert cache.get(KEY) is None


def test_a_link_in_the_place_of_an_entry(home: Path, tmp_path: Path) -> None:
    cache = cached(home)
    entry = home / "cache" / "native" / KEY
    entry.rename(tmp_path / "elsewhere")
    entry.symlink_to(tmp_path / "elsewhere")
    assert cache.get(KEY) is None
    os.mkfifo(entry)
    assert cache.get(KEY) is None


def test_a_folder_behind_a_link(home: Path, tmp_path: Path) -> None:
    """The link is looked at, and the folders on the way to where it leads."""
    open_to_all = tmp_path / "open"
    (open_to_all / "cache").mkdir(parents=True, mode=0o700)
    home.symlink_to(open_to_all)
    cached(home)
    open_to_all.chmod(0o777)
    assert DiskCache("native", 1 << 20).get(KEY) is None
    open_to_all.chmod(0o1777)
    assert DiskCache("native", 1 << 20).get(KEY) == DATA


@as_root
@pytest.mark.parametrize("which", ["", "cache", "cache/native"])
def test_a_folder_of_another_user(home: Path, which: str, capsys: pytest.CaptureFixture[str]) -> None:
    cache = cached(home)
    os.chown(home / which, ANOTHER, -1)
    assert cache.get(KEY) is None
    assert f"{home / which} belongs to another user: set NNKIT_CACHE_DIR" in told(capsys)


@as_root
def test_a_file_of_another_user(home: Path) -> None:
    cache = cached(home)
    os.chown(home / "cache" / "native" / KEY, ANOTHER, -1)
    assert cache.get(KEY) is None
    cache.put(KEY, DATA)
    assert cache.get(KEY) == DATA


@as_root
def test_a_link_of_another_user(home: Path, tmp_path: Path) -> None:
    (tmp_path / "real" / "cache").mkdir(parents=True, mode=0o700)
    home.symlink_to(tmp_path / "real")
    cache = cached(home)
    os.chown(home, ANOTHER, -1, follow_symlinks=False)
    assert cache.get(KEY) is None


def test_another_user(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same folder looked at by somebody else; the owner of "/" stays trusted on the way only."""
    cache = cached(home)
    monkeypatch.setattr(os, "geteuid", lambda: ANOTHER)
    assert cache.get(KEY) is None
    assert "another user" in str(refusal(home / "cache"))
    with pytest.raises(FileNotFoundError):
        read_own(home / "nothing")
    assert read_own(home / "cache" / "native" / KEY) is None


def test_a_folder_that_is_not_there_yet(home: Path) -> None:
    assert refusal(home / "a" / "b") is None
    make_private(home / "a" / "b")
    assert (home / "a").stat().st_mode & 0o777 == 0o700
    home.chmod(0o777)
    assert refusal(home / "c" / "d") is not None


def test_info_tells(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cached(home)
    monkeypatch.setattr("nnkit.cli.info._gpus", list)
    document = collect()
    assert document["cache"]["refused"] is None
    assert not any("not kept" in line for line in document["advice"])
    (home / "cache").chmod(0o777)
    document = collect()
    assert document["cache"]["refused"].startswith(f"others may write to {home / 'cache'}: chmod go-w")
    assert any(line.startswith("compiled kernels are not kept: others") for line in document["advice"])
