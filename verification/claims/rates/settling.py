"""T39: where decentralized SGD settles, and the loss that its mean descends."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from math import log
from typing import NamedTuple

import numpy as np

from decaf_theory import moments
from decaf_theory.small_steps import disagreement_slope, drift_kernel
from decaf_theory.stats import local_slopes, richardson
from decaf_theory.topology import TOPOLOGIES
from verification.claim import Claim, Context, Row, Value
from verification.evidence import at_most, same, ulps

GRAPHS = ("complete", "ring", "path", "star", "bipartite")
N = 4
STEPS = 2.0 ** -np.arange(5, 9)  # step sizes, each half of the one before
TIME = 1.0  # lr times the number of steps


class Losses(NamedTuple):
    """Gradients and Hessians of N losses on R^p at points of the agents [..., N, p]."""

    name: str
    gradients: Callable[[np.ndarray], np.ndarray]
    hessians: Callable[[np.ndarray], np.ndarray]
    start: np.ndarray  # [p], of all agents

    def slope(self, z: np.ndarray, kernel: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return grad F and half the gradient of psi at z [..., 1, p], [..., 1, p] each."""
        everywhere = np.repeat(z, N, axis=-2)
        g = self.gradients(everywhere)
        half = disagreement_slope(kernel, g, self.hessians(everywhere))
        return g.mean(axis=-2, keepdims=True), half[..., None, :]


def rows(ctx: Context) -> Iterator[Row]:
    r"""The mean of decentralized SGD descends F - (lr/2) psi to first order, and settles there.

    Without noise, $\Gamma_1 = \Pi (I - \Pi)^+$ in order MS and $(I - \Pi)^+$ in order CB:
    $\psi = \frac1N \sum_{ij} (\Gamma_1)_{ij} \langle \nabla f_i, \nabla f_j \rangle$. At rest the
    points $x_i$ deviate from their mean by exactly $-\alpha \sum_j (\Gamma_1)_{ij} \nabla f_j(x_j)$
    and $\nabla F(\bar x) = \frac\alpha2 \nabla\psi(\bar x) + O(\alpha^2)$. On the way there, for
    every fixed $\tau$, $|\bar x_t - z_t| = O(\alpha^2)$ while $\alpha t \le \tau$, where
    $z_{t+1} = z_t - \alpha \nabla (F - \frac\alpha2 \psi)(z_t)$, $z_0 = \bar x_0$.

    Assumptions: $\Pi$ symmetric, doubly stochastic, $\lambda < 1$; bounded gradients, Hessians and
    Lipschitz constants of the Hessians near the points; all agents start at one point.

    Proof: at rest $y = \Pi (y - \alpha g)$, $g_i = \nabla f_i(y_i)$. The mean of $g$ is 0, so
    $(I - \Pi) \tilde y = -\alpha \Pi g$, the first part; for CB $(I - \Pi) x = -\alpha g$. So
    $u_i = x_i - \bar x = O(\alpha)$, and $\nabla f_j(x_j)$ may be replaced by $\nabla f_j(\bar x)$
    up to $O(\alpha^2)$. By Taylor's theorem $\frac1N \sum_i \nabla f_i(\bar x + u_i) =
    \nabla F(\bar x) + \frac1N \sum_i \nabla^2 f_i(\bar x) u_i + O(\alpha^2)$, and $\nabla\psi =
    \frac2N \sum_{ij} (\Gamma_1)_{ij} \nabla^2 f_i \nabla f_j$ as $\Gamma_1$ is symmetric: the mean
    step is $-\alpha \nabla (F - \frac\alpha2 \psi)(\bar x) + O(\alpha^3)$ wherever
    $u = -\alpha \Gamma_1 \nabla f(\bar x) + O(\alpha^2)$. On the way $\bar x$ moves by $O(\alpha)$
    per step, so that $u$ differs from that by $O(\alpha^2)$ and by $O(\alpha \lambda^t)$ from the
    start. The errors of the mean's steps, $O(\alpha^3)$ and $O(\alpha^2 \lambda^t)$, add up to
    $O(\alpha^2)$ over $\tau/\alpha$ steps, and Gronwall's inequality keeps that order.

    Source: derived here. The rows extrapolate to $\alpha = 0$ from halved steps, on quadratics
    and on losses $a_i \log \cosh(x - c_i)$.
    """
    quadratics, H, b = drawn(ctx)
    for graph in GRAPHS:
        for order in moments.ORDERS:
            Pi = TOPOLOGIES[graph](N)
            where: dict[str, Value] = {"topology": graph, "N": N, "order": order}
            yield from at_rest(quadratics, H, b, Pi, order, where)
            for losses in (quadratics, bent(ctx)):
                yield on_the_way(losses, Pi, order, where)


def drawn(ctx: Context, p: int = 2) -> tuple[Losses, np.ndarray, np.ndarray]:
    """Return quadratics with curvatures in [1/5, 1], and their H [N, p, p] and b [N, p]."""
    rng = ctx.rng("quadratics")
    V = np.linalg.qr(rng.standard_normal((N, p, p)))[0]
    H = (V * rng.uniform(0.2, 1.0, (N, 1, p))) @ V.mT
    H = (H + H.mT) / 2
    b = rng.standard_normal((N, p))

    def gradients(x: np.ndarray) -> np.ndarray:
        slopes: np.ndarray = (H @ x[..., None])[..., 0] - b
        return slopes

    start = np.linalg.solve(H.mean(axis=0), b.mean(axis=0)) + np.array([2.0, -1.0])
    losses = Losses("quadratic", gradients, lambda x: H + 0 * x[..., None], start)
    return losses, H, b


def bent(ctx: Context) -> Losses:
    """Return a_i log cosh(x - c_i) with curvatures a_i in [1/2, 1] at centers c_i."""
    rng = ctx.rng("log cosh")
    a = rng.uniform(0.5, 1.0, (N, 1))
    c = rng.standard_normal((N, 1))

    def hessians(x: np.ndarray) -> np.ndarray:
        curvature: np.ndarray = (a / np.cosh(x - c) ** 2)[..., None]
        return curvature

    return Losses("log cosh", lambda x: a * np.tanh(x - c), hessians, np.array([1.5]))


def at_rest(
    losses: Losses,
    H: np.ndarray,
    b: np.ndarray,
    Pi: np.ndarray,
    order: str,
    where: dict[str, Value],
) -> Iterator[Row]:
    """Yield the deviations at rest, and the gradient there over (lr/2) |grad psi|, lr -> 0."""
    problem = moments.quadratics(H[None], b=b[None])
    recursion = moments.decentralized_sgd(problem, Pi, STEPS, order=order)
    points = moments.limit(recursion).mean.reshape(len(STEPS), N, -1)
    mean = points.mean(axis=1, keepdims=True)
    apart = points - mean
    kernel = drift_kernel(Pi, order)
    settled = -STEPS[:, None, None] * (kernel @ losses.gradients(points))
    # solving for the rest loses the condition of I - A
    eye = np.eye(recursion.A.shape[-1])
    condition = np.linalg.cond(eye - recursion.A)
    slip = ulps(8, condition, np.linalg.norm(points, axis=(-2, -1)))
    error = np.linalg.norm(apart - settled, axis=(-2, -1))
    yield same("deviations at rest", error, rounding=slip, **where)

    minimizer = np.linalg.solve(H.mean(axis=0), b.mean(axis=0))[None]
    _, half = losses.slope(minimizer, kernel)
    gradient = np.linalg.norm(losses.slope(mean, kernel)[0], axis=(-2, -1))
    size = np.linalg.norm(half)
    # deviations are 0 on the complete graph in order MS, and psi with them
    if size < ulps(10 * N, np.linalg.norm(b) ** 2):
        yield same("grad F at rest, psi = 0", gradient, rounding=slip, **where)
        return
    ratio = gradient / (STEPS * size)
    where = {**where, "finest": float(ratio[-1])}
    off = abs(richardson(ratio.tolist()).value - 1)
    more = {"rounding": float(3 * slip[-1] / gradient[-1]), **where}  # the finest weighs below 3
    yield at_most("grad F at rest: |measured/law - 1| at lr = 0", off, 1e-3, **more)


def on_the_way(losses: Losses, Pi: np.ndarray, order: str, where: dict[str, Value]) -> Row:
    """Return the order in lr of the mean's distance from descent on F - (lr/2) psi."""
    lr = STEPS[:, None, None]
    counts = np.round(TIME / lr)
    x = np.tile(losses.start, (len(STEPS), N, 1))
    z = x[:, :1]
    kernel = drift_kernel(Pi, order)
    for t in range(int(counts.max())):
        length = lr * (t < counts)
        g = losses.gradients(x)
        x = Pi @ (x - length * g) if order == "MS" else Pi @ x - length * g
        slope, half = losses.slope(z, kernel)
        z = z - length * (slope - length * half)
    distance = np.linalg.norm(x.mean(axis=1, keepdims=True) - z, axis=(-2, -1))
    where = {"loss": losses.name, **where}
    # each step errs by N eps of the points
    slip = ulps(4 * N, float(counts.max()), np.abs(x).max())
    if np.all(distance <= slip):  # as on the complete graph in order MS
        return same("mean less descent, psi = 0", distance, rounding=slip, **where)
    slopes = local_slopes(STEPS, distance)
    limit = richardson(slopes.tolist()).value
    # a slope is a difference of two logarithms over log 2; the finest weigh below 3 in all
    relative = 3 * 2 * slip / float(distance[-1]) / log(2)
    more = {"rounding": relative, "finest_slope": float(slopes[-1]), **where}
    return at_most("descent on F - (lr/2) psi: |order - 2|", abs(limit - 2), 0.01, **more)


CLAIMS = [
    Claim(
        "T39",
        "rates",
        "derived",
        rows,
        loose="its bound is the accuracy to which a limit is known",
        chosen_bound=True,
        not_attacked="a law of first order in the step size",
    )
]
