"""R3: FedHL, clients of unequal ranks that start from truncations of a full-rank model."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from decaf_theory.arrays import host, namespace
from decaf_theory.lowrank import product
from decaf_theory.problems.base import Problem
from decaf_theory.simulate import Config, start_factors
from decaf_theory.tsvd import tsvd
from verification.claim import Claim, Context, Row
from verification.evidence import same, ulps
from verification.instances.mixes import isometry
from verification.instances.targets import last_visit

ROUNDS = 3
CASES = ((4, 3, (1, 2, 3)), (3, 5, (1, 1, 2)), (5, 4, (2, 2)), (6, 6, (1, 3, 3, 6)))  # d, k, ranks


def rows(ctx: Context) -> Iterator[Row]:
    r"""Averaged truncations shrink sigma_j by the share of clients of rank j or more.

    $\frac1m \sum_i \mathrm{TSVD}_{r_i}(W) = U \mathrm{diag}(s_j \sigma_j) V'$ with $s_j$ the share
    of clients with $r_i \ge j$; after $t$ rounds without local steps $s_j^t \sigma_j$. Keeping the
    full-rank model as base and adding the clients' differences $\frac1m \sum_i (W_i^{end} -
    W_i^{start})$ leaves it fixed where each client is at its optimum. Where the targets share the
    singular vectors, it moves $\sigma_j$ by the mean of what the clients with $r_i \ge j$ move it.

    Assumptions: $\sigma_j$ are distinct, or the clients break ties alike.

    Proof: each truncation keeps the terms $j \le r_i$ of the same singular value decomposition.
    $s_j$ decreases in $j$, so the order of the singular values stays from round to round. A client
    whose gradient is 0 contributes the difference 0; with target $U T V'$ the balanced factors
    $U \Sigma^{1/2}$, $\Sigma^{1/2} V'$ keep $U$ and $V$, and $\sigma^{1/2}$ loses $\alpha
    (\sigma - \tau) \sigma^{1/2}$ per step.

    Source: derived here; the second rule is that of FedHL, as read from its abstract.
    """
    for d, k, ranks in CASES:
        yield from _shrinking(ctx, d, k, ranks)


def averaged(W: Any, ranks: Sequence[int]) -> Any:
    """Return the mean of the clients' truncations of W [..., d, k]."""
    return sum(product(tsvd(W, rank).factors) for rank in ranks) / len(ranks)


def with_differences(W: Any, ranks: Sequence[int], targets: Any, steps: int) -> Any:
    """Return W plus the mean over clients of W_end - W_start.

    A client starts at the truncation of W [instances, d, k] to its rank and takes gradient steps of
    size 1/4 in both factors on |B A - target|_F^2 / 2, relative to the largest singular value;
    targets [instances, clients, d, k]: every instance is a run of its own.
    """
    xp = namespace(W)
    instances, clients, d, k = targets.shape

    def grad(X: Any) -> Any:
        return X - targets

    def loss(X: Any) -> Any:
        return xp.sum(grad(X) ** 2, axis=(-2, -1)) / 2

    common = tsvd(W, max(ranks)).factors
    config = Config(
        problem=Problem("clients", clients, d, k, loss, grad),
        method="local",
        start=common.map(lambda X: xp.stack([X] * clients, axis=1)),
        ranks=ranks,
        lr=0.25 / host(xp.linalg.matrix_norm(W, ord=2)),
        steps=steps,
        runs=instances,
    )
    moved = product(last_visit(config).factors) - product(start_factors(config))
    return W + xp.mean(moved, axis=1)


def _shrinking(ctx: Context, d: int, k: int, ranks: Sequence[int]) -> Iterator[Row]:
    rng = ctx.rng("model", d, k)
    count = ctx.pick(20, 400)
    n = min(d, k)
    # gaps of at least 1 between singular values, so that vectors are known to about n eps
    S = np.cumsum(1 + rng.random((count, n)), axis=-1)[:, ::-1].copy()
    U, V = (ctx.array(isometry(rng, count, size, n)) for size in (d, k))
    share = ctx.array([sum(rank >= j + 1 for rank in ranks) / len(ranks) for j in range(n)])
    S = ctx.array(S)
    W = (U * S[:, None, :]) @ V.mT
    xp = namespace(W)
    model = W
    params = {"d": d, "k": k, "clients": len(ranks)}
    for t in range(1, ROUNDS + 1):
        model = averaged(model, ranks)
        expected = (U * (S * share**t)[:, None, :]) @ V.mT
        error = xp.linalg.matrix_norm(model - expected, ord="fro")
        # a truncation errs by its condition number, at most sigma_1 over the least gap, which
        # shrinks by the shares; m^t bounds their quotient
        slip = ulps(20 * max(d, k), t, S[:, 0] ** 2, len(ranks) ** t)
        yield same("shares", error, rounding=slip, t=t, **params)
    yield from _differences(ctx, d, k, ranks, (U, S, V))


def _differences(
    ctx: Context, d: int, k: int, ranks: Sequence[int], parts: tuple[Any, Any, Any]
) -> Iterator[Row]:
    """Yield what adding differences makes of W = U S V' where the targets share U and V."""
    U, S, V = parts
    xp = namespace(S)
    rng = ctx.rng("targets", d, k)
    W = (U * S[:, None, :]) @ V.mT
    steps = 5
    lr = 0.25 / S[:, :1]
    kept = ctx.array([[float(rank > j) for j in range(S.shape[-1])] for rank in ranks])
    where = {"d": d, "k": k, "clients": len(ranks)}
    for name, size in (("that the clients hold", 0.0), ("along their directions", 0.5)):
        shares = 1 + size * ctx.array(rng.uniform(-1, 1, (len(ranks), *S.shape)))
        targets = xp.stack(
            [
                (U * (S * share * keep)[:, None, :]) @ V.mT
                for share, keep in zip(shares, kept, strict=True)
            ],
            axis=1,
        )
        change = 0 * S
        for share, keep in zip(shares, kept, strict=True):
            root = S**0.5
            for _ in range(steps):
                root = root - lr * (root**2 - S * share) * root
            change = change + keep * (root**2 - S) / len(ranks)
        moved = with_differences(W, ranks, targets, steps)
        expected = (U * (S + change)[:, None, :]) @ V.mT
        slip = ulps(20 * max(d, k), S[:, 0] ** 2)
        error = xp.linalg.matrix_norm(moved - expected, ord="fro")
        yield same(f"differences, targets {name}", error, rounding=slip, **where)


CLAIMS = [Claim("R3", "methods", "derived", rows, not_attacked="identities")]
