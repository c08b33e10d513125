"""The command line, for ``python -m raspy`` and for a path to this file."""

import os
import sys

if not __package__:
    # Run by its path: our own directory is no place to import from, what holds the package is.
    sys.path[0] = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))

from raspy.cli import main

if __name__ == "__main__":
    sys.exit(main())
