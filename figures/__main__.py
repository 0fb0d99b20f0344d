"""`python -m figures`."""

import sys

from decaf_theory.programs import program

if __name__ == "__main__":  # worker processes import this file under another name
    sys.exit(program("figures.cli"))
