"""What takes the place of NumPy's and torch's solvers for small matrices, where there is something.

On CUDA their batched solvers are slow, and on a CPU LAPACK is, for matrices of side 12.
"""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType

import numpy as np

from decaf_theory.arrays import Array
from decaf_theory.extras import COMPILED, VariableError, compiled_asked, unmet

SIDE = 64  # of a core, at most


def own_solver(C: Array) -> Callable[[Array], tuple[Array, Array, Array]] | None:
    """Return the Jacobi kernel for cores on CUDA, of sides up to 64; None: libraries serve.

    It needs Triton, which CUDA builds of torch bring along.
    """
    if not getattr(C, "is_cuda", False) or max(C.shape[-2:]) > SIDE:
        return None
    try:
        from decaf_theory.tsvd.jacobi_triton import svd
    except ImportError:
        return None
    return svd


def compiled_kernels(x: Array, side: int) -> ModuleType | None:
    """Return `compiled` if that was asked for and takes arrays like x; None: it is not so.

    side: of the cores. ModuleNotFoundError: Numba is not there, with the line that installs it.
    VariableError: it is, but cannot be used.
    """
    if not compiled_asked() or not isinstance(x, np.ndarray) or side > SIDE:
        return None
    try:
        from decaf_theory.tsvd import compiled
    except ModuleNotFoundError as error:
        line = f"{COMPILED}=1, but {unmet(error)}"
        raise ModuleNotFoundError(line, name=error.name) from None
    except ImportError as error:
        line = f"{COMPILED}=1, but {error}; set it to 0, or change versions"
        raise VariableError(line) from error
    return compiled
