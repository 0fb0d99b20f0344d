"""The constants that a plan rests on, and what follows from them on a graph: step, consensus, I."""

from __future__ import annotations

import math
import warnings
from dataclasses import asdict, dataclass

from decaf_theory import bounds
from decaf_theory.plan.networks import Network

MEANINGS = {
    "L": "grad f is L-Lipschitz in W",
    "c": "sigma_1(A), sigma_1(B) <= c all along the run",
    "G": "|grad f|_op <= G",
    "sigma": "noise of an agent's gradient: E|g - grad f_i|_F^2 <= sigma^2",
    "kappa": "how the agents' data differ: mean_i |grad f_i - grad F|_F^2 <= kappa^2",
    "scale": "s in W = W0 + s B A, as lora_alpha / r",
}
POSITIVE = ("L", "c", "scale")


@dataclass(frozen=True)
class Assumed:
    """Constants of the loss in W and of the factors, `MEANINGS`; ValueError: not finite, too small.

    L, c and scale must be > 0, G, sigma and kappa >= 0.
    """

    L: float = 1.0
    c: float = 1.0
    G: float = 1.0
    sigma: float = 1.0
    kappa: float = 1.0
    scale: float = 1.0

    def __post_init__(self) -> None:
        """Check every constant, by name."""
        for name, value in asdict(self).items():
            require_number(name, value, MEANINGS[name], zero=name not in POSITIVE)

    @property
    def smoothness(self) -> float:
        """L*, in the factors (T2-sharp)."""
        return bounds.smoothness_sharp(L=self.L, c=self.c, G=self.G, s=self.scale)

    def safe_step(self, network: Network) -> float:
        """Return the largest step of T25 on a graph, order MS."""
        return bounds.safe_step(L=self.smoothness, q=network.q)

    def consensus(self, network: Network, step: float) -> float:
        """Return T25's bound on E Xi after a mix, with T5's constants of the factors.

        inf where it says nothing.
        """
        with warnings.catch_warnings(action="ignore", category=bounds.StepSizeWarning):
            return bounds.consensus_bound(
                lr=step,
                L=self.smoothness,
                sigma=bounds.factor_sigma(s=self.scale, c=self.c, sigma_W=self.sigma),
                kappa=bounds.factor_kappa(s=self.scale, c=self.c, kappa_W=self.kappa),
                N=network.N,
                q=network.q,
                S=network.S_mixed,
            )

    def interference(self, network: Network, step: float) -> float:
        """Return T14's bound on E mean_i s |I_i|_* of a DLoRA mix; inf where it says nothing.

        Gradients are taken at mixed points, so that the feedback of T14's denominator passes
        through a mix: lam L* in place of L*, q of order CB, which is L* q of order MS.
        """
        with warnings.catch_warnings(action="ignore", category=bounds.StepSizeWarning):
            return bounds.interference_trajectory(
                lr=step,
                s=self.scale,
                c=self.c,
                N=network.N,
                L_hat=network.lam * self.smoothness,
                sigma_W=self.sigma,
                kappa_W=self.kappa,
                q=network.q_combine,
                S=network.S,
            )


def require_number(name: str, value: float, meaning: str, *, zero: bool = False) -> None:
    """Raise ValueError unless a number is finite and > 0, or >= 0 if `zero`."""
    fits = isinstance(value, (int, float)) and math.isfinite(value)
    if not fits or value < 0 or (value == 0 and not zero):
        rule = ">= 0" if zero else "> 0"
        raise ValueError(f"{name} must be a finite number {rule}, got {value}; {meaning}")
