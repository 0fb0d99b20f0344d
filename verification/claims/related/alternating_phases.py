"""R5: ADF- and TAD-LoRA, one factor trains while both mix."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from decaf_theory import bounds
from decaf_theory.arrays import host, namespace
from decaf_theory.lowrank import Factors, mean_over_agents, mix_factors
from decaf_theory.measure import deviations, interference_norm
from decaf_theory.topology import TOPOLOGIES, sqrt_rho
from verification.claim import Claim, Context, Instance, Row, Value
from verification.evidence import at_least, at_most, ulps
from verification.instances.omega import each

GRAPHS = (("ring", 5), ("path", 4), ("star", 5), ("complete", 4), ("bipartite", 6))
ROUNDS = 12


def rows(ctx: Context) -> Iterator[Row]:
    r"""While B trains and both mix, disagreement on A and interference decay as lam^t.

    In a B-phase $A_i^{t+1} = \sum_j \pi_{ij} A_j^t$ and $B$ moves in any way:
    $|\tilde A_t|_F \le \lambda^t |\tilde A_0|_F$ and the mean over agents of $|I_i|_*$ is at most
    $\lambda^t |\tilde A_0|_F |\tilde B_t|_F/N$, $I_i$ the interference of the mix of
    $(B_i^t, A_i^t)$. Where A is not mixed while it is frozen, $\tilde A$ stays, and interference
    need not decay; it is 0 where the $B_i$ agree, with $\tilde B$.

    Assumptions: $\Pi$ symmetric, doubly stochastic, $\lambda = \sqrt\rho$.

    Proof: $\tilde A_{t+1} = \tilde\Pi \tilde A_t$. By T10 the mean of $|I_i|_*$ is at most
    $\frac1N |\tilde A_t|_F |\tilde B_t|_F$.

    Extremal: $A_0$ on an eigenvector of $|l| = \lambda$ for the first; on the complete graph with
    two agents, $B_i = A_i'$ opposite, $t = 0$, for the second.

    Source: derived here; the methods are ADF-LoRA and TAD-LoRA.
    """
    for name, N in GRAPHS:
        yield from _phase(ctx, name, N)
        yield from _frozen(ctx, name, N)
    yield replay(along_eigenvector())
    yield _both_opposite(ctx)


def _phase(ctx: Context, name: str, N: int) -> Iterator[Row]:
    """Yield both bounds at every round of a B-phase in which B moves at random."""
    rng = ctx.rng("phase", name)
    count = ctx.pick(20, 300)
    d = 4
    k = 3
    r = 2
    A = ctx.array(rng.standard_normal((count, N, r, k)))
    B = ctx.array(rng.standard_normal((count, N, d, r)))
    Pi = TOPOLOGIES[name](N)
    xp = namespace(A)
    lam = sqrt_rho(Pi)
    first = host(_size(deviations(A)))
    params: dict[str, Value] = {"topology": name, "N": N}
    for t in range(ROUNDS):
        if t in (0, 1, 3, ROUNDS - 1):
            bound = each(bounds.mixed_deviation, lam=lam, t=t, deviation=first)
            # t mixes of N terms, and T8's sum over the neighbours
            slip = ulps(8 * N * (t + 1), _size(A))
            spread = _size(deviations(A))
            yield at_most("|A~_t|", spread, bound, rounding=slip, t=t, **params)
            mean = xp.mean(interference_norm(Factors(B, A), ctx.array(Pi), "nuc"), axis=-1)
            # t mixes, and a norm by QR and SVD of panels of N r rows
            slip = ulps(10 * max(d, k, N * r) * (t + 1), _size(A), _size(B)) / N
            bound = each(
                bounds.interference_phase,
                lam=lam,
                t=t,
                N=N,
                deviation_A=first,
                deviation_B=host(_size(deviations(B))),
            )
            yield at_most("mean |I_i|_*", mean, bound, rounding=slip, t=t, **params)
        move = ctx.array(rng.standard_normal((count, N, d, r)))
        mixed = mix_factors(Factors(B, A), Pi)
        B = mixed.B - 0.1 * move
        A = mixed.A


def _size(X: Any) -> Any:
    """Return the Frobenius norm over agents, rows and columns."""
    return namespace(X).sum(X**2, axis=(-3, -2, -1)) ** 0.5


def _frozen(ctx: Context, name: str, N: int) -> Iterator[Row]:
    """Yield that with A unmixed, and B drifting apart, interference does not decay.

    A_i = c_i A and slopes c_i G with c an eigenvector of Pi of largest l >= 0: B~ only grows.
    """
    Pi = TOPOLOGIES[name](N)
    values, vectors = np.linalg.eigh(Pi - 1 / N)
    # on the complete graph every l is 0, and any deviation will do
    c = vectors[:, -1] if values[-1] > 1e-9 else np.eye(N)[0] - 1 / N
    rng = ctx.rng("frozen", name)
    d = 4
    k = 3
    r = 2
    A = ctx.array(c[:, None, None] * rng.standard_normal((r, k)))
    slope = ctx.array(c[:, None, None] * rng.standard_normal((d, r)))
    B = 0 * slope
    found = []
    for _ in range(2 * ROUNDS):
        B = mean_over_agents(B, Pi) - 0.1 * slope
        found.append(float(namespace(A).mean(interference_norm(Factors(B, A), ctx.array(Pi)))))
    early = found[ROUNDS - 1]
    late = found[-1]
    # 2 ROUNDS mixes of N terms
    slip = ulps(8 * N * 2 * ROUNDS, late)
    yield at_least("A unmixed: |I| later", late, early, rounding=slip, topology=name, N=N)


def along_eigenvector() -> Instance:
    """Return two agents with A = +-1 and lam = 1/2, after 8 rounds."""
    return {"A": [[[1.0]], [[-1.0]]], "Pi": [[0.75, 0.25], [0.25, 0.75]], "rounds": 8}


def replay(instance: Instance) -> Row:
    """Return the row |A~_t| <= lam^t |A~_0| of one stored case."""
    A, Pi = (np.asarray(instance[name], dtype=np.float64) for name in ("A", "Pi"))
    t = instance["rounds"]
    N = len(Pi)
    mixed = A
    for _ in range(t):
        mixed = mean_over_agents(mixed, Pi)
    bound = bounds.mixed_deviation(lam=sqrt_rho(Pi), t=t, deviation=float(_size(deviations(A))))
    slip = ulps(8 * N * (t + 1), _size(A))  # t mixes of N terms
    return at_most("|A~_t|", _size(deviations(mixed)), bound, rounding=slip, t=t, N=N)


def _both_opposite(ctx: Context) -> Row:
    """Return the second bound for (B, A), (-B, -A) with B = A' on the complete graph of two."""
    sign = np.array([1.0, -1.0])[:, None, None]
    A = sign * np.array([[2.0, 0.0, 1.0]])
    state = Factors(ctx.array(A.mT), ctx.array(A))
    mean = float(
        namespace(state.A).mean(interference_norm(state, ctx.array([[0.5, 0.5]] * 2), "nuc"))
    )
    apart_B, apart_A = (float(_size(deviations(X))) for X in state)
    bound = bounds.interference_phase(lam=0.0, t=0, N=2, deviation_A=apart_A, deviation_B=apart_B)
    # ten times the larger size, 3, for QR and SVD
    return at_most("mean |I_i|_*", mean, bound, rounding=ulps(10 * 3, bound), t=0, N=2)


def attacks() -> dict[str, Any]:
    """Return the attacks on R5."""
    from verification.attacks.quadratics import TRIPLE, network
    from verification.attacks.rounds import decay

    return {"t = 4": decay(network(TRIPLE), 4)}


CLAIMS = [
    Claim(
        "R5",
        "methods",
        "derived",
        rows,
        bounds=(bounds.mixed_deviation, bounds.interference_phase),
        attacks=attacks,
        replay=replay,
        instance=along_eigenvector,
        reaches={
            "|A~_t|": 1,
            "mean |I_i|_*": 1,
            "A unmixed: |I| later": 1,
        },
    )
]
