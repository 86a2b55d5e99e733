"""What a module declares, read without its bodies."""

import pytest

from nnkit.ptx.interface import Interface
from nnkit.ptx.ir import PtxError
from nnkit.ptx.locations import files, place_of, quoted, renamed
from nnkit.ptx.parse import parse
from nnkit.ptx.tokens import first_word, words

HEAD = ".version 8.8\n.target sm_90\n.address_size 64\n"
MODULE = (
    HEAD
    + r"""
// .entry comment() { /*
.file 1 "a{b/*\".cu" /* .entry other() {
} */
.extern .func (.param .b32 r) vprintf(.param .b64 f, .param .b64 a);
.extern .const .align 4 .b8 beyond[];
.visible .const .align 4 .b8 table[8] = /* { */ {1, 2, {3}, 4 // }
};
.global .attribute(.managed) .align 8 .u64 first = generic(table), second[2] = {1, 2}, third;
.weak .func (.param .b32 r) .unheardof helper(.param .b32 a) { { mov.v2 {%r, %s}, %t; } ret; }
.func (.param .b32 r) called(.param .b32 a)
{ .global .b32 inside; ret; }
.visible .entry one(
    .param .u64 .ptr .global .align 16 p, // ){
    .param .align 8 .b8 s[24]
)
.maxntid 8, 4
.reqntid 8, 0x2, 2
.minnctapersm 3
{ ld.param.u64 %rd1, [p]; /* } */ call called, (first); }
.entry two { ret; } .entry three() ;
.something .new { that nobody knows }
.section .debug_str { .b8 1 }
.entry last(.reg .u32 a) .unheardof (1, 2) .maxntid 5 { ret; }
"""
)


@pytest.fixture(scope="module")
def module() -> Interface:
    return Interface(MODULE)


def test_what_is_declared(module: Interface) -> None:
    assert list(module.kernels) == ["one", "two", "three", "last"]
    assert [(each.name, each.is_external) for each in module.functions] == [
        ("vprintf", True),
        ("called", False),
    ]
    assert [(each.kind, each.name, each.is_external) for each in module.variables] == [
        (".const", "beyond", True),
        (".const", "table", False),
        (".global", "first", False),
        (".global", "second", False),
        (".global", "third", False),
    ]


def test_parameters_are_those_that_the_parser_reads() -> None:
    text = HEAD + ".entry k(.param .u64 .ptr .align 1 p, .param .align 8 .b8 s[24], .param .f32 a) { ret; }"
    assert Interface(text).kernels["k"].parameters() == parse(text).functions["k"].parameters
    assert [v.is_array for v in parse(text).functions["k"].parameters] == [False, True, False]


def test_a_parameter_that_is_not_understood_is_quoted(module: Interface) -> None:
    assert module.kernels["two"].parameters() == module.kernels["three"].parameters() == ()
    with pytest.raises(PtxError, match=r"'\.reg \.u32 a' is not understood"):
        module.kernels["last"].parameters()
    with pytest.raises(PtxError, match=r"'\.param \.u32 a b' is not understood"):
        Interface(".entry k(.param .u32 a b) {}").kernels["k"].parameters()


def test_blocks(module: Interface) -> None:
    kernel = module.kernels["one"]
    assert kernel.blocks(".maxntid") == [(8, 4, 1)]
    assert kernel.blocks(".maxntid", ".reqntid") == [(8, 4, 1), (8, 2, 2)]
    assert module.kernels["last"].blocks(".maxntid") == [(5, 1, 1)]
    assert module.kernels["two"].blocks(".maxntid") == []


def test_the_text_of_a_kernel(module: Interface) -> None:
    text = module.kernels["one"].text
    assert text.startswith(".visible .entry one(\n")
    assert text.endswith("/* } */ call called, (first); }")
    assert module.kernels["two"].text == ".entry two { ret; }"
    assert {"first", "called", "p"} < module.kernels["one"].words
    assert "second" not in module.kernels["one"].words


@pytest.mark.parametrize("end", range(0, len(MODULE), 7))
def test_text_that_ends_too_early(end: int) -> None:
    """It is read as far as it goes; nothing is raised."""
    module = Interface(MODULE[:end])
    assert all(found.text in MODULE and found.words is not None for found in module.declarations)


def test_first_word() -> None:
    assert first_word("/* a */ // b\n\n  .version 8.8") == ".version"
    assert first_word("#include <x>\n.version") == first_word("") == first_word("// .version") == ""


def test_words_stand_beside_anything() -> None:
    assert list(words('ld.u32 %r1, [name+4]; # "quoted" €')) == ["ld.u32", "%r1", "name"]


def test_paths_of_files() -> None:
    text = '\t.file\t1 "/home/\\303\\251/a.cu"\n.file 2 "b\\".cu", 3, 4\n'
    assert files(text) == {1: "/home/é/a.cu", 2: 'b".cu'}
    assert renamed(text, lambda path: path) == text.replace('\\"', "\\042")
    assert files(renamed(text, lambda path: path + "x")) == {1: "/home/é/a.cux", 2: 'b".cux'}
    assert quoted("é\\") == "\\303\\251\\134"


def test_the_place_of_a_line() -> None:
    text = 'a\n.loc 1 7 3\n#!"\n\t.loc\t2 9 1, function_name x, inlined_at 1 7 3\nb\n.loc x\n.file 1 "a.cu"\n'
    assert [place_of(text, number) for number in (0, 1, 2, 3, 5, 6)] == [
        None,
        None,
        ("a.cu", 7),
        ("a.cu", 7),
        ("", 9),
        ("", 9),
    ]
