"""T29-sharp, T29-joint: errors of mixing, for steps up to 2/L; the second implies the others."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product
from math import sqrt
from typing import Any

import numpy as np

from decaf_theory import bounds
from verification.claim import Claim, Context, Instance, Row
from verification.claims.rates.mixing_errors import (
    STEPS,
    cancelled,
    doubled_noise,
    rate_row,
    replay,
    rounding_of,
)
from verification.evidence import at_most, attained, ulps
from verification.instances.erring import random_errors
from verification.instances.omega import each
from verification.instances.quadratics import cases, long_steps, stored


def sharper(ctx: Context) -> Iterator[Row]:
    r"""Errors of mixing: a sharper form, for steps up to 2/L, with half of the leading constant.

    With $u = \alpha L < 2$, $Z = D + \epsilon/\alpha$ and $R = \frac{2 (F(\bar y_0) -
    F^*)}{\alpha T} + \frac{u \sigma^2}{N}$, in general $+ 2 L \epsilon \sigma/\sqrt N$, which
    vanishes for predictable errors: $\frac1T \sum_{t<T} E|\nabla F(\bar y_t)|^2 \le
    \left( \frac{|1-u| Z + \sqrt{Z^2 + (2-u) R}}{2-u} \right)^2$. For predictable errors and
    $u \le 1$ it is never above T29; in general neither is always the smaller, and T29-joint is
    never above either.

    Assumptions: those of T29, with $\alpha < 2/L$ in place of $\alpha \le 1/L$.

    Proof: $\bar y^+ = \bar y - \alpha (\nabla F + n + \zeta)$, $\zeta = \delta - \bar e/\alpha$,
    $|\delta| \le L \sqrt{\Xi}$ in the mean square. In the descent lemma of T25-sharp $\zeta$ takes
    the place of $\delta$, its average is at most $Z^2$ (Minkowski), and $E|\zeta + n|^2$ has the
    cross term $-\frac2\alpha E\langle \bar e, n \rangle \le
    \frac{2 \epsilon \sigma}{\alpha \sqrt N}$, 0 if predictable.

    Extremal: those of T29-joint, and T29's error that cancels the step.

    Source: derived here.
    """
    for case in cases(ctx, "MS", instances=ctx.pick(4, 24)):
        longer = case._replace(lr=1.9 * case.lr, params={**case.params, "stretch": 1.9})
        for stretched, dependent in product((case, longer), (False, True)):
            errors = random_errors(ctx, stretched, dependent)
            slip = rounding_of(stretched, errors, STEPS)
            yield rate_row(stretched, errors, STEPS, slip, dependent, with_cross_term)
    yield from judged(ctx, long_steps(ctx, instances=ctx.pick(4, 24)), with_cross_term)
    for extremal in (cancelled(), doubled_noise(), in_common(), overshot()):
        yield from attained(replay(extremal, with_cross_term))


def with_cross_term(
    *, F_gap: float, lr: float, T: int, L: float, sigma: float, N: int, errors: str, **others: float
) -> float:
    """Return T29-sharp: the predictable form, its R raised by 2 L ebar sigma/sqrt(N) if need be."""
    if errors == "dependent":
        F_gap += lr * T * L * others["ebar"] * sigma / sqrt(N)
    letters = {"F_gap": F_gap, "lr": lr, "L": L, "sigma": sigma, **others}
    return bounds.dsgd_sharp(T=T, N=N, errors="predictable", **letters)


def rows(ctx: Context) -> Iterator[Row]:
    r"""Errors of mixing: one rate for steps up to 2/L, never above T29 nor T29-sharp.

    With $u = \alpha L < 2$, $R = \frac{2 (F(\bar y_0) - F^*)}{\alpha T}$,
    $s^2 = \frac{\sigma^2}{N}$, $a^2 = \frac{L^2}{T} \sum_{t<T} E \Xi_t$ and $e = \epsilon/\alpha$:
    $G^2 = \frac1T \sum_{t<T} E|\nabla F(\bar y_t)|^2$ obeys $(2-u) G^2 \le R + u s^2 +
    2|1-u| G (a + e) + u (a^2 + e^2 + 2 e \sqrt{a^2 + s^2})$ whatever the errors depend on; if they
    are predictable, with $2 e a$ in place of $2 e \sqrt{a^2 + s^2}$.

    Assumptions: those of T29, with $\alpha < 2/L$ in place of $\alpha \le 1/L$.

    Proof: $\bar y^+ = \bar y - \alpha (g + \zeta + n)$, $g = \nabla F$, $\zeta = \delta -
    \bar e/\alpha$, $|\delta|^2 \le L^2 \Xi$. By the descent lemma and $E\langle g, n \rangle = 0$,
    $\frac2\alpha E(F^+ - F) \le -(2-u) E|g|^2 - 2(1-u) E\langle g, \zeta \rangle +
    u E|\zeta + n|^2$. Averaged over $t$: $|E\langle g, \zeta \rangle| \le G (a + e)$ by
    Cauchy-Schwarz and Minkowski. $\delta$ depends on the past alone, so
    $E|\delta + n|^2 = E|\delta|^2 + E|n|^2$, and $E|\zeta + n|^2 \le (\sqrt{a^2 + s^2} + e)^2$ by
    Minkowski; if $e$ is predictable, $E|\zeta + n|^2 = E|\zeta|^2 + E|n|^2 \le (a + e)^2 + s^2$.
    It implies T29-sharp as $\sqrt{a^2 + s^2} \le a + s$, and T29, $u \le 1$: with its general
    form $V = R + 2us^2 + 2a^2 + 2e^2$ for $G^2$, $(2-u) V - 2(1-u) \sqrt V (a+e) \ge V -
    (1-u)(a+e)^2 \ge R + u (2a^2 + 2s^2 + 2e^2) \ge R + u (\sqrt{a^2 + s^2} + e)^2$.

    Extremal: $u = 1$, $e = -\alpha \bar n$ at all agents; $1 < u < 2$, an error that turns every
    step into $\bar y^+ = -\bar y$, as $T \to \infty$.

    Source: derived here.
    """
    for case in cases(ctx, "MS", instances=ctx.pick(4, 24)):
        longer = case._replace(lr=1.9 * case.lr, params={**case.params, "stretch": 1.9})
        for stretched in (case, longer):
            yield from judged(ctx, stretched)
    yield from judged(ctx, long_steps(ctx, instances=ctx.pick(4, 24)))
    for extremal in (doubled_noise(), in_common(), overshot()):
        yield from attained(replay_joint(extremal))
    yield from implied(ctx, ctx.pick(500, 20_000))


def judged(ctx: Context, case: Any, form: Any = bounds.dsgd_sharp) -> Iterator[Row]:
    """Yield the rate under random errors that depend on the noise and under others."""
    for dependent in (False, True):
        errors = random_errors(ctx, case, dependent)
        slip = rounding_of(case, errors, STEPS)
        yield rate_row(case, errors, STEPS, slip, dependent, form)


def implied(ctx: Context, count: int) -> Iterator[Row]:
    """Yield that no letters make the rate larger than T29 (lr L <= 1) or T29-sharp."""
    rng = ctx.rng("implied")
    sizes = 10.0 ** rng.uniform(-3, 3, (4, count))
    letters = dict(zip(("F_gap", "sigma", "Xi", "ebar"), sizes, strict=True))
    letters |= {"L": 10.0 ** rng.uniform(-1, 1, count), "N": rng.integers(1, 9, count)}
    letters |= {"T": rng.integers(1, 100, count)}
    older = (("T29", bounds.mixing_error_rate, 1.0), ("T29-sharp", with_cross_term, 1.99))
    for (name, form, longest), errors in product(older, ("dependent", "predictable")):
        letters["lr"] = longest * rng.uniform(0.01, 1, count) / letters["L"]
        joint = each(bounds.dsgd_sharp, **letters, errors=errors)
        limit = each(form, **letters, errors=errors)
        # some 20 operations; 2 - u is known to eps and divides twice
        slip = ulps(80, limit) / (2 - longest)
        yield at_most(f"joint <= {name}", joint, limit, rounding=slip, errors=errors)


def in_common(steps: int = 2**22) -> Instance:
    """Return two agents, complete graph, f = x^2/2, lr = 1, both with e = -lr (mean noise)."""
    one = np.ones((2, 1, 1))
    half = np.full((2, 2), 0.5)
    case = stored(one, [[0.0]] * 2, half, 1.0, [0.0], one, steps=steps, dependent=True)
    return {**case, "K": np.zeros((2, 2)).tolist(), "k": [0.0, 0.0], "G": (-half).tolist()}


def overshot(steps: int = 2**22) -> Instance:
    """Return two agents, complete graph, f = x^2/2, lr = 3/2, e = -y/2: y+ = -y."""
    one = np.ones((2, 1, 1))
    half = np.full((2, 2), 0.5)
    case = stored(one, [[0.0]] * 2, half, 1.5, [1.0], steps=steps, dependent=True)
    none = np.zeros((2, 2)).tolist()
    return {**case, "K": (-half / 2).tolist(), "k": [0.0, 0.0], "G": none}


def replay_joint(instance: Instance) -> Row:
    """Return the rate of one stored case against this form."""
    return replay(instance, bounds.dsgd_sharp)


def attacks_sharp() -> dict[str, Any]:
    """Return the attacks on T29-sharp."""
    from verification.attacks.quadratics import pair
    from verification.attacks.rates import erring

    return {
        "predictable": erring(pair(0.25), "sharp", 7),
        "dependent": erring(pair(0.25), "sharp", 7, dependent=True),
    }


def attacks() -> dict[str, Any]:
    """Return the attacks on T29-joint."""
    from verification.attacks.quadratics import ALONE, pair
    from verification.attacks.rates import erring

    return {
        "predictable, N = 2": erring(pair(0.25), "joint", 7),
        "dependent, N = 1": erring(ALONE, "joint", 7, dependent=True),
        "dependent, N = 2": erring(pair(0.25), "joint", 7, dependent=True),
    }


CLAIMS = [
    Claim(
        "T29-sharp",
        "rates",
        "derived",
        sharper,
        bounds=(bounds.dsgd_sharp,),
        attacks=attacks_sharp,
        replay=lambda instance: replay(instance, with_cross_term),
        instance=cancelled,
        reaches={
            "mean gradient": 1,
            "mean gradient, dependent": 1,
        },
    ),
    Claim(
        "T29-joint",
        "rates",
        "derived",
        rows,
        bounds=(bounds.dsgd_sharp,),
        attacks=attacks,
        replay=replay_joint,
        instance=in_common,
        reaches={
            "mean gradient": 0.2,
            "mean gradient, dependent": 1,
            "joint <= T29, dependent": 0.99,
            "joint <= T29, predictable": 1,
            "joint <= T29-sharp, dependent": 1,
            "joint <= T29-sharp, predictable": 1,
        },
    ),
]
