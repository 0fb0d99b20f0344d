"""What averaging the factors of trained adapters would lose, per site and in total, in numbers."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np

from decaf_theory.adapters.agents import Agents, require_rank
from decaf_theory.adapters.geometry import pooled_geometry, site_geometry
from decaf_theory.adapters.sizes import over, times_power, unit_size
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
    truncation_error,
)
from decaf_theory.tsvd import TSVD, check_rank, tsvd_of_mix
from decaf_theory.tsvd.mixing import exponent_of, scale_by

Numbers = Mapping[str, Any]
LOSSES = ("interference", "truncation", "difference")


def diagnose(
    agents: Agents,
    Pi: Array,
    rank: int | None = None,
    *,
    done: Callable[[], object] = lambda: None,
) -> list[dict[str, Any]]:
    """Return one flat dict per site: how the agents differ, and what mixing by Pi [n, N] loses.

    `rank` is r of the truncation at every site, by default the largest rank of the agents there.
    Keys: those of `site_numbers` and of `geometry.site_geometry`. Sites are taken one by one, and
    `done` is called after each. Powers of two in the factors change no digit. B carries the LoRA
    scale. ValueError: rank, Pi, an update beyond the range of float64.
    """
    require_rank(rank, {site: factors.shape for site, factors in agents.factors.items()})
    sites = []
    for site, factors in agents.factors.items():
        small = compress(factors)
        numbers = site_numbers(site, factors.shape, small, Pi, rank)
        sites.append(numbers | site_geometry(factors.shape, small, Pi, numbers["r"]))
        done()
    return sites


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
        e = exponent_of(namespace(X).max(abs(X)))  # LAPACK takes huge and tiny numbers otherwise
        R = scale_by(_triangle(scale_by(joined, -e)), e)
        return namespace(R).moveaxis(R.reshape(*lead, -1, N, r), -2, -3)

    return Factors(triangle(factors.B), transpose(triangle(transpose(factors.A))))


def _triangle(X: Array) -> Array:
    """Return R of X = Q R; the array API's qr would form Q as well."""
    if isinstance(X, np.ndarray):
        return np.linalg.qr(X, mode="r")
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
    """Return the losses at one site of d x k products, shape (d, k), from compressed factors.

    Keys: site, d, k, r; Xi_A and Xi_B, the factor consensus distances, squared and per agent;
    mix, interference, truncation and difference, the Frobenius norms of M_i, I_i, E_i and
    TSVD_r(M_i) - Bbar_i Abar_i as root mean squares over the rows of Pi; relative_interference,
    relative_truncation and relative_difference, each over mix; sigma_max, the largest over the
    agents of sigma_1(A) and sigma_1(B), which is Assumption 2's c for s = 1; imbalance, the largest
    |B'B - AA'|_F / |BA|_F; agent_rank, the least numerical rank of an agent's product, and
    mix_rank, the largest of a mix. ValueError: rank, Pi, norms beyond the range of float64.
    """
    d, k = shape
    unit, (of_B, of_A) = unit_size(small)
    truncated = truncate_mix(unit, shape, Pi, rank)
    values = np.concatenate([truncated.singular_values, truncated.tail], axis=-1)
    norms = {
        "mix": mix_norm(truncated),
        "interference": interference_norm(unit, Pi),
        "truncation": truncation_error(truncated),
        "difference": product_distance(truncated.factors, mix_factors(unit, Pi)),
    }
    absolute = {name: float(schatten(x)) / math.sqrt(len(Pi)) for name, x in norms.items()}
    _require_range(site, max(absolute.values()), of_B + of_A)
    return {
        "site": site,
        "d": d,
        "k": k,
        "r": truncated.factors.rank,
        "Xi_A": float(consensus_distance(small.A)),
        "Xi_B": float(consensus_distance(small.B)),
        **{name: times_power(x, of_B + of_A) for name, x in absolute.items()},
        **_relative(absolute),
        "sigma_max": max(_largest(unit.B, of_B), _largest(unit.A, of_A)),
        "imbalance": float(np.max(imbalance(small))),
        "agent_rank": int(np.min(numerical_rank(spectrum(unit), d=d, k=k))),
        "mix_rank": int(np.max(numerical_rank(values, d=d, k=k))),
    }


def _largest(X: Array, e: int) -> float:
    """Return the largest singular value of the matrices X 2^e."""
    return times_power(np.max(np.linalg.matrix_norm(X, ord=2)), e)


def _require_range(site: str, unit: float, e: int) -> None:
    """Raise ValueError if the norm unit 2^e of an update has no digits left in float64."""
    size = times_power(unit, e)
    if unit > 0 and not sys.float_info.min <= size < math.inf:
        where, hint = ("beyond", "down") if size > 1 else ("below", "up")
        raise ValueError(
            f"site {site}: its update is about 2^{e + round(math.log2(unit))}, {where} the range "
            f"of float64; scale the adapters {hint}"
        )


def pool(sites: Iterable[Numbers]) -> dict[str, Any]:
    """Return the numbers of all sites together, as of one block-diagonal update.

    Squares add up: Xi is summed, a norm is the root of the sum of squares over sites (and the mean
    over rows of Pi), a relative norm is the ratio of two such norms. sigma_max and imbalance are
    the largest. What `diagnose` adds is pooled by `geometry.pooled_geometry`, if it is there.
    """
    sites = list(sites)
    absolute = {name: math.hypot(*(site[name] for site in sites)) for name in ("mix", *LOSSES)}
    return {
        "site": "total",
        "Xi_A": sum(site["Xi_A"] for site in sites),
        "Xi_B": sum(site["Xi_B"] for site in sites),
        **absolute,
        **_relative(absolute),
        "sigma_max": max(site["sigma_max"] for site in sites),
        "imbalance": max(site["imbalance"] for site in sites),
        **(pooled_geometry(sites) if "aligned" in sites[0] else {}),
    }


def _relative(absolute: Mapping[str, float]) -> dict[str, float]:
    """Return the ratio of each loss to |M|."""
    return {f"relative_{name}": over(absolute[name], absolute["mix"]) for name in LOSSES}
