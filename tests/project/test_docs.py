"""What the pages of docs/ show is run, and what they say about the virtual device is held against it."""

import contextlib
import io
import os
import re
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import pytest

import nnkit.vm.build.compile  # noqa: F401  it fills the table of instructions
from nnkit.device.virtual import VirtualDevice
from nnkit.errors import CompileError
from nnkit.vm.forms.table import FORMS
from tests.support.commands import Command, is_refusal, lines_of
from tests.support.mpi import needs_mpi
from tests.support.places import ROOT

PAGES = sorted((ROOT / "docs").glob("*.md"))
TEXTS = {page.name: page.read_text("utf-8") for page in PAGES}


def blocks(page: str) -> list[tuple[str, str]]:
    """Language and content of every fenced block."""
    return re.findall(r"^```(\w+)\n(.*?)^```$", TEXTS[page], flags=re.DOTALL | re.MULTILINE)


def section(page: str, title: str) -> str:
    """What stands under a heading."""
    found = re.search(rf"^## {title}\n(.*?)(?=^## |\Z)", TEXTS[page], flags=re.DOTALL | re.MULTILINE)
    assert found, title
    return found[1]


def plain(text: str) -> str:
    """Without what differs from run to run: line breaks, addresses, and the folder of a source."""
    text = re.sub(r"\b0x[0-9a-f]{5,}\b", "ADDRESS", " ".join(text.split()))
    return text.replace(f"{Path.cwd()}/", "").replace("/home/you/", "")


def run(code: str, names: dict[str, Any], out: io.StringIO) -> str:
    """What a block prints, and the error that ends it."""
    out.seek(0)
    out.truncate()
    try:
        exec(code, names)
    except Exception as error:
        print(f"{type(error).__name__}: {error}", *getattr(error, "__notes__", ()), sep="\n", file=out)
    return out.getvalue()


# Pictures and lists alone: tests/project/test_architecture.py and test_instructions.py compare them.
@pytest.mark.parametrize("page", sorted(TEXTS.keys() - {"architecture.md", "instructions.md"}))
def test_examples_do_what_the_page_shows(page: str) -> None:
    names: dict[str, Any] = {}
    out = io.StringIO()
    ran = 0
    with contextlib.redirect_stdout(out):
        for index, (language, content) in enumerate(blocks(page)):
            if language != "python":
                continue
            said = run(content, names, out)
            following = blocks(page)[index + 1 : index + 2]
            shown = following[0][1] if following and following[0][0] == "text" else ""
            assert plain(said) == plain(shown)
            ran += 1
    assert ran


def test_a_difference_from_the_page_would_be_seen() -> None:
    shown = "load at /home/you/scale.cu:6 of global address 0x561faed6e3a0\nis wrong"
    assert plain(shown) == plain("load at /home/you/scale.cu:6 of global address 0x55000 is wrong")
    for other in (shown.replace(":6", ":7"), shown.replace("scale", "scales"), shown + "!"):
        assert plain(other) != plain(shown)
    out = io.StringIO()
    assert run("1 / 0", {}, out) == "ZeroDivisionError: division by zero\n"


@pytest.mark.parametrize("page", TEXTS)
def test_links_lead_to_files(page: str) -> None:
    targets = re.findall(r"\]\(([^)#:]+)\)", TEXTS[page])
    assert targets
    assert [target for target in targets if not (ROOT / "docs" / target).exists()] == []


def test_the_front_page_leads_to_every_page() -> None:
    linked = set(re.findall(r"\]\(([\w.-]+\.md)\)", TEXTS["index.md"]))
    assert linked == TEXTS.keys() - {"index.md"}


def test_every_kernel_file_has_its_place_in_the_reading_order() -> None:
    listed = re.findall(r"\.\./cuda_src/(\w+\.cuh?)\)", TEXTS["kernels.md"])
    on_disk = [path.name for path in (ROOT / "cuda_src").iterdir() if path.suffix in (".cu", ".cuh")]
    assert sorted(listed) == sorted(on_disk)


def test_the_instructions_listed_are_those_of_the_table() -> None:
    rows = section("virtual-device.md", "What it knows").strip().partition("\n\n")[0]
    listed = set(re.findall(r"`([a-z][a-z0-9]*)`", rows))
    # `extcall` is nnkit's own name for a call of printf or an assertion.
    assert listed == set(FORMS) - {"extcall"}


REFUSED = {
    "half precision": """
        #include <cuda_fp16.h>
        extern "C" __global__ void h(__half *x) { x[0] = __hadd(x[1], x[2]); }""",
    "cp.async": """
        extern "C" __global__ void h(int *x) {
            __shared__ int s[4];
            unsigned to = __cvta_generic_to_shared(s);
            asm volatile("cp.async.ca.shared.global [%0], [%1], 4;" :: "r"(to), "l"(x));
        }""",
    "textures": """
        extern "C" __global__ void h(cudaTextureObject_t t, float *x) { x[0] = tex1Dfetch<float>(t, 1); }""",
    "recursion": """
        __device__ int f(int n) { return n < 2 ? n : f(n - 1) + f(n - 2); }
        extern "C" __global__ void h(int *x) { x[0] = f(x[1]); }""",
    "a function pointer": """
        __device__ int one(int x) { return x + 1; }
        __device__ int two(int x) { return x + 2; }
        extern "C" __global__ void h(int *x) {
            int (*f)(int) = x[1] ? one : two;
            x[0] = f(x[0]) + f(x[2]);
        }""",
    "`malloc`": """
        extern "C" __global__ void h(long long *x) { x[0] = (long long)malloc(16); }""",
}


@pytest.mark.parametrize("what", REFUSED)
def test_what_is_said_to_be_refused_is_refused(what: str) -> None:
    assert what in " ".join(section("virtual-device.md", "What it refuses").split())
    device = VirtualDevice()
    with pytest.raises(CompileError, match="support"):
        device.compile(textwrap.dedent(REFUSED[what]), name="refused.cu")


@pytest.mark.parametrize("page", ["docs/virtual-device.md", "README.md"])
def test_environment_variables_are_those_of_the_source(page: str) -> None:
    listed = set(re.findall(r"^\| `(NNKIT_\w+)`", (ROOT / page).read_text("utf-8"), re.MULTILINE))
    source = "\n".join(path.read_text("utf-8") for path in (ROOT / "nnkit").rglob("*.py"))
    used = set(re.findall(r"[\"'](NNKIT_[A-Z_]+)[\"']", source))
    # For those who work on the machine itself.
    assert listed == used - {"NNKIT_DUMP_LLVM"}


def install(folder: Path, name: str, page: str, words: str) -> dict[str, str]:
    """The block of the page that has the words as a module, in the environment of a subprocess."""
    (folder / f"{name}.py").write_text(next(code for _, code in blocks(page) if words in code))
    metadata = folder / f"{name}-1.0.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
    (metadata / "entry_points.txt").write_text(f"[nnkit]\n{name} = {name}\n")
    return {**os.environ, "PYTHONPATH": os.pathsep.join([str(folder), os.environ.get("PYTHONPATH", "")])}


@pytest.fixture
def textbook(tmp_path: Path) -> dict[str, str]:
    """The page's backend as pip would leave it, on the path of a subprocess."""
    return install(tmp_path, "textbook", "kernels.md", "class Textbook")


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_the_backend_of_the_page_passes_the_check(textbook: dict[str, str], dtype: str) -> None:
    command = [sys.executable, "-m", "nnkit", "gemm-check", "--backend", "textbook", "--dtype", dtype]
    done = subprocess.run(
        [*command, "--m", "70", "--n", "33", "--k", "17"],
        check=False,
        env=textbook,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("pass: backend textbook on ")


@needs_mpi
def test_the_strategy_of_the_page_trains_on_real_ranks(tmp_path: Path, small_data: Path) -> None:
    environment = install(tmp_path, "late", "distribution.md", "class Late:")

    def losses(*options: str) -> list[float]:
        command = [
            sys.executable,
            "-m",
            "nnkit",
            "train",
            "--data",
            str(small_data),
            "--quiet",
            "--epochs",
            "2",
        ]
        done = subprocess.run(
            [*command, "--metrics", str(tmp_path / "m"), "--quiet", *options],
            check=True,
            env=environment,
            capture_output=True,
            timeout=120,
        )
        assert done.stderr == b""
        return [record["train_loss"] for record in lines_of(tmp_path / "m")[:2]]

    assert losses("--comm", "late", "--ranks", "3") == pytest.approx(losses(), abs=1e-6)


def test_a_wrong_setting_is_one_line(main: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NNKIT_MAX_INSTRUCTIONS", "many")
    arguments = ("gemm-check", "--backend", "naive", "--device", "virtual", "--m", 1, "--n", 1, "--k", 1)
    assert is_refusal(main(*arguments), "NNKIT_MAX_INSTRUCTIONS=many: give a whole number")
