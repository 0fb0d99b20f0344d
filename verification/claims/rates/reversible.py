"""T37-reversible: mixing that keeps a mean in which agents count by their data."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np

from decaf_theory import bounds, moments
from decaf_theory.arrays import host
from decaf_theory.topology import TOPOLOGIES, reversible, reversible_eigenvalues
from verification.claim import Claim, Context, Instance, Row, Value
from verification.evidence import at_most, attained, same, ulps
from verification.instances.consensus import spread_of
from verification.instances.omega import each
from verification.instances.quadratics import (
    Case,
    constants,
    drawn,
    load,
    size,
    stored,
)

STEPS = 40
GRAPHS = (("ring", 5), ("path", 4), ("star", 5), ("complete", 3), ("hypercube", 8))


class Weighing(NamedTuple):
    """The letters of a reversible P: weights pi [N], the second largest |eigenvalue|, q and S."""

    pi: np.ndarray
    lam: float
    q: float
    S: float


def weighing(P: np.ndarray, target: Any) -> Weighing:
    """Return the letters of P, reversible for the target. ValueError: it is not."""
    values = reversible_eigenvalues(P, target)
    lam = float(np.abs(values).max(initial=0.0))
    pi = np.asarray(target, dtype=np.float64) / np.sum(target)
    q = bounds.network_q(lam=lam, order="MS")
    return Weighing(pi, lam, q, bounds.reversible_S(lam=lam, pi=pi.tolist()))


def squares_of(problem: moments.Quadratics, pi: np.ndarray) -> dict[str, moments.Square]:
    """Return what is measured at the mean with weights pi; size bounds the rounding of all."""
    return {
        "gradient": moments.mean_gradient(problem, pi),
        "Xi": moments.consensus(problem, pi),
        "kappa": moments.heterogeneity(problem, pi),
        "size": size(problem),
    }


def rows(ctx: Context) -> Iterator[Row]:
    r"""Reversible mixing keeps the weighted mean; the consensus bound holds in its norm.

    $\pi_i P_{ij} = \pi_j P_{ji}$, $\pi_i > 0$, $\sum_i \pi_i = 1$, rows of $P$ that sum to one,
    such as $P_{ij} = Q_{ij} \min(1, \pi_j/\pi_i)$ with a symmetric $Q$. Let $\bar x =
    \sum_i \pi_i x_i$, $|x|_\pi^2 = \sum_i \pi_i |x_i|^2$, and $\lambda$ the largest absolute value
    of the eigenvalues of $P$ but the leading 1. Mixing keeps $\bar x$, and
    $|P x - \bar x|_\pi \le \lambda |x - \bar x|_\pi$. Order MS: $E \Xi_t \le
    \alpha^2 (\sigma \sqrt S + \kappa q)^2/(1 - \alpha L q)^2$ for $\Xi = |x - \bar x|_\pi^2$,
    $\kappa^2 = \sum_i \pi_i |\nabla f_i - \nabla F|^2$ at $\bar x$, $F = \sum_i \pi_i f_i$, with
    $q = \lambda/(1-\lambda)$ and $S = (1 - \sum_i \pi_i^2)\, \lambda^2/(1-\lambda^2)$.

    Assumptions: those of T25's consensus bound, for the weighted means.

    Proof: $\pi' P = \pi'$, by the sum of $\pi_i P_{ij} = \pi_j P_{ji}$ over $i$. With
    $D = \mathrm{diag}(\pi)$ the matrix $D^{1/2} P D^{-1/2}$ is symmetric, with the eigenvalues of
    $P$, that of 1 at $v = (\sqrt{\pi_i})$; so $\tilde S = D^{1/2} (P - 1\pi') D^{-1/2}$ has the
    norm $\lambda$, and $|x|_\pi = |D^{1/2} x|$. Deviations are $-\alpha \sum_k \tilde P^k (g + n)$,
    $\tilde P = P - 1\pi'$, with gradients and noise of $k$ steps ago. The drift keeps at most the
    share $\lambda^k$, and $|\nabla f_i(x_i) - \nabla f_i(\bar x)|_\pi \le L \sqrt\Xi$. Of the
    noise, independent among agents and steps, $E|\tilde P^k n|_\pi^2 =
    \sum_j \pi_j (\tilde S^{2k})_{jj} E|n_j|^2 \le \sigma^2 \lambda^{2k} \sum_j \pi_j (1 - \pi_j)$,
    as $\tilde S^{2k} \le \lambda^{2k} (I - vv')$. The rest is that of T25.

    Extremal: an eigenvector of $\lambda$ for the contraction; for $\Xi$ the matrix
    $P = \lambda I + (1-\lambda) 1\pi'$ as $t \to \infty$: noise alone, or
    $f_i = -L x^2/2 \pm \kappa x$ for two camps of weight 1/2 each.

    Source: derived here; the weights $Q_{ij} \min(1, \pi_j/\pi_i)$ are Metropolis and Hastings'.
    """
    for name, N in GRAPHS:
        target = 10.0 ** ctx.rng("target", name).uniform(-1, 1, N)
        P = reversible(TOPOLOGIES[name](N), target)
        yield from of_mixing(ctx.rng("points", name), P, target, topology=name)
        case = random_case(ctx, name, P, target)
        yield judged(case, target, STEPS, **case.params)
    for extremal in (noise_alone(), drift_alone()):
        yield from attained(replay(extremal))


def of_mixing(
    rng: np.random.Generator, P: np.ndarray, target: np.ndarray, **where: Value
) -> Iterator[Row]:
    """Yield that the mean is kept, and how deviations contract: random ones, and the slowest."""
    N = len(P)
    net = weighing(P, target)
    x = rng.standard_normal((N, 50))
    v = slowest(P, net.pi)
    mean, after = net.pi @ x, P @ x
    # sums of N terms on both sides
    rounding = ulps(4 * N, np.abs(x).max())
    yield same("weighted mean after a mix", np.max(abs(net.pi @ after - mean)), rounding=rounding)
    for name, y in (("any", x - mean), ("slowest", v[:, None])):
        before, left = (np.sqrt(net.pi @ z**2) for z in (y, P @ y))
        found = at_most(
            f"|P x|, {name} direction",
            left,
            net.lam * before,
            # that of lam is conditioned by sqrt(pi)
            rounding=ulps(8 * N * np.sqrt(net.pi.max() / net.pi.min()), np.abs(y).max()),
            N=N,
            **where,
        )
        yield from attained(found) if name == "slowest" else [found]


def slowest(P: np.ndarray, pi: np.ndarray) -> np.ndarray:
    """Return the eigenvector of P whose eigenvalue is second largest in size, [N]."""
    root = np.sqrt(pi)
    S = root[:, None] * (P - pi) / root
    values, vectors = np.linalg.eigh((S + S.T) / 2)
    v = vectors[:, np.abs(values).argmax()] / root
    found: np.ndarray = v - pi @ v  # where all are 0, that of consensus may come first
    return found


def random_case(ctx: Context, name: str, P: np.ndarray, target: np.ndarray) -> Case:
    """Return problems of all families, with lr log-uniform up to what the graph allows."""
    rng = ctx.rng("problems", name)
    case = drawn(ctx, rng, name, P, ctx.pick(3, 24), 2)
    L = constants(case).L
    lr = 30.0 ** rng.uniform(-1, 0, len(L)) / (L * max(1.0, weighing(P, target).q))
    return case._replace(lr=ctx.array(lr))


def judged(case: Case, target: Any, steps: int, **params: Value) -> Row:
    """Return the largest E Xi_t against its bound."""
    net = weighing(case.Pi, target)
    squares = squares_of(case.problem, net.pi)
    found = spread_of(squares, case.start, [case.recursion("MS")] * steps)
    letters = constants(case)
    held = host(case.lr) * letters.L * net.q < 1
    bound = limits(case, net, found.kappa)
    limit = np.where(held, bound, 0.0)
    return at_most(
        "E Xi_t, weighted", found.Xi, limit, rounding=found.slip, held=held, T=steps, **params
    )


def limits(case: Case, net: Weighing, kappa: Any) -> np.ndarray:
    """Return the bound on E Xi, [...]."""
    letters = constants(case)
    return each(
        bounds.consensus_bound,
        lr=host(case.lr),
        L=letters.L,
        sigma=letters.sigma,
        kappa=kappa,
        N=1,
        q=net.q,
        S=net.S,
    )


def flat(target: Any, lam: float) -> np.ndarray:
    """Return lam I + (1 - lam) 1 pi'."""
    pi = np.asarray(target, dtype=np.float64) / np.sum(target)
    Pi: np.ndarray = lam * np.eye(len(pi)) + (1 - lam) * pi
    return Pi


def noise_alone(lam: float = 0.5) -> Instance:
    """Return unit noise alone at three agents of weights 5, 2 and 1, lr = 1."""
    target = [5.0, 2.0, 1.0]
    one = np.ones((3, 1, 1))
    case = stored(0 * one, [[0.0]] * 3, flat(target, lam), 1.0, [0.0], one, steps=80)
    return {**case, "target": target}


def drift_alone(lam: float = 0.5) -> Instance:
    """Return two camps of weight 1/2, f_i = -x^2/2 +- x, lr = 1/4."""
    target = [4.0, 1.0, 3.0, 2.0]
    sign = [[1.0], [1.0], [-1.0], [-1.0]]
    case = stored(-np.ones((4, 1, 1)), sign, flat(target, lam), 0.25, [0.0], steps=80)
    return {**case, "target": target}


def replay(instance: Instance) -> Row:
    """Return the row of one stored case."""
    case = load(instance)
    return judged(case, instance["target"], instance["steps"], **case.params)


def attacks() -> dict[str, Any]:
    """Return the attacks on T37-reversible."""
    from verification.attacks.rounds import weighted

    skewed = [5.0, 2.0, 1.0]
    camps = [4.0, 1.0, 3.0, 2.0]
    ring = reversible(TOPOLOGIES["ring"](4), camps)
    return {
        "equal eigenvalues, noise": weighted(flat(skewed, 0.5), skewed, drift=False),
        "equal eigenvalues, drift": weighted(flat(camps, 0.5), camps, noise=False),
        "ring, noise": weighted(ring, camps, drift=False, loose="only one eigenvalue is lam"),
    }


CLAIMS = [
    Claim(
        "T37-reversible",
        "rates",
        "derived",
        rows,
        bounds=(bounds.consensus_bound, bounds.reversible_S),
        attacks=attacks,
        replay=replay,
        instance=noise_alone,
        reaches={
            "|P x|, any direction": 0.98,
            "|P x|, slowest direction": 1,
            "E Xi_t, weighted": 1,
        },
    ),
]
