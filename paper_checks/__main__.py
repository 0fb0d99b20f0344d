"""`python -m paper_checks`."""

import sys

if __name__ == "__main__":  # worker processes import this file under another name
    try:
        from decaf_theory.programs import program
    except KeyboardInterrupt:  # before there is anything that could say so
        sys.exit(130)
    sys.exit(program("paper_checks.cli"))
