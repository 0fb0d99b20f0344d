"""Products in all digits of float32 on CUDA, whatever torch is set to.

TF32, which torch can be told to use for float32 products, keeps 10 bits of each factor: the
kernel's outputs would be off by 1e-3 and not by 1e-6.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from typing import Any, ParamSpec, TypeVar

P = ParamSpec("P")
R = TypeVar("R")


def in_full_precision(compute: Callable[P, R]) -> Callable[P, R]:
    """Return a function of factors [B, A], ... that computes without TF32 where they are on CUDA.

    The switch is torch's own, of the whole process; it is put back also after an error.
    """

    @wraps(compute)
    def switched(*args: P.args, **kwargs: P.kwargs) -> R:
        factors: Any = args[0] if args else kwargs.get("factors")
        if not getattr(getattr(factors, "B", None), "is_cuda", False):
            return compute(*args, **kwargs)
        with without_tf32():
            return compute(*args, **kwargs)

    return switched


@contextmanager
def without_tf32() -> Iterator[None]:
    """Compute float32 products on CUDA in float32."""
    import torch

    matmul: Any = torch.backends.cuda.matmul
    name: str = "allow_tf32"
    off: bool | str = False
    try:
        found = matmul.allow_tf32
    except RuntimeError:  # set by the newer of torch's two switches, which do not mix
        name, off, found = "fp32_precision", "ieee", matmul.fp32_precision
    if found == off:
        yield
        return
    setattr(matmul, name, off)
    try:
        yield
    finally:
        setattr(matmul, name, found)
