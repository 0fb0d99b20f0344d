"""Gradient ascent: Adam for many restarts in one batch, BFGS for the best of them."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import scipy.optimize
import torch

from decaf_theory.adversary.attack import Attack, Best, Found, Judge, Point
from decaf_theory.rng import generator


def _starts(attack: Attack, restarts: int, rng: np.random.Generator) -> Point:
    return {
        name: torch.as_tensor(rng.standard_normal((restarts, *shape)))
        for name, shape in attack.shapes.items()
    }


def _near(best: Point, restarts: int, spread: float, rng: np.random.Generator) -> Point:
    """Return restarts around one found instance, which stays among them."""
    out = {}
    for name, X in best.items():
        noise = torch.as_tensor(rng.standard_normal((restarts, *X.shape)))
        noise[0] = 0
        out[name] = X[None] + spread * noise
    return out


def climb(attack: Attack, start: Point, *, steps: int, lr: float) -> tuple[torch.Tensor, Point]:
    """Return the largest ratios seen in `steps` steps of Adam, one a restart, and where.

    The best restart comes first. The step size falls to zero along a cosine. A restart whose
    gradient is not finite stays where it is for that step.
    """
    current = _detached(attack.project(start))
    moments = {name: (torch.zeros_like(X), torch.zeros_like(X)) for name, X in current.items()}
    restarts = len(next(iter(current.values())))
    best = torch.full((restarts,), -torch.inf, dtype=torch.float64)
    peak = current
    for step in range(1, steps + 1):
        value, slope = _value_and_slope(attack, current)
        higher = value > best
        best = torch.where(higher, value, best)
        peak = {name: _choose(higher, X, peak[name]) for name, X in current.items()}
        rate = lr * 0.5 * (1 + np.cos(np.pi * step / steps))
        moved = {
            name: X + _adam(slope[name], *moments[name], step, rate) for name, X in current.items()
        }
        current = _detached(attack.project(moved))
    order = best.argsort(descending=True)
    return best[order], {name: X[order] for name, X in peak.items()}


def _detached(at: Point) -> Point:
    return {name: X.detach() for name, X in at.items()}


def _value_and_slope(attack: Attack, at: Point) -> tuple[torch.Tensor, Point]:
    """Return the ratios [restarts], -inf where they are not finite, and their finite gradients."""
    leaves = {name: X.detach().requires_grad_(True) for name, X in at.items()}
    ratios = attack.ratio(leaves)
    gradients = torch.autograd.grad(ratios.sum(), list(leaves.values()), allow_unused=True)
    slope = {
        name: torch.zeros_like(X) if gradient is None else torch.nan_to_num(gradient, 0, 0, 0)
        for (name, X), gradient in zip(leaves.items(), gradients, strict=True)
    }
    return torch.nan_to_num(ratios.detach(), nan=-np.inf, posinf=-np.inf), slope


def _adam(
    g: torch.Tensor, first: torch.Tensor, second: torch.Tensor, step: int, rate: float
) -> torch.Tensor:
    """Return the move of Adam along a gradient; both moments are changed."""
    first.mul_(0.9).add_(g, alpha=0.1)
    second.mul_(0.99).addcmul_(g, g, value=0.01)
    scale = (second / (1 - 0.99**step)).sqrt() + 1e-12
    return rate * (first / (1 - 0.9**step)) / scale


def _choose(mask: torch.Tensor, yes: torch.Tensor, no: torch.Tensor) -> torch.Tensor:
    """Return `yes` for the restarts in `mask` [restarts], else `no`, [restarts, ...]."""
    return torch.where(mask.reshape(-1, *[1] * (yes.dim() - 1)), yes, no)


def polish(attack: Attack, start: Point, *, steps: int) -> tuple[float, Point]:
    """Return the best ratio seen by BFGS from one instance, and its parameters.

    The function maximized is the ratio after the projection. BFGS also makes way where the ratio
    has kinks (Lewis and Overton, 2013), as at tied singular values, where Adam creeps.
    """
    sizes = [X.numel() for X in start.values()]
    best = -np.inf
    best_at = {name: X.clone() for name, X in start.items()}

    def descend(x: np.ndarray[Any, Any]) -> tuple[float, np.ndarray[Any, Any]]:
        nonlocal best, best_at
        leaf = torch.tensor(x, requires_grad=True)
        parts = zip(start.items(), torch.split(leaf, sizes), strict=True)
        inside = attack.project({name: part.reshape(1, *X.shape) for (name, X), part in parts})
        ratio = attack.ratio(inside)
        (gradient,) = torch.autograd.grad(ratio.sum(), leaf)
        value = ratio.item()
        if not np.isfinite(value):
            return np.inf, np.zeros_like(x)
        if value > best:
            best = value
            best_at = {name: X.detach()[0] for name, X in inside.items()}
        return -value, -torch.nan_to_num(gradient, 0, 0, 0).numpy()

    x = torch.cat([X.reshape(-1) for X in start.values()]).numpy()
    # a line search that cannot go on, as at a kink, is an end like any other
    with np.errstate(all="ignore"), warnings.catch_warnings(action="ignore"):
        scipy.optimize.minimize(
            descend, x, jac=True, method="BFGS", options={"maxiter": steps, "gtol": 1e-14}
        )
    return best, best_at


def ascend(
    attack: Attack,
    judge: Judge,
    *,
    seed: int = 0,
    seconds: float = 20.0,
    restarts: int = 48,
    steps: int = 150,
    polished: int = 3,
    enough: float = np.inf,
    goal: float = -np.inf,
    patience: float = 0.0,
    tell: Callable[[int, float], None] = lambda rounds, ratio: None,
) -> Found:
    """Return the best judged instance found by gradient ascent within `seconds`.

    Every round climbs with Adam and polishes the best restarts with BFGS. Rounds alternate between
    fresh random starts, twice as long each time up to eight times `steps`, and starts around the
    best so far with a falling spread. `judge(instance)` returns the ratio that counts, None where
    the claim does not apply; the search ends as soon as it exceeds `enough`, and goes on for up to
    `patience` seconds until it exceeds `goal`. `tell(rounds, best)` is called after each judgement.
    """
    rng = generator(seed, "adversary")
    best = Best()
    hill: Point | None = None
    spread = 0.3

    def over() -> bool:
        limit = seconds if best.ratio > goal else max(seconds, patience)
        return best.ratio > enough or best.seconds() > limit

    while best.rounds == 0 or not over():
        length = steps * 2 ** min(best.rounds // 2, 3)
        if hill is None or best.rounds % 2 == 0:
            start = _starts(attack, restarts, rng)
            _, peaks = climb(attack, start, steps=length, lr=0.1)
        else:
            start = _near(hill, restarts, spread, rng)
            _, peaks = climb(attack, start, steps=length, lr=0.1 * spread)
            spread = max(spread / 3, 1e-6)
        best.rounds += 1
        for i in range(min(polished, restarts)):
            peak = {name: X[i] for name, X in peaks.items()}
            _, polished_peak = polish(attack, peak, steps=length)
            for at in (peak, polished_peak):
                instance = attack.instance({name: X.numpy() for name, X in at.items()})
                ratio = judge(instance)
                if ratio is not None and best.improves(ratio, instance):
                    hill = at
                tell(best.rounds, best.ratio)
            if over():
                break
    return best.found("ascent")
