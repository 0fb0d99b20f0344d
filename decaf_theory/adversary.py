"""Searches for the largest ratio measured / bound of a claim, from random starts only.

Two searchers share one description of the domain, `Attack`: gradient ascent (torch, many restarts
in one batch by Adam, the best of them polished by BFGS) and hypothesis' targeted search. Neither is
trusted: their findings are handed to a judge that recomputes the ratio with the library itself.
"""

from __future__ import annotations

import itertools
import time
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import scipy.optimize
import torch

from decaf_theory.arrays import Array
from decaf_theory.rng import generator

Parameters = Mapping[str, Array]
Judge = Callable[[Mapping[str, Any]], float | None]


@dataclass(frozen=True)
class Attack:
    """The domain of a claim as free parameters, and the ratio to be maximized.

    shapes: name -> shape of each parameter of one instance. ratio(p): measured / bound [restarts],
    differentiable in the torch tensors p[name] [restarts, *shape]. instance(p): the plain instance
    (numbers, nested lists) of one set of NumPy parameters, as `Claim.replay` reads it. project(p):
    parameters in the domain, p itself where it is inside, differentiable, applied after every step.
    loose: why the bound is not attained; empty if it is, so that one 2 % smaller must break.
    """

    shapes: Mapping[str, tuple[int, ...]]
    ratio: Callable[[dict[str, torch.Tensor]], torch.Tensor]
    instance: Callable[[dict[str, np.ndarray[Any, Any]]], Mapping[str, Any]]
    project: Callable[[dict[str, torch.Tensor]], dict[str, torch.Tensor]] = lambda p: p
    loose: str = ""


@dataclass(frozen=True)
class Found:
    """The best instance of a search, as judged; seconds until it was found and in all."""

    ratio: float
    instance: Mapping[str, Any] | None
    searcher: str
    rounds: int
    seconds_to_best: float
    seconds: float


class _Truncate(torch.autograd.Function):
    """TSVD_r with a derivative that divides by gaps between kept and dropped values only.

    In the singular bases the derivative maps the pair (F_ij, F_ji), i kept and j dropped, to
    (s_i^2 F_ij + s_i s_j F_ji) / (s_i^2 - s_j^2); it is its own adjoint. torch's own SVD also
    divides by gaps among the kept values, which vanish at most extremal instances.
    """

    @staticmethod
    def forward(ctx: Any, M: torch.Tensor, rank: int) -> torch.Tensor:
        U, S, Vh = torch.linalg.svd(M, full_matrices=True)
        ctx.save_for_backward(U, S, Vh)
        ctx.rank = rank
        product: torch.Tensor = (U[..., :rank] * S[..., None, :rank]) @ Vh[..., :rank, :]
        return product

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor, None]:
        U, S, Vh = ctx.saved_tensors
        r, n = ctx.rank, S.shape[-1]
        F = U.mT @ gradients[0] @ Vh.mT
        out = F.clone()
        out[..., r:, r:] = 0
        kept, dropped = S[..., :r, None], S[..., None, r:]
        gap = (kept**2 - dropped**2).clamp_min(1e-12 * float(S.max().clamp_min(1e-300)) ** 2)
        upper, lower = F[..., :r, r:n], F[..., r:n, :r].mT
        out[..., :r, r:n] = (kept**2 * upper + kept * dropped * lower) / gap
        out[..., r:n, :r] = ((kept**2 * lower + kept * dropped * upper) / gap).mT
        return U @ out @ Vh, None


def truncate(M: torch.Tensor, rank: int) -> torch.Tensor:
    """Return TSVD_r(M), differentiable wherever sigma_r > sigma_{r+1}; M [..., d, k]."""
    product: torch.Tensor = _Truncate.apply(M, rank)  # type: ignore[no-untyped-call]
    return product


class _Clip(torch.autograd.Function):
    """The projection on {sigma_max <= c}, with the derivative of a spectral function.

    With f(s) = min(s, c) it scales the symmetric part of the singular-base entry (i, j) by the
    divided difference of f at (s_i, s_j), the rest by (f_i + f_j)/(s_i + s_j): no gap divides.
    Outside the ball it is smooth, also near c times an isometry, so that maxima at such vertices,
    where convex functions have them, are smooth maxima of the composition.
    """

    @staticmethod
    def forward(ctx: Any, X: torch.Tensor, c: float) -> torch.Tensor:
        U, S, Vh = torch.linalg.svd(X, full_matrices=True)
        ctx.save_for_backward(U, S, Vh)
        ctx.c, n = c, S.shape[-1]
        clipped: torch.Tensor = (U[..., :n] * S.clamp_max(c)[..., None, :]) @ Vh[..., :n, :]
        return clipped

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor, None]:
        U, S, Vh = ctx.saved_tensors
        n, f = S.shape[-1], S.clamp_max(ctx.c)
        F = U.mT @ gradients[0] @ Vh.mT
        apart, total = S[..., :, None] - S[..., None, :], S[..., :, None] + S[..., None, :]
        small = 1e-12 * ctx.c  # below it a divided difference is replaced by the derivative
        slope = (f[..., :, None] - f[..., None, :]) / torch.where(apart.abs() < small, 1.0, apart)
        even = torch.where(apart.abs() < small, (total < 2 * ctx.c).to(S.dtype), slope)
        mean = (f[..., :, None] + f[..., None, :]) / torch.where(total < small, 1.0, total)
        odd = torch.where(total < small, 1.0, mean)
        square, alone = F[..., :n, :n], ctx.c / S.clamp_min(ctx.c)
        out = F.clone()
        out[..., :n, :n] = even * (square + square.mT) / 2 + odd * (square - square.mT) / 2
        out[..., :n, n:] *= alone[..., None]
        out[..., n:, :n] *= alone[..., None, :]
        return U @ out @ Vh, None


def clip_singular_values(X: torch.Tensor, c: float) -> torch.Tensor:
    """Return the nearest matrices with sigma_max <= c, [..., a, b]: the projection on Omega_c."""
    clipped: torch.Tensor = _Clip.apply(X, c)  # type: ignore[no-untyped-call]
    return clipped


def _starts(attack: Attack, restarts: int, rng: np.random.Generator) -> dict[str, torch.Tensor]:
    return {
        name: torch.as_tensor(rng.standard_normal((restarts, *shape)))
        for name, shape in attack.shapes.items()
    }


def _near(
    best: dict[str, torch.Tensor], restarts: int, spread: float, rng: np.random.Generator
) -> dict[str, torch.Tensor]:
    """Return restarts around one found instance, which stays among them."""
    out = {}
    for name, X in best.items():
        noise = torch.as_tensor(rng.standard_normal((restarts, *X.shape)))
        noise[0] = 0
        out[name] = X[None] + spread * noise
    return out


def climb(
    attack: Attack, start: dict[str, torch.Tensor], *, steps: int, lr: float
) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """Return the largest ratios seen in `steps` steps of Adam, one per restart, and where.

    The best restart comes first. The step size falls to zero along a cosine. A restart whose
    gradient is not finite stays where it is for that step.
    """
    current = {name: X.detach() for name, X in attack.project(start).items()}
    moments = {name: (torch.zeros_like(X), torch.zeros_like(X)) for name, X in current.items()}
    best, peak = None, current
    for step in range(1, steps + 1):
        leaves = {name: X.requires_grad_(True) for name, X in current.items()}
        ratios = attack.ratio(leaves)
        gradients = torch.autograd.grad(ratios.sum(), list(leaves.values()), allow_unused=True)
        value = torch.nan_to_num(ratios.detach(), nan=-np.inf, posinf=-np.inf)
        higher = torch.ones_like(value, dtype=torch.bool) if best is None else value > best
        best = value if best is None else torch.where(higher, value, best)
        peak = {name: _choose(higher, X.detach(), peak[name]) for name, X in leaves.items()}
        rate = lr * 0.5 * (1 + np.cos(np.pi * step / steps))
        moved = {}
        for (name, X), gradient in zip(leaves.items(), gradients, strict=True):
            g = torch.zeros_like(X) if gradient is None else torch.nan_to_num(gradient, 0, 0, 0)
            first, second = moments[name]
            first.mul_(0.9).add_(g, alpha=0.1)
            second.mul_(0.99).addcmul_(g, g, value=0.01)
            scale = (second / (1 - 0.99**step)).sqrt() + 1e-12
            moved[name] = X.detach() + rate * (first / (1 - 0.9**step)) / scale
        current = {name: X.detach() for name, X in attack.project(moved).items()}
    assert best is not None, "steps must be >= 1"
    order = best.argsort(descending=True)
    return best[order], {name: X[order] for name, X in peak.items()}


def _choose(mask: torch.Tensor, yes: torch.Tensor, no: torch.Tensor) -> torch.Tensor:
    """Return `yes` for the restarts in `mask` [restarts], else `no`, [restarts, ...]."""
    return torch.where(mask.reshape(-1, *[1] * (yes.dim() - 1)), yes, no.detach())


def polish(
    attack: Attack, start: dict[str, torch.Tensor], *, steps: int
) -> tuple[float, dict[str, torch.Tensor]]:
    """Return the best ratio seen by BFGS from one instance, and its parameters.

    The function maximized is the ratio after the projection. BFGS also makes way where the ratio
    has kinks (Lewis and Overton, 2013), as at tied singular values, where Adam creeps.
    """
    sizes = [X.numel() for X in start.values()]
    best, best_at = -np.inf, {name: X.clone() for name, X in start.items()}

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
            best, best_at = value, {name: X.detach()[0] for name, X in inside.items()}
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
    best so far with a falling spread. `judge(instance)` returns the ratio that counts, None if
    the claim does not apply; the search ends as soon as it exceeds `enough`, and goes on for up to
    `patience` seconds until it exceeds `goal`. `tell(rounds, best)` is called after each judgement.
    """
    begin = time.monotonic()
    rng = generator(seed, "adversary")
    best, instance, to_best, rounds = -np.inf, None, 0.0, 0
    hill, spread = None, 0.3

    def over() -> bool:
        limit = seconds if best > goal else max(seconds, patience)
        return best > enough or time.monotonic() - begin > limit

    while rounds == 0 or not over():
        fresh = hill is None or rounds % 2 == 0
        start = (
            _starts(attack, restarts, rng)
            if fresh or hill is None
            else _near(hill, restarts, spread, rng)
        )
        length = steps * 2 ** min(rounds // 2, 3)
        _, peaks = climb(attack, start, steps=length, lr=0.1 if fresh else 0.1 * spread)
        rounds += 1
        spread = spread if fresh else max(spread / 3, 1e-6)
        for i in range(min(polished, restarts)):
            peak = {name: X[i] for name, X in peaks.items()}
            for at in (peak, polish(attack, peak, steps=length)[1]):
                found = attack.instance({name: X.numpy() for name, X in at.items()})
                ratio = judge(found)
                if ratio is not None and ratio > best:
                    best, instance, to_best = ratio, found, time.monotonic() - begin
                    hill = at
                tell(rounds, best)
            if over():
                break
    return Found(best, instance, "ascent", rounds, to_best, time.monotonic() - begin)


def target(
    attack: Attack,
    judge: Judge,
    *,
    seed: int = 0,
    seconds: float = 20.0,
    examples: int = 200,
    scale: float = 3.0,
) -> Found:
    """Return the best judged instance found by hypothesis' targeted search, for about `seconds`.

    Needs hypothesis (extra `test`). Every parameter is drawn entry by entry from [-scale, scale],
    zeros and ties included, which a Gaussian start never draws; if the ratio is not a number there
    is no instance. Runs of `examples` each, at least one, each with its own seed; `rounds` counts
    the examples.
    """
    import hypothesis
    from hypothesis import strategies as st

    begin = time.monotonic()
    best: list[Any] = [-np.inf, None, 0.0, 0]
    sizes = {name: int(np.prod(shape, dtype=int)) for name, shape in attack.shapes.items()}
    entry = st.one_of(st.sampled_from([0.0, 1.0, -1.0]), st.floats(-scale, scale, width=32))
    whole = st.fixed_dictionaries(
        {name: st.lists(entry, min_size=size, max_size=size) for name, size in sizes.items()}
    )

    def search(drawn: dict[str, list[float]]) -> None:
        best[3] += 1
        raw = {
            name: torch.tensor(values, dtype=torch.float64).reshape(1, *attack.shapes[name])
            for name, values in drawn.items()
        }
        try:
            with torch.no_grad():
                inside = attack.project(raw)
                inhabited = bool(torch.isfinite(attack.ratio(inside)).all())
        except RuntimeError:  # torch.linalg.LinAlgError is one: an SVD that did not converge
            inhabited = False
        if not inhabited:
            return  # zeros where a direction or a curvature is needed: no instance
        instance = attack.instance({name: X[0].numpy() for name, X in inside.items()})
        ratio = judge(instance)
        if ratio is None or not np.isfinite(ratio):
            return
        hypothesis.target(float(ratio))
        if ratio > best[0]:
            best[:3] = [float(ratio), instance, time.monotonic() - begin]

    for run in itertools.count():
        hypothesis.seed(seed + run)(
            hypothesis.settings(
                max_examples=examples,
                deadline=None,
                database=None,
                suppress_health_check=list(hypothesis.HealthCheck),
                phases=(hypothesis.Phase.generate, hypothesis.Phase.target),
            )(hypothesis.given(whole)(search))
        )()
        if time.monotonic() - begin > seconds:
            break
    return Found(best[0], best[1], "hypothesis", best[3], best[2], time.monotonic() - begin)
