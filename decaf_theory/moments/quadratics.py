"""Decentralized SGD on quadratics as affine recursions, and what is measured on it as squares."""

from __future__ import annotations

import math
from typing import NamedTuple

from decaf_theory.arrays import Array, convert, eps, namespace, require_real, transpose
from decaf_theory.moments.recursion import (
    Recursion,
    Square,
    State,
    at,
    compose,
    identity_like,
    mean_path,
    times,
    trace,
)

ORDERS = ("MS", "CB")
ROUNDINGS = 8  # by which H and H' may differ


class Quadratics(NamedTuple):
    """The losses f_i(x) = x'H_i x / 2 - b_i'x of N agents and their noise covariances Sig_i."""

    H: Array  # [..., N, p, p], symmetric, of any signs
    b: Array  # [..., N, p]
    noise: Array  # [..., N, p, p], positive semidefinite

    @property
    def N(self) -> int:
        """The number of agents."""
        return int(self.H.shape[-3])

    @property
    def p(self) -> int:
        """The dimension of one agent's point."""
        *_, p = self.H.shape
        return int(p)


class Trajectory(NamedTuple):
    """Exact expectations before each of T steps; index 0 is the start."""

    gradient: Array  # [..., T] E|grad F(xbar)|^2
    consensus: Array  # [..., T] E Xi = E|(I - J) x|^2 / N
    heterogeneity: Array  # [..., T] E (1/N) sum_i |grad f_i(xbar) - grad F(xbar)|^2
    gap: Array  # [..., T] E F(xbar) - F*, inf where F is unbounded below
    mean: Array  # [..., T, N, p] E x_i


def quadratics(
    H: Array, *, b: Array | None = None, minimizers: Array | None = None, noise: Array | None = None
) -> Quadratics:
    """Return the problem with Hessians H [..., N, p, p] and linear terms b_i or H_i x_i*.

    Give either b [..., N, p] (needed where an H_i is singular) or the minimizers x_i* [..., N, p];
    noise [..., N, p, p] is none by default. ValueError: shapes, asymmetry, both or neither given.

    Examples:
        >>> import numpy as np
        >>> from decaf_theory import moments
        >>> problem = moments.quadratics(np.ones((2, 1, 1)), minimizers=np.array([[-1.0], [1.0]]))
        >>> problem.b.ravel().tolist()
        [-1.0, 1.0]
    """
    xp = namespace(H)
    require_real("H", H)
    if H.ndim < 3 or H.shape[-1] != H.shape[-2]:
        raise ValueError(f"H must be [..., N, p, p], got shape {tuple(H.shape)}")
    if (b is None) == (minimizers is None):
        raise ValueError("give exactly one of b and minimizers; b where an H_i is singular")
    asymmetry = float(xp.max(xp.abs(H - transpose(H))))
    if not asymmetry <= ROUNDINGS * eps(H) * float(xp.max(xp.abs(H))):
        raise ValueError(f"H must be symmetric, got max|H - H'| = {asymmetry:.2e}; use (H + H')/2")
    linear: Array = b if minimizers is None else times(H, minimizers)
    noise = xp.zeros_like(H) if noise is None else noise
    for name, x, axes in (("b", linear, 2), ("noise", noise, 3)):
        wanted = tuple(H.shape[-3:][:axes])
        if tuple(x.shape[-axes:]) != wanted:
            raise ValueError(f"{name} must end in the axes {wanted} of H, got {tuple(x.shape)}")
    return Quadratics(H, linear, noise)


def frozen_factor_problem(
    A: Array, targets: Array, *, s: float = 1.0, tau: float = 0.0, curvature: Array | None = None
) -> Quadratics:
    """Return DLoRA-FA on matrix approximation as quadratics in vec(B_i), stacked by columns.

    phi_i(B) = |(s B A - D_i) X_i|_F^2 / 2 - const for A [r, k], D_i = W_i* - W0 [N, d, k] and
    `curvature` K_i = X_i X_i' [N, k, k] (default: the identity), with noise of variance tau^2 in
    every entry of the weight gradient: H_i = s^2 (A K_i A') x I_d, b_i = vec(s D_i K_i A'),
    Sig_i = s^2 tau^2 (A A') x I_d. `stack_columns` and `unstack_columns` go between B and vec(B).
    """
    xp = namespace(A, targets)
    N, d, k = targets.shape
    eye = xp.eye(k, dtype=A.dtype, device=A.device)
    K = xp.broadcast_to(eye, (N, k, k)) if curvature is None else curvature
    noise = xp.broadcast_to(s**2 * tau**2 * A @ transpose(A), (N, A.shape[0], A.shape[0]))
    return quadratics(
        with_identity(s**2 * A @ K @ transpose(A), d),
        b=stack_columns(s * targets @ K @ transpose(A)),
        noise=with_identity(noise, d),
    )


def stack_columns(B: Array) -> Array:
    """Return vec(B), column under column: [..., d, r] -> [..., r d]."""
    return namespace(B).reshape(transpose(B), (*B.shape[:-2], -1))


def unstack_columns(x: Array, d: int) -> Array:
    """Return the matrix B [..., d, r] of x = vec(B) [..., r d]."""
    return transpose(namespace(x).reshape(x, (*x.shape[:-1], -1, d)))


def local_step(problem: Quadratics, lr: Array | float) -> Recursion:
    """Return every agent's step x_i - lr (H_i x_i - b_i + noise), without mixing."""
    xp = namespace(problem.H)
    rate = xp.asarray(lr, dtype=problem.H.dtype, device=problem.H.device)[..., None, None]
    H, noise = _block_diagonal(problem.H), _block_diagonal(problem.noise)
    b = xp.reshape(problem.b, (*problem.b.shape[:-2], -1))
    return Recursion(identity_like(H) - rate * H, rate[..., 0] * b, rate**2 * noise)


def mixing(Pi: Array, problem: Quadratics) -> Recursion:
    """Return the round x_i <- sum_j pi_ij x_j, without noise, for Pi [..., N, N]."""
    xp = namespace(problem.H)
    A = with_identity(convert(Pi, problem.H), problem.p)
    return Recursion(A, xp.zeros_like(A[..., 0]), xp.zeros_like(A))


def decentralized_sgd(
    problem: Quadratics, Pi: Array, lr: Array | float, *, order: str = "MS"
) -> Recursion:
    """Return one round of decentralized SGD, as a recursion of the points of the gradients.

    "MS" (mix, then step at the mixed point): y+ = Pi (y - lr g(y)). "CB" (combine; the gradient at
    the unmixed point): x+ = Pi x - lr g(x). lr [...] and Pi [..., N, N] may be batched.

    Examples:
        >>> import numpy as np
        >>> from decaf_theory import moments
        >>> problem = moments.quadratics(np.ones((2, 1, 1)), minimizers=np.array([[-1.0], [1.0]]))
        >>> round_ = moments.decentralized_sgd(problem, np.full((2, 2), 0.5), lr=0.1)
        >>> moments.limit(round_).mean.round(12).tolist()  # both at the common minimizer
        [0.0, 0.0]
    """
    if order not in ORDERS:
        raise ValueError(
            f"order must be one of {ORDERS}, got {order!r}; of a simulation, 'step_first' and "
            f"'mix_first' are 'MS', 'combine' is 'CB'"
        )
    move, mix = local_step(problem, lr), mixing(Pi, problem)
    if order == "MS":
        return compose(move, mix)
    return Recursion(mix.A + move.A - identity_like(move.A), move.a, move.Q)


def consensus_start(problem: Quadratics, x: Array) -> State:
    """Return the state in which every agent stands at x [..., p]."""
    shape = (*x.shape[:-1], problem.N, problem.p)
    return at(namespace(x).broadcast_to(x[..., None, :], shape))


def mean_gradient(problem: Quadratics, shares: Array | None = None) -> Square:
    """Return |grad F(xbar)|^2 = |Hbar xbar - bbar|^2 as a square of the stacked points.

    In this and the next three, F and all means have the weights `shares` [N], of sum one, if given.
    """
    Hbar, bbar = _mean_problem(problem, shares)
    return Square(_of_mean_point(problem, Hbar, shares), bbar)


def consensus(problem: Quadratics, shares: Array | None = None) -> Square:
    """Return Xi = |(I - J) x|^2 / N."""
    xp = namespace(problem.H)
    eye = xp.eye(problem.N, dtype=problem.H.dtype, device=problem.H.device)
    if shares is not None:
        weights = convert(shares, problem.H)
        R = with_identity(xp.sqrt(weights)[:, None] * (eye - weights), problem.p)
        return Square(R, xp.zeros_like(R[..., 0]))
    R = with_identity((eye - 1 / problem.N) / math.sqrt(problem.N), problem.p)
    return Square(R, xp.zeros_like(R[..., 0]))


def heterogeneity(problem: Quadratics, shares: Array | None = None) -> Square:
    """Return (1/N) sum_i |grad f_i(xbar) - grad F(xbar)|^2, the kappa^2 of the mean point."""
    xp = namespace(problem.H)
    Hbar, bbar = _mean_problem(problem, shares)
    H = problem.H - Hbar[..., None, :, :]
    b = problem.b - bbar[..., None, :]
    if shares is None:
        H = H / math.sqrt(problem.N)
        b = b / math.sqrt(problem.N)
    else:
        root = xp.sqrt(convert(shares, H))[:, None]
        H = root[..., None] * H
        b = root * b
    stacked = xp.reshape(H, (*H.shape[:-3], -1, problem.p))
    return Square(_of_mean_point(problem, stacked, shares), xp.reshape(b, (*b.shape[:-2], -1)))


def optimality_gap(problem: Quadratics, shares: Array | None = None) -> Square:
    """Return F(xbar) - F* = |Hbar^(1/2) (xbar - x*)|^2 / 2; q is inf where F has no lower bound."""
    xp = namespace(problem.H)
    Hbar, bbar = _mean_problem(problem, shares)
    values, vectors = xp.linalg.eigh(Hbar)
    along = times(transpose(vectors), bbar)
    rounding = problem.p * eps(values)
    flat = rounding * xp.max(xp.abs(values), axis=-1, keepdims=True)
    rises = values > flat
    # F falls for ever along a direction of negative curvature, and along a flat one with a slope
    slope = xp.abs(along) > rounding * xp.max(xp.abs(bbar), axis=-1, keepdims=True)
    falls = (values < -flat) | (slope & ~rises)
    root = xp.sqrt(xp.where(rises, values, xp.ones_like(values)) / 2)
    zero = xp.zeros_like(root)
    q = xp.where(rises, along / (2 * root), xp.where(falls, xp.full_like(zero, math.inf), zero))
    R = xp.where(rises, root, zero)[..., :, None] * transpose(vectors)
    return Square(_of_mean_point(problem, R, shares), q)


def quantities(problem: Quadratics) -> dict[str, Square]:
    """Return the squares gradient, consensus, heterogeneity and gap of `Trajectory`."""
    return {
        "gradient": mean_gradient(problem),
        "consensus": consensus(problem),
        "heterogeneity": heterogeneity(problem),
        "gap": optimality_gap(problem),
    }


def trajectory(
    problem: Quadratics,
    Pi: Array,
    lr: Array | float,
    *,
    start: Array,
    steps: int,
    order: str = "MS",
) -> Trajectory:
    """Return the exact moments of `steps` rounds from the points `start` [..., N, p]."""
    recursion, state = decentralized_sgd(problem, Pi, lr, order=order), at(start)
    path = mean_path(recursion, state, steps)
    mean = namespace(path).reshape(path, (*path.shape[:-1], problem.N, problem.p))
    return Trajectory(**trace(recursion, state, quantities(problem), steps), mean=mean)


def with_identity(M: Array, p: int) -> Array:
    """Return the Kronecker product M x I_p, [..., a, b] -> [..., a p, b p]."""
    xp = namespace(M)
    eye = xp.eye(p, dtype=M.dtype, device=M.device)
    blocks = M[..., :, None, :, None] * eye[:, None, :]
    return xp.reshape(blocks, (*M.shape[:-2], M.shape[-2] * p, M.shape[-1] * p))


def _block_diagonal(blocks: Array) -> Array:
    """Return the block-diagonal matrix of blocks [..., N, p, p], [..., N p, N p]."""
    xp = namespace(blocks)
    *batch, N, p, _ = blocks.shape
    eye = xp.eye(N, dtype=blocks.dtype, device=blocks.device)
    spread = blocks[..., :, :, None, :] * eye[:, None, :, None]
    return xp.reshape(spread, (*batch, N * p, N * p))


def _mean_problem(problem: Quadratics, shares: Array | None) -> tuple[Array, Array]:
    """Return the Hessian Hbar [..., p, p] and the linear term bbar [..., p] of F."""
    xp = namespace(problem.H)
    if shares is not None:
        weights = convert(shares, problem.H)[:, None]
        Hbar = xp.sum(weights[..., None] * problem.H, axis=-3)
        return Hbar, xp.sum(weights * problem.b, axis=-2)
    return xp.mean(problem.H, axis=-3), xp.mean(problem.b, axis=-2)


def _of_mean_point(problem: Quadratics, R: Array, shares: Array | None) -> Array:
    """Return the matrix [..., m, N p] that applies R [..., m, p] to xbar = (1/N) sum_i x_i."""
    xp = namespace(R)
    if shares is not None:
        return xp.concat([float(share) * R for share in shares], axis=-1)
    return xp.concat([R / problem.N] * problem.N, axis=-1)
