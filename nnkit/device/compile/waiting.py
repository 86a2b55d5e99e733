"""Calls that cannot be left, made so that Ctrl-C is answered meanwhile."""

import threading
from collections.abc import Callable
from typing import TypeVar

Result = TypeVar("Result")


def interruptible(action: Callable[[], Result]) -> Result:
    """What the action returns or raises; where a signal ends the wait, it goes on alone and is forgotten.

    Python answers signals in the main thread only, between two of its own instructions: so that thread waits
    while another is within the call. The action must clean up behind itself and write nothing that others
    read.
    """
    if threading.current_thread() is not threading.main_thread():
        return action()
    results: list[Result] = []
    errors: list[BaseException] = []
    done = threading.Event()

    def work() -> None:
        try:
            results.append(action())
        except BaseException as error:
            errors.append(error)
        finally:
            done.set()

    try:
        threading.Thread(target=work, name="nnkit compiler", daemon=True).start()
    except RuntimeError:  # The system has no more threads.
        return action()
    done.wait()
    if errors:
        raise errors[0]
    return results[0]
