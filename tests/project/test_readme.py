"""What the README shows is run, so that it stays true."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import nnkit.device as nnkit_device
from nnkit.cli import app
from nnkit.device.virtual import VirtualDevice
from nnkit.errors import DeviceMemoryError
from tests.support.places import ROOT

README = (ROOT / "README.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", README, flags=re.DOTALL | re.MULTILINE)


@pytest.fixture
def installed(tmp_path: Path) -> dict[str, str]:
    """The README's plugin as pip would leave it, on the path of a subprocess."""
    (tmp_path / "my_gemm.py").write_text(blocks("python")[0])
    entry_points = re.search(r"^\[project\.entry-points\.nnkit\]\n(.*?)\n$", blocks("toml")[0], re.M | re.S)
    assert entry_points
    metadata = tmp_path / "my_gemm-1.0.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: my-gemm\nVersion: 1.0\n")
    (metadata / "entry_points.txt").write_text("[nnkit]\n" + entry_points[1].replace('"', "") + "\n")
    return {**os.environ, "PYTHONPATH": str(tmp_path)}


def nnkit(environment: dict[str, str], *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "nnkit", *arguments]
    return subprocess.run(command, check=False, env=environment, capture_output=True, text=True, timeout=120)


def test_the_backend_in_20_lines_passes_the_check_and_is_listed(installed: dict[str, str]) -> None:
    code = [line for line in blocks("python")[0].splitlines() if line.strip()]
    assert len(code) <= 20
    checked = nnkit(installed, "gemm-check", "--backend", "rowwise", "--m", "65", "--n", "33", "--k", "17")
    assert (checked.returncode, checked.stderr) == (0, "")
    assert checked.stdout.startswith("pass: backend rowwise on cpu")
    assert "rowwise" in nnkit(installed, "backends").stdout


def test_the_kernel_prints_what_its_last_line_says(capsys: pytest.CaptureFixture[str]) -> None:
    (code,) = (block for block in blocks("python") if "__global__" in block)
    exec(code, {})
    assert capsys.readouterr().out.strip() == code.splitlines()[-1].partition("# ")[2]


def test_the_kernel_with_the_mistake_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nnkit_device, "open_device", lambda name: VirtualDevice())
    (code,) = (block for block in blocks("python") if "__global__" in block)
    with pytest.raises(
        DeviceMemoryError, match=r"add\.cu:6, .* thread \(232, 0, 0\).*shape \(1000,\) float32"
    ):
        exec(code.replace("i < n", "i <= n"), {})


def test_the_library_example_runs() -> None:
    (code,) = (block for block in blocks("python") if "load_dataset" in block)
    exec(code, {})


@pytest.mark.parametrize("command", sorted(set(re.findall(r"^\| `nnkit ([a-z-]+)", README, re.MULTILINE))))
def test_every_command_of_the_table_exists(command: str) -> None:
    result = nnkit(dict(os.environ), command, "--help")
    assert result.returncode == 0


SHOWN = [line.partition("#")[0].split() for line in re.findall(r"^    nnkit (.*)$", README, re.MULTILINE)]


@pytest.mark.parametrize("command", sorted({words[0] for words in SHOWN}))
def test_every_option_that_is_shown_exists(command: str) -> None:
    options = {word for words in SHOWN if words[0] == command for word in words if word.startswith("--")}
    shown = nnkit({**os.environ, "COLUMNS": "300"}, command, "--help").stdout
    assert [option for option in options if option not in shown] == []


def test_every_command_is_in_the_table() -> None:
    listed = set(re.findall(r"^\| `nnkit ([a-z-]+)", README, re.MULTILINE))
    assert listed == {command.name for command in app.registered_commands}


def test_every_option_of_train_is_named_and_exists() -> None:
    section = README[README.index("Training options:") : README.index("Ctrl-C stops")]
    options = re.findall(r"--[a-z-]+2?", section)
    # Wide enough that no option is cut in the help's table.
    shown = nnkit({**os.environ, "COLUMNS": "300"}, "train", "--help").stdout
    assert len(options) == 18
    assert [option for option in options if option not in shown] == []


def test_files_that_the_readme_links_to_exist() -> None:
    for target in re.findall(r"\]\(([^)#]+)\)", README):
        assert (ROOT / target).exists(), target
