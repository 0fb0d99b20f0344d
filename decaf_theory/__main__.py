"""The command `decaf`, and `python -m decaf_theory`."""

import sys

from decaf_theory.programs import program


def main() -> int:
    """Run the command line; return the exit code."""
    return program("decaf_theory.cli")


if __name__ == "__main__":
    sys.exit(main())
