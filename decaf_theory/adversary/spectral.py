"""Functions of singular values with derivatives that survive ties, where most maxima are."""

from __future__ import annotations

from typing import Any

import torch


class _Truncate(torch.autograd.Function):
    """TSVD_r with a derivative that divides by gaps between kept and dropped values only.

    In the singular bases the derivative maps the pair (F_ij, F_ji), i kept and j dropped, to
    (s_i^2 F_ij + s_i s_j F_ji) / (s_i^2 - s_j^2); it is its own adjoint. torch's own SVD also
    divides by gaps among the kept values, which vanish at most extremal instances.
    """

    @staticmethod
    def forward(ctx: Any, M: torch.Tensor, rank: int) -> torch.Tensor:
        U, S, Vh = torch.linalg.svd(M, full_matrices=True)
        ctx.save_for_backward(U, S, Vh)
        ctx.rank = rank
        product: torch.Tensor = (U[..., :rank] * S[..., None, :rank]) @ Vh[..., :rank, :]
        return product

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor, None]:
        U, S, Vh = ctx.saved_tensors
        r = ctx.rank
        n = S.shape[-1]
        F = U.mT @ gradients[0] @ Vh.mT
        out = F.clone()
        out[..., r:, r:] = 0
        kept = S[..., :r, None]
        dropped = S[..., None, r:]
        gap = (kept**2 - dropped**2).clamp_min(1e-12 * float(S.max().clamp_min(1e-300)) ** 2)
        upper = F[..., :r, r:n]
        lower = F[..., r:n, :r].mT
        out[..., :r, r:n] = (kept**2 * upper + kept * dropped * lower) / gap
        out[..., r:n, :r] = ((kept**2 * lower + kept * dropped * upper) / gap).mT
        return U @ out @ Vh, None


def truncate(M: torch.Tensor, rank: int) -> torch.Tensor:
    """Return TSVD_r(M), differentiable wherever sigma_r > sigma_{r+1}; M [..., d, k]."""
    product: torch.Tensor = _Truncate.apply(M, rank)  # type: ignore[no-untyped-call]
    return product


class _Clip(torch.autograd.Function):
    """The projection on {sigma_max <= c}, with the derivative of a spectral function.

    With f(s) = min(s, c) it scales the symmetric part of the singular-base entry (i, j) by the
    divided difference of f at (s_i, s_j), the rest by (f_i + f_j)/(s_i + s_j): no gap divides.
    Outside the ball it is smooth, near c times an isometry too, so that maxima at such vertices,
    which is where convex functions have them, are smooth maxima of the composition.
    """

    @staticmethod
    def forward(ctx: Any, X: torch.Tensor, c: float) -> torch.Tensor:
        U, S, Vh = torch.linalg.svd(X, full_matrices=True)
        ctx.save_for_backward(U, S, Vh)
        ctx.c = c
        n = S.shape[-1]
        clipped: torch.Tensor = (U[..., :n] * S.clamp_max(c)[..., None, :]) @ Vh[..., :n, :]
        return clipped

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor, None]:
        U, S, Vh = ctx.saved_tensors
        n = S.shape[-1]
        f = S.clamp_max(ctx.c)
        F = U.mT @ gradients[0] @ Vh.mT
        apart = S[..., :, None] - S[..., None, :]
        total = S[..., :, None] + S[..., None, :]
        small = 1e-12 * ctx.c  # below it a divided difference is replaced by the derivative
        slope = (f[..., :, None] - f[..., None, :]) / torch.where(apart.abs() < small, 1.0, apart)
        even = torch.where(apart.abs() < small, (total < 2 * ctx.c).to(S.dtype), slope)
        mean = (f[..., :, None] + f[..., None, :]) / torch.where(total < small, 1.0, total)
        odd = torch.where(total < small, 1.0, mean)
        square = F[..., :n, :n]
        alone = ctx.c / S.clamp_min(ctx.c)
        out = F.clone()
        out[..., :n, :n] = even * (square + square.mT) / 2 + odd * (square - square.mT) / 2
        out[..., :n, n:] *= alone[..., None]
        out[..., n:, :n] *= alone[..., None, :]
        return U @ out @ Vh, None


def clip_singular_values(X: torch.Tensor, c: float) -> torch.Tensor:
    """Return the nearest matrices with sigma_max <= c, [..., a, b]: the projection on Omega_c."""
    clipped: torch.Tensor = _Clip.apply(X, c)  # type: ignore[no-untyped-call]
    return clipped
