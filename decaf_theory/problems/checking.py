"""A problem against its own words: gradients against differences of the loss, constants by search.

    from decaf_theory.problems import check_problem
    print(check_problem(problem))        # each constant as declared, and the worst that was found

What it finds is a counterexample; what it does not find is no proof.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from decaf_theory.arrays import Array, Host, host
from decaf_theory.findings import Checked
from decaf_theory.problems import searching
from decaf_theory.problems.base import Problem
from decaf_theory.problems.searching import Found, norm, precision
from decaf_theory.rng import generator
from decaf_theory.topology import check_mixing_matrix

SIZES = (0.1, 1.0, 10.0)  # of the points W - W0, entry by entry
EACH = 8  # points of each size
ENTRIES = 4096  # of W, up to which the worst one of a wrong gradient is named


class Finding(NamedTuple):
    """A constant as it is declared, None if it is not, and the worst that was found.

    least: whether the declared value must not be above what was found, instead of not below.
    """

    name: str
    declared: float | None
    found: Found
    least: bool = False

    @property
    def measured(self) -> float:
        """The worst value found."""
        return self.found.value

    @property
    def held(self) -> bool:
        """Whether the declared value bounds what was found, up to rounding."""
        if self.declared is None:
            return True
        excess = self.declared - self.measured if self.least else self.measured - self.declared
        return bool(excess <= self.found.rounding)

    @property
    def complaint(self) -> str:
        """What is wrong, where, and what to do."""
        side = "at most" if self.least else "at least"
        return (
            f"{self.name} is declared {self.declared:.6g} and must be {side} {self.measured:.6g}, "
            f"{self.found.what} {self.found.where}"
        )

    def __str__(self) -> str:
        """Return the line of the constant; the point is in `found.where`."""
        known = "-" if self.declared is None else f"{self.declared:.6g}"
        return f"{self.name:12}{known:>12}{self.measured:>12.6g}  {self.found.what}"


HEADING = f"{'':12}{'declared':>12}{'found':>12}  what was found"


def check_problem(problem: Problem, *, seed: int = 0) -> Checked[Finding]:
    """Return what a search finds of each constant of a problem, by name.

    L and m: secants of the gradient, along the eigenvectors of the Hessian where d k <= 32.
    G: uphill on Omega_c for three (s, c). kappa: common points, |W|_F <= `within`. sigma: 4,000
    draws, up to six standard errors. F_star: descent from several starts; mu: on the way. What is
    not declared is searched as well: a hint at what to declare.

    ValueError: shapes; a loss or gradient that is not a function of the agent's own point alone, or
    changes from call to call; a gradient that differs from the differences of the loss, naming
    agent, point, entry, both values and the factor between them; a constant that a point violates,
    naming point, declared and measured value.
    """
    if not isinstance(problem, Problem):
        got = type(problem).__name__
        raise ValueError(f"problem must be a Problem, got {got}; problems.quadratic builds one")
    rng = generator(seed, "check problem")
    W = _points(problem, rng)
    _check_functions(problem, W)
    _check_gradient(problem, W, rng)
    found = searching.all_of(problem, W[:, :1], rng)
    findings = (
        Finding(name, declared, found[name], least)
        for name, declared, least in _declared(problem)
        if name in found
    )
    return Checked(findings, HEADING).require(f"problem {problem.name}")


def _declared(problem: Problem) -> list[tuple[str, float | None, bool]]:
    """Return name, declared value, and whether it must be at most what was found."""
    constants = problem.constants
    G = constants.G
    of_G = [
        (f"G({s:g}, {c:g})", None if G is None else G(s, c), False) for s, c in searching.OMEGAS
    ]
    return [
        ("L", constants.L, False),
        ("m", constants.m, False),
        *of_G,
        ("kappa", constants.kappa, False),
        ("sigma", constants.sigma, False),
        ("F_star", constants.F_star, True),
        ("mu", constants.mu, True),
    ]


def _points(problem: Problem, rng: np.random.Generator) -> Host:
    """Return points of all sizes, each agent's own, [n, N, d, k]."""
    shape = (EACH, problem.N, problem.d, problem.k)
    return np.concatenate([problem.W0 + size * rng.standard_normal(shape) for size in SIZES])


def _check_functions(problem: Problem, W: Host) -> None:
    """Raise ValueError unless loss and gradient have their shapes and are functions of own points.

    And unless the mixing matrix and the start that the problem prescribes fit it.
    """
    for name, f in (("loss", problem.loss), ("grad", problem.grad)):
        inner = () if name == "loss" else (problem.d, problem.k)
        value = _called(name, f, W)
        expected = (len(W), problem.N, *inner)
        _require_shape(name, value, expected, W)
        one = W[:, :1]
        shared = _called(name, f, one)
        if shared.shape != (len(W), 1, *inner):
            _require_shape(name, shared, expected, one)
        if not np.all(np.isfinite(value)):
            raise ValueError(f"{name} must be finite, got NaN or inf at points of size {SIZES}")
        if not np.array_equal(value, host(f(W))):
            raise ValueError(
                f"{name} must be a function of W, got other numbers in a second call; "
                f"noise of the gradient belongs in `noise`"
            )
        for agent in range(min(problem.N, 8)):
            moved = W.copy()
            moved[:, agent] += 1.0
            apart = np.delete(host(f(moved)) - value, agent, axis=1)
            if np.any(apart):
                raise ValueError(
                    f"{name} of each agent must depend on its own point alone, but those of others "
                    f"change with W of agent {agent}; average nothing over agents, axis -3 of W"
                )
    if problem.Pi is not None:
        check_mixing_matrix(problem.Pi, problem.N)


def _called(name: str, f: Callable[[Array], Array], W: Host) -> Host:
    """Return f(W); an error that it raises also says at what it was called."""
    try:
        return host(f(W))
    except Exception as error:
        error.add_note(
            f"{name} was called with W of shape {W.shape} = [n, N, d, k], with an N of 1 where one "
            f"point is meant for all agents; it must take any axes in front (see Problem)"
        )
        raise


def _require_shape(name: str, value: Host, expected: tuple[int, ...], W: Host) -> None:
    if value.shape != expected:
        axes = "[n, N]" if name == "loss" else "[n, N, d, k]"
        raise ValueError(
            f"{name} must return shape {expected} = {axes} at W {W.shape}, got {value.shape}"
        )


# ---------------------------------------------------------------- the gradient


class Slopes(NamedTuple):
    """Slopes of the loss along directions, by its differences and by the gradient, [n, N]."""

    by_loss: Host
    by_grad: Host
    off: Host  # by how much the differences may be off

    @property
    def wrong(self) -> Host:
        """Where they differ by more than that."""
        off: Host = np.abs(self.by_loss - self.by_grad) > self.off
        return off


def _slopes(problem: Problem, W: Host, D: Host) -> Slopes:
    """Return the slopes at W along D, both [n, N, d, k].

    A central difference Q(h) is off by c h^2 + O(h^4), three times of which is Q(h) - Q(h/2) less
    that of Q(h/2); at a jump of the curvature between them it is off by no more than their
    difference. Both are covered by twice it. A loss is taken to be a sum of d k terms of the size
    of |f| + (|W| + |D|) (|grad f(W)| + |grad f(0)|).
    """
    eps = max(precision(problem.loss(W[:1])), precision(problem.grad(W[:1])))
    h = eps**0.25  # truncation h^2 and rounding eps/h are both far below one
    by_grad = np.sum(problem.grad(W) * D, axis=(-2, -1))

    def quotient(h: float) -> Host:
        change = problem.loss(W + h * D) - problem.loss(W - h * D)
        return np.asarray(change, dtype=np.float64) / (2 * h)

    coarse, fine = quotient(h), quotient(h / 2)
    size = norm(W) + norm(D)
    scale = np.abs(problem.loss(W)) + size * (norm(problem.grad(W)) + norm(problem.grad(0 * W)))
    rounding = 8 * problem.d * problem.k * eps * scale / h
    return Slopes(fine, by_grad, 2 * np.abs(coarse - fine) + rounding)


def _check_gradient(problem: Problem, W: Host, rng: np.random.Generator) -> None:
    """Raise ValueError where the gradient is not that of the loss, with the worst entry."""
    D = rng.standard_normal(W.shape)
    slopes = _slopes(problem, W, D / norm(D)[..., None, None])
    if not slopes.wrong.any():
        return
    excess = np.abs(slopes.by_loss - slopes.by_grad) / slopes.off
    at, agent = (int(i) for i in np.unravel_index(np.argmax(excess), excess.shape))
    point = W[at : at + 1]
    entry, worst = _worst_entry(problem, point, agent)
    by_loss, by_grad = (float(x[worst, agent]) for x in entry[:2])
    where = np.unravel_index(worst, (problem.d, problem.k))
    raise ValueError(
        f"problem {problem.name}: grad is not the gradient of loss: entry "
        f"[{int(where[0])}, {int(where[1])}] of agent {agent} is {by_grad:.6g}, by differences of "
        f"the loss {by_loss:.6g}, {searching.at_point(problem, point[0, agent])}"
        f"{_factor(slopes)}"
    )


def _worst_entry(problem: Problem, point: Host, agent: int) -> tuple[Slopes, int]:
    """Return the slopes along the entries of W (at most ENTRIES), and the worst of an agent."""
    n = min(problem.d * problem.k, ENTRIES)
    D = np.eye(n, problem.d * problem.k).reshape(n, 1, problem.d, problem.k)
    parts = [_slopes(problem, point, D[i : i + 1] + 0 * point) for i in range(n)]
    entry = Slopes(*(np.concatenate(columns) for columns in zip(*parts, strict=True)))
    gap = np.abs(entry.by_loss - entry.by_grad)[:, agent]
    return entry, int(np.argmax(gap))


def _factor(slopes: Slopes) -> str:
    """Return the factor between gradient and differences in words, where it is one everywhere."""
    clear = np.abs(slopes.by_loss) > 1e3 * slopes.off
    if not clear.any():
        return ""
    ratios = (slopes.by_grad / np.where(clear, slopes.by_loss, 1.0))[clear]
    if np.ptp(ratios) > 1e-2 * np.abs(ratios).max():
        return "; the gradient differs by no common factor, look at signs, transposes and terms"
    return f"; the gradient is {float(np.median(ratios)):.4g} times that of the loss everywhere"
