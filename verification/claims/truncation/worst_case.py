"""T16: the largest truncation error under Assumption 2, in three norms."""

from __future__ import annotations

from collections.abc import Iterator
from math import pi
from typing import Any

import numpy as np

from decaf_theory import bounds
from decaf_theory.arrays import host
from decaf_theory.lowrank import Factors
from decaf_theory.measure import NORMS, sigma_max, truncation_error
from decaf_theory.problems import FRAMES
from decaf_theory.tsvd import tsvd_of_mix
from verification.claim import Claim, Context, Instance, Row
from verification.curves.truncation import against_worst_case
from verification.evidence import at_most, attained, ulps
from verification.instances.mixes import Mix, allowance, load, mixes, stored
from verification.instances.omega import clip, closing_angles, each, mix_of, mix_on_omega


def rows(ctx: Context) -> Iterator[Row]:
    r"""Under Assumption 2 the truncation error has a bound that is sharp in r, n and pi_max.

    With $n = \min(d, k) > r$, $p = \min(r, n - r)$ and $\pi_{max} = \max_j \pi_j$:
    $\|E\|_{op} \le c^2 \min(\frac{r}{r+1}, 1 - \pi_{max})$,
    $\|E\|_F \le c^2 \min(f, \sqrt p\,(1 - \pi_{max}))$ with $f = \sqrt r/2$ if $n \ge 2r$, else
    $f = r \sqrt{n - r}/n$, and $\|E\|_* \le c^2 \min(\frac{r(n - r)}{n}, p\,(1 - \pi_{max}))$.
    For each $(r, n, \pi_{max})$ some agents with that largest weight attain it, in each norm; not
    for each list of weights: with $(0.4, 0.3, 0.3)$, $r = 3$, $n = 5$ a search reaches only 0.85 of
    the Frobenius bound.

    Assumptions: Assumption 2, $\sigma_1(A_j), \sigma_1(B_j) \le c$; weights $\pi_j \ge 0$ with sum
    one.

    Proof: take $c = 1$. $\|M\|_* \le \sum_j \pi_j \|B_j\|_F \|A_j\|_F \le r$. Let
    $t = \sigma_r(M)$, so that $\sum_{i>r} \sigma_i \le r - rt$ and each $\sigma_i \le t$. Operator:
    $(r + 1) \sigma_{r+1} \le r$. Nuclear: $\min(r - rt, (n - r) t)$ is largest at $t = r/n$.
    Frobenius: $\sum_{i>r} \sigma_i^2 \le t \sum_{i>r} \sigma_i \le \min(r t (1 - t), (n - r) t^2)$,
    largest at $t = 1/2$ if $n \ge 2r$ and at $t = r/n$ otherwise. The terms $1 - \pi_{max}$: the
    candidate $\pi_j B_j A_j$ of the heaviest agent has rank $\le r$ and leaves
    $R = \sum_{i \ne j} \pi_i B_i A_i$ with $\|R\|_{op} \le 1 - \pi_{max}$, and $E$ has at most
    $n - r$ singular values, each at most $\sigma_{r+i}(M) \le \sigma_i(R)$, of which
    $\|R\|_* \le r (1 - \pi_{max})$.

    Extremal: cyclic coordinate sets: $n'$ agents of weight $1/n'$, agent $j$ on coordinates
    $j, \ldots, j + r - 1$ modulo $n'$, so that $M = \frac{r}{n'} c^2 I_{n'}$; $n' = r + 1$ for the
    operator norm, $\min(n, 2r)$ for Frobenius, $n$ for nuclear. Frobenius for any
    $\pi_{max} \le 1/2$ where $n \ge 2r$: $B_j = A_j' = c\, u_j \otimes I_r$ with $u_j \in R^2$ at
    angles $\theta_j$, $\sum_j \pi_j e^{2 i \theta_j} = 0$. Operator norm at any weights:
    $r + 1$ agents of which agent $j$ omits coordinate $j$, $M = c^2 \mathrm{diag}(1 - \pi_j)$. The
    terms $1 - \pi_{max}$ in all norms for $\pi_{max} \ge 1/2$: a heavy agent and others on
    coordinates orthogonal to its own. For each $(r, n, \pi_{max})$: any
    $M = c^2 \mathrm{diag}(m)$ with $0 \le m_i \le 1$, $\sum_i m_i = r$, of which $r$ entries are at
    least $\pi_{max}$ and the others at most $1 - \pi_{max}$, is a mean of projections on $r$
    coordinates: the heavy agent's on those $r$, and what is left, of light enough agents, by
    systematic sampling.

    Source: derived here.
    """
    for mix in mixes(ctx, instances=ctx.pick(60, 2000)):
        if min(mix.factors.shape) > mix.factors.rank:
            yield from _bounded(mix_on_omega(mix, 1.5), 1.5)
            flat = mix.factors.map(lambda X: clip(1e3 * X / host(abs(X)).max(), 1.5))
            yield from _bounded(mix._replace(family=f"{mix.family}, flat", factors=flat), 1.5)
    for r, d, k in ((1, 2, 3), (2, 4, 3), (2, 6, 5), (3, 4, 7), (3, 8, 9)):
        yield from _cyclic_rows(ctx, r, d, k)
    for mix in _heavy_and_planar(ctx):
        yield from _bounded(mix, 1.0)
    yield from against_worst_case(ctx)
    for r, n in ((1, 2), (1, 4), (2, 3), (2, 5), (3, 4), (3, 5)):
        for pi_max in (0.15, 0.4, 0.5, 0.7):
            for norm in NORMS:
                mix = _sharpest(ctx, norm, r, n, pi_max)
                yield from attained(next(_bounded(mix, 1.0, (norm,))))
    yield replay(given_weights())


def _bounded(mix: Mix, c: float, norms: tuple[str, ...] = NORMS) -> Iterator[Row]:
    r = mix.factors.rank
    n = min(mix.factors.shape)
    truncated = tsvd_of_mix(mix.factors, mix.Pi, r)
    top = sigma_max(mix.factors)
    # which of the bound's terms are the least
    part = {"narrow": n < 2 * r, "heavy": bool((host(mix.Pi).max(-1) > 0.5).all())}
    # an SVD is off by a small multiple of max(d, k) eps sigma_1
    allowed = c * (1 + ulps(4 * max(*mix.factors.shape, r)))
    held = (top <= allowed).all(-1)[:, None]
    for norm in norms:
        bound = each(
            lambda pi_max, norm=norm: bounds.truncation_worst_case(
                c=c, r=r, n=n, pi_max=pi_max, norm=norm
            ),
            pi_max=host(mix.Pi).max(-1),
        )
        where = {
            "rounding": allowance(mix),
            "held": held,
            "norm": norm,
            "c": c,
            **part,
            **mix.params,
        }
        yield at_most(
            f"|E| <= worst case, {norm}", truncation_error(truncated, norm), bound, **where
        )


def cyclic(*, d: int, k: int, r: int, size: int) -> tuple[Factors, np.ndarray]:
    """Return `size` agents on r cyclic coordinates of `size` each: M = (r / size) I_size."""
    B = np.zeros((size, d, r))
    for j in range(size):
        B[j, [(j + q) % size for q in range(r)], range(r)] = 1.0
    A = np.zeros((size, r, k))
    A[..., :size] = B[:, :size].swapaxes(-1, -2)
    return Factors(B, A), np.full(size, 1 / size)


def _cyclic_rows(ctx: Context, r: int, d: int, k: int) -> Iterator[Row]:
    n = min(d, k)
    for norm, size in (("op", r + 1), ("fro", min(n, 2 * r)), ("nuc", n)):
        factors, weights = cyclic(d=d, k=k, r=r, size=size)
        yield from _bounded(mix_of(ctx, "cyclic coordinates", *factors, weights), 1.0, (norm,))


def _heavy_and_planar(ctx: Context) -> Iterator[Mix]:
    """The frames that attain the bound at unequal weights."""

    def made(family: str, frame: tuple[Factors, Any]) -> Mix:
        (B, A), weights = frame
        return mix_of(ctx, family, B, A, weights)

    for weights in ([0.5, 0.5], [0.4, 0.35, 0.25], [0.5, 0.2, 0.2, 0.1]):
        angles = closing_angles(weights) / 2
        yield made("planar", FRAMES["planar"](d=5, k=4, r=2, angles=angles, weights=weights))
    for weights in ([0.5, 0.3, 0.2], [0.35, 0.33, 0.32], [0.9, 0.06, 0.04]):
        frame, _ = FRAMES["omitted"](d=5, k=3, r=2)
        yield made("one coordinate omitted", (frame, weights))
    for heavy in (0.5, 0.6, 0.9, 0.999):
        weights = [heavy, 1 - heavy]
        yield made("heavy", FRAMES["orthogonal"](d=4, k=6, r=2, weights=weights))
        (B, A), _ = FRAMES["orthogonal"](d=6, k=6, r=3, weights=weights)
        yield made("heavy, n < 2r", (Factors(B[:, :5], A[:, :, :4]), weights))


def _sharpest(ctx: Context, norm: str, r: int, n: int, pi_max: float) -> Mix:
    """Return agents with n = min(d, k) and the largest weight pi_max that attain the bound."""
    size = {"op": r + 1, "fro": min(n, 2 * r), "nuc": n}[norm]  # of the coordinates that are used
    # the dropped entries of M: all equal to the others, if the heavy agent lets them
    dropped = min(r / size, 1 - pi_max, r * (1 - pi_max) / (size - r))
    m = np.full(size, dropped)
    m[:r] = (r - (size - r) * dropped) / r
    rest = m.copy()
    rest[:r] -= pi_max
    sets, shares = _sampled(rest / (1 - pi_max))
    parts = np.ceil((1 - pi_max) * shares / pi_max).astype(int)  # each of at most pi_max
    light = np.repeat((1 - pi_max) * shares / parts, parts)
    chosen = np.concatenate([np.arange(r)[None], np.repeat(sets, parts, axis=0)])
    B = np.eye(n + 2, n)[:, chosen].swapaxes(0, 1)
    A = np.eye(n)[chosen]
    return mix_of(ctx, "sharpest", B, A, [pi_max, *light])


def _sampled(m: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return sets of r coordinates [p, r] and shares [p] with mean diag(m), 0 <= m <= 1, sum r.

    For u in [0, 1): those i for which m_1 + ... + m_{i-1} <= u + j < m_1 + ... + m_i, some j.
    """
    r = round(m.sum())
    ends = np.cumsum(m)
    cuts = np.unique(np.concatenate([[0.0], ends % 1, [1.0]]))
    shares = np.diff(cuts)
    middle = cuts[:-1] + shares / 2
    thick = shares > 1e-9  # ends that differ by rounding
    places = middle[thick, None] + np.arange(r)
    return np.searchsorted(ends, places), shares[thick] / shares[thick].sum()


def given_weights() -> Instance:
    """Return the best that a search finds for weights (.4, .3, .3), r = 3, n = 5: 0.85 of it."""
    chosen = np.array([[0, 1, 4], [0, 2, 3], [1, 2, 3]])
    B = np.eye(5)[:, chosen].swapaxes(0, 1)
    return stored(Factors(B, np.eye(5)[chosen]), [0.4, 0.3, 0.3], c=1.0, norm="fro")


def extremal() -> Instance:
    """Return three agents of R^2 at 0, 60, 120 degrees: M = I/2, |E|_F = 1/2, r = 1."""
    angles = pi * np.arange(3) / 3
    frame = FRAMES["planar"](d=2, k=2, r=1, angles=angles, weights=[1 / 3] * 3)
    return stored(*frame, c=1.0, norm="fro")


def replay(instance: Instance) -> Row:
    """Return the row of one stored mix in its norm and with its c."""
    return next(_bounded(load(instance), instance["c"], (instance["norm"],)))


def attacks() -> dict[str, Any]:
    """Return the attacks on T16."""
    from verification.attacks.mixes import HEAVY, THIRDS, truncation_in_a_ball

    return {
        "fro, n >= 2r": truncation_in_a_ball("fro", THIRDS, (5, 4, 2)),
        "fro, n < 2r": truncation_in_a_ball("fro", (0.25,) * 4, (4, 3, 2)),
        "fro, heavy": truncation_in_a_ball("fro", HEAVY, (5, 4, 2)),
        "fro, given weights": truncation_in_a_ball(
            "fro", (0.4, 0.3, 0.3), (6, 5, 3), "sharp for other weights of the same maximum"
        ),
        "op": truncation_in_a_ball("op", THIRDS, (4, 3, 2)),
        "nuc": truncation_in_a_ball("nuc", THIRDS, (4, 3, 1)),
    }


CLAIMS = [
    Claim(
        "T16",
        "truncation",
        "derived",
        rows,
        bounds=(bounds.truncation_worst_case,),
        attacks=attacks,
        replay=replay,
        instance=extremal,
        reaches={
            "|E| <= worst case, fro": 1,
            "|E| <= worst case, op": 1,
            "|E| <= worst case, nuc": 1,
            "|E| <= worst case, fro, narrow": 1,
            "|E| <= worst case, op, narrow": 1,
            "|E| <= worst case, nuc, narrow": 1,
            "|E| <= worst case, fro, heavy": 1,
            "|E| <= worst case, op, heavy": 1,
            "|E| <= worst case, nuc, heavy": 1,
            "|E| <= worst case, fro, heavy, narrow": 1,
            "|E| <= worst case, op, heavy, narrow": 1,
            "|E| <= worst case, nuc, heavy, narrow": 1,
            "|E| against rank, fro": 1,
        },
    )
]
