"""The command `nnkit`: one file a command. A slow import stands inside the command that needs it."""

import os
import sys
from collections.abc import Sequence
from typing import Annotated, Any

import typer
from typer.core import TyperGroup
from typer.exceptions import Exit, TyperException

from nnkit.cli import backends, evaluate, gemm_bench, gemm_check, info, plan, predict, ptx, scaling, train
from nnkit.errors import STOPPED, Ended, NnkitError, UsageError, lines_of, reason
from nnkit.version import __version__


class Commands(TyperGroup):
    """All commands. On Ctrl-C it prints that the command was stopped, which typer does not."""

    def invoke(self, ctx: Any) -> Any:
        """Run the command that the user named."""
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:
            raise Exit(_fail("stopped", STOPPED)) from None


app = typer.Typer(
    name="nnkit",
    cls=Commands,
    help="Train neural networks on matrix products and distribution strategies that you write yourself.",
    no_args_is_help=True,
    context_settings={"help_option_names": ["-h", "--help"]},
    pretty_exceptions_enable=False,
)


def _show_version(wanted: bool) -> None:
    if wanted:
        print(f"nnkit {__version__}")
        raise Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None:
    pass


app.command("train")(train.train)
app.command("evaluate")(evaluate.evaluate)
app.command("predict")(predict.predict)
app.command("backends")(backends.backends)
app.command("info")(info.info)
app.command("gemm-check")(gemm_check.gemm_check)
app.command("gemm-bench")(gemm_bench.gemm_bench)
app.command("ptx")(ptx.ptx)
app.command("scaling")(scaling.scaling)
app.command("plan")(plan.plan)


def main(arguments: list[str] | None = None) -> int:
    """Run the command line; returns the exit status. A user's mistake is one line on standard error."""
    try:
        return _run(arguments)
    except BrokenPipeError:
        # The reader of our output has ended: there is nobody to print an error for.
        _silence()
        return 1
    except OSError as error:
        _silence()
        return _fail(f"cannot go on: {error.filename or 'the output'}: {reason(error)}", 2)


def _run(arguments: list[str] | None) -> int:
    try:
        given = sys.argv[1:] if arguments is None else list(arguments)
        # `obj`: a command that starts ranks gives them its own arguments.
        status = app(given, prog_name="nnkit", standalone_mode=False, obj=given)
        sys.stdout.flush()
        return status if isinstance(status, int) else 0
    except NnkitError as error:
        # Of a compiler's log only the first error is printed; the exception has all of it.
        message, *source = lines_of(error)
        return _fail(message, error.exit_status, source)
    except TyperException as error:
        if not (message := error.format_message()):
            return 2  # `nnkit` without a command: typer has shown the help.
        return _wrong_call(f"{message} (nnkit --help)")
    except Exit as stop:
        return stop.exit_code
    except Ended as stop:
        return stop.exit_status
    except MemoryError as error:
        return _fail(f"out of memory: {error}: give a smaller --batch or --hidden", 2)


def _wrong_call(message: str) -> int:
    """Print it once, though every rank finds the same mistake."""
    from nnkit.comm.joining import in_turn

    try:
        with in_turn():
            raise UsageError(message)
    except UsageError as error:
        return _fail(str(error), error.exit_status)
    except Ended as stop:
        return stop.exit_status


def _silence() -> None:
    """Send the rest of the output to /dev/null: Python flushes it at exit, which would fail again."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _fail(message: str, status: int, source: Sequence[str] = ()) -> int:
    print("\n".join([f"nnkit: {' '.join(message.split())}", *source]), file=sys.stderr)
    return status
