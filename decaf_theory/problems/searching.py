"""The worst point for each constant of a problem, by search: what is found is reached there."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from decaf_theory.arrays import Host, host
from decaf_theory.problems.base import Problem

EPS = float(np.finfo(np.float64).eps)
BLOCK = 32  # directions along which a Hessian is seen at once: all of them where d k <= 32
ROUNDS = 6  # of a search around the best point, closer and closer
PASSES = 20  # of block iteration, of larger Hessians
DRAWS, ROOM = 4000, 2**22  # draws of noise, and numbers that they may take
OMEGAS = ((1.0, 1.0), (0.25, 3.0), (2.0, 0.1))  # (s, c) at which G is looked at


class Found(NamedTuple):
    """The worst value found, what it is, where, and its rounding or standard errors."""

    value: float
    what: str
    where: str
    rounding: float


def norm(X: Any) -> Host:
    """Return |X|_F of the last two axes."""
    square: Host = np.sqrt(np.sum(host(X) ** 2, axis=(-2, -1)))
    return square


def mean_of(problem: Problem, x: Host, axis: int) -> Host:
    """Return the mean over agents, weighted by the shares of the problem's constants."""
    shares = None if x.shape[axis] == 1 else problem.constants.shares  # one for all agents
    return np.asarray(np.average(x, axis=axis, weights=shares))


def precision(value: Any) -> float:
    """Return the machine epsilon of what a problem's function returns."""
    return float(np.finfo(host(value).dtype).eps)


def at_point(problem: Problem, W: Host) -> str:
    """Return W, or W less W0 where that is not zero, in words."""
    offset = "W0 + " if np.any(problem.W0) else ""
    numbers = np.array2string(W - problem.W0, precision=4, threshold=20, separator=", ")
    return f"at W = {offset}{' '.join(numbers.split())}"


def all_of(problem: Problem, W: Host, rng: np.random.Generator) -> dict[str, Found]:
    """Return what the searches find, from common points W [n, 1, d, k]."""
    starts = np.concatenate([problem.W0[None, None], problem.stiffest[None, None], W])
    found = curvature(problem, starts, rng)
    L = max(found["L"].value, np.finfo(np.float64).tiny)
    found |= {f"G({s:g}, {c:g})": gradients_on_omega(problem, s, c) for s, c in OMEGAS}
    found["kappa"] = dissent_of(problem, starts, rng, L)
    if problem.noise is not None:
        found["sigma"] = noise_of(problem, W, rng)
    return found | descent(problem, starts, L)


# ---------------------------------------------------------------- curvature


def curvature(problem: Problem, starts: Host, rng: np.random.Generator) -> dict[str, Found]:
    """Return the largest |grad f_i(V) - grad f_i(W)| / |V - W|, L, and m, the same along V - W.

    m is -<grad f_i(V) - grad f_i(W), V - W> / |V - W|^2. Far secants, then close ones along the
    eigenvectors of the Hessians at the best points.
    """
    far = np.concatenate([starts + size * rng.standard_normal(starts.shape) for size in (0.1, 10)])
    pairs = [(np.concatenate([starts, starts]), far)]
    best = _secants(problem, *pairs[0])[0].max(axis=1)
    close = [starts[:1], starts[1:2], np.concatenate([starts, starts])[best.argmax()][None]]
    for W in close:
        pairs += [(W, W + V) for V in _eigenvectors(problem, W, rng)]
    worst = {}
    for name, axis in (("L", 0), ("m", 1)):
        tops = [(_worst(_secants(problem, W, V), axis), V) for W, V in pairs]
        (value, rounding, at, agent), V = max(tops, key=lambda top: top[0][0] - top[0][1])
        sort = "the largest curvature" if name == "L" else "minus the least curvature"
        point = at_point(problem, V[at, min(agent, V.shape[1] - 1)])
        worst[name] = Found(value, f"{sort} of agent {agent}", point, rounding)
    return worst


def _secants(problem: Problem, W: Host, V: Host) -> tuple[Host, Host, Host]:
    """Return |change of grad| / |V - W|, minus its part along V - W, and their rounding, [n, N]."""
    before, after = host(problem.grad(W)), host(problem.grad(V))
    length = norm(V - W)
    change = after - before
    along = np.sum(change * (V - W), axis=(-2, -1)) / length**2
    quotient = norm(change) / length
    # of gradients of the size of L (|W| + |V| + |target|), entry by entry
    size = norm(problem.grad(0 * W)) + norm(before) + quotient * (norm(W) + norm(V))
    rounding = 10 * problem.d * problem.k * precision(before) * size / length
    return quotient, -along, rounding


def _worst(secants: tuple[Host, Host, Host], which: int) -> tuple[float, float, int, int]:
    """Return the value that is largest for sure, its rounding, and its point and agent."""
    values, rounding = secants[which], secants[2]
    at, agent = np.unravel_index(np.argmax(values - rounding), values.shape)
    return float(values[at, agent]), float(rounding[at, agent]), int(at), int(agent)


def _eigenvectors(problem: Problem, W: Host, rng: np.random.Generator) -> list[Host]:
    """Return steps from W along the first and the last eigenvector of each agent's Hessian.

    Of all of it where d k <= BLOCK, else of what a few rounds of block iteration see.
    """
    N, d, k = problem.N, problem.d, problem.k
    n = d * k
    width = min(n, BLOCK)
    h = precision(problem.grad(W)) ** 0.25
    base = host(problem.grad(W))
    V = np.tile(np.eye(n) if width == n else rng.standard_normal((n, width)), (N, 1, 1))
    for _ in range(1 if width == n else PASSES):
        V = np.linalg.qr(V)[0]
        steps = h * V.transpose(2, 0, 1).reshape(width, N, d, k)
        HV = ((host(problem.grad(W + steps)) - base) / h).reshape(width, N, n).transpose(1, 2, 0)
        if width < n:
            basis, V = V, HV
        else:
            basis = V
    small = np.swapaxes(basis, 1, 2) @ HV
    _, vectors = np.linalg.eigh((small + np.swapaxes(small, 1, 2)) / 2)
    both = basis @ vectors[:, :, [0, -1]]
    return [h * both[None, :, :, i].reshape(1, N, d, k) for i in range(2)]


# ---------------------------------------------------------------- gradients, noise, minimum


def gradients_on_omega(problem: Problem, s: float, c: float) -> Found:
    """Return the largest |grad f_i(W0 + s B A)|_op found on Omega_c.

    From W0 each agent goes to s c^2 u v', u and v the first singular vectors of its last gradient:
    what is linear in W is largest there, and a convex norm never falls.
    """
    W = np.broadcast_to(problem.W0, (1, problem.N, problem.d, problem.k))
    top = Found(-1.0, "", "", 0.0)
    for _ in range(ROUNDS):
        g = host(problem.grad(W))
        sizes = np.linalg.norm(g, ord=2, axis=(-2, -1))[0]
        agent = int(np.argmax(sizes))
        if sizes[agent] > top.value:
            size = float(sizes[agent])
            # of sums of d k products
            rounding = 10 * problem.d * problem.k * precision(g) * size
            top = Found(
                size, f"|grad f|_op of agent {agent}", at_point(problem, W[0, agent]), rounding
            )
        U, _, Vh = np.linalg.svd(g)
        W = problem.W0 + s * c**2 * U[..., :, :1] @ Vh[..., :1, :]
    return top


def dissent(problem: Problem, W: Host) -> Host:
    """Return (1/N) sum_i |grad f_i - grad F|_F^2 at common points W [..., 1, d, k], [...]."""
    g = host(problem.grad(W))
    g = np.broadcast_to(g, (*g.shape[:-3], problem.N, *g.shape[-2:]))
    common = mean_of(problem, g, -3)[..., None, :, :]
    return mean_of(problem, norm(g - common) ** 2, -1)


def dissent_of(problem: Problem, starts: Host, rng: np.random.Generator, L: float) -> Found:
    """Return the largest root of the dissent found on |W|_F <= `within`."""
    radius = problem.constants.within

    def inside(W: Host) -> Host:
        size = norm(W)[..., None, None]
        return W * np.minimum(1.0, radius / np.where(size > 0, size, 1.0))

    W = climb(lambda X: dissent(problem, X), starts, rng, inside)
    value = float(dissent(problem, W[None])[0]) ** 0.5
    # differences of gradients of the size of W and the targets, d k of them
    size = value + L * float(norm(W).max()) + float(norm(problem.grad(0 * W)).max())
    rounding = 10 * problem.d * problem.k * precision(problem.grad(W[None])) * size
    what = "the root mean square of grad f_i - grad F"
    return Found(value, what, at_point(problem, W[0]), rounding)


def climb(
    score: Callable[[Host], Host], starts: Host, rng: np.random.Generator, inside: Any
) -> Host:
    """Return the point [1, d, k] of the largest score found, from the best of the starts on."""
    W = inside(starts)
    for step in range(ROUNDS):
        best = W[int(np.argmax(score(W)))]
        spread = 2.0**-step * (1 + norm(best).max()) * rng.standard_normal(starts.shape)
        W = inside(np.concatenate([best[None], best + spread]))
    return np.asarray(W[int(np.argmax(score(W)))])


def noise_of(problem: Problem, W: Host, rng: np.random.Generator) -> Found:
    """Return the root mean square of an agent's noise, the largest, at W0 and the points W.

    Six standard errors of the square over 2 sigma are its allowance, by chance less than 1e-7.
    """
    shape = (problem.N, problem.d, problem.k)
    n = min(DRAWS, max(64, ROOM // (problem.N * problem.d * problem.k)))
    assert problem.noise is not None
    top = Found(0.0, "", "", 0.0)
    points = [problem.W0[None, None], *(W[:4, None] if problem.noise_at is not None else ())]
    for point in points:
        drawn = host(problem.noise(rng, (n, *shape)))
        if problem.noise_at is not None:
            at = np.broadcast_to(point.reshape(1, 1, *shape[1:]), (n, *shape))
            drawn = host(problem.noise_at(drawn, at))
        _require_centred(problem, drawn)
        squares = norm(drawn) ** 2
        means = squares.mean(axis=0)
        agent = int(np.argmax(means))
        value = float(means[agent]) ** 0.5
        error = 6 * float(squares[:, agent].std()) / n**0.5
        rounding = error / (2 * value) + n * precision(drawn) * value if value else 0.0
        if value >= top.value:
            what = f"the root mean square over {n} draws of the noise of agent {agent}"
            top = Found(value, what, at_point(problem, point.reshape(shape[1:])), rounding)
    return top


def _require_centred(problem: Problem, drawn: Host) -> None:
    """Raise ValueError unless noise has its shape and, to six standard errors, mean zero."""
    if drawn.shape[1:] != (problem.N, problem.d, problem.k):
        raise ValueError(f"noise must return the shape asked for, got {drawn.shape}")
    mean = np.abs(drawn.mean(axis=0))
    error = 6 * drawn.std(axis=0) / len(drawn) ** 0.5 + precision(drawn)
    if np.any(mean > error):
        agent, i, j = (int(x) for x in np.unravel_index(np.argmax(mean - error), mean.shape))
        raise ValueError(
            f"noise must have mean zero, got {mean[agent, i, j]:.3g} in entry [{i}, {j}] of agent "
            f"{agent} over {len(drawn)} draws; put its mean into the loss"
        )


def descent(problem: Problem, starts: Host, L: float) -> dict[str, Found]:
    """Return the least F found, F_star, and the least |grad F|^2 / (2 (F - F_star)), mu.

    From W0 and the best of the starts, by L-BFGS; mu only where F_star is declared.
    """
    from scipy.optimize import minimize

    shape = (1, problem.d, problem.k)
    visited = list(starts)

    def objective(x: Host) -> tuple[float, Host]:
        W = x.reshape(shape)
        visited.append(W)
        loss, slope = host(problem.loss(W)), host(problem.grad(W))
        return float(mean_of(problem, loss, -1)), mean_of(problem, slope, -3).ravel()

    values = mean_of(problem, host(problem.loss(starts)), -1)
    options: Any = {"ftol": 0.0, "gtol": 0.0, "maxiter": 400}
    with np.errstate(over="ignore", invalid="ignore"):  # where F has no lower bound
        for W in (starts[0], starts[int(np.argmin(values))]):
            minimize(objective, W.ravel(), jac=True, method="L-BFGS-B", options=options)
        W = np.stack([W for W in visited if norm(W)[0] < 1 / EPS])
        losses, slopes = host(problem.loss(W)), host(problem.grad(W))
        F = mean_of(problem, losses, -1)
    least = int(np.argmin(F))
    eps = precision(losses) * 100 * problem.d * problem.k
    low = eps * max(1.0, abs(float(F[least])))
    found = {"F_star": Found(float(F[least]), "the mean loss", at_point(problem, W[least, 0]), low)}
    F_star = problem.constants.F_star
    if F_star is None:
        return found
    gap = F - F_star
    clear = gap > 1e6 * eps * np.maximum(1.0, np.abs(F))  # of which rounding is a millionth
    if clear.any():
        square = norm(mean_of(problem, slopes, -3)) ** 2
        ratio = np.where(clear, square / (2 * np.where(clear, gap, 1.0)), np.inf)
        at = int(np.argmin(ratio))
        slip = float(ratio[at]) * 1e-5 + eps * L
        what = "|grad F|^2 / (2 (F - F_star))"
        found["mu"] = Found(float(ratio[at]), what, at_point(problem, W[at, 0]), slip)
    return found
