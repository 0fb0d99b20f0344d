"""Attacks on the bounds for the truncation itself: T18-rank, T19 - T21."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import torch

from decaf_theory import bounds
from decaf_theory.adversary import Attack, truncate
from verification.attacks.mixes import HALVES, mixed, of_mix
from verification.attacks.tensors import Tensors, fro, isometry, norm_of, plain, root, single

# steps are at least exp(-FLOOR), where what is compared is of their size or of its square: shorter
# ones drown in rounding
FLOOR = 12.0
FLOOR_OF_SQUARES = 8.0


def lower_rank(K: int, r: int, d: int, k: int) -> Attack:
    """T18-rank: |TSVD_r(M) - Q|_F against its constant times |M - Q|_F, Q = B A of rank K."""
    constant = bounds.decaf_dlora_lower_rank(K=K, r=r, n=min(d, k))

    def ratio(p: Tensors) -> torch.Tensor:
        Q = p["B"] @ p["A"]
        return fro(truncate(p["M"], r) - Q) / (constant * fro(p["M"] - Q))

    return Attack({"M": (d, k), "B": (d, K), "A": (K, k)}, ratio, partial(plain, rank=r))


def _perturbed(p: Tensors, r: int) -> Tensors:
    """Return M, its change dM = N - M, the gap of M at r and |dM|_op = e < gap/2."""
    sigma = torch.linalg.svdvals(p["M"])
    gap = sigma[:, r - 1] - sigma[:, r]
    e = gap / 2 * torch.exp(-p["length"].abs().clamp(1e-3, FLOOR))
    dM = (e / norm_of(p["D"], "op"))[:, None, None] * p["D"]
    return {"M": p["M"], "dM": dM, "N": p["M"] + dM, "sigma": sigma, "gap": gap, "e": e}


def perturbation(part: str, r: int, d: int, k: int, loose: str = "") -> Attack:
    """T19: |TSVD_r(M + dM) - TSVD_r(M)|_F against its constant times |dM|_F."""

    def ratio(p: Tensors) -> torch.Tensor:
        q = _perturbed(p, r)
        s = q["sigma"]
        gap = q["gap"]
        e = q["e"]
        constant = (s[:, r - 1] - e) / (gap - 2 * e)
        if part:
            share = 2 * e / gap
            constant = 0.5 - (s[:, r - 1] + s[:, r]) * torch.log1p(-share) / (2 * gap * share)
        return fro(truncate(q["N"], r) - truncate(q["M"], r)) / (constant * fro(q["dM"]))

    def instance(p: Mapping[str, Any]) -> Mapping[str, Any]:
        q = _perturbed(single(p), r)
        more = {"part": part} if part else {}
        return plain({name: q[name][0] for name in ("M", "N")}, rank=r, **more)

    return Attack({"M": (d, k), "D": (d, k), "length": ()}, ratio, instance, loose=loose)


def spaces() -> Attack:
    """T19: the sines of the leading singular vectors against Wedin's bound, r = 1."""

    def ratio(p: Tensors) -> torch.Tensor:
        (U, S, Vh), (V, R, Wh) = (torch.linalg.svd(p[x], full_matrices=False) for x in "MN")
        cosines = (U[..., 0] * V[..., 0]).sum(-1), (Vh[:, 0] * Wh[:, 0]).sum(-1)
        sines = root(2 - cosines[0] ** 2 - cosines[1] ** 2)
        bound = bounds.wedin(e_fro=1.0, gap=1.0) * fro(p["N"] - p["M"])
        gap: torch.Tensor = R[:, 0] - S[:, 1]
        return sines * gap / bound

    def project(p: Tensors) -> Tensors:
        """Enlarge N until sigma_1(N) >= 1.01 sigma_2(M): a gap is assumed."""
        needed = 1.01 * torch.linalg.svdvals(p["M"])[:, 1] / norm_of(p["N"], "op")
        return {**p, "N": needed.clamp_min(1.0)[:, None, None] * p["N"]}

    shapes = {"M": (2, 3), "N": (2, 3)}
    return Attack(shapes, ratio, partial(plain, rank=1, part="spaces"), project)


def _balanced(p: Tensors) -> tuple[torch.Tensor, torch.Tensor]:
    """Return B [n, 2, d, r] and A [n, 2, r, k] of two agents with B'B = A A' = diag(x^2)."""
    x = p["x"]
    return isometry(p["U"]) * x[..., None, :], x[..., None] * isometry(p["V"])


def _two_balanced(p: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the two agents as a stored mix."""
    B, A = _balanced(single(p))
    return plain({"B": B[0], "A": A[0]}, weights=[0.5, 0.5])


def factor_distance(r: int, d: int, k: int) -> Attack:
    """T20-distance: min_O |Z - Z'O|_F^2 against (1 + sqrt 2) |P - P'|_F^2 / sigma_r."""
    constant = bounds.factor_distance(product_distance=1.0, sigma_r=1.0) ** 2

    def ratio(p: Tensors) -> torch.Tensor:
        B, A = _balanced(p)
        Z = torch.cat([B, A.mT], -2)
        gap = (Z**2).sum((1, 2, 3)) - 2 * norm_of(Z[:, 0].mT @ Z[:, 1], "nuc")
        P = B @ A
        sigma_r = (p["x"] ** 2).amin(-1).amax(-1)
        return gap * sigma_r / (constant * fro(P[:, 0] - P[:, 1]) ** 2)

    return Attack({"U": (2, d, r), "V": (2, r, k), "x": (2, r)}, ratio, _two_balanced)


def aligned(r: int, d: int, k: int) -> Attack:
    """T20-aligned: |(B_1 O - B_2)(O'A_1 - A_2)|_F against the smaller form of its bound."""
    letters = {"spread": 1.0, "mean_square": 1.0}
    linear = bounds.aligned_interference(**letters, sigma_r=0.0)
    square = bounds.aligned_interference(**{**letters, "spread": 1e9}, sigma_r=1.0)

    def ratio(p: Tensors) -> torch.Tensor:
        B, A = _balanced(p)
        O = isometry(B[:, 0].mT @ B[:, 1] + A[:, 0] @ A[:, 1].mT)  # noqa: E741
        left = fro((B[:, 0] @ O - B[:, 1]) @ (O.mT @ A[:, 0] - A[:, 1]))
        P = B @ A
        far = fro(P[:, 0] - P[:, 1])
        sigma_r = (p["x"] ** 2).amin(-1).amax(-1)
        return torch.maximum(left / (linear * far), left * sigma_r / (square * far**2))

    return Attack({"U": (2, d, r), "V": (2, r, k), "x": (2, r)}, ratio, _two_balanced)


def second_order(r: int, d: int, k: int) -> Attack:
    """T21: |E|_F near a product P0 of rank r against its bound of second order, weights 1/2."""

    def agents(p: Tensors) -> tuple[torch.Tensor, ...]:
        """Return P0, its sigma_r, and the agents' factors at distances below sigma_r."""
        P0 = p["B0"] @ p["A0"]
        sigma_r = torch.linalg.svdvals(P0)[:, r - 1]
        size = {name: norm_of(X, "op") for name, X in p.items() if name != "length"}
        reach = size["dB"] * size["A0"][:, None] + size["B0"][:, None] * size["dA"]
        reach = (reach + size["dB"] * size["dA"]).amax(-1)
        h = torch.exp(-p["length"].abs().clamp(0.05, FLOOR_OF_SQUARES)) * (
            sigma_r / reach
        ).clamp_max(1.0)
        h = h[:, None, None, None]
        return P0, sigma_r, p["B0"][:, None] + h * p["dB"], p["A0"][:, None] + h * p["dA"]

    def ratio(p: Tensors) -> torch.Tensor:
        P0, sigma_r, B, A = agents(p)
        apart = B @ A - P0[:, None]
        mean = apart.mean(1)
        delta = norm_of(apart, "op").amax(-1)
        squares = (apart**2).sum((2, 3)).mean(1) + (mean**2).sum((1, 2))
        constant = bounds.truncation_second_order(
            mean_square=1.0, square_mean=0.0, sigma_r=1.0, delta=0.0
        )
        return norm_of(P0 + mean, "fro", skip=r) * (sigma_r - delta) / (constant * squares)

    def instance(p: Mapping[str, Any]) -> Mapping[str, Any]:
        P0, _, B, A = agents(single(p))
        return plain({"B": B[0], "A": A[0], "reference": P0[0]}, weights=[0.5, 0.5])

    common = {"B0": (d, r), "A0": (r, k)}
    apart = {"dB": (2, d, r), "dA": (2, r, k), "length": ()}
    return Attack({**common, **apart}, ratio, instance)


def by_spread(weights: Sequence[float], size: tuple[int, int, int]) -> Attack:
    """T21-global: |E|_* against its bound by the spread of the products about TSVD_r(M)."""
    r = size[-1]

    def ratio(p: Tensors) -> torch.Tensor:
        M, _ = mixed(p, weights)
        w = torch.tensor(weights, dtype=M.dtype)
        # sum_j pi_j |P_j - P|^2 = sum_j pi_j |P_j - M|^2 + |E|^2
        about = fro(p["B"] @ p["A"] - M[:, None]) ** 2 @ w
        square = about + norm_of(M, "fro", skip=r) ** 2
        limit = _largest(square, torch.linalg.svdvals(M)[:, :r])
        return norm_of(M, "nuc", skip=r) / limit

    return of_mix(weights, size, ratio)


def _largest(mean_square: torch.Tensor, kept: torch.Tensor) -> torch.Tensor:
    """Return `bounds.truncation_by_spread` of each restart, mean_square [n], kept [n, r]."""
    r = kept.shape[-1]
    found = torch.empty_like(mean_square)
    for q in range(r, 0, -1):
        block = kept[:, r - q :]
        mean = block.mean(-1)
        square = mean_square + ((block - mean[:, None]) ** 2).sum(-1)
        level = root(mean**2 + square / q)
        limit = square / (level + mean)
        found = limit if q == r else torch.where(level <= kept[:, r - q - 1], limit, found)
    return found


def by_reference(weights: Sequence[float], size: tuple[int, int, int]) -> Attack:
    """T21-global: |E|_* against its bound by a product P0 of rank r, which is free."""
    d, k, r = size
    constant = bounds.truncation_by_reference(
        mean_square=1.0, misalignment=0.0, sigma_r=1.0, reference_r=1.0
    )

    def ratio(p: Tensors) -> torch.Tensor:
        M, _ = mixed(p, weights)
        P0 = p["B0"] @ p["A0"]
        s, values = (torch.linalg.svdvals(X)[:, :r] for X in (M, P0))
        w = torch.tensor(weights, dtype=M.dtype)
        square = fro(p["B"] @ p["A"] - P0[:, None]) ** 2 @ w
        square = square + 2 * ((s * values).sum(-1) - (M * P0).sum((1, 2)))
        bound: torch.Tensor = constant * square / torch.maximum(s[:, -1], values[:, -1])
        return norm_of(M, "nuc", skip=r) / bound

    def instance(p: Mapping[str, Any]) -> Mapping[str, Any]:
        agents = {name: p[name] for name in "BA"}
        reference = (p["B0"] @ p["A0"]).tolist()
        return plain(agents, weights=list(weights), reference=reference)

    m = len(weights)
    agents = {"B": (m, d, r), "A": (m, r, k)}
    return Attack({**agents, "B0": (d, r), "A0": (r, k)}, ratio, instance)


def aligned_error(r: int, d: int, k: int) -> Attack:
    """T30: DeCAF's balanced output, rotated onto DLoRA's, against the bound on their distance."""
    near = bounds.factor_distance(product_distance=1.0, sigma_r=1.0)

    def ratio(p: Tensors) -> torch.Tensor:
        M, Q = mixed(p, HALVES)
        B = p["B"].mean(1)
        A = p["A"].mean(1)
        U, S, Vh = torch.linalg.svd(M, full_matrices=False)
        sigma = root(S[:, :r])
        Z = torch.cat([U[..., :r] * sigma[:, None], Vh[:, :r].mT * sigma[:, None]], 1)
        mean = torch.cat([B, A.mT], 1)
        square = (Z**2).sum((1, 2)) + (mean**2).sum((1, 2)) - 2 * norm_of(Z.mT @ mean, "nuc")
        least = torch.linalg.svdvals(Q)[:, r - 1]
        apart = fro(Z[:, :d] @ Z[:, d:].mT - Q)
        bound = near * apart / root(torch.maximum(least, S[:, r - 1]))
        bound = bound + fro(B.mT @ B - A @ A.mT) / root(8 * least)
        return root(square) / bound

    return of_mix(HALVES, (d, k, r), ratio)


def price(r: int, d: int, k: int) -> Attack:
    """R1: the best error of rank r against that with A's rows as row space."""

    def ratio(p: Tensors) -> torch.Tensor:
        V = isometry(p["A"])
        return norm_of(p["W"], "fro", skip=r) / fro(p["W"] - p["W"] @ V.mT @ V)

    return Attack({"W": (d, k), "A": (r, k)}, ratio, plain)
