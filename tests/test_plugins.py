import importlib
import inspect
import itertools
import json
import re
from collections.abc import Callable
from importlib.metadata import entry_points
from pathlib import Path

import pluggy
import pytest

from nnkit import hookspecs
from nnkit.errors import PluginError, UsageError
from nnkit.plugins import KINDS, Entry, Registry, check_serves
from tests.support.commands import Command, is_refusal
from tests.support.mpi import needs_mpi

NUMBERS = itertools.count()

BACKEND = """
import numpy as np
from nnkit.hookspecs import hookimpl

class Backend:
    name = {name!r}
    devices = frozenset({{"cpu"}})
    dtypes = frozenset({{"float32", "float64"}})

    def gemm(self, a, b, c, *, alpha=1.0, beta=0.0, trans_a=False, trans_b=False):
        left, right = (x.host.T if t else x.host for x, t in ((a, trans_a), (b, trans_b)))
        before = beta * c.host if beta else 0
        c.host[...] = alpha * (left @ right) + before

@hookimpl
def nnkit_gemm_backends():
    return [Backend()]
"""
LACKING = """
from nnkit.hookspecs import hookimpl

class Backend:
    {body}

@hookimpl
def nnkit_gemm_backends():
    return [Backend()]
"""
HOOK = """
from nnkit.hookspecs import hookimpl

@hookimpl
def {name}():
    {body}
"""
GOOD = BACKEND.format(name="good")

# Plugin -> its module, the kind of its row, and what the row says.
BROKEN = {
    "absent": ("import no_such_module_anywhere", "plugin", "No module named 'no_such_module_anywhere'"),
    "syntax": ("def def", "plugin", "does not load: SyntaxError"),
    "leaves": ("import sys; sys.exit('gone')", "plugin", "does not load: SystemExit: gone"),
    "misspelled": (
        HOOK.format(name="nnkit_gem_backends", body="return []"),
        "plugin",
        "there is no hook 'nnkit_gem_backends'; known: nnkit_comm_backends, nnkit_gemm_backends, "
        "nnkit_transports. "
        "Did you mean 'nnkit_gemm_backends'?",
    ),
    "raises": (
        HOOK.format(name="nnkit_gemm_backends", body="raise RuntimeError('no luck')"),
        "gemm",
        "nnkit_gemm_backends failed: RuntimeError: no luck",
    ),
    "exits": (
        HOOK.format(name="nnkit_comm_backends", body="raise SystemExit(0)"),
        "comm",
        "nnkit_comm_backends failed: SystemExit: 0",
    ),
    "returns": (HOOK.format(name="nnkit_gemm_backends", body="return None"), "gemm", "failed"),
    "arguments": (
        HOOK.format(name="nnkit_gemm_backends", body="return []").replace("s():", "s(unknown):"),
        "plugin",
        "does not load: PluginValidationError",
    ),
    "nameless": (LACKING.format(body="pass"), "gemm", "Backend has no name"),
    "numbered": (LACKING.format(body="name = 7"), "gemm", "Backend has no name"),
    "lacking": (
        LACKING.format(body="name = 'lacking'; devices = dtypes = frozenset({'cpu'})"),
        "gemm",
        "Backend lacks gemm (see nnkit.contracts)",
    ),
    "unconnected": (
        LACKING.format(body="name = 'unconnected'").replace("gemm_backends", "transports"),
        "transport",
        "Backend lacks connect (see nnkit.contracts)",
    ),
    "string": (BACKEND.format(name="string").replace('frozenset({"cpu"})', '"cpu"'), "gemm", "must be sets"),
    "devices": (GOOD.replace("good", "devices").replace('frozenset({"cpu"})', "None"), "gemm", "devices"),
    "property": (
        LACKING.format(body="@property\n    def name(self): raise RuntimeError('no name today')"),
        "gemm",
        "no name today",
    ),
    "hookless": ("x = 1", "plugin", "has no function marked @hookimpl named nnkit_gemm_backends or"),
}
NAMED_NUMPY = BACKEND.format(name="numpy")

Install = Callable[..., Path]


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Install:
    """`install(name=source, ...)` puts a distribution for each on the path, here and for subprocesses."""
    site = tmp_path / "site"
    site.mkdir()

    def run(**sources: str) -> Path:
        for name, source in sources.items():
            module = f"fake_plugin_{name}_{next(NUMBERS)}"
            (site / f"{module}.py").write_text(source, "utf-8")
            info = site / f"fake_{name}-1.2.dist-info"
            info.mkdir()
            (info / "METADATA").write_text(
                f"Metadata-Version: 2.1\nName: fake-{name}\nVersion: 1.2\n", "utf-8"
            )
            (info / "entry_points.txt").write_text(f"[nnkit]\n{name} = {module}\n", "utf-8")
        monkeypatch.syspath_prepend(str(site))
        monkeypatch.setenv("PYTHONPATH", str(site))
        importlib.invalidate_caches()
        return site

    return run


def rows_of(distribution: str) -> list[Entry]:
    """The entries of one fake distribution."""
    return [
        entry for entry in Registry.discover().entries if entry.distribution == f"fake-{distribution} 1.2"
    ]


def test_what_ships_is_there() -> None:
    registry = Registry.discover()
    assert registry.gemm("numpy").name == "numpy"
    assert registry.comm("none").name == "none"
    for kind in KINDS:
        assert registry.names(kind) == list(dict.fromkeys(registry.names(kind)))


@pytest.mark.parametrize(
    "hook", [name for name, value in vars(hookspecs).items() if hasattr(value, f"{hookspecs.GROUP}_spec")]
)
def test_every_hook_is_documented_and_used(hook: str) -> None:
    assert inspect.getdoc(getattr(hookspecs, hook))
    assert hook in KINDS.values()
    own = [p.load() for p in entry_points(group=hookspecs.GROUP) if p.dist and p.dist.name == "nnkit"]
    manager = pluggy.PluginManager(hookspecs.GROUP)
    assert any(manager.parse_hookimpl_opts(plugin, hook) is not None for plugin in own)


def test_every_kind_has_its_hook() -> None:
    assert all(hasattr(getattr(hookspecs, hook), "nnkit_spec") for hook in KINDS.values())


def test_a_healthy_backend_is_found_and_used(install: Install, main: Command, nnkit: Command) -> None:
    install(good=GOOD)
    (row,) = rows_of("good")
    assert (row.name, row.kind, row.devices, row.status, row.error) == ("good", "gemm", ("cpu",), "ok", "")
    sizes = ("--m", 7, "--n", 5, "--k", 3)
    for command in (main, nnkit):
        result = command("gemm-check", "--backend", "good", *sizes, "--json")
        assert (result.status, result.stderr) == (0, "")
        assert json.loads(result.stdout)["backend"] == "good"


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_plugin_is_a_row_that_says_why(install: Install, main: Command, name: str) -> None:
    source, kind, error = BROKEN[name]
    install(**{name: source})
    (row,) = rows_of(name)
    assert (row.name, row.kind, row.status, row.backend) == (name, kind, "broken", None)
    assert error in row.error
    assert Registry.discover().gemm("numpy").name == "numpy"
    if kind == "transport":
        result = main("train", "--transport", name)
        assert is_refusal(result, f"--transport {name}: fake-{name} 1.2 is broken: ", error)
    elif kind != "comm":
        option = "--backend"
        result = main("gemm-check", option, name)
        assert is_refusal(result, f"--backend {name}: fake-{name} 1.2 is broken: ", error)


EXAMPLES = re.findall(
    r"^```python\n(.*?)^```$",
    (Path(__file__).parents[1] / "docs" / "distribution.md").read_text("utf-8"),
    flags=re.DOTALL | re.MULTILINE,
)
LATE, FILES = EXAMPLES[0], EXAMPLES[2]
CLUSTER = ("--bandwidth", "1GB/s", "--latency", "2us", "--flops", "1TFLOP/s")


def test_a_strategy_of_ones_own_is_planned(install: Install, main: Command) -> None:
    """The one of docs/distribution.md sums what `data` sums, and hides nothing of it."""
    install(late=LATE)
    result = main("plan", "--comm", "late,data,model", "--ranks", 4, *CLUSTER, "--json")
    assert (result.status, result.stderr) == (0, "")
    found = json.loads(result.stdout)["strategies"]
    assert list(found) == ["late", "data", "model"]
    late, data = found["late"], found["data"]
    assert {**late, "seconds": 0, "exposed_seconds": 0, "hidden_seconds": 0} == {
        **{**data, "seconds": 0, "exposed_seconds": 0, "hidden_seconds": 0}
    }
    assert data["hidden_seconds"] > 0 == late["hidden_seconds"]
    assert late["exposed_seconds"] == pytest.approx(data["exposed_seconds"] + data["hidden_seconds"])
    lines = main("plan", "--comm", "late,hybrid", "--ranks", 7, "--batch", 5, "--hidden", 9, *CLUSTER)
    assert is_refusal(lines, "--ranks 7 with --comm late,hybrid")
    lines = main("plan", "--comm", "late,model", "--ranks", 7, "--batch", 5, *CLUSTER)
    assert "late      a batch of 5 has no part for each of 7 ranks" in lines.stdout.splitlines()


def test_a_strategy_that_needs_a_square_or_has_a_choice_is_planned(install: Install, main: Command) -> None:
    """What it takes is its own affair: 4x4 of 16 ranks, nothing of 8; of several the best that cuts both."""
    late = LATE.replace('name = "late"', 'name = "square"')
    square = late.replace("[(ranks, 1)]", "[(4, 4)] if ranks == 16 else []")
    install(square=square)
    planned = main("plan", "--comm", "square,data", "--ranks", 16, *CLUSTER, "--json")
    assert json.loads(planned.stdout)["strategies"]["square"]["grid"] == [4, 4]
    planned = main("plan", "--comm", "square,data", "--ranks", 8, *CLUSTER)
    assert "square    it cannot use 8 ranks" in planned.stdout.splitlines()
    install(choice=late.replace("square", "choice").replace("[(ranks, 1)]", "[(2, 8), (8, 2), (16, 1)]"))
    planned = main("plan", "--comm", "choice", "--ranks", 16, *CLUSTER)
    assert planned.stdout.splitlines()[-2].startswith("choose --comm choice --grid 2x8: ")


def test_a_strategy_that_says_nothing_of_its_steps_is_in_no_plan(install: Install, main: Command) -> None:
    source = LATE[: LATE.index("    # What the cost model")] + LATE[LATE.index("@hookimpl") :]
    install(late=source)
    (row,) = rows_of("late")
    assert row.status == "ok"
    refused = main("plan", "--comm", "late", "--ranks", 4, *CLUSTER)
    assert is_refusal(refused, "--comm late does not say what its steps ask of a rank", "nnkit scaling")


@needs_mpi
@pytest.mark.parametrize("known", [True, False])
def test_a_strategy_of_ones_own_is_measured_beside_others(
    install: Install, nnkit: Command, known: bool
) -> None:
    source = LATE if known else LATE.replace("def workload", "def unknown")
    install(late=source)
    result = nnkit(
        *("scaling", "--comm", "late,data", "--ranks", "1,2", "--hidden", "10,30", "--batch", 20),
        *("--steps", 4, "--json"),
    )
    assert result.status == 0, result
    document = json.loads(result.stdout)
    rows = {(row["comm"], row["hidden"]): row for row in document["rows"] if row["ranks"] == 2}
    assert list(rows) == [("late", 10), ("late", 30), ("data", 10), ("data", 30)]
    for width in (10, 30):
        late = rows["late", width]
        assert late["bytes"] == rows["data", width]["bytes"] > 0
        assert late["grid"] == ([2, 1] if known else None)
        assert (late["predicted"] is not None) == known
        if known:
            assert late["predicted"]["bytes"] == late["bytes"]
    sources = {each["source"] for each in document["crossings"]}
    assert sources == ({"measured", "predicted", "exact"} if known else {"measured"})


@needs_mpi
def test_a_transport_of_ones_own_trains(install: Install, nnkit: Command, tmp_path: Path) -> None:
    """The one of docs/distribution.md adds in the order of the ranks, as MPI does with --deterministic."""
    install(files=FILES)
    (row,) = rows_of("files")
    assert (row.name, row.kind, row.status) == ("files", "transport", "ok")
    folder = tmp_path / "folder"
    folder.mkdir()
    config = ("--hidden", 8, "--epochs", 1, "--batch", 2000, "--comm", "data", "--ranks", 2)
    said = ("--json", "--quiet")
    found = {}
    for name, more in {"files": (), "mpi": ("--deterministic",)}.items():
        result = nnkit("train", *config, *said, "--transport", name, *more, env={"FOLDER": str(folder)})
        assert (result.status, result.stderr) == (0, "")
        found[name] = json.loads(result.stdout)
    assert found["files"]["test_loss"] == found["mpi"]["test_loss"]
    for field in ("sums", "bytes", "steps"):
        assert found["files"]["cost"][field] == found["mpi"]["cost"][field] > 0
    assert found["files"]["cost"]["exposed_seconds"] > 0 == found["files"]["cost"]["hidden_seconds"]
    assert {path.suffix for path in folder.iterdir()} == {".0", ".1"}
    result = nnkit("train", *config, "--transport", "files", "--elastic", env={"FOLDER": str(folder)})
    assert is_refusal(result, "--elastic: transport files does not survive the loss of a rank")


def test_a_transport_is_chosen_by_name(main: Command) -> None:
    registry = Registry.discover()
    assert registry.names("transport") == ["single", "mpi"]
    assert registry.transport("single").connect(0, 1, elastic=False).size == 1
    with pytest.raises(ValueError, match="--transport single is for one rank, not 2"):
        registry.transport("single").connect(0, 2, elastic=False)
    assert is_refusal(
        main("train", "--transport", "mpj"), "there is no transport 'mpj'", "Did you mean 'mpi'"
    )


def test_a_name_that_is_taken_stays_with_its_owner(install: Install) -> None:
    install(aaa=NAMED_NUMPY, first=GOOD, second=GOOD)
    (row,) = rows_of("aaa")
    assert (row.name, row.status, row.backend) == ("numpy", "broken", None)
    assert "the name 'numpy' is taken by nnkit " in row.error
    assert type(Registry.discover().gemm("numpy")).__name__ == "NumpyGemm"
    assert rows_of("first")[0].status == "ok"
    assert "taken by fake-first 1.2" in rows_of("second")[0].error


def test_one_plugin_may_have_faults_and_backends(install: Install) -> None:
    misspelled = HOOK.format(name="nnkit_backends", body="return []").replace("from nnkit", "\nfrom nnkit")
    install(mixed=GOOD + misspelled)
    assert {(row.name, row.kind, row.status) for row in rows_of("mixed")} == {
        ("mixed", "plugin", "broken"),
        ("good", "gemm", "ok"),
    }


def test_a_name_that_nobody_has_may_be_a_broken_plugins(install: Install, main: Command) -> None:
    known = main("train", "--backend", "nobody").stderr
    assert "broken" not in known
    install(taken=NAMED_NUMPY)
    hint = "Some are broken: nnkit backends says what is wrong with them."
    assert is_refusal(main("train", "--backend", "nobody"), f"{known.strip()} {hint}")


@pytest.mark.filterwarnings("ignore")
def test_many_broken_plugins_leave_the_rest_usable(install: Install, nnkit: Command) -> None:
    install(good=GOOD, taken=NAMED_NUMPY, **{name: source for name, (source, *_) in BROKEN.items()})
    result = nnkit("backends", "--json")
    assert (result.status, result.stderr) == (0, "")
    rows = json.loads(result.stdout)["backends"]
    assert all(list(row) == ["name", "kind", "distribution", "devices", "status", "error"] for row in rows)
    by_distribution = {row["distribution"]: row for row in rows}
    for name, (_, kind, error) in BROKEN.items():
        row = by_distribution[f"fake-{name} 1.2"]
        assert (row["kind"], row["status"], row["devices"]) == (kind, "broken", [])
        assert error in row["error"]
    assert by_distribution["fake-good 1.2"] == {
        "name": "good",
        "kind": "gemm",
        "distribution": "fake-good 1.2",
        "devices": ["cpu"],
        "status": "ok",
        "error": "",
    }
    table = nnkit("backends")
    assert table.status == 0
    assert all(name in table.stdout for name in ("numpy", "none", "good", "misspelled", "hookless"))
    assert nnkit("gemm-check", "--m", 3, "--n", 3, "--k", 3).status == 0


def test_an_unknown_name_gets_the_known_ones_and_the_nearest(main: Command) -> None:
    result = main("gemm-check", "--backend", "nunpy")
    assert is_refusal(result, "there is no gemm backend 'nunpy'; known: ", "numpy", "Did you mean 'numpy'?")
    with pytest.raises(UsageError, match=r"there is no comm backend 'xyzzy'; known: [^.]*none[^.]*\.$"):
        Registry.discover().comm("xyzzy")


def test_a_plugin_that_does_not_load_answers_for_its_name(install: Install) -> None:
    install(absent="import no_such_module_anywhere")
    for find in (Registry.discover().gemm, Registry.discover().comm):
        with pytest.raises(PluginError, match=r"fake-absent 1\.2 is broken: .* does not load"):
            find("absent")


def test_a_backend_is_held_to_what_it_serves() -> None:
    numpy = Registry.discover().gemm("numpy")
    check_serves(numpy, "cpu", "float64")
    with pytest.raises(UsageError, match="does not run on device 'moon': give --device cpu"):
        check_serves(numpy, "moon", "float32")
    with pytest.raises(UsageError, match="does not compute in int8: give --dtype float32, float64"):
        check_serves(numpy, "cpu", "int8")
