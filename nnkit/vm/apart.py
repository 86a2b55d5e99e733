"""LLVM in a process of its own, where it takes long: a call cannot be left, but a process can be ended.

A thread could be left, but not stopped: it would go on behind the program's back and hold LLVM's lock. What
takes less than a few seconds is compiled in this process.
"""

import os
import subprocess
import sys

from nnkit.ptx.ir import PtxError

_CHILD = """
import sys
from nnkit.vm.compile import machine_for, object_code, quick_code
well, name, features = sys.argv[1:]
text = sys.stdin.buffer.read().decode()
make, level = (object_code, 1) if well == "True" else (quick_code, 0)
sys.stdout.buffer.write(make(text, machine_for(name, features, level)))
"""


def object_code(text: str, well: bool, name: str, features: str) -> bytes:
    """LLVM IR as an object file for a processor, made well or quickly. Raises PtxError where LLVM gives up.

    Whatever is raised meanwhile, such as KeyboardInterrupt, ends the process.
    """
    try:
        child = subprocess.Popen(
            [sys.executable, "-c", _CHILD, str(well), name, features],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
            # Ctrl-C in a terminal goes to a whole group: here it is this process that decides.
            process_group=0,
        )
    except OSError as error:
        where = sys.executable or "Python's executable"
        raise PtxError(f"LLVM's process cannot be started: {where}: {error.strerror}") from error
    with child:
        try:
            code, said = child.communicate(text.encode())
        except BaseException:
            child.kill()
            child.wait()
            raise
    if child.returncode:
        words = (said.decode(errors="replace").strip().splitlines() or ["no reason given"])[-1]
        raise PtxError(f"LLVM cannot compile the kernel (status {child.returncode}): {words}")
    return code
