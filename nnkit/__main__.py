"""`python -m nnkit` is the command `nnkit`."""

import sys

from nnkit.cli import main

sys.exit(main())
