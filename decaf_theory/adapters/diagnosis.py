"""What averaging the factors of trained adapters would lose, per site and in total, in numbers."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from decaf_theory.adapters.agents import Agents
from decaf_theory.arrays import Array, integer, namespace, transpose
from decaf_theory.lowrank import Factors, mix_factors, pad_rank, spectrum
from decaf_theory.measure import (
    consensus_distance,
    imbalance,
    interference_norm,
    mix_norm,
    numerical_rank,
    product_distance,
    schatten,
    sigma_max,
    truncation_error,
)
from decaf_theory.tsvd import TSVD, check_rank, tsvd_of_mix

Numbers = Mapping[str, Any]
LOSSES = ("interference", "truncation", "difference")


def diagnose(agents: Agents, Pi: Array, rank: int | None = None) -> list[dict[str, Any]]:
    """Return one flat dict per site: how the agents differ, and what mixing by Pi [n, N] loses.

    `rank` is r of the truncation at every site, by default the largest rank of the agents there.
    Keys: site, d, k, r; Xi_A and Xi_B, the factor consensus distances, squared and per agent;
    mix, interference, truncation and difference, the Frobenius norms of M_i, I_i, E_i and
    TSVD_r(M_i) - Bbar_i Abar_i as root mean squares over the rows of Pi; relative_interference,
    relative_truncation and relative_difference, each over mix; sigma_max, the largest over the
    agents of sigma_1(A) and sigma_1(B), which is Assumption 2's c for s = 1; imbalance, the largest
    |B'B - AA'|_F / |BA|_F; agent_rank, the least numerical rank of an agent's product, and
    mix_rank, the largest of a mix. B carries the LoRA scale. ValueError: rank, Pi.
    """
    return [
        site_numbers(site, factors.shape, compress(factors), Pi, rank)
        for site, factors in agents.factors.items()
    ]


def compress(factors: Factors) -> Factors:
    """Return small factors B [..., N, p, r], A [..., N, r, q] with the geometry of the given ones.

    B_j = Q_B R_j and A_j = S_j Q_A' with orthonormal columns in Q_B [d, p] and Q_A [k, q], common
    to all agents, p = min(d, N r), q = min(k, N r). Every norm, mix and truncation of factors and
    products is that of (R_j, S_j); Q_B and Q_A are never formed. On the device of the factors.
    """

    def triangle(X: Array) -> Array:
        """Return R of the QR factorization of [X_1 ... X_N], cut back into agents."""
        *lead, N, rows, r = X.shape
        joined = namespace(X).moveaxis(X, -3, -2).reshape(*lead, rows, N * r)
        numpy = isinstance(X, np.ndarray)
        R: Array = np.linalg.qr(joined, mode="r") if numpy else _triangle_by_torch(joined)
        return namespace(R).moveaxis(R.reshape(*lead, -1, N, r), -2, -3)

    return Factors(triangle(factors.B), transpose(triangle(transpose(factors.A))))


def _triangle_by_torch(X: Array) -> Array:
    import torch

    return torch.linalg.qr(X, mode="r").R


def truncate_mix(small: Factors, shape: tuple[int, int], Pi: Array, rank: int | None) -> TSVD:
    """Return TSVD_r(M_i) of compressed factors of d x k products, shape (d, k), for the rows of Pi.

    If r exceeds the compressed size, no singular value is dropped and zeros fill up to r.
    """
    r = min(small.rank, *shape) if rank is None else check_rank(integer("rank", rank), *shape)
    truncated = tsvd_of_mix(small, Pi, min(r, *small.shape))
    return truncated._replace(factors=pad_rank(truncated.factors, r))


def site_numbers(
    site: str, shape: tuple[int, int], small: Factors, Pi: Array, rank: int | None
) -> dict[str, Any]:
    """Return the dict of `diagnose` for one site of d x k products from compressed factors."""
    d, k = shape
    truncated = truncate_mix(small, shape, Pi, rank)
    values = np.concatenate([truncated.singular_values, truncated.tail], axis=-1)
    norms = {
        "mix": mix_norm(truncated),
        "interference": interference_norm(small, Pi),
        "truncation": truncation_error(truncated),
        "difference": product_distance(truncated.factors, mix_factors(small, Pi)),
    }
    absolute = {name: float(schatten(x)) / math.sqrt(len(Pi)) for name, x in norms.items()}
    return {
        "site": site,
        "d": d,
        "k": k,
        "r": truncated.factors.rank,
        "Xi_A": float(consensus_distance(small.A)),
        "Xi_B": float(consensus_distance(small.B)),
        **_with_relative(absolute),
        "sigma_max": float(np.max(sigma_max(small))),
        "imbalance": float(np.max(imbalance(small))),
        "agent_rank": int(np.min(numerical_rank(spectrum(small), d=d, k=k))),
        "mix_rank": int(np.max(numerical_rank(values, d=d, k=k))),
    }


def pool(sites: Iterable[Numbers]) -> dict[str, Any]:
    """Return the numbers of all sites together, as of one block-diagonal update.

    Squares add up: Xi is summed, a norm is the root of the sum of squares over sites (and the mean
    over rows of Pi), a relative norm is the ratio of two such norms. sigma_max and imbalance are
    the largest.
    """
    sites = list(sites)
    absolute = {name: math.hypot(*(site[name] for site in sites)) for name in ("mix", *LOSSES)}
    return {
        "site": "total",
        "Xi_A": sum(site["Xi_A"] for site in sites),
        "Xi_B": sum(site["Xi_B"] for site in sites),
        **_with_relative(absolute),
        "sigma_max": max(site["sigma_max"] for site in sites),
        "imbalance": max(site["imbalance"] for site in sites),
    }


def _with_relative(absolute: Mapping[str, float]) -> dict[str, float]:
    """Return the norms and, for each loss, its ratio to |M|: 0 / 0 is 0, else x / 0 is inf."""
    ratios = {f"relative_{name}": _ratio(absolute[name], absolute["mix"]) for name in LOSSES}
    return {**absolute, **ratios}


def _ratio(x: float, y: float) -> float:
    return x / y if y > 0 else (math.inf if x > 0 else 0.0)
