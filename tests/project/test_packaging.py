import ast
import subprocess
import sys
import tomllib
from importlib.metadata import metadata, version
from pathlib import Path
from typing import Any

import pytest

import nnkit
from tests.support.places import ROOT

PROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
# Folder in the checkout -> package when installed.
PLACES = {"nnkit": "nnkit", "backends": "nnkit_backends", "cuda_src": "nnkit_cuda_src"}
SOURCES = sorted(path for folder in PLACES for path in (ROOT / folder).rglob("*.py"))
FILES = [path for folder in (*PLACES, "tests", "tools", "benchmarks") for path in (ROOT / folder).rglob("*")]
TEXTS = sorted(path for path in FILES if path.suffix in {".py", ".cu", ".cuh"} or path == ROOT / "tools/run")


def relative(path: Path) -> str:
    """The test's name for a file."""
    return str(path.relative_to(ROOT))


def test_every_package_is_listed() -> None:
    on_disk = []
    for folder, package in PLACES.items():
        for init in (ROOT / folder).rglob("__init__.py"):
            on_disk.append(".".join([package, *init.parent.relative_to(ROOT / folder).parts]))
    assert sorted(on_disk) == sorted(PROJECT["tool"]["setuptools"]["packages"])


def test_every_module_lies_in_a_package() -> None:
    assert [path for path in SOURCES if not (path.parent / "__init__.py").exists()] == []


def test_packages_lie_where_the_list_says() -> None:
    listed = PROJECT["tool"]["setuptools"]["package-dir"]
    assert listed == {package: folder for folder, package in PLACES.items()}


@pytest.mark.parametrize(
    ("module", "heavy"),
    [
        ("nnkit", "numpy matplotlib PIL pluggy typer rich safetensors"),
        ("nnkit.cli", "numpy matplotlib PIL pluggy safetensors"),
    ],
)
def test_imports_cost_little(module: str, heavy: str) -> None:
    code = f"import sys, {module}; print(*sorted(set({heavy.split()}) & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == []


def test_help_costs_little() -> None:
    code = (
        "import sys, nnkit.cli; assert nnkit.cli.main(['--help']) == 0\n"
        "print('heavy:', *sorted({'numpy', 'matplotlib'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "heavy:"


def test_ctrl_c_while_the_command_is_read() -> None:
    """Before there is a command that could say it."""
    code = (
        "import sys, nnkit.__main__\n"
        "class Interrupting:\n"
        "    def find_spec(self, name, path, target=None):\n"
        "        if name == 'nnkit.cli': raise KeyboardInterrupt\n"
        "sys.meta_path.insert(0, Interrupting())\n"
        "sys.exit(nnkit.__main__.main())"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "nnkit: stopped\n")


@pytest.mark.parametrize("name", nnkit.__all__)
def test_public_names_resolve(name: str) -> None:
    assert getattr(nnkit, name) is not None
    assert name in dir(nnkit)


def test_other_names_do_not_resolve() -> None:
    with pytest.raises(AttributeError, match="has no attribute 'missing'"):
        _ = nnkit.missing


def test_there_is_one_version() -> None:
    assert nnkit.__version__ == version("nnkit") == PROJECT["project"]["version"]


def test_the_licence_travels_with_the_package() -> None:
    assert PROJECT["project"]["license-files"] == ["LICENSE"]
    assert (ROOT / "LICENSE").read_text("utf-8").startswith("MIT License")
    assert metadata("nnkit").get_all("License-File") == ["LICENSE"]


@pytest.mark.parametrize("path", SOURCES, ids=relative)
def test_modules_have_a_docstring(path: Path) -> None:
    assert ast.get_docstring(ast.parse(path.read_text("utf-8")))


@pytest.mark.parametrize("path", TEXTS, ids=relative)
def test_files_are_short(path: Path) -> None:
    assert len(path.read_text("utf-8").splitlines()) < 400


def test_entry_points_name_files_that_ship() -> None:
    for target in PROJECT["project"]["entry-points"]["nnkit"].values():
        package, _, module = target.rpartition(".")
        assert package in ("nnkit_backends", "nnkit.comm")
        folder = {"nnkit_backends": ROOT / "backends", "nnkit.comm": ROOT / "nnkit" / "comm"}[package]
        assert (folder / f"{module}.py").is_file()
