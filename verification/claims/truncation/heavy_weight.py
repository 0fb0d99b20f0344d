"""T18-heavy, T18-tau: DeCAF's and DLoRA's mixes where one agent holds most of the weight."""

from __future__ import annotations

from collections.abc import Iterator
from math import sqrt
from typing import Any

import numpy as np

from decaf_theory import bounds
from decaf_theory.arrays import host, namespace
from decaf_theory.lowrank import Factors
from decaf_theory.measure import NORMS, interference_norm
from verification.claim import Claim, Context, Instance, Row
from verification.claims.interference.mix_difference import held, slip, spectra
from verification.evidence import at_most, attained
from verification.instances.climb import climbed
from verification.instances.mixes import Mix, isometry, load, stored
from verification.instances.omega import mix_of, polar, signed

C = 1.5
PAIRS = ((0.5, 0.5), (0.7, 0.3), (0.95, 0.05))
# the first heavy weight is below (sqrt 5 - 1)/2, the others above it
MORE = ((0.6, 0.25, 0.15), (0.7, 0.2, 0.1), (0.9, 0.06, 0.03, 0.01))
SHAPES = ((3, 4, 1), (5, 4, 2), (6, 7, 3))  # d, k, r
FRO_KNOWN = (sqrt(5) - 1) / 2


def rows(ctx: Context) -> Iterator[Row]:
    r"""If one weight exceeds 1/2, DeCAF's and DLoRA's mix differ by at most $\tau c^2$ (op).

    With $\pi = \pi_{max} > 1/2$, $\rho = 1 - \pi$, $\tau = 4\pi\rho$, $P = TSVD_r(M)$,
    $Q = \bar B \bar A$: $|P - Q|_{op} \le \tau c^2$ for every $r$ and all weights. Two agents:
    $|P - Q| \le c^2 \tau (r, \sqrt r, 1)$ in (nuclear, Frobenius, operator) norm, and even
    $|M - Q|_* + |M - P|_* \le c^2 \tau r$. More agents: $|P - Q|_F \le c^2 \tau \sqrt r$ for
    $\pi \le (\sqrt 5 - 1)/2$, else $c^2 (\tau + \rho(\sqrt{\pi + \pi^2} - 1)) \sqrt r$, and
    $|P - Q|_* \le c^2 \min(1, \tau + \rho(\pi - \rho))\, r$.

    Assumptions: $\sigma_1(A_j), \sigma_1(B_j) \le c$, $\pi_j \ge 0$, $\sum_j \pi_j = 1$.

    Proof: $c = 1$, agent 1 the heavy one, $M = \pi B_1 A_1 + \rho M'$; $B'$, $A'$ are the means of
    the others and $C$ their covariance, $M' = B'A' + C$. Split $P - Q = (\pi M - Q) +
    (\rho P - \pi E)$, $E = M - P$. First part: $B_1 A_1$ cancels, $\pi M - Q = \rho [\pi C +
    (\pi - \rho) B'A' - \pi (B_1 A' + B'A_1)]$. In nuclear norm, with $b = |B'|_F$, $a = |A'|_F \le
    \sqrt r$ and $|C|_* \le ((r - b^2)(r - a^2))^{1/2} \le r - (a^2 + b^2)/2$, it is at most
    $\rho [\pi r - \rho (a^2 + b^2)/2 + \pi \sqrt r (a + b)]$, which increases in $a$ and $b$: at
    most $\rho (3\pi - \rho) r = (\tau - \rho) r$. In operator norm the same with 1 for $r$, for the
    vectors $u'B_j$, $A_jv$; and $|X|_F^2 \le |X|_{op} |X|_*$. Second part: $E$ is at most
    $|M - \pi B_1A_1| \le \rho$ in operator and $\rho r$ in nuclear norm, and $|P|_* + |E|_* = |M|_*
    \le r$. So it is at most $\rho$ in operator, $\rho r + (\pi - \rho) \rho r$ in nuclear norm; in
    Frobenius norm its square is at most $\rho^2 (r - |E|_*) + \pi^2 \rho |E|_*$, which is
    $\rho^2 r$ at most if $\pi^2 \le \rho$, else $\rho^2 (\pi + \pi^2) r$. And 1 in
    $\min(1, \ldots)$ is T13.

    Two agents: $M - Q = \pi\rho (B_1 - B_2)(A_1 - A_2)$. With $\gamma_j = (B_j'B_j + A_jA_j')/2 \le
    1$ and $\kappa = (B_1'B_2 + A_1A_2')/2$, $|M - Q|_* \le \pi\rho\, tr(\gamma_1 + \gamma_2 -
    \kappa - \kappa')$. $M = F H$ with the panels $F = [\sqrt\pi B_1, \sqrt\rho B_2]$ and $H$
    likewise; for a projection $\omega$ of rank $r$, $M - F \omega H = F (1 - \omega) H$, so $|E|_*
    \le tr (1 - \omega) \Gamma$ with $\Gamma = (F'F + HH')/2$, and $|E|_*$ is at most the sum of the
    $r$ least eigenvalues of $\Gamma$, whose blocks are $\pi\gamma_1$, $\rho\gamma_2$ and
    $\sqrt{\pi\rho}\,\kappa$. Both bounds grow with $\gamma_j$: let $\gamma_j = 1$. Each singular
    value $k \le 1$ of $\kappa$ gives one of these eigenvalues, the $y \le 1/2$ with $y (1 - y) =
    \tau (1 - k^2)/4$; so $y \le z = \tau (1 - k)/2$, as $z (1 - z) \ge \tau (1 - k^2)/4$ for $\tau
    \le 1$. With $tr\, \kappa \ge -\sum k$ the sum is at most $\frac\tau2 (r + \sum k) + \frac\tau2
    (r - \sum k) = \tau r$. Frobenius: $|X|_F^2 \le |X|_{op} |X|_*$.

    Extremal: $c$-isometries, $(B, A)$ for the heavy agent and $(-B, -A)$ for the others: $M = BA$,
    $Q = (\pi - \rho)^2 BA$, all three norms at once.

    Source: derived here.
    """
    for size in SHAPES:
        for weights in PAIRS + MORE:
            mixes = opposed(ctx, weights, size), tried(ctx, weights, size)
            for norm in NORMS:
                row = limited(mixes[0], norm)
                yield from attained(row) if known(weights, norm) else (row,)
                yield limited(mixes[1], norm)
            if len(weights) == 2:
                yield from (both_errors(mix) for mix in mixes)
    yield replay(instance())


def conjectured(ctx: Context) -> Iterator[Row]:
    r"""T11's $\tau$ bounds the DeCAF-DLoRA difference in nuclear and Frobenius norm, too.

    $|P - Q| \le c^2 \tau (r, \sqrt r)$ in (nuclear, Frobenius) norm for every weight $\pi_{max}$
    above 1/2 and any number of agents; attained by the instance of T18-heavy. Proved there for two
    agents, and in Frobenius norm for $\pi_{max} \le (\sqrt 5 - 1)/2$; open otherwise, where the
    proved constants are larger by a factor of at most 5/4 (nuclear) and
    $1 + (\sqrt 2 - 1)/4 \approx 1.104$ (Frobenius).

    Assumptions: those of T18-heavy.

    Extremal: as for T18-heavy.

    Source: derived here; evidence only: no mix was found above, by ascent on Omega_c from
    400 random isometries for each of three weights and both norms in a full run (largest ratio 1
    to rounding; 16 starts each in a quick run), nor by the attacks.
    """
    for weights in MORE:
        for norm in ("fro", "nuc"):
            for size in SHAPES:
                yield from attained(by_tau(opposed(ctx, weights, size), norm))
                yield by_tau(tried(ctx, weights, size), norm)
            yield by_tau(climb(ctx, weights, (4, 3, 2), norm), norm)
    yield replay_tau(instance_tau())


def known(weights: tuple[float, ...], norm: str) -> bool:
    """Return whether the factor tau is proved for these weights in this norm."""
    return norm == "op" or len(weights) == 2 or (norm == "fro" and weights[0] <= FRO_KNOWN)


def limited(mix: Mix, norm: str, c: float = C) -> Row:
    """Return the worst row of |P - Q| against the bound that is proved."""
    r = mix.factors.rank
    m = mix.Pi.shape[-1]
    pi_max = float(host(mix.Pi).max())
    bound = bounds.decaf_dlora_heavy(c=c, r=r, m=m, pi_max=pi_max, norm=norm)
    return against(mix, norm, bound, c)


def by_tau(mix: Mix, norm: str, c: float = C) -> Row:
    """Return the worst row of |P - Q| against T11's bound on |I|."""
    pi_max = float(host(mix.Pi).max())
    bound = bounds.interference_worst_case(c=c, q=mix.factors.rank, pi_max=pi_max, norm=norm)
    return against(mix, norm, bound, c)


def against(mix: Mix, norm: str, bound: float, c: float) -> Row:
    """Return the worst row of |P - Q| against a bound on Omega_c; rounding as in T13."""
    return at_most(
        f"|P - Q| {norm}, {mix.family}",
        spectra(mix, mix.factors.rank).norms(norm).difference,
        bound,
        rounding=c**2 * slip(mix),
        held=held(mix, c),
        **mix.params,
        norm=norm,
        pi_max=float(host(mix.Pi).max()),
    )


def both_errors(mix: Mix) -> Row:
    """Return the worst row of |M - Q|_* + |M - P|_* of two agents: two norms, twice T13's slip."""
    r = mix.factors.rank
    pi_max = float(host(mix.Pi).max())
    lost = interference_norm(mix.factors, mix.Pi, "nuc")
    dropped = spectra(mix, r).mix[..., r:]
    return at_most(
        f"|M - Q| + |M - P| nuc, {mix.family}",
        lost + namespace(dropped).sum(dropped, axis=-1),
        bounds.interference_worst_case(c=C, q=r, pi_max=pi_max, norm="nuc"),
        rounding=2 * C**2 * slip(mix),
        held=held(mix, C),
        **mix.params,
        pi_max=pi_max,
    )


def opposed(ctx: Context, weights: tuple[float, ...], size: tuple[int, int, int]) -> Mix:
    """Return c-isometries (B, A) of the heavy agent, (-B, -A) of the others."""
    d, k, r = size
    rng = ctx.rng("opposed", *map(str, weights), r)
    B, A = C * isometry(rng, d, r), C * isometry(rng, r, k)
    return mix_of(ctx, "opposed", *signed(B, A, (1, *(-1 for _ in weights[1:]))), weights)


def tried(ctx: Context, weights: tuple[float, ...], size: tuple[int, int, int]) -> Mix:
    """Return random c-isometries, as they are, shrunk, and moved toward opposed ones by 0 to 1.

    The opposed ones are (B, A) and (-B, -A); those of the others are brought back to Omega_c.
    """
    d, k, r = size
    rng = ctx.rng("tried", *map(str, weights), r)
    count = ctx.pick(30, 2000)
    agents = len(weights)
    sign = np.where(np.arange(agents), -1.0, 1.0)[:, None, None]
    toward = rng.uniform(size=(count, 1, 1, 1))
    found = []
    for rows, columns in ((d, r), (r, k)):
        free = isometry(rng, count, agents, rows, columns)
        shrunk = free * rng.uniform(size=(count, agents, 1, 1))
        near = (1 - toward) * free + toward * sign * free[:, :1]
        found.append(C * np.concatenate([free, shrunk, polar(near)]))
    return mix_of(ctx, "tried", found[0], found[1], weights)


def climb(ctx: Context, weights: tuple[float, ...], size: tuple[int, int, int], norm: str) -> Mix:
    """Return mixes of large |P - Q| from random starts, by steps toward the linear maximizers."""
    d, k, r = size
    rng = ctx.rng("climb", *map(str, weights), norm)
    starts, rounds = ctx.pick((16, 10), (400, 60))
    begun = Factors(
        C * isometry(rng, starts, len(weights), d, r),
        C * isometry(rng, starts, len(weights), r, k),
    )
    reached = climbed(begun, np.asarray(weights), norm, c=C, rounds=rounds)
    return mix_of(ctx, "searched", *reached, weights)


def instance() -> Instance:
    """Return two agents of weights 3/4, 1/4 with opposite factors of rank 2, c = 2."""
    return stored(
        Factors(*signed(2 * np.eye(3, 2), 2 * np.eye(2), (1, -1))), [0.75, 0.25], c=2.0, norm="nuc"
    )


def instance_tau() -> Instance:
    """Return three agents of weights 3/4, 1/8, 1/8, the light ones opposite, c = 2."""
    agents = Factors(*signed(2 * np.eye(3, 2), 2 * np.eye(2), (1, -1, -1)))
    return stored(agents, [0.75, 0.125, 0.125], c=2.0, norm="nuc")


def replay(stored_instance: Instance) -> Row:
    """Return the row of one stored mix, its c and its norm, against what is proved."""
    return limited(load(stored_instance), stored_instance["norm"], stored_instance["c"])


def replay_tau(stored_instance: Instance) -> Row:
    """Return the row of one stored mix, its c and its norm, against tau."""
    return by_tau(load(stored_instance), stored_instance["norm"], stored_instance["c"])


def attacks() -> dict[str, Any]:
    """Return the attacks on T18-heavy."""
    from verification.attacks.mixes import HEAVY, heavy_mixes_apart

    return {
        "op, three agents": heavy_mixes_apart("op", HEAVY),
        "fro, three agents": heavy_mixes_apart("fro", (0.6, 0.25, 0.15)),
        "fro, beyond": heavy_mixes_apart("fro", HEAVY),
        "nuc, two agents": heavy_mixes_apart("nuc", PAIRS[1]),
        "nuc, three agents": heavy_mixes_apart("nuc", HEAVY),
    }


def attacks_tau() -> dict[str, Any]:
    """Return the attacks on T18-tau."""
    from verification.attacks.mixes import HEAVY, heavy_mixes_apart

    return {
        f"{norm}, {weights[0]}": heavy_mixes_apart(norm, weights, proved=False)
        for norm in ("fro", "nuc")
        for weights in (HEAVY, MORE[-1])
    }


CLAIMS = [
    Claim(
        "T18-heavy",
        "truncation",
        "derived",
        rows,
        bounds=(bounds.decaf_dlora_heavy,),
        attacks=attacks,
        replay=replay,
        instance=instance,
        reaches={
            "|P - Q| fro": 1,
            "|P - Q| op": 1,
            "|P - Q| nuc": 1,
            "|M - Q| + |M - P| nuc": 1,
        },
    ),
    Claim(
        "T18-tau",
        "truncation",
        "numerical",
        conjectured,
        bounds=(bounds.interference_worst_case,),
        attacks=attacks_tau,
        replay=replay_tau,
        instance=instance_tau,
        reaches={
            "|P - Q| fro": 1,
            "|P - Q| nuc": 1,
        },
    ),
]
