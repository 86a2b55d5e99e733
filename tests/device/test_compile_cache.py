"""What the cache of compiled code may answer: the same source, headers, options and versions."""

import subprocess
import sys
import threading
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from nnkit.device.compile import compile_cuda, compiler
from nnkit.device.compile.nvrtc import Compiled
from nnkit.device.source.headers import included_files

PLAIN = 'extern "C" __global__ void plain(float *a) { a[threadIdx.x] += 1.0f; }\n'


@pytest.fixture(autouse=True)
def cold(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache of this test's own."""
    monkeypatch.setenv("NNKIT_CACHE_DIR", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def runs(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Grows by a name whenever NVRTC really compiles."""
    names: list[str] = []
    real = compiler._compile

    def counting(text: str, name: str, *rest: Any) -> Compiled:
        names.append(name)
        return real(text, name, *rest)

    monkeypatch.setattr(compiler, "_compile", counting)
    return names


def test_the_same_is_compiled_once_and_anything_else_anew(tmp_path: Path, runs: list[str]) -> None:
    plain = partial(compile_cuda, PLAIN)
    variants = [
        plain,
        partial(plain, options=["-DA"]),
        partial(plain, options=["-DA", "-DB"]),
        partial(plain, options=["-DAB"]),
        partial(plain, arch="compute_80"),
        partial(plain, arch="sm_80"),
        partial(plain, name="other.cu"),
        partial(plain, options=[f"-I{tmp_path}"]),
    ]
    results = [variant() for variant in variants]
    assert len(runs) == len(variants)
    assert [variant() for variant in variants] == results
    assert len(runs) == len(variants)
    compile_cuda(PLAIN + " ")
    assert len(runs) == len(variants) + 1


def test_a_damaged_result_is_compiled_again(cold: Path, runs: list[str]) -> None:
    compiled = compile_cuda(PLAIN)
    for path in (cold / "ptx").iterdir():
        path.write_bytes(path.read_bytes()[:-1])
    assert compile_cuda(PLAIN) == compiled
    assert len(runs) == 2


def test_other_versions_compile_anew(monkeypatch: pytest.MonkeyPatch, runs: list[str]) -> None:
    compile_cuda(PLAIN)
    monkeypatch.setattr(compiler, "wheel_versions", lambda: ("13.9", "", "", ""))
    compile_cuda(PLAIN)
    monkeypatch.setattr(compiler, "wheel_versions", lambda: ("", "", "", ""))
    compile_cuda(PLAIN)
    monkeypatch.setattr(compiler, "_version_of", lambda nvrtc: "13.9")
    compile_cuda(PLAIN)
    assert len(runs) == 4


@pytest.mark.parametrize("include", ["-I{}", "-I={}", "-I {}", "--include-path={}", "--include-path {}"])
def test_edited_headers_compile_anew(tmp_path: Path, runs: list[str], include: str) -> None:
    folder = tmp_path / "in clude"
    folder.mkdir()
    options = include.format("|").replace(" ", "\n").replace("|", str(folder)).split("\n")
    (folder / "a.cuh").write_text('  #  include "b.cuh"\n')
    (folder / "b.cuh").write_text("#define VALUE 1\n")
    source = f"#include <a.cuh>\n__device__ int value = VALUE;\n{PLAIN}"
    assert "value = 1;" in compile_cuda(source, options=options).ptx
    (folder / "b.cuh").write_text("#define VALUE 2\n")
    assert "value = 2;" in compile_cuda(source, options=options).ptx
    compile_cuda(source, options=options)
    assert len(runs) == 2


def test_headers_beside_the_source_and_before_it_count(tmp_path: Path, runs: list[str]) -> None:
    (tmp_path / "k.cu").write_text('#include "sub/../h.cuh"\n__device__ int x = A + B;\n')
    (tmp_path / "sub").mkdir()
    for first, second in ((1, 2), (1, 3), (4, 3)):
        (tmp_path / "h.cuh").write_text(f"#define A {first}\n")
        (tmp_path / "pre.cuh").write_text(f"#define B {second}\n")
        ptx = compile_cuda(tmp_path / "k.cu", options=["-include", str(tmp_path / "pre.cuh")]).ptx
        assert f"x = {first + second};" in ptx
    assert len(runs) == 3


def test_a_header_that_appears_counts(tmp_path: Path) -> None:
    source = '#if __has_include("late.cuh")\n__device__ int x = 1;\n#else\n__device__ int x = 2;\n#endif\n'
    options = [f"-I{tmp_path}"]
    assert "x = 2;" in compile_cuda(source, options=options).ptx
    (tmp_path / "late.cuh").touch()
    assert "x = 1;" in compile_cuda(source, options=options).ptx


def test_what_a_macro_includes_is_not_kept(tmp_path: Path, runs: list[str]) -> None:
    (tmp_path / "h.cuh").touch()
    source = f'#define FILE "{tmp_path}/h.cuh"\n#include FILE\n{PLAIN}'
    assert included_files(source, []) is None
    assert compile_cuda(source) == compile_cuda(source)
    assert len(runs) == 2


def test_headers_that_include_one_another_end(tmp_path: Path) -> None:
    for one, other in (("a", "b"), ("b", "a")):
        (tmp_path / f"{one}.cuh").write_text(f'#pragma once\n#include "{other}.cuh"\n')
    found = included_files('#include "a.cuh"\n#include <missing.h>\n', [str(tmp_path)])
    assert found is not None
    assert {Path(path).name for path in found} == {"a.cuh", "b.cuh"}


def test_a_result_from_the_cache_needs_no_cuda_at_all() -> None:
    program = (
        "import sys; from nnkit.device.compile import compile_cuda\n"
        f"print(len(compile_cuda({PLAIN!r}).ptx), 'cuda' in sys.modules)"
    )
    said = [
        subprocess.run(
            [sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60
        ).stdout.split()
        for _ in range(2)
    ]
    assert [cuda for _, cuda in said] == ["True", "False"]
    assert said[0][0] == said[1][0]


def test_processes_and_threads_compile_at_once() -> None:
    program = f"from nnkit.device.compile import compile_cuda; print(compile_cuda({PLAIN!r}).ptx)"
    running = [
        subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True) for _ in range(2)
    ]
    results: dict[int, Compiled] = {}
    sources = [f"__device__ int x = {number + 1};\n" for number in range(4)]

    def work(number: int) -> None:
        results[number] = compile_cuda(sources[number])

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(f"x = {number + 1};" in results[number].ptx for number in range(4))
    said = [process.communicate(timeout=60)[0] for process in running]
    assert [process.returncode for process in running] == [0, 0]
    assert said[0] == said[1] == compile_cuda(PLAIN).ptx + "\n"
