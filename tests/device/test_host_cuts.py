"""Leaving host code out never gives a kernel another meaning: it has nvcc's, or it is refused."""

import re
from pathlib import Path

import pytest

from nnkit.device.compile import compile_cuda
from nnkit.errors import CompileError

HOST = "#include <string>\n#include <vector>\n{}\nint main() {{ std::vector<int> v; return 0; }}\n"
KERNEL = '\nextern "C" __global__ void k(int *o) {{ *o = {}; }}\n'


@pytest.fixture(autouse=True)
def cold(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A cache of this test's own."""
    monkeypatch.setenv("NNKIT_CACHE_DIR", str(tmp_path / "cache"))


def stored(source: str, folder: Path, *options: str) -> str:
    """What the kernel stores, as its PTX says; the device code is put among host code."""
    (folder / "a.cu").write_bytes(HOST.format(source).encode())
    ptx = compile_cuda(folder / "a.cu", options=options).ptx
    body = ptx[ptx.index(".entry k(") :]
    found = re.search(
        r"mov\.[bu]32\s+(%r\d+), (\d+);\s*(?:\.loc.*\s*)*st\.global\.[bu]32\s+\[%rd\d+\], \1;", body
    )
    return found[2] if found else body


MEANINGS = [
    # A specialisation or an overload that needs the host's types is no reason to take the general one.
    (
        "#define MARK(x) x\ntemplate <class T> struct S { static constexpr int get() { return 1; } };\n"
        "MARK(template <> constexpr) int S<float>::get() { return 2; }" + KERNEL.format("S<float>::get()"),
        "2",
    ),
    (
        "struct S {\nint a;\nvirtual std::string::size_type f(int) { return 3; }\n};"
        + KERNEL.format("sizeof(S)"),
        "16",
    ),
    ("struct B { int a; S_ALIGN char b; };" + KERNEL.format("sizeof(B)"), "8"),
    # An include within what is left out declares nothing outside of it; its definitions hold.
    (
        'const int n = 3;\nnamespace a {\nvoid host() {\n#include "within.h"\n}'
        + KERNEL.format("n + N")
        + "}",
        "7",
    ),
    ("#define N 3\nvoid host() {\n#undef N\n#define N 4\n}" + KERNEL.format("N"), "4"),
    # Marks from elsewhere.
    (
        "template <class T> struct S { HD int get() { return 1; } };\n"
        "template <> HD int S<float>::get() { return 2; }" + KERNEL.format("S<float>().get()"),
        "2",
    ),
    ("#define MARK(x) __##x##__\nMARK(device) int f() { return 5; }" + KERNEL.format("f()"), "5"),
    ("#define MARK(x) x\nMARK(__device__) int f() { return 5; }" + KERNEL.format("f()"), "5"),
    ("#define CONST const\nCONST int n = 5;" + KERNEL.format("n"), "5"),
    ("#if __LINE__ == 3\nconst int n = 5;\n#else\nconst int n = 6;\n#endif" + KERNEL.format("n"), "5"),
    ('const char *s = "a\\\r\nb";' + KERNEL.format("4"), "4"),
    ("void f() try { throw 1; } catch (...) { }\nconstexpr int n = 4;" + KERNEL.format("n"), "4"),
    (
        "template <class T> class V; template <class T> class V<T *> { std::vector<T> v; };"
        + KERNEL.format("4"),
        "4",
    ),
    (
        "struct P { int a; friend std::string f(const P &p) { return p.a; } int b; };"
        + KERNEL.format("sizeof(P)"),
        "8",
    ),
    ("enum { A = std::string::npos, B };\nenum { C = 4 };" + KERNEL.format("C"), "4"),
    # The host's variables may be there as long as no kernel uses them.
    ("dim3 grid(16, 16);\nstruct P { int a; } p;\nint (*f)(int), n(5);" + KERNEL.format("4"), "4"),
    ("namespace a { dim3 grid(16, 16); }\n__device__ const int grid = 4;" + KERNEL.format("grid"), "4"),
]


@pytest.mark.parametrize(("source", "value"), MEANINGS)
def test_the_meaning_is_nvccs(source: str, value: str, tmp_path: Path) -> None:
    (tmp_path / "within.h").write_text("const int n = 5;\n#define N 4\n")
    assert stored(source, tmp_path, "-DHD=__host__ __device__", "-DS_ALIGN=") == value


REFUSED = [
    ("namespace a {\nint x = 1, n = 5;" + KERNEL.format("n") + "}", "n"),
    ("struct P { int n; } params = {3};" + KERNEL.format("params.n"), "uses params"),
    ("struct { int n; } params;" + KERNEL.format("params.n"), "uses params"),
    ("int x(5);" + KERNEL.format("x"), "uses x"),
    ("dim3 grid(16, 16);" + KERNEL.format("grid.x"), "uses grid"),
    ("int (*f)(int);" + KERNEL.format("f ? 1 : 2"), "incomplete type"),
    ("int (*f[2])(int) = {nullptr, nullptr};" + KERNEL.format("f[0] ? 1 : 2"), "no operator"),
    ("int x = 3;" + KERNEL.format("(long)&x"), "uses x"),
    (
        "struct V { int a; };\nint operator+(V a, V b) { return 3; }" + KERNEL.format("V{1} + V{2}"),
        "operator",
    ),
    ("int x = []() constexpr { return 5; }();" + KERNEL.format("x"), "nnkit_left_out"),
    (
        "template <class T> struct W { T a; };\nW<const int> w = {1};" + KERNEL.format("w.a"),
        "incomplete type",
    ),
    (
        "struct B { static const int n = 3; };\nstruct D : B { static int n; };\nint D::n = 4;"
        + KERNEL.format("D::n"),
        "nnkit_left_out",
    ),
    (
        "template <class T> struct V { enum { x = 1 }; };\n"
        "template <> struct V<float> { enum { x = 2 }; std::vector<int> w; };" + KERNEL.format("V<float>::x"),
        "incomplete type",
    ),
    (
        "template <class T> struct V { enum { x = 1 }; };\n"
        "template <class T> struct V<T *> { enum { x = 2 }; std::vector<int> w; };"
        + KERNEL.format("V<int *>::x"),
        "incomplete type",
    ),
    (
        "template <class T> constexpr int f() { return 1; }\n"
        "template <> constexpr int f<float>() { return std::vector<int>::npos; }"
        + KERNEL.format("f<float>()"),
        "f",
    ),
    (
        "template <class T> constexpr int f(T) { return 1; }\n"
        "constexpr int f(int) { std::vector<int> v; return 2; }" + KERNEL.format("f(1)"),
        "f",
    ),
    (
        "enum { A = 3 };\nnamespace a {\nenum { A = std::string::npos };" + KERNEL.format("A") + "}",
        "A is host code, which cannot be left out",
    ),
    (
        "using real = int;\nnamespace a {\nusing real = std::vector<int>::size_type;"
        + KERNEL.format("sizeof(real)")
        + "}",
        "",
    ),
    (
        "typedef int real;\nnamespace a {\ntypedef std::vector<int>::size_type real;"
        + KERNEL.format("sizeof(real)")
        + "}",
        "",
    ),
    (
        "#define END ;\nint x = 3 END typedef int real;" + KERNEL.format("4"),
        "the macro END ends a declaration",
    ),
    ("__dev\\\nice__ int f() { return 3; }" + KERNEL.format("f()"), "in the middle of a word"),
    (
        "enum { a = __COUNTER__ };\n#if __COUNTER__ == 1\n#endif" + KERNEL.format("4"),
        "__COUNTER__ depends on it",
    ),
]


@pytest.mark.parametrize(("source", "words"), REFUSED)
def test_else_it_is_refused_in_a_line(source: str, words: str, tmp_path: Path) -> None:
    with pytest.raises(CompileError) as caught:
        stored(source, tmp_path)
    first = str(caught.value).splitlines()[0]
    assert re.match(rf"{tmp_path}/a\.cu:\d+: error: ", first)
    assert words in first


def test_a_header_with_a_byte_order_mark(tmp_path: Path) -> None:
    text = (
        "\ufeff#ifndef OWN\n#define OWN\n#define N 4\nint host() { return std::string().size(); }\n#endif\n"
    )
    (tmp_path / "own.h").write_bytes(text.encode())
    assert stored('#include "own.h"' + KERNEL.format("N"), tmp_path) == "4"


def test_marks_of_a_header_that_an_option_includes(tmp_path: Path) -> None:
    (tmp_path / "marks.h").write_text("#define HD __host__ __device__\n")
    source = "HD int f() { return 5; }" + KERNEL.format("f()")
    assert stored(source, tmp_path, "--pre-include=marks.h", f"-I{tmp_path}") == "5"
