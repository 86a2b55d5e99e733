"""printf of kernels to whatever standard output a program has."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

PRINTS = """
import os, sys
import nnkit
{before}
device = nnkit.open_device("virtual")
module = device.compile('extern "C" __global__ void k() {{ printf("gr\\u00fcn %d\\\\n", 7); }}')
module["k"].launch(1, 2, ())
print("done", file=sys.stderr)
"""


@pytest.mark.parametrize(
    ("before", "code", "said"),
    [
        ("", "utf-8", "gr\u00fcn 7\ngr\u00fcn 7\n"),
        ("", "ascii", "gr\\xfcn 7\ngr\\xfcn 7\n"),
        ("sys.stdout = None", "utf-8", ""),
        ("os.mkdir('gone'); os.chdir('gone'); os.rmdir('../gone')", "utf-8", "gr\u00fcn 7\ngr\u00fcn 7\n"),
    ],
    ids=["all", "ascii", "closed", "no folder"],
)
def test_standard_output_as_programs_find_it(tmp_path: Path, before: str, code: str, said: str) -> None:
    environment = os.environ | {"PYTHONIOENCODING": code}
    command = [sys.executable, "-c", PRINTS.format(before=before)]
    done = subprocess.run(
        command, check=False, capture_output=True, encoding="utf-8", cwd=tmp_path, env=environment
    )
    assert (done.stdout, done.stderr, done.returncode) == (said, "done\n", 0)
