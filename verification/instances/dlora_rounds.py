"""DLoRA on isotropic matrix approximation, many runs in one batch, each with its own Pi and lr.

`decaf_theory.simulate` runs one network and one step size at a time; extrapolation to lr = 0 on
many networks needs dozens of them, and both ends of every mix. A test compares the two.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

from decaf_theory.arrays import namespace
from decaf_theory.lowrank import Factors, product
from decaf_theory.measure import factor_gradients


class Round(NamedTuple):
    """One round: the mixed factors, where gradients are taken, and those that enter the next mix.

    B [runs, N, d, r], A [runs, N, r, k] each.
    """

    mixed: Factors
    stepped: Factors


def rounds(
    start: Factors, targets: Any, Pi: Any, lr: Any, s: float, steps: int, noise: Any = None
) -> Iterator[Round]:
    """Yield `steps` rounds of y -> x = y - lr grad(y), y <- Pi x, f_i = |s B A - W_i*|_F^2 / 2.

    start: [runs, N, ...]; targets [N, d, k]; Pi [runs, N, N]; lr [runs]; noise, added to the
    weight-space gradient, [steps, runs, N, d, k].
    """
    y, size = start, lr[:, None, None, None]
    for t in range(steps):
        g = s * product(y) - targets
        gradients = factor_gradients(g if noise is None else g + noise[t], y, s)
        x = Factors(*(X - size * G for X, G in zip(y, gradients, strict=True)))
        yield Round(y, x)
        y = Factors(*(_mixed(X, Pi) for X in x))


def _mixed(X: Any, Pi: Any) -> Any:
    """Return sum_j pi_ij X_j of every run, X [runs, N, a, b]."""
    xp = namespace(X)
    flat = xp.reshape(X, (*X.shape[:2], -1))
    return xp.reshape(Pi @ flat, X.shape)
