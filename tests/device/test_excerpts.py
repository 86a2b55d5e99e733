"""Messages about a kernel: paths as the user gave them, and the line of source that is meant, once."""

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from nnkit.device.compile import compile_cuda
from nnkit.device.source.excerpts import as_given, mark, with_source
from nnkit.device.virtual import VirtualDevice
from nnkit.errors import CompileError, DeviceMemoryError, KernelError, NnkitError, UsageError, lines_of
from nnkit.plugins import Registry
from tests.support.commands import Command, is_refusal

BEYOND = """extern "C" __global__ void beyond(int *x)
{
    x[threadIdx.x + 1] = 0;  // one too far
}
"""
MARKED = ["     3 |     x[threadIdx.x + 1] = 0;  // one too far", "       |     ^~~~~~~~~~~~~~~~~~~~~~~"]


def fault(device: VirtualDevice, source: Any, **options: Any) -> NnkitError:
    """What a kernel that writes beyond its array is told as."""
    module = device.compile(source, **options)
    with pytest.raises(DeviceMemoryError) as caught:
        module["beyond"].launch(1, 32, (device.zeros((32,), np.int32),))
    return caught.value


def notes(error: BaseException) -> list[str]:
    return "\n".join(getattr(error, "__notes__", ())).splitlines()


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current directory, with the kernel in a file, and in a header that another file includes."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "sub dir").mkdir()
    (tmp_path / "sub dir" / "k.cu").write_text(BEYOND)
    (tmp_path / "sub dir" / "h.cuh").write_text(BEYOND)
    (tmp_path / "sub dir" / "h.cu").write_text('#include "h.cuh"\n')
    old = 1_000_000_000
    os.utime(tmp_path / "sub dir" / "h.cuh", (old, old))
    return tmp_path


def test_a_text_is_called_as_it_is_named() -> None:
    error = fault(VirtualDevice(), BEYOND, name="some.cu")
    assert str(error).startswith("kernel beyond at some.cu:3, block ")
    assert "\n" not in str(error)
    assert notes(error) == MARKED
    assert lines_of(error) == [str(error), *MARKED]
    assert "kernel beyond at kernel.cu:3, " in str(fault(VirtualDevice(), BEYOND))


@pytest.mark.parametrize("name", ["sub dir/k.cu", "./sub dir/k.cu", "sub dir/../sub dir/k.cu"])
def test_a_path_stays_as_it_was_given(folder: Path, name: str) -> None:
    error = fault(VirtualDevice(), name)
    assert f"kernel beyond at {name}:3, " in str(error)
    assert notes(error) == MARKED
    absolute = fault(VirtualDevice(), folder / "sub dir" / "k.cu")
    assert f"kernel beyond at {folder}/sub dir/k.cu:3, " in str(absolute)
    assert notes(absolute) == MARKED


def test_a_header_is_shown_unless_it_has_changed(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder / "sub dir")
    error = fault(VirtualDevice(), "h.cu")
    assert "kernel beyond at h.cuh:3, " in str(error)
    assert notes(error) == MARKED
    Path("h.cuh").write_text(BEYOND.replace("one", "two"))
    future = 4_000_000_000
    os.utime("h.cuh", (future, future))
    device = VirtualDevice()
    module = device.compile("h.cu")
    with pytest.raises(DeviceMemoryError) as caught:
        module["beyond"].launch(1, 32, (device.zeros((32,), np.int32),))
    assert notes(caught.value) == []


def test_the_source_is_that_which_was_compiled_though_the_file_has_changed(folder: Path) -> None:
    device = VirtualDevice()
    module = device.compile("sub dir/k.cu")
    Path("sub dir/k.cu").write_text("\n\n// nothing\n")
    with pytest.raises(DeviceMemoryError) as caught:
        module["beyond"].launch(1, 32, (device.zeros((32,), np.int32),))
    assert notes(caught.value) == MARKED


def test_paths_elsewhere_stay_absolute() -> None:
    ptx = f'\t.file\t1 "{Path.cwd()}/a.cu"\n\t.file\t2 "/usr/a.cuh"\n\t.file\t3 "{Path.cwd()}-more/a.cuh"\n'
    shown = as_given(ptx, "x/../a.cu")
    assert shown == ptx.replace(f"{Path.cwd()}/a.cu", "x/../a.cu")
    assert as_given(ptx, f"{Path.cwd()}/a.cu") == ptx


def test_an_assertion_and_a_refusal_show_their_line() -> None:
    device = VirtualDevice()
    source = '#include <cassert>\nextern "C" __global__ void k(int *x)\n{\n    assert(x[0] > 1);\n}\n'
    kernel = device.compile(source, name="a.cu")["k"]
    with pytest.raises(KernelError, match=r"a\.cu:4, .*assertion failed") as caught:
        kernel.launch(1, 1, (device.zeros((1,), np.int32),))
    assert notes(caught.value)[0] == "     4 |     assert(x[0] > 1);"
    refused = 'extern "C" __global__ void k()\n{\n    asm volatile("cp.async.wait_all;");\n}\n'
    with pytest.raises(CompileError, match=r"b\.cu:3") as late:
        device.compile(refused, name="b.cu")["k"]
    assert notes(late.value)[0] == '     3 |     asm volatile("cp.async.wait_all;");'


def test_what_does_not_compile_shows_the_line_and_the_place() -> None:
    source = "__global__ void k(int *x)\n{\n    x[0] = nothing;\n    y = 2;\n}\n"
    with pytest.raises(CompileError) as caught:
        compile_cuda(source, "c.cu")
    first, code, caret = lines_of(caught.value)
    assert first == 'c.cu:3: error: identifier "nothing" is undefined (and 1 more error)'
    assert code.strip() == "x[0] = nothing;"
    assert code[caret.index("^") :] == "nothing;"
    # The log follows in the exception's own text, and is not there twice.
    assert str(caught.value).count("x[0] = nothing") == 1
    assert notes(caught.value) == []


def test_the_command_shows_the_line(main: Command, folder: Path) -> None:
    Path("wrong.cu").write_text('extern "C" __global__ void k(int *x)\n{\n    x[0] = nothing;\n}\n')
    result = main("ptx", "wrong.cu")
    assert (result.status, result.stdout) == (2, "")
    first, code, caret = result.stderr.splitlines()
    assert first == 'nnkit: wrong.cu:3: error: identifier "nothing" is undefined'
    assert code[caret.index("^") :] == "nothing;"
    # What has no source is one line, as ever.
    assert is_refusal(main("ptx", "none.cu"), "cannot read the CUDA source none.cu")


def test_gemm_check_shows_the_line_once(main: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    class Beyond:
        name = "beyond"
        devices = frozenset({"virtual"})
        dtypes = frozenset({"float32"})

        def gemm(self, a: Any, b: Any, c: Any, **options: Any) -> None:
            c.device.compile(BEYOND, name="mine.cu")["beyond"].launch(1, 1, (c.device.zeros((1,), np.int32),))

    monkeypatch.setattr(Registry, "gemm", lambda self, name: Beyond())
    monkeypatch.setattr("nnkit.verify.sizes.EDGES", ((1, 1, 1), (3, 2, 1)))
    sizes = ("--m", 2, "--n", 2, "--k", 2)
    result = main("gemm-check", "--device", "virtual", *sizes)
    assert result.status == 1
    first, *source, verdict = result.stdout.splitlines()
    assert first.startswith(
        "all 16 cases, at every size, the smallest 1 x 1 x 1: raised DeviceMemoryError: kernel"
    )
    assert source == MARKED
    assert verdict.startswith("fail: ")
    (found,) = json.loads(main("gemm-check", "--device", "virtual", *sizes, "--json").stdout)["findings"]
    assert found["source"] == MARKED


def test_marks() -> None:
    assert mark("\tint x; // a comment", 12) == "    12 |     int x; // a comment\n       |     ^~~~~~"
    assert mark("}", 1) == "     1 | }\n       | ^"
    assert mark("  // all of it", 1).endswith("|   ^~~~~~~~~~~~")
    assert mark("", 1) == "     1 | \n       | ^"


@pytest.mark.parametrize(
    "words", ["at k.cu:9, there", "at other.cu:1", "nowhere", "at k.cu:0", "at :3", "k.cu:x"]
)
def test_no_line_is_made_up(words: str) -> None:
    assert notes(with_source(UsageError(words), "k.cu", "one\ntwo\n")) == []
    assert (
        notes(with_source(UsageError("at k.cu:2: bad"), "k.cu", "one\ntwo\n")) == mark("two", 2).splitlines()
    )
