"""Decentralized SGD whose mixing adds errors that are affine in the points and in the noise.

y+ = P (y - lr (H y - b + xi)) + e with e = K y + k + G xi and P = Pi x I: again a recursion with
exact moments, in order MS. Predictable errors, independent of the noise of the same step: G = 0.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from decaf_theory import moments
from decaf_theory.arrays import host, namespace
from verification.claim import Context, Instance
from verification.instances.quadratics import Case, constants, size


class Errors(NamedTuple):
    """The errors e = K y + k + G xi of the stacked points y and their noise xi."""

    K: Any  # [..., n, n]
    k: Any  # [..., n]
    G: Any  # [..., n, n]


class Averages(NamedTuple):
    """Averages over t < T, an entry an instance."""

    gradient: np.ndarray  # E|grad F|^2
    Xi: np.ndarray  # E Xi
    ebar: np.ndarray  # root of E|ebar|^2, ebar = (1/N) sum_i e_i


class Suprema(NamedTuple):
    """Largest values over t < T, an entry an instance."""

    Xi: np.ndarray  # E Xi
    kappa: np.ndarray  # root of E (1/N) sum |grad f_i - grad F|^2 at the mean point
    apart: np.ndarray  # root of E|e~|_F^2, e~ = (I - J) e
    size: np.ndarray  # E|y|^2 / N


def random_errors(ctx: Context, case: Case, dependent: bool) -> Errors:
    """Return errors of up to half a step; dependent ones hold the noise, negated, up to once."""
    rng = ctx.rng("errors", str(case.params["topology"]))
    lr = host(case.lr)
    n = case.problem.N * case.problem.p
    count = len(lr)
    slope = np.abs(host(case.problem.b)).max(axis=(-2, -1))
    share = rng.uniform(0, 1, (3, count)) / 2
    size_K = share[0] * lr * constants(case).L
    size_k = share[1] * lr * slope
    size_G = dependent * 2 * share[2] * lr
    K = size_K[:, None, None] * rng.standard_normal((count, n, n))
    k = size_k[:, None] * rng.standard_normal((count, n))
    G = size_G[:, None, None] * -np.eye(n)
    return Errors(ctx.array(K / np.sqrt(n)), ctx.array(k), ctx.array(G))


def stored_errors(instance: Instance) -> Errors:
    """Return the errors of one stored case."""
    K, k, G = (np.asarray(instance[name], dtype=np.float64)[None] for name in ("K", "k", "G"))
    return Errors(K, k, G)


def erring(case: Case, errors: Errors) -> moments.Recursion:
    """Return the recursion of the points."""
    problem = case.problem
    K, k, G = errors
    silent = problem._replace(noise=0 * problem.noise)
    A, a, _ = moments.decentralized_sgd(silent, case.Pi, case.lr)
    push = G - case.lr[..., None, None] * moments.mixing(case.Pi, problem).A
    return moments.Recursion(A + K, a + k, push @ _noise(problem) @ push.mT)


def averages(case: Case, errors: Errors, steps: int) -> Averages:
    """Return the averages over `steps` rounds, by doubling."""
    mean = _mean_of(case, errors)
    squares = {
        "gradient": moments.mean_gradient(case.problem),
        "Xi": moments.consensus(case.problem),
        "ebar": _of_points(errors, mean),
    }
    values = moments.average(erring(case, errors), case.start, squares, steps)
    gradient, Xi, ebar = (host(values[name]) for name in squares)
    # rounding may leave a negative zero
    return Averages(gradient, np.maximum(Xi, 0), np.sqrt(ebar + _of_noise(case, errors, mean)))


def suprema(case: Case, errors: Errors, steps: int) -> Suprema:
    """Return the largest values over `steps` rounds, one by one."""
    apart = _apart_of(case, errors)
    squares = {
        "Xi": moments.consensus(case.problem),
        "kappa": moments.heterogeneity(case.problem),
        "apart": _of_points(errors, apart),
        "size": size(case.problem),
    }
    values = moments.trace(erring(case, errors), case.start, squares, steps)
    Xi, kappa, spread, points = (host(values[name]).max(axis=-1) for name in squares)
    return Suprema(Xi, np.sqrt(kappa), np.sqrt(spread + _of_noise(case, errors, apart)), points)


def _noise(problem: moments.Quadratics) -> Any:
    """Return the covariance of the stacked noise xi, [..., n, n]."""
    return moments.local_step(problem, 1.0).Q


def _mean_of(case: Case, errors: Errors) -> Any:
    """Return the matrix that maps stacked errors to ebar, [p, n]."""
    xp = namespace(errors.K)
    N = case.problem.N
    row = xp.full((1, N), 1 / N, dtype=errors.K.dtype, device=errors.K.device)
    return moments.with_identity(row, case.problem.p)


def _apart_of(case: Case, errors: Errors) -> Any:
    """Return the matrix that maps stacked errors to e~ = (I - J) e, [n, n]."""
    xp = namespace(errors.K)
    N = case.problem.N
    eye = xp.eye(N, dtype=errors.K.dtype, device=errors.K.device)
    return moments.with_identity(eye - 1 / N, case.problem.p)


def _of_points(errors: Errors, R: Any) -> moments.Square:
    """Return |R (K y + k)|^2, the part of |R e|^2 that the points make."""
    return moments.Square(R @ errors.K, -(R @ errors.k[..., None])[..., 0])


def _of_noise(case: Case, errors: Errors, R: Any) -> np.ndarray:
    """Return E|R G xi|^2, the part of E|R e|^2 that the noise of the same step makes."""
    pushed = R @ errors.G
    return host(namespace(pushed).sum((pushed @ _noise(case.problem)) * pushed, axis=(-2, -1)))
