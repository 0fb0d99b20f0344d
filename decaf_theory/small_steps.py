r"""What small steps do on isotropic approximation, to leading order in lr: laws with matrices.

f_i = |s B A - Wbar - D_i|_F^2 / 2 with sum_i D_i = 0, order MS, no noise, all agents started at one
fit of Wbar = s B A. The deviations of the factors settle at lr s (I - Pi)^+ D A' and
lr s (I - Pi)^+ B' D; the laws are squares of them, summed by one kernel for each quantity. They are
no bounds: corrections are of relative order lr. D [N, d, k], Pi [..., N, N]; T14, T32, T33. Of
other losses, in either order: where the mean of the agents goes (T39).
"""

from __future__ import annotations

from math import sqrt

import numpy as np

from decaf_theory.bounds._checks import network_order
from decaf_theory.topology.checks import structure, symmetric

SLOW_STEPS = 2000  # of Runge and Kutta's fourth order, whose error is then below 1e-12


def interference_kernel(Pi: np.ndarray) -> np.ndarray:
    """Return Gamma = (I + Pi)(I - Pi)^+ [..., N, N], of what mixing adds to the mean product.

    It is (I - Pi^2) between two stationary deviations, (I - Pi)^+ each. ValueError: a Pi that is
    not symmetric and stochastic; so in all laws with this kernel, and in T33's.
    """
    _require_symmetric(Pi, "interference_kernel")
    eye = np.eye(Pi.shape[-1])
    kernel: np.ndarray = (eye + Pi) @ np.linalg.pinv(eye - Pi)
    return kernel


def drift_kernel(Pi: np.ndarray, order: str = "MS") -> np.ndarray:
    """Return Pi (I - Pi)^+ [..., N, N] in order "MS", (I - Pi)^+ in order "CB".

    Deviations settle at -lr times it times the gradients, exactly (T39), and the gauge drifts with
    that of "MS" (T33), which is 0 on the complete graph and (Gamma - I) / 2 off the constants, with
    the Gamma of `interference_kernel`. Pi may be directed. ValueError: another order, or rows or
    columns that do not sum to one.
    """
    network_order(order)
    for one in np.reshape(Pi, (-1, *Pi.shape[-2:])):
        structure(one)
    kernel: np.ndarray = np.linalg.pinv(np.eye(Pi.shape[-1]) - Pi)
    return Pi @ kernel if order == "MS" else kernel


def disagreement_slope(
    kernel: np.ndarray, gradients: np.ndarray, hessians: np.ndarray
) -> np.ndarray:
    """Return half the gradient of psi [..., p] at a common point, of which lr is taken off grad F.

        psi = (1/N) sum_ij Gamma1_ij <grad f_i, grad f_j>,   Gamma1 = `drift_kernel` of the order

    gradients [..., N, p], hessians [..., N, p, p]. To first order in lr the mean of decentralized
    SGD descends F - (lr/2) psi (T39).
    """
    mixed = kernel @ gradients
    slope: np.ndarray = (hessians @ mixed[..., None])[..., 0].mean(axis=-2)
    return slope


def added_by_mixing(Pi: np.ndarray, D: np.ndarray, P: np.ndarray) -> np.ndarray:
    """Return sum_jl Gamma_jl D_j P' D_l [d, k] for one graph and the fitted product P = B A.

    Per round mixing adds lr^2 s^2 / N times this to the mean product: the mean interference (T14),
    and what DeCAF keeps of it outside of the spaces of Wbar (T32).
    """
    total: np.ndarray = np.einsum("jl,jab,cb,lcd->ad", interference_kernel(Pi), D, P, D)
    return total


def gauge_drift(
    Pi: np.ndarray, D: np.ndarray, B: np.ndarray, A: np.ndarray, s: float
) -> np.ndarray:
    """Return the change per step over lr^2 of Bbar'Bbar - Abar Abar' [graphs, r, r] (T33).

        -(2 s^2 / N) sum_jl Gamma'_jl [A D_l' D_j A' - B' D_j D_l' B],   Gamma' = Pi (I - Pi)^+

    Pi [graphs, N, N], B [graphs, d, r], A [graphs, r, k].
    """
    _require_symmetric(Pi, "gauge_drift")
    Gamma = drift_kernel(Pi)
    right = np.einsum("gjl,gra,lba,jbc,gsc->grs", Gamma, A, D, D, A)
    left = np.einsum("gjl,gar,jab,lcb,gcs->grs", Gamma, B, D, D, B)
    drift: np.ndarray = -2 * s**2 / len(D) * (right - left)
    return drift


def slow_flow(
    Pi: np.ndarray,
    D: np.ndarray,
    u: np.ndarray,
    v: np.ndarray,
    *,
    size: float,
    s: float,
    tau: float,
) -> float:
    """Return sigma_1 of factors b u, a v' of rank one at slow time tau = lr^2 t (T33).

    From a = b at 0, along a b = `size`: K = b^2 - a^2 obeys dK/dtau = s^2 ((y - x) sqrt(K^2 + 4
    size^2) + (y + x) K) with y = (1/N) sum_jl Gamma'_jl u'D_j D_l'u, x = (1/N) sum_jl Gamma'_jl
    v'D_l'D_j v. Both feed K where they are positive: no c bounds the factors for all (lr, t).
    """
    _require_symmetric(Pi, "slow_flow")
    Gamma = drift_kernel(Pi)
    y = np.einsum("jl,a,jab,lcb,c->", Gamma, u, D, D, u) / len(D)
    x = np.einsum("jl,a,lba,jbc,c->", Gamma, v, D, D, v) / len(D)

    def speed(K: float) -> float:
        return float(s**2 * ((y - x) * sqrt(K**2 + 4 * size**2) + (y + x) * K))

    K = 0.0
    h = tau / SLOW_STEPS
    for _ in range(SLOW_STEPS):
        k1 = speed(K)
        k2 = speed(K + h / 2 * k1)
        k3 = speed(K + h / 2 * k2)
        k4 = speed(K + h * k3)
        K += h / 6 * (k1 + 2 * k2 + 2 * k3 + k4)
    return sqrt((sqrt(K**2 + 4 * size**2) + abs(K)) / 2)


def _require_symmetric(Pi: np.ndarray, wanted: str) -> None:
    """Raise ValueError unless every matrix of Pi [..., N, N] is symmetric and stochastic."""
    for one in np.reshape(Pi, (-1, *Pi.shape[-2:])):
        symmetric(one, wanted)
