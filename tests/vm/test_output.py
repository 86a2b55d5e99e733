"""What kernels say: printf, assertions, traps, clocks; poison; settings; what is refused at the load."""

import ctypes
import gc
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from nnkit.device.virtual import VirtualDevice
from nnkit.errors import CompileError, KernelError, UsageError
from tests.support.sources import line_of, report

SOURCE = r"""
#define I threadIdx.x
__device__ char kept[] = "kept on the device";
extern "C" __global__ void formats(const char* p) {
    char own[8];
    for (int i = 0; i < 7; ++i) own[i] = 'a' + (i + I) % 26;
    own[7] = 0;
    __shared__ char ours[4];
    ours[0] = 'o', ours[1] = 'k', ours[2] = 0;
    printf("no arguments, %%\n");
    printf("%d %i %u %o %x %X\n", -5, 7, -1, 64, 255, 255);
    printf("%lld %llu %lx %ld %zu\n", -1LL << 40, ~0ULL, 1L << 36, -3L, (size_t)9);
    printf("%hd %hhd %hu\n", 70000, 300, 70000);
    printf("[%5d] [%-5d] [%05d] [%+d] [% d] [%.3d] [%6.3d] [%-6.3d] [%05.3d]\n",
        42, 42, 42, 42, 42, 7, 7, 7, 7);
    printf("%f %e %g %G %.0f %10.3f %-10.2e| %+.1f %a\n",
        1.5, 1234.5, 1e-5, 1e20, 2.5, 3.14159, 3.14159, 2.0, 1.5);
    printf("%f %f %05f %F\n", __longlong_as_double(0x7ff0000000000000), -1.0 / p[0], 1.0 / p[0], 1.0 / p[0]);
    printf("%c%c%3c|%-3c|\n", 'x', 'y', 'z', 'w');
    printf("%s [%10s] [%-8s] [%.3s] %s %s %s\n", "text", "right", "left", "cut off", own, ours, kept);
    printf("%*d %-*d| %.*f %*.*f %.*s\n", 6, 1, 6, 2, 2, 3.14159, 8, 3, 2.71828, 3, "abcdef");
    printf("%*d| %.*f\n", -6, 1, -1, 0.5);
    printf("%#x %#o %s %n%d\n", 255, 8, (const char*)0, 1);
    printf("last\n");
}
extern "C" __global__ void count(int* x) {
    x[0] = printf("none\n");
    x[1] = printf("%d %s %f\n", 1, "two", 3.0);
    x[2] = printf("%*d\n", 3, 4);
}
extern "C" __global__ void lanes(int n) {
    if (I % 3 == 0 && I < n) printf("block %d thread %d\n", blockIdx.x, I);
}
extern "C" __global__ void claims(const int* x, int n) {
    if (I < n) assert(x[I] >= 0 && "must not be negative"); // claim
}
extern "C" __global__ void traps(const int* x) {
    if (x[threadIdx.y * blockDim.x + I]) __trap(); // trap
}
extern "C" __global__ void clocks(long long* x) {
    long long a = clock64();
    unsigned b = clock();
    unsigned long long t;
    asm volatile("mov.u64 %0, %%globaltimer;" : "=l"(t));
    for (int i = 0; i < 5; ++i) x[4 * I + 3] += i;
    x[4 * I] = a;
    x[4 * I + 1] = clock64() - a;
    x[4 * I + 2] = (long long)(clock() - b);
}
extern "C" __global__ void unset(int* x, int yes) {
    __shared__ int here[64];
    extern __shared__ int more[];
    int v;
    if (yes) v = 1;
    if (yes == 2) here[I] = more[I] = 1;
    asm volatile("{ .reg .b32 r; .reg .b64 l; .reg .pred p; .reg .b32 s; .reg .f32 f;\n"
        "cvt.u32.u64 s, l; st.global.u32 [%0], r; st.global.u32 [%0+4], s; selp.u32 s, 1, 0, p;"
        "st.global.u32 [%0+8], s; st.global.f32 [%0+12], f; }" :: "l"(x + 6 * I) : "memory");
    x[6 * I + 4] = here[I];
    x[6 * I + 5] = more[I];
}
"""


class Said(list[str]):
    """What was printed, in pieces."""

    @property
    def text(self) -> str:
        return "".join(self)


@pytest.fixture(scope="module")
def device() -> Iterator[VirtualDevice]:
    made = VirtualDevice(threads=2)
    yield made
    made.close()


@pytest.fixture
def said(device: VirtualDevice) -> Said:
    found = Said()
    device.machine.output = found.append
    return found


@pytest.fixture(scope="module")
def module(device: VirtualDevice) -> Any:
    return device.compile(SOURCE, name="output.cu")


def printed(template: str, *values: Any) -> str:
    """What the C library prints."""
    buffer = ctypes.create_string_buffer(1000)
    ctypes.CDLL(None).snprintf(buffer, ctypes.c_size_t(1000), template.encode(), *values)
    return buffer.value.decode()


def test_formats(device: VirtualDevice, module: Any, said: Said) -> None:
    zero = device.zeros((8,), np.int8)
    module["formats"].launch(1, 1, (zero,))
    double = ctypes.c_double
    lines = said.text.split("\n")
    assert lines == [
        "no arguments, %",
        "-5 7 4294967295 100 ff FF",
        f"{-(1 << 40)} {(1 << 64) - 1} {1 << 36:x} -3 9",
        "4464 44 4464",
        "[   42] [42   ] [00042] [+42] [ 42] [007] [   007] [007   ] [  007]",
        printed(
            "%f %e %g %G %.0f %10.3f %-10.2e| %+.1f %a",
            *map(double, (1.5, 1234.5, 1e-5, 1e20, 2.5, 3.14159, 3.14159, 2.0, 1.5)),
        ),
        "inf -inf   inf INF",
        "xy  z|w  |",
        "text [     right] [left    ] [cut] abcdefg ok kept on the device",
        "     1 2     | 3.14    2.718 abc",
        "1     | 0.500000",
        "0xff 010 (null) %n1",
        "last",
        "",
    ]


def test_printf_returns_how_many_arguments_it_took(device: VirtualDevice, module: Any, said: Said) -> None:
    x = device.zeros((3,), np.int32)
    module["count"].launch(1, 1, (x,))
    assert said.text == "none\n1 two 3.000000\n  4\n"
    assert x.host.tolist() == [0, 3, 2]


PRINTF = """
.version 8.0
.target sm_80
.address_size 64
.extern .func (.param .b32 r) vprintf(.param .b64 a, .param .b64 b);
.global .align 1 .b8 text[] = {%s};
.visible .entry say(.param .u64 place)
{
    .reg .b64 %%rd<4>; .reg .b32 %%r<2>;
    ld.param.u64 %%rd2, [place];
    mov.u64 %%rd1, text;
    {
        .param .b64 a; st.param.b64 [a], %%rd1;
        .param .b64 b; st.param.b64 [b], %%rd2;
        .param .b32 r;
        call.uni (r), vprintf, (a, b);
        ld.param.b32 %%r1, [r];
    }
    ret;
}
"""


@pytest.mark.parametrize(
    ("template", "expected"),
    [
        ("%d %d %d %d", "1 2 %d %d"),
        ("%d %*d!", "1 %*d!"),
        ("%lld %s", "8589934593 %s"),
        ("%d %f %c", "1 %f \x02"),
        ("%2147483647d|", "%2147483647d|"),
        ("100% %y %", "100%y %"),
    ],
)
def test_more_specifiers_than_arguments(
    device: VirtualDevice, said: Said, template: str, expected: str
) -> None:
    data = ", ".join(str(byte) for byte in [*template.encode(), 0])
    arguments = device.upload(np.array([1, 2], np.int32))
    device.load_ptx(PRINTF % data)["say"].launch(1, 1, (arguments,))
    assert said.text == expected


def test_a_string_that_is_nowhere(device: VirtualDevice, said: Said) -> None:
    data = ", ".join(str(byte) for byte in [*b"%s.", 0])
    module = device.load_ptx(PRINTF % data)
    module["say"].launch(1, 1, (device.upload(np.array([64], np.uint64)),))
    module["say"].launch(1, 1, (device.upload(np.array([1 << 63], np.uint64)),))
    assert said.text == "<bad string at 0x40>.<bad string at 0x8000000000000000>."


def test_divergent_lanes_of_many_blocks(module: Any, said: Said) -> None:
    module["lanes"].launch(50, 70, (41,))
    expected = [f"block {b} thread {t}" for b in range(50) for t in range(0, 41, 3)]
    assert sorted(said.text.splitlines()) == sorted(expected)
    for block in range(50):
        mine = [line for line in said.text.splitlines() if line.startswith(f"block {block} ")]
        assert mine == [f"block {block} thread {t}" for t in range(0, 41, 3)]


def test_standard_output_is_that_of_the_moment(capsys: pytest.CaptureFixture[str]) -> None:
    device = VirtualDevice()
    module = device.compile(SOURCE, name="output.cu")
    with pytest.MonkeyPatch.context() as patch:
        lines: list[str] = []
        patch.setattr("sys.stdout", type("Out", (), {"write": lambda self, text: lines.append(text)})())
        module["lanes"].launch(1, 1, (1,))
    module["lanes"].launch(1, 1, (1,))
    assert ("".join(lines), capsys.readouterr().out) == ("block 0 thread 0\n",) * 2
    device.close()


def test_output_that_fails(device: VirtualDevice, module: Any) -> None:
    def broken(text: str) -> None:
        raise BrokenPipeError("nobody reads")

    device.machine.output = broken
    with pytest.raises(BrokenPipeError, match="nobody"):
        module["lanes"].launch(20, 32, (32,))
    device.machine.output = lambda text: None
    module["lanes"].launch(20, 32, (32,))


def test_assertions(device: VirtualDevice, module: Any) -> None:
    x = device.zeros((64,), np.int32)
    module["claims"].launch(3, 64, (x, 64))
    x.host[[33, 50]] = -1
    module["claims"].launch(3, 64, (x, 33))
    with pytest.raises(KernelError, match=r"assertion failed: x.threadIdx.x. >= 0 && .must not be") as caught:
        module["claims"].launch(1, 64, (x, 64))
    found = report(caught.value)
    assert (found.kernel, found.file, found.line) == ("claims", "output.cu", line_of(SOURCE, "claim"))
    assert (found.block, found.thread) == ((0, 0, 0), (33, 0, 0))


def test_traps(device: VirtualDevice, module: Any) -> None:
    x = device.zeros((64,), np.int32)
    module["traps"].launch(3, (8, 8), (x,))
    x.host[8 * 5 + 3] = 1
    with pytest.raises(KernelError, match=r"stopped itself .trap.") as caught:
        module["traps"].launch(1, (8, 8), (x,))
    found = report(caught.value)
    assert (found.line, found.thread) == (line_of(SOURCE, "trap"), (3, 5, 0))


def test_clocks(device: VirtualDevice, module: Any) -> None:
    x = device.zeros((64, 4), np.int64)
    module["clocks"].launch(1, 64, (x,))
    first = x.download()
    assert (first[:, 0] > 0).all()
    assert (first[:, 1] > 0).all()
    assert (first[:, 2] > 0).all()
    module["clocks"].launch(1, 64, (x,))
    assert (x.host[:, 0] > first[:, 0]).all()


@pytest.mark.parametrize("poison", [False, True])
def test_poison(monkeypatch: pytest.MonkeyPatch, poison: bool) -> None:
    monkeypatch.setenv("NNKIT_POISON", str(int(poison)))
    device = VirtualDevice(threads=1)
    kernel = device.compile(SOURCE, name="output.cu")["unset"]
    x = device.zeros((64, 6), np.int32)
    kernel.launch(1, 64, (x, 2), shared_bytes=256)
    assert (x.host[:, 4:] == 1).all()
    # In every block anew.
    kernel.launch(2, 64, (x, 0), shared_bytes=256)
    words = x.download()
    if poison:
        assert (words[:, [0, 1, 4, 5]] == -1).all()
        assert (words[:, 2] == 1).all()
        assert np.isnan(words[:, 3].view(np.float32)).all()
    else:
        assert (words[:, :4] == 0).all()
    device.close()


@pytest.mark.parametrize("name", ["NNKIT_THREADS", "NNKIT_POISON", "NNKIT_MAX_INSTRUCTIONS"])
@pytest.mark.parametrize("value", ["abc", "-1", "1.5", "0x10", "1 2", "9" * 5000])
def test_settings_that_are_none(monkeypatch: pytest.MonkeyPatch, name: str, value: str) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(UsageError, match=f"^{name}=.*give a whole number[^\n]*$") as caught:
        VirtualDevice()
    assert len(str(caught.value)) < 200


def test_more_threads_than_the_system_has(monkeypatch: pytest.MonkeyPatch, module: Any) -> None:
    monkeypatch.setenv("NNKIT_THREADS", "0")
    with pytest.raises(UsageError, match="1 or more"):
        VirtualDevice()
    monkeypatch.setattr("threading.Thread.start", _no_more)
    device = VirtualDevice(threads=100)
    out = device.zeros((64, 4), np.int64)
    device.compile(SOURCE, name="output.cu")["clocks"].launch(5000, 64, (out,))
    device.close()


def _no_more(thread: Any) -> None:
    raise RuntimeError("can't start new thread")


RECURSIVE = """
__device__ __noinline__ int down(volatile int* x, int n) {
    if (n == 0) return x[0];
    return down(x + 1, n - 1) + down(x + 2, n - 2) + n; // call
}
extern "C" __global__ void falls(int* x, int n) { x[0] = down(x, n); }
"""
REFUSED = {
    "malloc": (
        'extern "C" __global__ void takes(int** x) {\n    *x = (int*)malloc(8);\n}',
        "takes",
        2,
        "malloc",
    ),
    "recursion": (RECURSIVE, "falls", line_of(RECURSIVE, "call"), "recursion is not supported"),
    "instruction": (
        'extern "C" __global__ void strange(int* x) {\n'
        '    asm volatile("setmaxnreg.inc.sync.aligned.u32 64;");\n}',
        "strange",
        2,
        "setmaxnreg.inc.sync.aligned.u32",
    ),
    "form": (
        'extern "C" __global__ void odd(int* x) {\n'
        '    asm volatile("add.rz.cc.b17 %0, %0, 1;" : "+r"(x[0]));\n}',
        "odd",
        2,
        "add.rz.cc.b17",
    ),
    "pointer": (
        "__device__ __noinline__ int one(int x) { return __clz(x); }\n"
        "__device__ __noinline__ int two(int x) { return __ffs(x); }\n"
        'extern "C" __global__ void jumps(int* x) {\n'
        "    int (*way)(int) = x[2] ? one : two;\n    x[0] = way(x[1]);\n}",
        "jumps",
        5,
        "function pointer",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_refused_when_it_is_loaded(device: VirtualDevice, case: str) -> None:
    source, kernel, line, words = REFUSED[case]
    # Modules of tests before may go at any time: a module and its kernels hold each other.
    gc.collect()
    before = len(device.machine.memory.snapshot().allocations)
    with pytest.raises(CompileError) as caught:
        device.compile("__device__ int unused[10];\n" + source, name=f"{case}.cu")
    said = str(caught.value)
    assert words in said
    assert f"kernel {kernel}, PTX line " in said
    assert f"{case}.cu:{line + 1})" in said
    # What the module had is free again.
    assert len(device.machine.memory.snapshot().allocations) == before


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (
            "x[0] = way(x[1]);",
            r"kernel jumps, PTX .*functions.cu:4\): calls through a function pointer are not",
        ),
        ("x[0] = way != 0;", r"way holds the address of .*one.*: function pointers are not supported"),
    ],
)
def test_a_table_of_functions(device: VirtualDevice, body: str, words: str) -> None:
    source = (
        "__device__ int one(int x) { return x; }\n__device__ int (*way)(int) = one;\n"
        f'extern "C" __global__ void jumps(int* x) {{\n    {body}\n}}'
    )
    with pytest.raises(CompileError, match=words):
        device.compile(source, name="functions.cu")
