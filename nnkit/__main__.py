"""The command `nnkit`, also as `python -m nnkit`."""

import os
import sys


def main() -> int:
    """Run the command line; returns the exit status."""
    if sys.stdout is None:  # The shell has closed it: nnkit ... >&-
        sys.stdout = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115  until the end
    try:
        # Inside the try block: Ctrl-C may come during these imports.
        from nnkit import cli
        from nnkit.comm.world import share_threads

        share_threads(os.environ)
        return cli.main()
    except KeyboardInterrupt:
        print("nnkit: stopped", file=sys.stderr)
        return 130


if __name__ == "__main__":
    sys.exit(main())
