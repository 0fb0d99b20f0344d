"""The rates and the consensus distance of a run against every bound that knows its constants."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from math import sqrt
from typing import Any, NamedTuple

import numpy as np

from decaf_theory import bounds
from decaf_theory.compare.covered import Letters
from decaf_theory.compare.lines import Line, Mean, at, expected, judged
from decaf_theory.compare.network import Network
from decaf_theory.compare.path import EPS, Path, rate_rounding

GRADIENT = "mean |grad|^2"
SPREAD = "largest Xi"
APART = "start: agents start apart"
BOUNDED = f"{GRADIENT}, bounded Xi"


class Run(NamedTuple):
    """A run as the bounds on rates see it."""

    path: Path
    letters: Letters
    net: Network
    lr: float
    N: int
    order: str  # of the bounds, "MS" or "CB"
    exact: bool  # whether the mix is the mean of all that trains, without errors
    noisy: bool
    equal: bool  # whether all agents start at one point
    terms: float  # N + d + k + r, of which sums there is a round's rounding, and `sums_off`
    last_gap: np.ndarray | None  # F - F_star at the mean, at the end, [runs]
    beta: float = 0.0  # of local momentum
    drawn: Path | None = None  # of runs that each draw their own matrices (T37-random)

    def until(self, T: int) -> Run:
        """Return the first T steps."""

        def cut(path: Path) -> Path:
            *columns, c = path
            return Path._make([*(column[:T] for column in columns), c])

        drawn = None if self.drawn is None else cut(self.drawn)
        return self._replace(path=cut(self.path), drawn=drawn)

    @property
    def over_draws(self) -> Run:
        """The runs of whose mean a bound on Xi is: each with its own draws of the matrices."""
        if self.drawn is None:
            return self
        return self._replace(path=self.drawn, noisy=True, drawn=None)

    @property
    def T(self) -> int:
        """The number of steps."""
        return len(self.path.gradient)

    @property
    def points(self) -> float:
        """The largest norm of what an agent holds."""
        return float(np.hypot(self.path.norm_B, self.path.norm_A).max())

    def average(self, column: np.ndarray) -> Mean:
        """Return the mean over runs and steps of a column [steps, runs]."""
        return expected(column.mean(axis=0), self.noisy)

    def largest(self, column: np.ndarray) -> Mean:
        """Return the mean over runs at the step where it is largest."""
        worst = int(np.argmax(column.mean(axis=1)))
        return expected(column[worst], self.noisy, among=len(column))


def rate_lines(run: Run) -> Iterator[Line]:
    """Yield the lines of T25 and what refines it, or of T29 where mixing has errors."""
    letters = run.letters
    if lacks := letters.lacking("L", "sigma", "F_gap"):
        claims = _names(run) if run.exact else ("T29", "T30-certificate")
        yield from (Line(claim, GRADIENT, why=lacks) for claim in claims)
        return
    assert letters.F_gap is not None
    common = {
        "F_gap": letters.F_gap,
        "lr": run.lr,
        "T": run.T,
        "L": letters.L,
        "sigma": letters.sigma,
        "N": run.N,
    }
    if run.beta:
        yield from _of_momentum(run, common)
    elif run.exact:
        yield from _of_means(run, common)
    else:
        yield from _of_errors(run, common)


def _line(run: Run, claim: str, what: str, bound: Callable[[int], float]) -> Line:
    """Return the line of the mean squared gradient against one bound, with its rounding."""
    measured = run.average(run.path.gradient)
    found = judged(claim, what, measured, bound, 0.0)
    if found.bound is None:
        return found
    slip = rate_rounding(found.bound, run.points, terms=run.terms, lr=run.lr)
    return judged(claim, what, measured, bound, float(slip))


def _of_means(run: Run, common: dict[str, Any]) -> Iterator[Line]:
    letters, Xi = run.letters, run.average(run.path.Xi)
    plain, sharp = _names(run)
    yield _line(run, plain, GRADIENT, lambda k: bounds.dsgd_rate(Xi=at(k, Xi), **common))
    yield _line(run, sharp, GRADIENT, lambda k: bounds.dsgd_sharp(Xi=at(k, Xi), **common))
    weighted = run.net.claim == "T37-reversible"
    if not weighted:
        yield _weakly_convex(run, common, Xi)
        yield _polyak_lojasiewicz(run, common)
    why = run.net.why or letters.lacking("kappa") or ("" if run.equal else APART)
    if why:
        yield Line(plain, BOUNDED, why=why)
        if not weighted:
            yield Line("T28", GRADIENT, why=why)
        return
    run = run.over_draws
    network: dict[str, Any] = {"kappa": letters.kappa, "q": run.net.q, "S": run.net.S}
    drift = partial(_consensus, run)
    yield _line(run, plain, BOUNDED, lambda k: bounds.dsgd_rate(Xi=drift(), **common))
    yield _line(run, sharp, BOUNDED, lambda k: bounds.dsgd_sharp(Xi=drift(), **common))
    textbook = f"{GRADIENT}, textbook"
    yield _line(run, plain, textbook, lambda k: bounds.dsgd_textbook(**common, **network))
    if not weighted:
        yield _corollary(run, common, network)


def _names(run: Run) -> tuple[str, str]:
    """Return the claims of T25's two forms, by the proofs of T35-rate ... T37-rate where those."""
    claim = run.net.claim
    if claim == "T25":
        return "T25", "T25-sharp"
    rate = "T37-rate" if claim == "T37-random" else f"{claim}-rate"
    return rate, f"{rate}, sharp"


def _of_momentum(run: Run, common: dict[str, Any]) -> Iterator[Line]:
    """Yield T36-rate, whose gradients are taken at z, ahead of the mean."""
    plain, sharp = _names(run)
    step = run.lr / (1 - run.beta)
    Xi, from_z = (run.average(column) for column in (run.path.Xi, run.path.Xi + run.path.lag))
    longer = {**common, "lr": step}
    rate = partial(bounds.momentum_rate, beta=run.beta, **common)
    yield _line(run, plain, GRADIENT, lambda k: rate(Xi=at(k, Xi)))
    yield _line(run, sharp, GRADIENT, lambda k: bounds.dsgd_sharp(Xi=at(k, from_z), **longer))
    why = run.net.why or run.letters.lacking("kappa") or ("" if run.equal else APART)
    if why:
        yield Line(plain, BOUNDED, why=why)
        return
    yield _line(run, plain, BOUNDED, lambda k: rate(Xi=_consensus(run)))


def _weakly_convex(run: Run, common: dict[str, Any], Xi: Mean) -> Line:
    letters = run.letters
    if why := letters.lacking("m"):
        return Line("T34", GRADIENT, why=why)
    assert letters.m is not None
    assert letters.L is not None
    squared = bounds.convex_curvature(L=letters.L, m=min(letters.m, letters.L))
    share = squared / letters.L**2 if letters.L else 0.0
    return _line(run, "T34", GRADIENT, lambda k: bounds.dsgd_rate(Xi=share * at(k, Xi), **common))


def _polyak_lojasiewicz(run: Run, common: dict[str, Any]) -> Line:
    """Return the line of the last gap, which sums the roundings of T steps that contract."""
    what = "F - F_star at the end"
    if why := run.letters.lacking("mu"):
        return Line("T38", what, why=why)
    assert run.last_gap is not None
    mu = min(run.letters.mu or 0.0, common["L"])
    Xi = run.largest(run.path.Xi)
    slip = 8 * run.terms * EPS * (common["L"] * run.points**2 + common["F_gap"]) * run.T
    return judged(
        "T38",
        what,
        expected(run.last_gap, run.noisy),
        lambda k: bounds.dsgd_gap(mu=mu, Xi=at(k, Xi), **common),
        slip,
    )


def _corollary(run: Run, common: dict[str, Any], network: dict[str, Any]) -> Line:
    lr = sqrt(run.N / run.T)
    if abs(run.lr - lr) > 4 * EPS * lr:
        why = f"step size: lr = {run.lr:.6g} is not sqrt(N/T) = {lr:.6g}"
        return Line("T28", GRADIENT, why=why)
    letters = {name: value for name, value in common.items() if name != "lr"}
    return _line(run, "T28", GRADIENT, lambda k: bounds.dsgd_corollary(**letters, **network))


def _of_errors(run: Run, common: dict[str, Any]) -> Iterator[Line]:
    """Yield T29 and T29-joint with measured errors of mixing, which noise of the step may move."""
    Xi, square = run.average(run.path.Xi), run.average(run.path.ebar**2)
    errors = "dependent" if run.noisy else "predictable"

    def of(rate: Callable[..., float]) -> Callable[[int], float]:
        return lambda k: rate(Xi=at(k, Xi), ebar=sqrt(at(k, square)), errors=errors, **common)

    yield _line(run, "T29", GRADIENT, of(bounds.mixing_error_rate))
    yield _line(run, "T30-certificate", GRADIENT, of(bounds.dsgd_sharp))


# ---------------------------------------------------------------- the consensus distance


def spread_line(run: Run) -> Line:
    """Return the line of the largest consensus distance against T25, T35-T37 or T29."""
    run = run.over_draws
    claim = run.net.claim if run.exact else "T29"
    letters = run.letters
    why = run.net.why or letters.lacking("L", "sigma", "kappa")
    if not why and not run.equal:
        why = APART
    if why:
        return Line(claim, SPREAD, why=why)
    measured = run.largest(run.path.Xi)
    apart = run.largest(run.path.apart**2)

    def bound(k: int) -> float:
        return _consensus(run, sqrt(at(k, apart)))

    found = judged(claim, SPREAD, measured, bound, 0.0)
    if found.bound is None:
        return found
    # rounding is one more error of mixing; deviations sum it over 1/((1 - lam)(1 - lr L q)) rounds,
    # and are measured up to as much once more; momentum hands each on, 1/(1 - beta) times in all
    assert letters.L is not None
    summed = 1 + 1 / ((1 - run.beta) * (1 - run.net.lam) * (1 - run.lr * letters.L * run.net.q))
    eta = 4 * run.terms * EPS * run.points * summed
    return judged(claim, SPREAD, measured, bound, 2 * eta * found.bound**0.5 + eta**2)


def _consensus(run: Run, eps: float = 0.0) -> float:
    """Return the bound on E Xi, with errors of mixing of root mean square eps if they have any."""
    letters, net = run.letters, run.net
    assert letters.L is not None
    assert letters.sigma is not None
    assert letters.kappa is not None
    common = {"lr": run.lr, "L": letters.L, "sigma": letters.sigma, "kappa": letters.kappa}
    if run.exact:
        return bounds.consensus_bound(**common, N=run.N, q=net.q, S=net.S)
    return bounds.mixing_error_consensus(**common, N=run.N, q=net.q, S=net.S, lam=net.lam, eps=eps)
