"""Attacks on the bounds on smoothness: T1, T2, T4-mixed, T5, T6, T7.

The letters L, G, s, c of an attack are fixed, so that its bound is a number of
`decaf_theory.bounds`; points, gradients and displacements are free within the assumptions.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

import torch

from decaf_theory import bounds
from decaf_theory.adversary import Attack
from verification.attacks.tensors import Tensors, blocks, fro, plain, single, within
from verification.claims.smoothness import frozen

S = 0.75
C = 1.5
L = 1.25
FLOOR = 12.0  # points are at least c exp(-12) apart: nearer ones drown in rounding
POINTS = ("B", "A", "B_end", "A_end")


def _pair(d: int, k: int, r: int) -> dict[str, tuple[int, ...]]:
    return {"B": (d, r), "A": (r, k), "B_end": (d, r), "A_end": (r, k)}


def _step(p: Tensors, norm: str) -> torch.Tensor:
    return blocks(p["B"] - p["B_end"], p["A"] - p["A_end"], norm)


def _product_step(p: Tensors) -> torch.Tensor:
    """Return |B A - B'A'|_F, from the midpoints: the products themselves would cancel."""
    middle_B = (p["B"] + p["B_end"]) / 2
    middle_A = (p["A"] + p["A_end"]) / 2
    return fro((p["B"] - p["B_end"]) @ middle_A + middle_B @ (p["A"] - p["A_end"]))


def product_moves(norm: str) -> Attack:
    """T1: |W - W'| against C |w - w'|."""
    constant = bounds.product_lipschitz(s=S, c=C, norm=norm)

    def ratio(p: Tensors) -> torch.Tensor:
        return S * _product_step(p) / (constant * _step(p, norm))

    return Attack(
        _pair(3, 2, 2),
        ratio,
        partial(plain, c=C, s=S, norm=norm),
        within(C, *POINTS),
    )


def _ends(p: Tensors, G: float) -> Tensors:
    """Return the two points and the gradients g, h there, by midpoints and differences.

    The points are `length` c exp(-|length|) apart; with the midpoints that much inside the balls of
    radius c and G, so are they. |g - h|_F <= L |W - W'|_F. All differences scale with the length:
    the suprema lie where it vanishes, which is down a valley in the entries of the points.
    """
    h = C * torch.exp(-p["length"].abs().clamp_max(FLOOR))[:, None, None]
    size = blocks(p["dB"], p["dA"], "euclid")[:, None, None]
    dB = h * p["dB"] / size
    dA = h * p["dA"] / size
    B = (C - h / 2) * p["B"]
    A = (C - h / 2) * p["A"]
    moved = S * fro(dB @ A + B @ dA)[:, None, None]
    dg = (L * moved).clamp_max(G) * p["dg"]
    return {
        "B": B,
        "A": A,
        "dB": dB,
        "dA": dA,
        "g": (G - fro(dg)[:, None, None] / 2) * p["g"],
        "dg": dg,
    }


def _slope(
    constant: float, norm: str, G: float, r: int, displacement: str = "", loose: str = ""
) -> Attack:
    """T2, T4-mixed: |grad phi(w) - grad phi(w')| against constant |w - w'|.

    The gradients g, h at the two ends are any with |g - h|_F <= L |W - W'|_F and norms <= G.
    """

    def ratio(p: Tensors) -> torch.Tensor:
        e = _ends(p, G)
        change_B = e["dg"] @ e["A"].mT + e["g"] @ e["dA"].mT
        change_A = e["B"].mT @ e["dg"] + e["dB"].mT @ e["g"]
        step = blocks(e["dB"], e["dA"], displacement or norm)
        return S * blocks(change_B, change_A, norm) / (constant * step)

    def project(p: Tensors) -> Tensors:
        p = within(1.0, "B", "A", "g")(p)
        return {**p, "dg": p["dg"] / fro(p["dg"]).clamp_min(1.0)[:, None, None]}

    def instance(p: Mapping[str, Any]) -> Mapping[str, Any]:
        e = _ends(single(p), G)
        pairs = {"B": "dB", "A": "dA", "g": "dg"}
        start = {name: (e[name] + e[d] / 2)[0] for name, d in pairs.items()}
        end = {name: (e[name] - e[d] / 2)[0] for name, d in pairs.items()}
        points = {**start, "B_end": end["B"], "A_end": end["A"], "h": end["g"]}
        return plain(points, L=L, G=G, s=S, c=C, norm=norm)

    d = 3
    k = 2
    middle = {"B": (d, r), "A": (r, k), "g": (d, k)}
    steps = {"dB": (d, r), "dA": (r, k), "dg": (d, k), "length": ()}
    return Attack({**middle, **steps}, ratio, instance, project, loose)


def lemma1(norm: str, G: float, r: int) -> Attack:
    """T2: the change of the factor gradient against Lemma 1's constant times |w - w'|."""
    constant = bounds.lemma1_smoothness(L=L, C=S * C, c=C, G=G, s=S, r=r)
    loose = "" if r == 1 else "its sqrt(r) is not needed (T2-sharp)"
    return _slope(constant, norm, G, r, loose=loose)


def sharp(norm: str, G: float, r: int) -> Attack:
    """T2-sharp: the same against the constant L^*."""
    return _slope(bounds.smoothness_sharp(L=L, c=C, G=G, s=S), norm, G, r)


def mixed_norm(G: float, r: int) -> Attack:
    """T4-mixed: the same with gradients in the sum norm and steps in the Euclidean norm."""
    return _slope(bounds.smoothness_mixed_norm(L=L, c=C, G=G, s=S), "sum", G, r, "euclid")


def factor_gradient() -> Attack:
    """T5: |grad phi| against sqrt(2) s c |grad f|."""
    constant = bounds.factor_gradient(s=S, c=C, g=1.0)

    def ratio(p: Tensors) -> torch.Tensor:
        size = blocks(p["g"] @ p["A"].mT, p["B"].mT @ p["g"], "euclid")
        return S * size / (constant * fro(p["g"]))

    shapes = {"B": (3, 2), "A": (2, 4), "g": (3, 4)}
    return Attack(shapes, ratio, partial(plain, s=S, c=C), within(C, "B", "A"))


def frozen_step() -> Attack:
    """T6: the change of grad_B against s^2 L sigma_1(A)^2 |dB|, for a quadratic loss."""
    s = frozen.S
    L = frozen.L

    def ratio(p: Tensors) -> torch.Tensor:
        top = torch.linalg.svdvals(p["A"])[:, 0]
        step = p["B"] - p["B_end"]
        constant = bounds.frozen_smoothness(s=s, L=L, sigma_max_A=1.0) * top**2
        steepness: torch.Tensor = s**2 * L * fro(step @ p["A"] @ p["A"].mT) / (constant * fro(step))
        return steepness

    return Attack({"A": (2, 4), "B": (3, 2), "B_end": (3, 2)}, ratio, plain)


GS = {"small G": 0.1 * 2 * S * L * C**2, "large G": 10 * 2 * S * L * C**2}
