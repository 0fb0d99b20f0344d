"""What a merge kept, dropped and rounded, per site and in total, in numbers and in words."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from decaf_theory.adapters.combining import Mixed
from decaf_theory.adapters.sizes import over
from decaf_theory.adapters.tables import percentage
from decaf_theory.lowrank import Factors
from decaf_theory.measure import product_distance

LOST = ("dropped", "rounding")


def numbers_of(site: str, mixed: Mixed, stored: Factors) -> dict[str, Any]:
    """Return the numbers of one site of one merge: shape, rank, and Frobenius norms.

    mix: |M|. dropped: |M - B A|. rounding: of B A less the product of the `stored` factors.
    """
    d, k = stored.shape
    norms = {
        "mix": mixed.mix,
        "dropped": mixed.dropped,
        "rounding": float(product_distance(mixed.factors, stored)),
    }
    return {"site": site, "d": d, "k": k, "rank": stored.rank, **_with_shares(norms)}


def certificate(
    about: Mapping[str, Any], names: Sequence[str], merges: Sequence[Sequence[Mapping[str, Any]]]
) -> dict[str, Any]:
    """Return the certificate of merges by these names, from the numbers of the sites of each."""
    rows = [
        {"adapter": name, **numbers}
        for name, sites in zip(names, merges, strict=True)
        for numbers in sites
    ]
    total = {name: math.hypot(*(row[name] for row in rows)) for name in ("mix", *LOST)}
    return {**about, "adapters": list(names), "sites": rows, "total": _with_shares(total)}


def _with_shares(norms: Mapping[str, float]) -> dict[str, float]:
    mix = norms["mix"]
    shares = {f"relative_{name}": over(norms[name], mix) for name in LOST}
    return {**norms, **shares}


def certificate_words(found: Mapping[str, Any]) -> str:
    """Return one line: what all sites of all merges lost of the mixed update."""
    dropped, rounding = (found["total"][f"relative_{name}"] for name in LOST)
    return (
        f"Dropped: {percentage(dropped)} % of the mixed update (Frobenius norm, all matrices "
        f"pooled). Rounded to {found['dtype']}: {percentage(rounding)} %."
    )
