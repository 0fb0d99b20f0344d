"""When a run counts as diverged, judged against the size of an ordinary loss, and the advice."""

from __future__ import annotations

import numpy as np

from decaf_theory.arrays import Host, convert, host, namespace
from decaf_theory.lowrank import Factors
from decaf_theory.measure import sigma_max
from decaf_theory.simulate.config import Config
from decaf_theory.simulate.start import start_factors
from decaf_theory.simulate.visit import Visit

DIVERGED = 1e5  # a loss this many times its scale at the start ends the run


class Divergence:
    """The scale of the losses of a run, [runs], and whether a step is beyond it.

    The scale is the larger of the agents' mean losses at the start and at W0, plus
    sigma^2 / (2 L), what noise sustains on a quadratic at lr = 1/L. Where all are zero, it is the
    first loss that is not.
    """

    def __init__(self, config: Config, start: Visit) -> None:
        """Take the scale from the first step of a run."""
        problem, constants = config.problem, config.problem.constants
        W0 = convert(problem.W0, start.W)[None, ...]
        losses, slopes = host(problem.loss(W0)), host(problem.grad(W0))
        self.config = config
        self.scale = np.maximum(np.abs(_mean_loss(start)), np.abs(losses.mean()))
        if constants.sigma is not None and constants.L:
            self.scale = self.scale + constants.sigma**2 / (2 * constants.L)
        self.at_W0 = float(np.abs(losses).mean())
        self.slope = float(np.sqrt(np.mean(np.sum(slopes**2, axis=(-2, -1)))))
        self.room = self._room()

    def words(self, visit: Visit) -> str:
        """Return which run left its scale, in words; an empty string where none did."""
        square_B, square_A = visit.squares
        if (square_B * square_A <= self.room).all():  # false for NaN
            return ""
        loss = _mean_loss(visit)
        if not (self.scale > 0).all():
            self.scale = np.where(self.scale > 0, self.scale, np.abs(loss))
            self.room = self._room()
        over = np.flatnonzero(np.abs(loss) > DIVERGED * self.scale)
        if over.size == 0:
            return ""
        run = int(over[0])
        return (
            f"run {run} diverged at step {visit.step}: the agents' mean loss is {loss[run]:.3g}, "
            f"beyond {DIVERGED:g} times its scale at the start"
        )

    def _room(self) -> Host:
        """Return the sum_i |B_i|^2 sum_i |A_i|^2 of a run, [runs], up to which none diverges.

        With D_i = W_i - W0 and x^2 = (1/N) sum_i |D_i|^2, the mean of |f_i(W_i)| is at most its
        value at W0 + g x + L x^2 / 2, g^2 the mean of |grad f_i(W0)|^2; and where W - W0 is a
        multiple of B A, N x^2 <= s^2 sum_i |B_i|^2 sum_i |A_i|^2. So losses need not be computed as
        long as that product is small, for half of what counts as divergence: this bound rounds,
        too.
        """
        L = self.config.problem.constants.L
        allowed = DIVERGED / 2 * self.scale - self.at_W0
        if L is None or not self.config.named.form.factored:
            return np.full_like(allowed, -np.inf)
        # the positive root of L x^2 / 2 + g x = allowed, which is 0 or less where scale is 0
        root = np.sqrt(self.slope**2 + 2 * L * np.maximum(allowed, 0))
        x = 2 * np.maximum(allowed, 0) / (self.slope + root + np.finfo(float).tiny)
        room = (x / self.config.scale) ** 2 * self.config.problem.N
        return np.where(allowed > 0, room, -np.inf)


def advice(config: Config) -> str:
    """Return what to do about a step size beyond 1/L* of the start; "" where it is within.

    L* is the smoothness of the losses in what is trained, on Omega_c with the start's c (T2). Where
    the problem does not say enough to know it, any step size above 0 may be beyond.
    """
    start, constants, form = start_factors(config), config.problem.constants, config.named.form
    lr = float(np.max(config.step_sizes(0)))
    needed = ("L", "G") if form.low_rank else ("L",)
    unknown = [name for name in needed if getattr(constants, name) is None]
    if unknown or form.variables:
        lacks = f"the problem's constants lack {' and '.join(unknown)}"
        why = f"no limit is known, as {lacks if unknown else f'W - W0 is {form.name}'}"
        return f"; lr = {lr:.3g} may be too large ({why}); try a smaller lr" if lr > 0 else ""
    L_star, letters = constants.L, "L* = L"
    assert L_star is not None
    if form.low_rank:
        L_star, letters = _on_omega(config, start)
    # written as a product: L* may be zero
    if not lr * L_star > 1:
        return ""
    limit = f"lr = {lr:.3g} is above 1/L* = {1 / L_star:.3g}, {letters}"
    return f"; {limit}; try a smaller lr (bounds.safe_step)"


def _on_omega(config: Config, start: Factors) -> tuple[float, str]:
    """Return L* on the Omega_c of the start, and the formula with its c."""
    s, c = config.s, float(host(sigma_max(start)).max())
    constants = config.problem.constants
    assert constants.L is not None
    assert constants.G is not None
    L_star = s * (2 * s * constants.L * c**2 + constants.G(s, c))
    return L_star, f"L* = s (2 s L c^2 + G), with c = {c:.3g} of the start"


def _mean_loss(visit: Visit) -> Host:
    return host(namespace(visit.agent_loss).mean(visit.agent_loss, axis=-1))
