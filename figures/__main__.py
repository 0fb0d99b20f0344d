"""`python -m figures`."""

import sys

from decaf_theory.faults import without_traceback
from decaf_theory.interrupts import in_one_line


def main() -> int:
    """Load and run the command line; a signal before it runs is one line, too."""
    from figures.cli import main

    return main()


if __name__ == "__main__":  # worker processes import this file under another name
    sys.exit(in_one_line(lambda: without_traceback(main), "interrupted while loading"))
