"""What attacks share: norms with finite gradients, projections, plain instances; all of torch."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch

from decaf_theory.adversary import clip_singular_values

Tensors = dict[str, torch.Tensor]
Projection = Callable[[Tensors], Tensors]


def norm_of(M: torch.Tensor, norm: str, skip: int = 0) -> torch.Tensor:
    """Return the norm of M [..., d, k] without its `skip` largest singular values, [...]."""
    sigma = torch.linalg.svdvals(M)[..., skip:]
    if norm == "op":
        largest: torch.Tensor = sigma[..., 0]
        return largest
    return sigma.sum(-1) if norm == "nuc" else root((sigma**2).sum(-1))


def fro(X: torch.Tensor) -> torch.Tensor:
    """Return |X|_F of the last two axes, [...]."""
    return root((X**2).sum((-2, -1)))


def root(x: torch.Tensor) -> torch.Tensor:
    """Return the square root, with the gradient 0 at zero: an infinite one would end the ascent."""
    return x.clamp_min(1e-300).sqrt()


def blocks(B: torch.Tensor, A: torch.Tensor, norm: str) -> torch.Tensor:
    """Return the two blocks' Frobenius norms combined: "sum", "euclid" or "max", [...]."""
    b = fro(B)
    a = fro(A)
    if norm == "sum":
        return b + a
    return torch.maximum(b, a) if norm == "max" else root(b**2 + a**2)


def within(c: float, *names: str) -> Projection:
    """Return the projection of the named matrices onto sigma_max <= c; the others stay."""
    return lambda p: {**p, **{name: clip_singular_values(p[name], c) for name in names}}


def plain(p: Mapping[str, Any], **extra: Any) -> dict[str, Any]:
    """Return arrays as nested lists, with further entries of the instance."""
    return {**{name: X.tolist() for name, X in p.items()}, **extra}


def isometry(X: torch.Tensor) -> torch.Tensor:
    """Return U V' of X = U S V': all singular values one, those of zero apart."""
    return clip_singular_values(X, 1e-6) / 1e-6


def single(p: Mapping[str, Any]) -> Tensors:
    """Return one set of NumPy parameters as tensors of one restart."""
    return {name: torch.as_tensor(X)[None] for name, X in p.items()}
