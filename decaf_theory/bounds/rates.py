r"""Part D: rates of decentralized SGD on F = (1/N) sum_i f_i, each f_i L-smooth (T25-T29, T34-T38).

Orders ("MS", "CB"), lam, sigma and kappa are those of `consensus`; all agents start equal.
"""

from __future__ import annotations

from math import exp, expm1, hypot, inf, log1p, sqrt, ulp

from decaf_theory.bounds._checks import (
    below_one,
    count,
    known,
    nonnegative,
    not_applicable,
    one_of,
    positive,
)

# a step size equal to the largest one allowed, however it was rounded, is inside
INSIDE = 1 + 8 * ulp(1.0)
ERRORS = ("dependent", "predictable")  # on the noise of the step before the mix


def dsgd_rate(
    *, F_gap: float, lr: float, T: int, L: float, sigma: float, N: int, Xi: float
) -> float:
    """Return the upper bound on (1/T) sum_{t<T} E |grad F(xbar_t)|^2.

        2 F_gap / (lr T) + lr L sigma^2 / N + L^2 Xi

    F_gap = F(xbar_0) - inf F; Xi is the average of E Xi_t over t < T, or `consensus_bound`. inf
    where lr L > 1. Each term is attained in a limit: 2 F_gap/(lr T) at lr L = 1 without noise, the
    second as lr L = 1, T -> infinity, the third for N = 2, f'' = L and -(L - eps).
    Source: derived (T25, T26).

    Examples:
        >>> from decaf_theory import bounds
        >>> round(bounds.dsgd_rate(F_gap=1.0, lr=0.1, T=100, L=4.0, sigma=1.0, N=10, Xi=0.0), 4)
        0.24
    """
    nonnegative(Xi=Xi)
    if not _step_allowed(lr, L, 1):
        return inf
    return _descent(F_gap, lr, T) + _noise_floor(lr, L, sigma, N) + L**2 * Xi


def dsgd_sharp(
    *,
    F_gap: float,
    lr: float,
    T: int,
    L: float,
    sigma: float,
    N: int,
    Xi: float,
    ebar: float = 0.0,
    errors: str = "dependent",
) -> float:
    """Return the sharp upper bound on (1/T) sum_{t<T} E |grad F|^2, mixing errors included.

        G^2 with (2-u) G^2 = R + u s^2 + 2|1-u| G (a+e) + u (a+e)^2        "predictable"
                                        ... + 2 u e (sqrt(a^2+s^2) - a)    "dependent"
        u = lr L < 2,  R = 2 F_gap/(lr T),  s = sigma/sqrt(N),  a = L sqrt(Xi),  e = ebar/lr

    Xi and ebar as in `dsgd_rate` and `mixing_error_rate`, neither of which it ever exceeds; errors
    as there. inf where u >= 2. Tight: R and s alone (a = e = 0) for every u, by equal quadratics;
    a alone for u <= 1, N = 2, f'' = L and -(L - eps), while for u > 1 this example reaches
    ((2-u)/u)^2 and it is open whether a's factor is sharp; e alone for every u, by errors that
    keep |grad F|; s and e dependent at u = 1, by errors -lr (mean noise).
    Source: derived (T25-sharp, T29-joint): Cauchy-Schwarz over time in the descent lemma, and the
    quadratic inequality in G solved.

    Examples:
        >>> from decaf_theory import bounds
        >>> sharp = bounds.dsgd_sharp(F_gap=1.0, lr=0.1, T=100, L=4.0, sigma=1.0, N=10, Xi=0.0)
        >>> round(sharp, 4)  # `dsgd_rate` has 0.24
        0.15
    """
    nonnegative(L=L, Xi=Xi, ebar=ebar)
    positive(lr=lr)
    one_of(ERRORS, errors=errors)
    u = lr * L
    drift = L * sqrt(Xi)
    bias = ebar / lr
    both = drift + bias
    known = _descent(F_gap, lr, T) + _noise_floor(lr, L, sigma, N)
    if u >= 2:
        return not_applicable(f"lr L = {u:.4g} must be below 2")
    if both == inf:
        return inf
    if errors == "dependent":
        known += 2 * u * bias * (hypot(drift, sigma / sqrt(N)) - drift)
    return ((abs(1 - u) * both + sqrt(both**2 + (2 - u) * known)) / (2 - u)) ** 2


def dsgd_textbook(
    *,
    F_gap: float,
    lr: float,
    T: int,
    L: float,
    sigma: float,
    kappa: float,
    N: int,
    q: float,
    S: float,
) -> float:
    """Return `dsgd_rate` with the textbook form of its last term, for lr <= `safe_step`.

        2 F_gap / (lr T) + lr L sigma^2 / N + 8 lr^2 L^2 (sigma^2 S / N + kappa^2 q^2)

    Upper; inf for a larger step. Not tight: (a + b)^2 <= 2 a^2 + 2 b^2. Source: derived (T25).
    """
    nonnegative(sigma=sigma, kappa=kappa, q=q, S=S)
    count(N=N)
    if not _step_allowed(lr, L, max(1, 2 * q)):
        return inf
    Xi = 8 * lr**2 * (sigma**2 * S / N + (kappa * q) ** 2)
    return dsgd_rate(F_gap=F_gap, lr=lr, T=T, L=L, sigma=sigma, N=N, Xi=Xi)


def dsgd_gap(
    *, F_gap: float, lr: float, T: int, L: float, mu: float, sigma: float, N: int, Xi: float
) -> float:
    """Return the upper bound on E F(xbar_T) - F* where |grad F|^2 >= 2 mu (F - F*).

        (1 - lr mu)^T F_gap + (1 - (1 - lr mu)^T) (L^2 Xi + lr L sigma^2/N) / (2 mu)

    F_gap = F(xbar_0) - F*; Xi bounds E Xi_t for t < T. inf where lr L > 1. At T = 1 it is one
    descent step, as T -> infinity the floor. Tight as T -> infinity: the noise at lr L = 1, equal
    quadratics with mu = L; Xi for N = 2, f'' = L and -(L - eps), mu = eps/2. Not tight in F_gap:
    quadratics contract with (1 - lr mu)^2. Source: derived (T38).
    """
    nonnegative(F_gap=F_gap, L=L, Xi=Xi)
    positive(mu=mu)
    count(T=T)
    if mu > L:
        raise ValueError(f"mu must be <= L = {L} (2 mu F_gap <= |grad F|^2 <= 2 L F_gap), got {mu}")
    if not _step_allowed(lr, L, 1):
        return inf
    # by logarithms: 1 - lr mu rounds a small lr mu away
    forgotten = T * log1p(-lr * mu) if lr * mu < 1 else -inf
    floor = (L**2 * Xi + _noise_floor(lr, L, sigma, N)) / (2 * mu)
    return exp(forgotten) * F_gap - expm1(forgotten) * floor


def dsgd_corollary(
    *, F_gap: float, L: float, sigma: float, kappa: float, N: int, T: int, q: float, S: float
) -> float:
    """Return the upper bound on (1/T) sum_{t<T} E |grad F(xbar_t)|^2 at lr = sqrt(N/T).

        (2 F_gap + L sigma^2) / sqrt(N T) + (4 N L^2 / T) (sigma sqrt(S/N) + kappa q)^2

    Upper for T >= `corollary_horizon`, inf before. The network enters in the O(N/T) term alone.
    Source: derived (T28).
    """
    nonnegative(F_gap=F_gap, L=L, sigma=sigma, kappa=kappa, q=q, S=S)
    count(N=N, T=T)
    if T * INSIDE < corollary_horizon(L=L, N=N, q=q):
        return not_applicable(f"T = {T} must reach corollary_horizon, where lr = sqrt(N/T) fits")
    leading = (2 * F_gap + L * sigma**2) / sqrt(N * T)
    return leading + 4 * N * L**2 / T * (sigma * sqrt(S / N) + kappa * q) ** 2


def corollary_horizon(*, L: float, N: int, q: float) -> float:
    """Return the least T at which lr = sqrt(N/T) is a `safe_step`.

        N max(L^2, 4 L^2 q^2)

    Exact. Source: derived (T28).
    """
    nonnegative(L=L, q=q)
    count(N=N)
    return N * (L * max(1, 2 * q)) ** 2


def safe_step(*, L: float, q: float) -> float:
    """Return the largest step size with lr L <= 1 and lr L q <= 1/2.

        min(1 / L, 1 / (2 L q))

    Exact; L > 0. Source: derived (T25).

    Examples:
        >>> from decaf_theory import bounds
        >>> round(bounds.safe_step(L=4.0, q=bounds.network_q(lam=0.5, order="MS")), 4)
        0.125
    """
    positive(L=L)
    nonnegative(q=q)
    return 1 / (L * max(1, 2 * q))


def mixing_error_rate(
    *,
    F_gap: float,
    lr: float,
    T: int,
    L: float,
    sigma: float,
    N: int,
    Xi: float,
    ebar: float,
    errors: str = "dependent",
) -> float:
    """Return the upper bound on (1/T) sum_{t<T} E |grad F|^2 when mixing adds errors e_i.

        2 F_gap/(lr T) + 2 lr L sigma^2/N + 2 L^2 Xi + 2 (ebar/lr)^2      "dependent"
        2 F_gap/(lr T) + lr L sigma^2/N + (L sqrt(Xi) + ebar/lr)^2        "predictable"

    ebar = sqrt of the average over t of E |mean_i e_i^{t+1}|^2; predictable means that e^{t+1} is
    independent of the noise of step t (not so in DeCAF with stochastic gradients), dependent that
    it may be anything. inf where lr L > 1. Tight: dependent N = 1, lr L = 1, e = -lr noise;
    predictable where e cancels the step. Never below `dsgd_sharp`, which also holds for longer
    steps. Source: derived (T29); the second form by Minkowski from the averages.
    """
    nonnegative(Xi=Xi, ebar=ebar)
    one_of(ERRORS, errors=errors)
    if not _step_allowed(lr, L, 1):
        return inf
    descent, floor = _descent(F_gap, lr, T), _noise_floor(lr, L, sigma, N)
    if errors == "predictable":
        return descent + floor + (L * sqrt(Xi) + ebar / lr) ** 2
    return descent + 2 * floor + 2 * L**2 * Xi + 2 * (ebar / lr) ** 2


def convex_curvature(*, L: float, m: float) -> float:
    """Return what replaces L^2 before Xi in `dsgd_rate` if every f_i + m |x|^2 / 2 is convex.

        ((L + m) / 2)^2,   0 <= m <= L

    L^2/4 for convex losses. Upper: deviations d_i sum to zero, so that (L - m)/2 d_i may be taken
    off every difference of gradients (no second derivative is asked for). Source: derived (T34).
    """
    nonnegative(L=L, m=m)
    if m > L:
        raise ValueError(f"m must be <= L = {L} (an L-smooth f has Hessians >= -L), got {m}")
    return ((L + m) / 2) ** 2


def momentum_rate(
    *, F_gap: float, lr: float, T: int, L: float, sigma: float, N: int, Xi: float, beta: float
) -> float:
    """Return the upper bound on (1/T) sum_{t<T} E |grad F(z_t)|^2 for local heavy-ball momentum.

        z = xbar - lr beta/(1 - beta) vbar:  `dsgd_rate` with the step a = lr / (1 - beta) and
        Xi + 2 (a beta)^2 sigma^2 / (N (1 - beta^2)) for Xi

    Steps as in `momentum_q_S`; Xi is that of the agents about their own mean. inf unless u = a L
    has u + 2 (u beta / (1 - beta))^2 <= 1. Tight only as beta -> 0, where it is `dsgd_rate`.
    Source: derived (T36-rate).
    """
    below_one(beta=beta)
    positive(lr=lr)
    nonnegative(Xi=Xi, sigma=sigma)
    known(L=L)
    count(N=N)
    step = lr / (1 - beta)
    u = step * L
    if u + 2 * (u * beta / (1 - beta)) ** 2 > INSIDE:
        return not_applicable(f"lr L / (1 - beta) = {u:.4g} is too large for beta = {beta}")
    lag = 2 * (step * beta * sigma) ** 2 / (N * (1 - beta**2))
    return dsgd_rate(F_gap=F_gap, lr=step, T=T, L=L, sigma=sigma, N=N, Xi=Xi + lag)


def _step_allowed(lr: float, L: float, factor: float) -> bool:
    positive(lr=lr)
    nonnegative(L=L)
    allowed = lr * L * factor <= INSIDE
    if not allowed:
        not_applicable(f"lr L = {lr * L:.4g} must be at most {1 / factor:.4g}")
    return allowed


def _descent(F_gap: float, lr: float, T: int) -> float:
    nonnegative(F_gap=F_gap)
    count(T=T)
    return 2 * F_gap / (lr * T)


def _noise_floor(lr: float, L: float, sigma: float, N: int) -> float:
    nonnegative(sigma=sigma)
    count(N=N)
    return lr * L * sigma**2 / N
