"""Quadratic problems on which the claims on rates are tried, and the evaluation they share.

A case is a batch of problems on one graph, all agents starting at one point. Its expectations are
exact (`decaf_theory.moments`), its constants L, sigma, kappa are computed from it. The stored form
of one case is a dict of plain lists.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np

from decaf_theory import bounds, moments
from decaf_theory.arrays import host, namespace
from decaf_theory.topology import TOPOLOGIES, mixing_eigenvalues, sqrt_rho
from verification.claim import Context, Instance, Value
from verification.evidence import ulps
from verification.instances.omega import each

GRAPHS = (
    ("ring", 5),
    ("path", 4),
    ("star", 5),
    ("complete", 4),
    ("hypercube", 8),
    ("bipartite", 6),
    ("erdos_renyi", 6),
)


class Case(NamedTuple):
    """A batch of quadratics on the graph Pi [N, N], step sizes lr [...] and starts x0 [..., p]."""

    problem: moments.Quadratics
    Pi: np.ndarray
    lr: Any
    x0: Any
    params: dict[str, Value]

    @property
    def start(self) -> moments.State:
        """All agents at x0."""
        return moments.consensus_start(self.problem, self.x0)

    def recursion(self, order: str) -> moments.Recursion:
        """One round of decentralized SGD."""
        return moments.decentralized_sgd(self.problem, self.Pi, self.lr, order=order)


class Constants(NamedTuple):
    """The letters of the bounds, a value an instance: L, sigma, F(x0) - F*."""

    L: np.ndarray
    sigma: np.ndarray
    F_gap: np.ndarray


class Network(NamedTuple):
    """The letters of a graph: N, lam = sqrt(rho), q and S of an order."""

    N: int
    lam: float
    q: float
    S: float


def network(Pi: np.ndarray, order: str) -> Network:
    """Return N, sqrt(rho), q and S of a mixing matrix that mixes."""
    lam = sqrt_rho(Pi)
    eigenvalues = [float(mu) for mu in mixing_eigenvalues(Pi)]
    q = bounds.network_q(lam=lam, order=order)
    return Network(len(Pi), lam, q, bounds.network_S(eigenvalues=eigenvalues, order=order))


def constants(case: Case) -> Constants:
    """Return L = max |H_i|_op, sigma^2 = max tr Sig_i and the gap at the start, [...] each.

    The gap is infinite where F has no lower bound.
    """
    H = host(case.problem.H)
    noise = host(case.problem.noise)
    L = np.abs(np.linalg.eigvalsh(H)).max(axis=(-2, -1))
    sigma = np.sqrt(np.trace(noise, axis1=-2, axis2=-1).max(axis=-1))
    gap = moments.expectation(moments.optimality_gap(case.problem), case.start)
    return Constants(L, sigma, host(gap))


def size(problem: moments.Quadratics) -> moments.Square:
    """Return |x|^2 / N, the scale to which rounding of the other squares is relative."""
    xp = namespace(problem.H)
    n = problem.N * problem.p
    eye = xp.eye(n, dtype=problem.H.dtype, device=problem.H.device)
    return moments.Square(eye / math.sqrt(problem.N), xp.zeros_like(eye[0]))


class Run(NamedTuple):
    """What exact moments say of a case in one order, over t < T: [..., T] and [...]."""

    gradient: np.ndarray  # (1/T) sum E|grad F(xbar_t)|^2
    consensus: np.ndarray  # E Xi_t, [..., T]
    kappa: np.ndarray  # sup_t of the root of E (1/N) sum |grad f_i(xbar_t) - grad F(xbar_t)|^2
    slip_points: np.ndarray  # rounding of Xi
    slip_gradient: np.ndarray  # rounding of squared gradients


def run(case: Case, order: str, steps: int) -> Run:
    """Return the exact moments of `steps` rounds.

    Rounding: a step sums n products twice, so t steps err by at most 2 n t eps of the largest
    second moment; a square of gradients by L^2 times that, and by eps of its own offset.
    """
    squares = {
        "gradient": moments.mean_gradient(case.problem),
        "consensus": moments.consensus(case.problem),
        "heterogeneity": moments.heterogeneity(case.problem),
        "size": size(case.problem),
    }
    found = moments.trace(case.recursion(order), case.start, squares, steps)
    values = {name: host(value) for name, value in found.items()}
    n = case.problem.N * case.problem.p
    slip = ulps(4 * n * steps, values["size"].max(axis=-1))
    offset = (host(case.problem.b) ** 2).sum(axis=-1).max(axis=-1)
    L = constants(case).L
    return Run(
        values["gradient"].mean(axis=-1),
        values["consensus"],
        np.sqrt(values["heterogeneity"].max(axis=-1)),
        slip,
        L**2 * slip + ulps(4 * n, offset),
    )


# ---------------------------------------------------------------- random problems

Draw = Callable[[np.random.Generator, int, int, int], tuple[np.ndarray, np.ndarray]]


def _symmetric(x: np.ndarray) -> np.ndarray:
    mean: np.ndarray = (x + x.mT) / 2
    return mean


def _semidefinite(rng: np.random.Generator, *shape: int) -> np.ndarray:
    """Return V D V' with eigenvalues log-uniform in [1e-3, 1] and V a random rotation."""
    V = np.linalg.qr(rng.standard_normal((*shape, shape[-1])))[0]
    eigenvalues = 10.0 ** rng.uniform(-3, 0, (*shape[:-1], 1, shape[-1]))
    return _symmetric(V * eigenvalues @ V.mT)


def _convex(rng: np.random.Generator, n: int, N: int, p: int) -> tuple[np.ndarray, np.ndarray]:
    return _semidefinite(rng, n, N, p), rng.standard_normal((n, N, p))


def _equal(rng: np.random.Generator, n: int, N: int, p: int) -> tuple[np.ndarray, np.ndarray]:
    """All agents have the same curvature: heterogeneity is constant."""
    return np.repeat(_semidefinite(rng, n, 1, p), N, axis=1), rng.standard_normal((n, N, p))


def _indefinite(rng: np.random.Generator, n: int, N: int, p: int) -> tuple[np.ndarray, np.ndarray]:
    """Curvatures of both signs whose mean is positive definite."""
    H = _symmetric(rng.standard_normal((n, N, p, p)))
    least = np.linalg.eigvalsh(H.mean(axis=1))[:, 0] - 10.0 ** rng.uniform(-2, 0, n)
    return H - least[:, None, None, None] * np.eye(p), rng.standard_normal((n, N, p))


def _opposed(rng: np.random.Generator, n: int, N: int, p: int) -> tuple[np.ndarray, np.ndarray]:
    """Half of the agents curve up by 1, the others down by almost as much."""
    sign = np.where(np.arange(N) < (N + 1) // 2, 1.0, -1.0)
    H = sign[:, None, None] * np.eye(p) * np.ones((n, 1, 1, 1))
    least = H.mean(axis=1)[:, 0, 0] - 10.0 ** rng.uniform(-2, -1, n)
    return H - least[:, None, None, None] * np.eye(p), rng.standard_normal((n, N, p))


def _singular(rng: np.random.Generator, n: int, N: int, p: int) -> tuple[np.ndarray, np.ndarray]:
    """Curvatures of rank one; slopes in their range, so that F is bounded below."""
    v = rng.standard_normal((n, N, p, 1))
    return v @ v.mT, v[..., 0] * rng.standard_normal((n, N, 1))


FAMILIES: dict[str, Draw] = {
    "convex": _convex,
    "equal": _equal,
    "indefinite": _indefinite,
    "opposed": _opposed,
    "singular": _singular,
}


def draw(
    rng: np.random.Generator, family: str, instances: int, N: int, p: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Return H [n, N, p, p], b [n, N, p], noise covariances and a start x0 [n, p] of a family.

    Curvatures and points are scaled by powers of ten. Noise is absent in a third of the instances
    and one agent's alone in another third; then covariances have rank one.
    """
    H, b = FAMILIES[family](rng, instances, N, p)
    scale = 10.0 ** rng.integers(-3, 4, size=(2, instances, 1, 1))
    root = rng.standard_normal((instances, N, p, p))
    kind = rng.permutation(instances) % 3
    root[kind == 0] = 0.0
    root[kind == 1, 1:] = 0.0
    root[kind == 1, ..., 1:] = 0.0
    curvature, length = scale
    share = 10.0 ** rng.uniform(-2, 0, (instances, 1, 1))
    root *= (curvature * length * share)[..., None]
    x0 = rng.standard_normal((instances, p)) * length[:, 0]
    noise = _symmetric(root @ root.mT)
    return H * curvature[..., None], b * curvature * length, noise, x0


def cases(ctx: Context, order: str, instances: int, p: int = 3) -> Iterator[Case]:
    """Yield a case a graph: `instances` problems of each family.

    lr is log-uniform in [1/30, 1] times the largest step that the order allows, min(1/L, 1/(L q)).
    """
    for name, N in GRAPHS:
        rng = ctx.rng("quadratics", name)
        case = drawn(ctx, rng, name, TOPOLOGIES[name](N), instances, p)
        L = constants(case).L
        q = network(case.Pi, order).q
        lr = 30.0 ** rng.uniform(-1, 0, len(L)) / (L * max(1.0, q))
        yield case._replace(lr=ctx.array(lr))


def long_steps(ctx: Context, instances: int, N: int = 5, lam: float = 1 / 8) -> Case:
    """Return problems on the graph lam I + (1 - lam) J, with 1 < lr L < 2.

    Its q = lam/(1 - lam) in order MS is so small that lr L q < 1 although agents disagree.
    """
    rng = ctx.rng("long steps")
    Pi = lam * np.eye(N) + (1 - lam) / N
    case = drawn(ctx, rng, "nearly complete", Pi, instances, 3)
    L = constants(case).L
    return case._replace(lr=ctx.array(rng.uniform(1, 1.95, len(L)) / L))


def drawn(
    ctx: Context, rng: np.random.Generator, name: str, Pi: np.ndarray, instances: int, p: int
) -> Case:
    """Return `instances` problems of each family on one graph, without a step size."""
    N = len(Pi)
    parts = [draw(rng, family, instances, N, p) for family in FAMILIES]
    H, b, noise, x0 = (np.concatenate(group) for group in zip(*parts, strict=True))
    problem = moments.quadratics(ctx.array(H), b=ctx.array(b), noise=ctx.array(noise))
    return Case(problem, Pi, None, ctx.array(x0), {"topology": name, "N": N, "p": p})


# ---------------------------------------------------------------- stored cases


def stored(
    H: Any, b: Any, Pi: Any, lr: float, x0: Any, noise: Any = None, **extra: Any
) -> dict[str, Any]:
    """Return one case as plain lists: H [N][p][p], b [N][p], Pi [N][N], x0 [p], noise [N][p][p]."""
    noise = np.zeros(np.shape(H)) if noise is None else noise
    lists = {"H": H, "b": b, "noise": noise, "Pi": Pi, "x0": x0}
    plain = {name: np.asarray(x, dtype=np.float64).tolist() for name, x in lists.items()}
    return {**plain, "lr": float(lr), **extra}


def load(instance: Instance) -> Case:
    """Return a stored case as a case of one instance."""
    H, b, noise, Pi, x0 = (
        np.asarray(instance[name], dtype=np.float64) for name in ("H", "b", "noise", "Pi", "x0")
    )
    problem = moments.quadratics(H[None], b=b[None], noise=noise[None])
    params = {"topology": "stored", "N": len(Pi), "p": H.shape[-1]}
    return Case(problem, Pi, np.asarray([instance["lr"]]), x0[None], params)


def consensus_limits(case: Case, net: Network, letters: Constants, kappa: Any) -> np.ndarray:
    """Return the bound of T25 on E Xi, [...]."""
    return each(
        bounds.consensus_bound,
        lr=host(case.lr),
        L=letters.L,
        sigma=letters.sigma,
        kappa=kappa,
        N=net.N,
        q=net.q,
        S=net.S,
    )


def step_allowed(case: Case, net: Network, letters: Constants) -> np.ndarray:
    """Return where lr <= 1/L and lr L q < 1, [...]."""
    feedback = host(case.lr) * letters.L
    allowed: np.ndarray = (feedback <= 1) & (feedback * net.q < 1)
    return allowed


def noise_on_a_path(lr: float = 1.0, **extra: Any) -> dict[str, Any]:
    """Return three agents on a path with noise of variance 1 alone, H_i = 0, as a stored case."""
    third = 1 / 3
    one = [[[1.0]]] * 3
    Pi = [[2 * third, third, 0.0], [third, third, third], [0.0, third, 2 * third]]
    return stored([[[0.0]]] * 3, [[0.0]] * 3, Pi, lr, [0.0], one, **extra)
