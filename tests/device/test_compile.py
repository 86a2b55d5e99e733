"""Compiling CUDA C++: what comes out, what the cache may answer, and what errors say."""

import contextlib
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from nnkit import open_device
from nnkit.device.compile import compile_cuda, compiler, read_source
from nnkit.device.source.headers import cuda_folders
from nnkit.errors import CompileError, DeviceError, NnkitError, UsageError
from tests.support.fake_driver import one_line

PLAIN = 'extern "C" __global__ void plain(float *a) { a[threadIdx.x] += 1.0f; }\n'


@pytest.fixture(autouse=True)
def cold(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache of this test's own."""
    monkeypatch.setenv("NNKIT_CACHE_DIR", str(tmp_path / "cache"))
    return tmp_path / "cache"


def refusal(kind: type[NnkitError], *args: Any, **kwargs: Any) -> str:
    with pytest.raises(kind) as caught:
        compile_cuda(*args, **kwargs)
    return str(caught.value)


def test_ptx_for_a_virtual_architecture_machine_code_for_a_real_one() -> None:
    virtual, real = compile_cuda(PLAIN), compile_cuda(PLAIN, arch="sm_80")
    assert ".target sm_90" in virtual.ptx
    assert ".visible .entry plain(" in virtual.ptx
    assert "\0" not in virtual.ptx
    assert (virtual.cubin, virtual.log) == (None, "")
    assert ".target sm_80" in real.ptx
    assert real.cubin is not None
    assert real.cubin[:4] == b"\x7fELF"
    assert compile_cuda(PLAIN, arch="sm_80") == real


@pytest.mark.parametrize("options", [[], ["-lineinfo"], ["--generate-line-info"], ["-G"]])
def test_line_information_is_always_there(options: list[str]) -> None:
    ptx = compile_cuda(PLAIN, name="mine.cu", options=options).ptx
    assert ".loc\t1 1 " in ptx
    assert 'mine.cu"' in ptx


def test_options_reach_the_compiler() -> None:
    source = "#if TILE != 32\n#error no tile\n#endif\n" + PLAIN
    assert ".entry plain" in compile_cuda(source, options=("-DTILE=32",)).ptx
    assert "no tile" in refusal(CompileError, source)


def test_warnings_are_kept() -> None:
    source = "__global__ void f() { int unused; }\n"
    for _ in range(2):
        assert 'warn.cu(1): warning #177-D: variable "unused"' in compile_cuda(source, name="warn.cu").log


@pytest.mark.parametrize(
    "header", ["cuda_fp16.h", "cuda_bf16.h", "cuda_fp8.h", "mma.h", "cuda_pipeline.h", "cuda_runtime.h"]
)
def test_cudas_headers_are_found(header: str) -> None:
    assert ".entry plain" in compile_cuda(f"#include <{header}>\n{PLAIN}").ptx


def test_headers_that_are_in_no_wheel_come_from_nvrtc_itself(cold: Path) -> None:
    source = f"#include <cooperative_groups.h>\n#include <cuda/std/array>\n{PLAIN}"
    assert ".entry plain" in compile_cuda(source).ptx
    if not any("cccl" in folder for folder in cuda_folders()):
        assert list(cold.glob("headers-*/cccl/cuda/std/array"))


def test_without_wheels_the_toolkit_is_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("nnkit.device.source.headers.util.find_spec", lambda name: None)
    monkeypatch.delenv("CUDA_PATH", raising=False)
    monkeypatch.setenv("CUDA_HOME", str(tmp_path))
    assert cuda_folders() == ()
    # Then NVRTC's own copy must do.
    assert ".entry plain" in compile_cuda(f"#include <cuda_fp16.h>\n{PLAIN}").ptx
    (tmp_path / "include").mkdir()
    (tmp_path / "include" / "cuda_runtime.h").touch()
    assert cuda_folders() == (str(tmp_path / "include"),)


def test_the_newest_wheels_come_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("cuda_runtime", "cu12", "cu13", "cublas"):
        (tmp_path / name / "include").mkdir(parents=True)
        if name != "cublas":
            (tmp_path / name / "include" / "cuda_runtime.h").touch()
    spec = SimpleNamespace(submodule_search_locations=[str(tmp_path)])
    monkeypatch.setattr("nnkit.device.source.headers.util.find_spec", lambda name: spec)
    found = [Path(folder).parent.name for folder in cuda_folders()]
    assert found == ["cu13", "cu12", "cuda_runtime"]


def test_a_source_is_a_path_or_text(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "own name.cu"
    path.write_bytes(b"\xef\xbb\xbf" + PLAIN.encode())
    assert read_source(path, "other") == (PLAIN, str(path))
    assert read_source(str(path), "other") == (PLAIN, str(path))
    assert read_source(PLAIN, "other") == (PLAIN, "other")
    assert read_source("//.cu\n", "other") == ("//.cu\n", "other")
    assert read_source("int x;", "other") == ("int x;", "other")
    assert "cannot read the CUDA source none.cuh: No such file" in refusal(UsageError, "none.cuh")
    assert "Is a directory" in refusal(UsageError, tmp_path)
    assert "holds a zero byte" in refusal(UsageError, "int x;\0nonsense")


@pytest.mark.parametrize(
    "comments",
    [
        b"// caf\xe9\n",
        b"/* \xc4\xe3\n * \xba\xc3 */\n",
        b"#define N 3 // \xe9\n",
        b'#include <vector>  // \xe9\nint main() { /* \xe9 */ puts("caf\xc3\xa9"); }\n',
    ],
)
def test_comments_may_be_in_another_encoding(tmp_path: Path, comments: bytes) -> None:
    path = tmp_path / "latin.cu"
    path.write_bytes(comments + PLAIN.encode())
    assert ".entry" in compile_cuda(path).ptx
    path.write_bytes(comments + PLAIN.encode() + b"__device__ int x = missing; // \xe9\n")
    line = (comments + PLAIN.encode()).count(b"\n") + 1
    first = refusal(CompileError, path).splitlines()[0]
    assert first.startswith(f'{path}:{line}: error: identifier "missing" is undefined')


@pytest.mark.parametrize(
    "code", [b'const char *s = "\xe9";\n', b"int caf\xe9;\n", b'auto s = R"(// \xe9)";\n']
)
def test_other_text_must_be_unicode(tmp_path: Path, code: bytes) -> None:
    """NVRTC takes the bytes behind for a part of the character: the quote's end would be lost."""
    path = tmp_path / "latin.cu"
    path.write_bytes(b"// caf\xe9\n" + code)
    assert (
        refusal(UsageError, path)
        == f"the CUDA source {path} is not text in UTF-8, see line 2: save it as UTF-8"
    )


def test_a_compile_error_says_file_line_and_text_first() -> None:
    source = "__global__ void f(int *a) {\n  int unused;\n  *a = missing;\n  *a = also;\n}\n"
    first, _, log = refusal(CompileError, source, name="dir (1)/bad.cu").partition("\n")
    assert first == 'dir (1)/bad.cu:3: error: identifier "missing" is undefined (and 1 more error)'
    assert 'identifier "also" is undefined' in log


def test_an_error_in_a_header_names_the_header(tmp_path: Path) -> None:
    (tmp_path / "inner.cuh").write_text("\n__device__ int x = ;\n")
    (tmp_path / "outer.cu").write_text('#include "inner.cuh"\n')
    assert refusal(CompileError, tmp_path / "outer.cu").startswith(f"{tmp_path}/inner.cuh:2: error: ")


def test_a_missing_header_comes_before_errors_in_headers_of_the_host() -> None:
    source = '#include <cuda.h>\n#include <vector>\n#include "no.cuh"\n__global__ void k() {}\n'
    first, _, log = refusal(CompileError, source).partition("\n")
    assert first == 'kernel.cu:3: error: cannot open source file "no.cuh": give its folder as -IFOLDER'
    assert "nnkit" not in log


def test_a_missing_header_says_what_to_do() -> None:
    first = refusal(CompileError, '#include "no.cuh"\n').splitlines()[0]
    assert first == 'kernel.cu:1: error: cannot open source file "no.cuh": give its folder as -IFOLDER'


def test_ptxas_errors_name_the_line_of_the_source() -> None:
    source = '__global__ void f() {\n  asm volatile("nop.u99;");\n}\n'
    assert "nop.u99;" in compile_cuda(source).ptx
    first = refusal(CompileError, source, name="asm.cu", arch="sm_90").splitlines()[0]
    assert first.startswith("asm.cu:2 (PTX line ")
    assert "'nop.u99;'): ptxas error: " in first


@pytest.mark.parametrize(
    ("kwargs", "words"),
    [
        ({"arch": "90"}, "arch '90': give compute_NN for PTX or sm_NN for machine code"),
        ({"arch": "compute_90 -G"}, "give compute_NN"),
        ({"arch": "sm_20"}, "knows compute_NN and sm_NN for NN in 75, 80,"),
        ({"options": ["-arch=sm_80"]}, "options name the architecture 'sm_80'"),
        ({"options": ["-arch", "sm_80"]}, "options name the architecture 'sm_80'"),
        ({"options": ["--gpu-architecture=compute_80"]}, "options name the architecture 'compute_80'"),
        ({"options": ["--bogus"]}, "unrecognized option --bogus"),
        ({"options": "-DX=1"}, "give a list of options"),
        ({"options": ["-dlto"]}, "NVRTC made no PTX"),
    ],
)
def test_wrong_options_are_refused_in_one_line(kwargs: dict[str, object], words: str) -> None:
    message = refusal(UsageError, PLAIN, **kwargs)
    assert words in message
    assert "\n" not in message


def test_a_program_is_always_given_back(monkeypatch: pytest.MonkeyPatch) -> None:
    from cuda.bindings import nvrtc

    balance: list[int] = []

    def counted(function: Callable[..., Any], step: int) -> Callable[..., Any]:
        def call(*args: object) -> Any:
            balance.append(step)
            return function(*args)

        return call

    counting = SimpleNamespace(**{name: getattr(nvrtc, name) for name in dir(nvrtc) if name[:5] == "nvrtc"})
    counting.nvrtcCreateProgram = counted(nvrtc.nvrtcCreateProgram, 1)
    counting.nvrtcDestroyProgram = counted(nvrtc.nvrtcDestroyProgram, -1)
    monkeypatch.setattr(compiler, "_nvrtc", lambda: counting)
    compile_cuda(PLAIN)
    refusal(CompileError, "nonsense\n")
    refusal(UsageError, PLAIN, options=["--bogus"])
    assert balance == [1, -1] * (len(balance) // 2)


def test_without_bindings_or_library_the_cure_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing() -> None:
        raise RuntimeError("Failure finding libnvrtc.so")

    import cuda.bindings
    from cuda.bindings import nvrtc  # noqa: F401  makes it an attribute of the package

    with monkeypatch.context() as patch:
        patch.setattr(cuda.bindings, "nvrtc", SimpleNamespace(nvrtcVersion=missing))
        assert refusal(DeviceError, PLAIN).endswith("NVRTC is missing: pip install nvidia-cuda-nvrtc")
    monkeypatch.setitem(sys.modules, "cuda.bindings", None)
    assert refusal(DeviceError, PLAIN).endswith("pip install cuda-python")


@pytest.mark.parametrize(
    "path", ["/tmp/", "kernels/add.cpp", "add.ptx", "../add", "C:\\\\add.cxx", "a" * 90 + ".c", "\ufeffadd.h"]
)
def test_text_that_is_a_path_to_something_else_is_told_so(path: str) -> None:
    one_line(UsageError, lambda: compile_cuda(path), "is no CUDA source, and no path", "pathlib.Path")


@pytest.mark.parametrize(
    "text",
    ["", " ", "// a/comment.cpp", "/*.*/", "int;", "#define A .5", "__device__ int x(5);", "A.B\n"],
)
def test_short_texts_are_no_paths(text: str) -> None:
    with contextlib.suppress(CompileError):
        compile_cuda(text)


def test_other_files_can_be_sources(tmp_path: Path) -> None:
    file = tmp_path / "kernel.cpp"
    file.write_text('\ufeffextern "C" __global__ void k() {}')
    assert ".entry k" in compile_cuda(file).ptx


def test_ptx_is_no_source() -> None:
    ptx = compile_cuda('extern "C" __global__ void k() {}').ptx
    for text in (ptx, ptx[ptx.index(".version") :], f"// {ptx}"):
        one_line(UsageError, partial(compile_cuda, text, name="k.cu"), "k.cu is PTX", "load_ptx")
    assert ".entry k" in compile_cuda('// .version\nextern "C" __global__ void k() {}').ptx


def test_ptx_may_be_a_file(tmp_path: Path) -> None:
    ptx = compile_cuda('extern "C" __global__ void k(int *x) { *x = 3; }').ptx
    file = tmp_path / "k.ptx"
    device = open_device("virtual")
    for text in (ptx, f"\ufeff{ptx}"):
        file.write_text(text)
        for given in (file, str(file)):
            x = device.zeros(1, np.int32)
            device.load_ptx(given)["k"].launch(1, 1, (x,))
            assert x[0] == 3
    one_line(UsageError, lambda: device.load_ptx(tmp_path / "other.ptx"), "other.ptx", "No such file")
    one_line(UsageError, lambda: device.load_ptx("other.ptx"), "other.ptx", "No such file")
    one_line(UsageError, lambda: device.load_ptx(b"\x7fELF\x02\x01"), "machine code", "nvcc -ptx")
