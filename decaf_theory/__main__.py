"""The command `decaf`, and `python -m decaf_theory`."""

import sys


def main() -> int:
    """Run the command line; return the exit code."""
    try:
        from decaf_theory.programs import program
    except KeyboardInterrupt:  # before there is anything that could say so
        return 130
    return program("decaf_theory.cli")


if __name__ == "__main__":
    sys.exit(main())
