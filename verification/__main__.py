"""`python -m verification`."""

import os

# before NumPy is loaded: the matrices are small, and bytes must not depend on the thread count
for variable in ("OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "OMP_NUM_THREADS"):
    os.environ.setdefault(variable, "1")

if __name__ == "__main__":  # worker processes import this file under another name
    import sys

    from decaf_theory.faults import without_traceback
    from decaf_theory.interrupts import in_one_line

    def main() -> int:
        """Load and run the command line; a signal before it runs is one line, too."""
        from verification.cli import main

        return main()

    sys.exit(in_one_line(lambda: without_traceback(main), "interrupted while loading"))
