"""`python -m verification`."""

import os

# before NumPy is loaded: the matrices are small, and bytes must not depend on the thread count
for variable in ("OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "OMP_NUM_THREADS"):
    os.environ.setdefault(variable, "1")

if __name__ == "__main__":  # worker processes import this file under another name
    import sys

    try:
        from decaf_theory.programs import program
    except KeyboardInterrupt:  # before there is anything that could say so
        sys.exit(130)
    sys.exit(program("verification.cli"))
