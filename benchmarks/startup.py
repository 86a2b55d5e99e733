"""What a user waits for: start-up, loading data, training; and the memory that training takes.

    ./tools/run python benchmarks/startup.py

Every figure is the median of several processes, beside its goal.
"""

import os
import resource
import statistics
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).parent.parent
REPEATS = 7

LOAD = (
    "import time, nnkit.data as d; t = time.perf_counter(); d.load_dataset(); print(time.perf_counter() - t)"
)
IMPORT = "import time; t = time.perf_counter(); import nnkit; print(time.perf_counter() - t)"


def seconds(*command: str) -> float:
    """The median time of a whole process."""
    times = []
    for _ in range(REPEATS):
        begun = time.perf_counter()
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        times.append(time.perf_counter() - begun)
    return statistics.median(times)


def printed(code: str) -> float:
    """The median of what a Python program prints."""
    command = [sys.executable, "-c", code]
    return statistics.median(float(subprocess.check_output(command)) for _ in range(REPEATS))


def show(what: str, value: float, goal: float, unit: str) -> None:
    print(f"{what:<44} {value:8.3f} {unit:<3} goal: under {goal:g} {unit}")


def main() -> None:
    nnkit = str(Path(sys.executable).with_name("nnkit"))
    show("import nnkit", printed(IMPORT), 0.15, "s")
    show("nnkit --help, whole process", seconds(nnkit, "--help"), 0.4, "s")
    show("load MNIST, checked", printed(LOAD), 0.4, "s")
    show("tools/run true, over true", seconds(str(ROOT / "tools/run"), "true") - seconds("true"), 0.3, "s")

    begun = time.perf_counter()
    output = subprocess.run([nnkit, "train"], check=True, capture_output=True, text=True).stdout
    show("nnkit train with its defaults", time.perf_counter() - begun, 20, "s")
    # In kilobytes on Linux, in bytes on macOS. The largest child process so far is the training.
    unit = 1 if sys.platform == "darwin" else 1024
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * unit / 1e6
    show("its peak memory", peak, 600, "MB")
    print(output.splitlines()[-1], f"({os.cpu_count()} cores; goal: at least 97.5 %)")


if __name__ == "__main__":
    main()
