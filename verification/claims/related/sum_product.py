"""R2: aggregating factors (sum, then product) or products (product, then sum)."""

from __future__ import annotations

from collections.abc import Iterator

from decaf_theory.arrays import namespace
from decaf_theory.lowrank import Factors, gauge, mix_factors, mix_products, product
from decaf_theory.measure import interference
from decaf_theory.problems.frames import FRAMES
from verification.claim import Claim, Context, Row
from verification.evidence import same, ulps
from verification.instances.mixes import Mix, allowance, isometry, mixes


def rows(ctx: Context) -> Iterator[Row]:
    r"""Sum-product and product-sum aggregation differ by I; only product-sum is gauge-free.

    $\sum_j \pi_j B_j A_j - \bar B \bar A = \sum_j \pi_j (B_j - \bar B)(A_j - \bar A) = I$. Where
    each agent turns its factors to $(B_j R_j', R_j A_j)$ the left term stays; the right one changes
    by exactly the change of $-I$, and can be zero while all agents hold the same product.

    Assumptions: $\sum_j \pi_j = 1$; $R_j$ orthogonal.

    Proof: T8. Products do not see $R_j$.

    Extremal: the frames of P13, sign flip and three rotations by 120 degrees: all agents hold one
    product, which product-sum returns, and sum-product returns 0.

    Source: derived here; the two rules are those of Aggregation-Broadcast.
    """
    for mix in mixes(ctx, instances=ctx.pick(20, 400)):
        yield from _difference(mix)
        yield from _under_rotations(ctx, mix)
    for name in ("sign_flip", "mercedes"):
        yield from _vanishing(ctx, name)


def _difference(mix: Mix) -> Iterator[Row]:
    """Yield that the two aggregates differ by I, each computed on its own."""
    apart = mix_products(mix.factors, mix.Pi) - product(mix_factors(mix.factors, mix.Pi))
    xp = namespace(apart)
    residual = xp.linalg.matrix_norm(apart - interference(mix.factors, mix.Pi), ord="fro")
    slip = 4 * allowance(mix)  # two aggregates and I
    yield same("PS - SP = I", residual, rounding=slip, **mix.params)


def _under_rotations(ctx: Context, mix: Mix) -> Iterator[Row]:
    """Yield that product-sum stays, and that sum-product moves as -I does."""
    rng = ctx.rng("gauge", mix.family)
    r = mix.factors.rank
    R = ctx.array(isometry(rng, *mix.factors.B.shape[:-2], r, r))
    turned = gauge(mix.factors, R)
    xp = namespace(R)
    slip = 8 * r * allowance(mix)
    sums = [mix_products(state, mix.Pi) for state in (mix.factors, turned)]
    moved = xp.linalg.matrix_norm(sums[1] - sums[0], ord="fro")
    yield same("PS is gauge-free", moved, rounding=slip, **mix.params)
    means = [product(mix_factors(state, mix.Pi)) for state in (mix.factors, turned)]
    lost = [interference(state, mix.Pi) for state in (mix.factors, turned)]
    residual = xp.linalg.matrix_norm(means[1] - means[0] + lost[1] - lost[0], ord="fro")
    yield same("SP moves as -I", residual, rounding=slip, **mix.params)


def _vanishing(ctx: Context, name: str) -> Iterator[Row]:
    """Yield for one frame that SP = 0 and that PS is the common product."""
    (B, A), weights = FRAMES[name](d=5, k=4, r=2)
    state = Factors(ctx.array(B), ctx.array(A))
    Pi = ctx.array(weights)[None]
    xp = namespace(state.B)
    slip = ulps(10 * 5)  # unit factors, sizes up to 5
    mean = product(mix_factors(state, Pi))
    kept = mix_products(state, Pi)[0] - product(state)
    yield same(f"SP = 0, {name}", xp.max(abs(mean)), rounding=slip)
    yield same(f"PS = the common product, {name}", xp.max(abs(kept)), rounding=slip)


CLAIMS = [Claim("R2", "methods", "derived", rows, not_attacked="identities")]
