"""The optimizer's moments after a truncation, which changes the basis they are expressed in."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from decaf_theory.arrays import eps
from decaf_theory.lowrank import Factors

FIRST = ("exp_avg", "momentum_buffer")
SECOND = ("exp_avg_sq",)


def basis_maps(old: Factors, new: Factors) -> tuple[Tensor, Tensor]:
    """Return R = A' A^+ and S = B^+ B', the least-squares maps from old to new factors, float64.

    A' is nearest to R A and B' to B S. For a change of gauge, A' = R A and B' = B R^-1 with factors
    of full rank, R is that matrix and S its inverse. Singular values below max(d, k) eps sigma_1 of
    the factors' dtype do not count as directions.
    """
    rtol = max(old.shape) * eps(old.B)
    (B, A), (new_B, new_A) = (tuple(X.double() for X in pair) for pair in (old, new))
    return new_A @ torch.linalg.pinv(A, rtol=rtol), torch.linalg.pinv(B, rtol=rtol) @ new_B


def rotated(moments: Factors, old: Factors, new: Factors, *, squares: bool = False) -> Factors:
    """Return moments of the gradients at `old` as moments of those at `new`, of the same shapes.

        grad_B = s G A'  ->  s G (R A)' = grad_B R',     grad_A = s B' G  ->  S' grad_A

    with R, S of `basis_maps`: exact for first moments under a change of gauge, and under a
    truncation the least-squares image. Second moments (squares=True) are elementwise and have no
    exact image; they are moved by the squared maps, v_B (R * R)' and (S * S)' v_A, which is exact
    where the rank directions of a gradient are uncorrelated, and keeps them nonnegative.
    """
    R, S = basis_maps(old, new)
    if squares:
        R, S = R * R, S * S
    B, A = moments
    return Factors((B.double() @ R.mT).to(B.dtype), (S.mT @ A.double()).to(A.dtype))


def rotate_all(
    optimizer: torch.optim.Optimizer, sites: list[Any], old: Factors, new: Factors
) -> None:
    """Move the moments of these sites in place; one that does not train has none."""
    for name in FIRST + SECOND:
        held = [[optimizer.state.get(X, {}).get(name) for X in (s.B, s.A)] for s in sites]
        if any(X is None for pair in held for X in pair):
            continue  # no step was taken since a reset
        pairs = [Factors(*pair) for pair in held]
        moved = rotated(_stacked(pairs), old, new, squares=name in SECOND)
        for layer, pair in enumerate(pairs):
            pair.B.copy_(moved.B[layer])
            pair.A.copy_(moved.A[layer])


def _stacked(pairs: list[Factors]) -> Factors:
    return Factors(torch.stack([pair.B for pair in pairs]), torch.stack([p.A for p in pairs]))
