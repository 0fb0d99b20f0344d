"""T30-law, T30-needed: DeCAF's rate where sigma_r may vanish."""

from __future__ import annotations

from collections.abc import Iterator
from math import sqrt
from typing import NamedTuple

import numpy as np

from decaf_theory import bounds
from decaf_theory.lowrank import Factors, product
from decaf_theory.measure import factor_gradients, sigma_max
from decaf_theory.problems.approximation import approximation
from decaf_theory.simulate import Config, Visit, visits
from decaf_theory.stats import richardson
from decaf_theory.topology import TOPOLOGIES
from verification.claim import Claim, Context, Instance, Row, Value
from verification.evidence import at_most, ulps
from verification.instances.targets import smoothness

GRAPHS = ("complete", "ring", "path", "star", "bipartite")
ETA = 1.0
HALF = 0.5  # sigma_2 at the start
GAP = (HALF + ETA) ** 2 / 2  # F(z_0) - F*
LEFT = ETA**2 / 2  # F - F* at sigma_2 = 0
FLIP = np.array([[0.0, 1.0], [1.0, 0.0]])
STEPS = 2.0 ** -np.arange(4, 8)  # step sizes, each half of the one before


class Setting(NamedTuple):
    """Targets diag(1, second) + c_j (E_12 + E_21), sum c_j = 0, on the graph Pi; r = 2, s = 1."""

    c: np.ndarray  # [N]
    Pi: np.ndarray  # [N, N]
    second: float = -ETA  # -eta

    @property
    def mean(self) -> np.ndarray:
        """The mean target, [2, 2]."""
        return np.diag([1.0, self.second])

    @property
    def K(self) -> float:
        """K = c' Gamma c / N, Gamma = (I + Pi)(I - Pi)^+."""
        eye = np.eye(len(self.c))
        return float(
            self.c @ (eye + self.Pi) @ np.linalg.pinv(eye - self.Pi) @ self.c / len(self.c)
        )

    def config(self, method: str, lr: np.ndarray, steps: int, p: np.ndarray) -> Config:
        """Return a run for each step size, from the common B = A' = diag(1, sqrt p), p [runs]."""
        runs, agents = len(lr), len(self.c)
        root = np.zeros((runs, agents, 2, 2))
        root[..., 0, 0] = 1.0
        root[..., 1, 1] = np.sqrt(p)[:, None]
        problem = approximation(self.mean + self.c[:, None, None] * FLIP)
        start = Factors(root, root)
        return Config(
            method=method,
            problem=problem,
            start=start,
            Pi=self.Pi,
            lr=lr,
            steps=steps,
            runs=runs,
        )


def setting(graph: str, N: int, second: float = -ETA) -> Setting:
    """Return N agents with c = one wave around the ring, of mean square 4/N^2."""
    wave = np.cos(2 * np.pi * np.arange(N) / N)
    return Setting(2 * sqrt(2) / N * wave, TOPOLOGIES[graph](N), second)


def slope(visit: Visit, mean: np.ndarray) -> np.ndarray:
    """Return |grad Phi|^2 at the mean point of each run, [runs].

    That of DLoRA is the mean of the factors, that of DeCAF the balanced factors of the mean
    product: it is semidefinite here (T30-det), P = U S U', so that they are U sqrt S and its
    transpose.
    """
    factors = visit.factors
    if visit.config.method == "decaf":
        P = product(factors).mean(axis=1)
        values, U = np.linalg.eigh((P + P.mT) / 2)
        B = U * np.sqrt(np.maximum(values, 0))[:, None]
        point = Factors(B, B.mT)
    else:
        point = factors.map(lambda X: X.mean(axis=1))
    found = factor_gradients(product(point) - mean, point, 1.0)
    square: np.ndarray = sum(np.sum(X**2, axis=(-2, -1)) for X in found)
    return square


def law(ctx: Context) -> Iterator[Row]:
    r"""Where sigma_r may vanish DeCAF comes to rest with a gradient of first order in the step.

    $d = k = r = 2$, $s = 1$, $f_i = |BA - \bar W - D_i|_F^2/2$, $\bar W = diag(1, -\eta)$, $D_i =
    c_i (E_{12} + E_{21})$, $\sum c_i = 0$, a common balanced start with $\sigma_2 = 1/2$; no noise.
    Nothing is ever truncated. With $K = c'\Gamma c/N$, $\Gamma = (I + \Pi)(I - \Pi)^+$, the mean
    product keeps $\sigma_2 = p \to \frac{\alpha K}{2\eta}$, and $|\nabla\Phi|^2/\alpha \to K\eta$
    at it. At $\alpha = \sqrt{N/T}$ the average of $|\nabla\Phi|^2$ over $t < T$, times $\sqrt{NT}$,
    tends to $F(z_0) - \frac{\eta^2}{2} - F^* + N K \eta$: the graph enters the leading term, and
    the factor N is lost. DLoRA's tends to the first part alone, and DeCAF's to $F(z_0) - F^*$ where
    the mean target lets $\sigma_2$ stay away from 0.

    Assumptions: small steps.

    Proof: to leading order. Off the diagonal the deviations settle at $x = \alpha \Pi (I - \Pi)^+
    c$. In the entry (2, 2) of the mean product a round adds $2\alpha (c - x)'x/N$ from $-(g P + P
    g)$ and $\alpha^2 c'c/N$ from $\alpha^2 gPg$, in all $\alpha^2 K$, and takes away $2\alpha\eta
    p$. The gradient is $2 (p + \eta)^2 p$, the rest of second order. On the way there $F^+ = F -
    \alpha |\nabla\Phi|^2$ to leading order; then T rounds of $\alpha K \eta$.

    Source: derived here to leading order; judged by extrapolation to $\alpha = 0$: $p$ and the
    gradient within 1 %, the averages within 2 %. Where $\sigma_2$ stays away from 0 the average is
    extrapolated in a full run; a quick one checks only that it is below the one with $-\eta$.
    """
    for graph in GRAPHS:
        yield from at_rest(setting(graph, 4), graph)
    yield from averages(ctx)


def at_rest(case: Setting, graph: str) -> Iterator[Row]:
    """Yield p and |grad Phi|^2 over their laws, extrapolated to lr = 0.

    From the law's own p: the start is off by a correction of first order in lr, of which these
    rounds leave 2 %.
    """
    p = STEPS * case.K / (2 * ETA)
    rounds = int(2 / (ETA * STEPS[-1]))
    *_, last = visits(case.config("decaf", STEPS, rounds, p))
    found = np.linalg.svd(product(last.factors).mean(axis=1), compute_uv=False)[:, 1]
    squares = slope(last, case.mean)
    # a run errs by eps of its products each round, and forgets it in 1/(lr eta); p is of size lr
    slip = ulps(100 / STEPS[-1] ** 2)
    where: dict[str, Value] = {"topology": graph, "N": len(case.c), "K": case.K, "eta": ETA}
    laws = {"p": (found, p), "|grad Phi|^2": (squares, STEPS * case.K * ETA)}
    for name, (value, expected) in laws.items():
        ratio = value / expected
        limit = richardson(ratio.tolist())
        where |= {"curve": name, "finest": float(ratio[-1]), "limit": limit.value}
        columns = STEPS, value / STEPS, expected / STEPS
        for level, numbers in enumerate(zip(*(x.tolist() for x in columns), strict=True)):
            names = (f"{name}_{level}" for name in ("lr", "value", "law"))
            where |= dict(zip(names, numbers, strict=True))
        off = abs(limit.value - 1)
        yield at_most(f"{name}: |measured/law - 1| at lr = 0", off, 0.01, rounding=slip, **where)


def averages(ctx: Context) -> Iterator[Row]:
    """Yield average |grad Phi|^2 sqrt(N T) on a ring over its law, extrapolated to lr = 0.

    lr = sqrt(N/T) halves from one horizon to the next. Where sigma_2 stays away from 0 the steps of
    a quick run are too long to extrapolate: it is compared at the first two horizons.
    """
    free = setting("ring", 4)
    kept = setting("ring", 4, 2 * HALF + ETA)  # sigma_2 rises, from the same F(z_0) - F*
    horizons = ctx.pick((64, 256, 1024), (64, 256, 1024, 4096, 16_384))
    found = average("decaf", free, horizons)
    yield extrapolated("decaf", free, horizons, found, GAP - LEFT + 4 * free.K * ETA)
    yield extrapolated("dlora", free, horizons, average("dlora", free, horizons), GAP - LEFT)
    quick = ctx.size == "quick"
    slower = average("decaf", kept, horizons[:2] if quick else horizons)
    where = shown("sigma_2 kept", kept, horizons[:2], slower, GAP) if quick else {}
    slip = ulps(100 * horizons[1])
    yield at_most("average if sigma_2 is kept", slower[:2], found[:2], rounding=slip, **where)
    if quick:
        return
    yield extrapolated("sigma_2 kept", kept, horizons, slower, GAP)
    more = setting("ring", 8)
    longer = (320, 1280, 5120, 20_480)
    for method, law in (("decaf", GAP - LEFT + 8 * more.K * ETA), ("dlora", GAP - LEFT)):
        yield extrapolated(method, more, longer, average(method, more, longer), law)


def extrapolated(
    name: str, case: Setting, horizons: tuple[int, ...], found: np.ndarray, law: float
) -> Row:
    """Return how far the averages over their law are from 1 at lr = 0."""
    limit = richardson((found / law).tolist()).value
    where = shown(name, case, horizons, found, law) | {"limit": limit}
    # a sum of T squares, each off by what rounds leave, as in `at_rest`
    slip = ulps(100 * horizons[-1])
    off = abs(limit - 1)
    return at_most(f"{name}: |average/law - 1| at lr = 0", off, 0.02, rounding=slip, **where)


def shown(
    name: str, case: Setting, horizons: tuple[int, ...], found: np.ndarray, law: float
) -> dict[str, Value]:
    """Return the coordinates of a curve of averages."""
    where: dict[str, Value] = {"curve": "average", "which": name, "topology": "ring"}
    where |= {"N": len(case.c), "law": law, "gap": GAP}
    for level, (T, value) in enumerate(zip(horizons, found.tolist(), strict=True)):
        where |= {f"T_{level}": T, f"value_{level}": value}
    return where


def average(method: str, case: Setting, horizons: tuple[int, ...]) -> np.ndarray:
    """Return (1/T) sum_{t<T} |grad Phi|^2 times sqrt(N T) at lr = sqrt(N/T), for each T."""
    agents = len(case.c)
    T = np.array(horizons)
    config = case.config(method, np.sqrt(agents / T), int(T.max()) - 1, np.full(len(T), HALF))
    total = np.zeros(len(T))
    for visit in visits(config):
        total += (visit.step < T) * slope(visit, case.mean)
    scaled: np.ndarray = total / T * np.sqrt(agents * T)
    return scaled


def needed(ctx: Context) -> Iterator[Row]:
    r"""DeCAF keeps the rate of decentralized SGD without sigma_r bounded away from 0.

    As nothing is truncated where $r = \min(d, k)$, DeCAF's averaged products should obey the bound
    of T29-joint with the error of mixing left out. FALSE: T30-law.

    Assumptions: Omega_c along the run, with the c and G measured; $\alpha L^* < 2$.

    Counterexample: T30-law's setting with two agents, $\Pi = J$, $c = (1, -1)$, $\eta = 1$: after
    each mix both hold one product, so $\Xi = 0$, and the average of $|\nabla\Phi|^2$ times
    $\sqrt{NT}$ tends to 2.625 against 1.125, and to more for more agents.

    Source: derived here.
    """
    for steps in (128, 512):
        yield replay(instance(steps))


def instance(steps: int = 512) -> Instance:
    """Return two agents with opposite deviations, and the horizon."""
    return {"c": [1.0, -1.0], "eta": ETA, "start": HALF, "steps": steps}


def replay(stored: Instance) -> Row:
    """Return the row of one stored case on the complete graph: the average against the bound."""
    c = np.asarray(stored["c"], dtype=np.float64)
    agents, T, eta = len(c), stored["steps"], stored["eta"]
    case = Setting(c, np.full((agents, agents), 1 / agents), -eta)
    lr = sqrt(agents / T)
    config = case.config("decaf", np.array([lr]), T - 1, np.array([stored["start"]]))
    total, largest = 0.0, 0.0
    for visit in visits(config):
        total += float(slope(visit, case.mean)[0])
        largest = max(largest, float(sigma_max(visit.factors).max()))
    L = smoothness(config.problem, 1.0, largest)
    gap = ((stored["start"] + eta) ** 2) / 2
    letters = {"F_gap": gap, "lr": lr, "L": L, "sigma": 0.0}
    bound = bounds.dsgd_sharp(T=T, N=agents, Xi=0.0, **letters)
    where: dict[str, Value] = {"N": agents, "T": T, "lr": lr, "L_star": L, "c": largest}
    slip = ulps(100 * T, bound)
    return at_most(
        "average |grad Phi|^2 of DeCAF", total / T, bound, rounding=slip, held=lr * L < 2, **where
    )


CLAIMS = [
    Claim(
        "T30-law",
        "rates",
        "numerical",
        law,
        loose="its bound is the accuracy to which a limit is known",
        chosen_bound=True,
        not_attacked="an asymptotic law",
    ),
    Claim(
        "T30-needed",
        "rates",
        "derived",
        needed,
        expected="violated",
        replay=replay,
        instance=instance,
        script="T30-needed",
    ),
]
