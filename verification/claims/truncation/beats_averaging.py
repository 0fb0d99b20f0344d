"""T17: truncating the mixed product never loses to averaging the factors, in one step."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from decaf_theory.arrays import namespace
from decaf_theory.measure import NORMS, interference, schatten, truncation_error
from decaf_theory.tsvd import tsvd_of_mix
from verification.claim import Claim, Context, Instance, Row
from verification.curves.truncation import against_interference
from verification.evidence import at_most
from verification.instances.mixes import Mix, allowance, load, mix_apart, mixes


def rows(ctx: Context) -> Iterator[Row]:
    r"""In every norm, truncating the mix errs no more than averaging the factors does.

    With $M = \sum_j \pi_j B_j A_j$, $I = M - \bar B \bar A$ and $E = M - \mathrm{TSVD}_r(M)$:
    $\sigma_{r+i}(M) \le \sigma_i(I)$ for every $i$, hence $\|E\| \le \|I\|$ in every unitarily
    invariant norm; likewise $\|E\| \le \|M - B_j A_j\|$ for every agent $j$.

    Assumptions: weights $\pi_j \ge 0$ with sum one; factors of inner dimension $r$.

    Proof: $\bar B \bar A$ has rank at most $r$, so $\sigma_{r+1}(\bar B \bar A) = 0$ and Weyl's
    inequality $\sigma_{i+j-1}(X+Y) \le \sigma_i(X) + \sigma_j(Y)$ with $j = r+1$ gives
    $\sigma_{r+i}(M) \le \sigma_i(I)$. These are the singular values of $E$, and unitarily invariant
    norms grow with each of them. The same holds with $B_j A_j$ for $\bar B \bar A$.

    Extremal: two agents, weights 1/2, products $e_1 e_1'$ and $e_2 e_2'$, $r = 1$: all three norms
    of $E$ and of $I$ equal 1/2.

    Source: derived here.
    """
    for mix in mixes(ctx, instances=ctx.pick(60, 2000)):
        yield from _against_averaging(mix)
        yield from _against_an_agent(mix)
    yield from _against_averaging(load(extremal()))
    yield from against_interference(ctx)


def _against_averaging(mix: Mix) -> Iterator[Row]:
    truncated = tsvd_of_mix(mix.factors, mix.Pi, mix.factors.rank)
    lost = interference(mix.factors, mix.Pi)
    values = namespace(lost).linalg.svdvals(lost)
    slip = allowance(mix)
    for norm in NORMS:
        yield at_most(
            f"|E| <= |I|, {norm}",
            truncation_error(truncated, norm),
            schatten(values, norm),
            rounding=slip,
            norm=norm,
            **mix.params,
        )
    width = truncated.tail.shape[-1]
    if width:
        yield at_most(
            "sigma_{r+i}(M) <= sigma_i(I)",
            truncated.tail,
            values[..., :width],
            rounding=slip[..., None],
            **mix.params,
        )


def _against_an_agent(mix: Mix) -> Iterator[Row]:
    truncated = tsvd_of_mix(mix.factors, mix.Pi, mix.factors.rank)
    apart = mix_apart(mix)
    each = mix._replace(Pi=namespace(mix.Pi).eye(mix.Pi.shape[-1], dtype=mix.Pi.dtype))
    slip = allowance(mix)[..., None] + allowance(each)[:, None]  # of M and of B_j A_j
    for norm in NORMS:
        case = f"|E| <= |M - B_j A_j|, {norm}"
        yield at_most(
            case,
            truncation_error(truncated, norm)[..., None],
            schatten(apart, norm),
            rounding=slip,
            norm=norm,
            **mix.params,
        )


def replay(instance: Instance) -> Row:
    """Return the row |E|_F <= |I|_F of one stored mix."""
    return next(_against_averaging(load(instance)))


def extremal() -> Instance:
    """Return two agents with orthogonal rank-one products: |E| = |I| = 1/2 in every norm."""
    e1 = [[1], [0]]
    e2 = [[0], [1]]
    return {"B": [e1, e2], "A": [[[1, 0]], [[0, 1]]], "weights": [0.5, 0.5]}


def attacks() -> dict[str, Any]:
    """Return the attacks on T17."""
    from verification.attacks.mixes import truncation_against_averaging

    return {"fro": truncation_against_averaging()}


CLAIMS = [
    Claim(
        "T17",
        "truncation",
        "derived",
        rows,
        attacks=attacks,
        replay=replay,
        instance=extremal,
        reaches={
            "|E| <= |I|, fro": 1,
            "|E| <= |I|, op": 1,
            "|E| <= |I|, nuc": 1,
            "sigma_{r+i}(M) <= sigma_i(I)": 1,
            "|E| <= |M - B_j A_j|, fro": 0.47,
            "|E| <= |M - B_j A_j|, op": 0.78,
            "|E| <= |M - B_j A_j|, nuc": 0.16,
            "|E| <= |I| against rank, fro": 0.98,
            "|E| against |I| and rank, fro": 0.98,
        },
    )
]
