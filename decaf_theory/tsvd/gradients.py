"""torch's gradients of a truncation: right, or refused by name."""

from __future__ import annotations

from decaf_theory.arrays import Array, eps, namespace
from decaf_theory.lowrank import Factors
from decaf_theory.tsvd.mixing import carry_gradients


def with_finite_gradients(factors: Factors) -> Factors:
    """Return the factors; a gradient that comes back to them and is not finite is a ValueError.

    The gradient of an SVD divides by differences of squared singular values: nan where they repeat.
    """
    if not carry_gradients(factors):
        return factors
    return Factors(*(_watched(X, name) for name, X in factors._asdict().items()))


def _watched(X: Array, name: str) -> Array:
    if not getattr(X, "requires_grad", False):
        return X
    watched = X.view_as(X)  # the hook must not stay with the caller's tensor

    def refuse(gradient: Array) -> None:
        if not bool(gradient.isfinite().all()):
            raise ValueError(
                f"the gradient of the truncation in factors.{name} is not finite: singular values "
                f"of the mix repeat or vanish; differentiate the mixed product "
                f"(lowrank.mix_products) instead"
            )

    watched.register_hook(refuse)
    return watched


def require_differentiable(triangles: Factors) -> None:
    """Raise ValueError unless R_B, R_A [..., n, n] of the stacks' QR factorizations have rank n.

    Their gradients are multiplied by R^-1, which makes numbers of any size out of the rounding of
    a zero on its diagonal.
    """
    for name, R in triangles._asdict().items():
        xp, n = namespace(R), R.shape[-1]
        size = xp.abs(xp.linalg.diagonal(R))
        least = n * eps(R) * xp.max(size, axis=-1, keepdims=True)
        if R.shape[-2] < n or not bool(xp.all(size > least)):
            raise ValueError(
                f"method 'qr' has no gradient where the agents' {name} stacked side by side have "
                f"not full rank, as those of equal or zero-padded agents; use method='dense'"
            )
