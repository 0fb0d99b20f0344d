"""Sequences of quadratic tasks, and in closed form where plain learners end after each of them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np

from decaf_theory.arrays import integer
from decaf_theory.problems.approximation import planted, spread
from decaf_theory.problems.base import NoiseKind, Problem, require
from decaf_theory.problems.quadratic import quadratic

Real: TypeAlias = np.ndarray[Any, np.dtype[np.float64]]


@dataclass(frozen=True, eq=False)
class TaskSequence:
    """Tasks to be learned one after the other, without the data of earlier ones.

    tasks: one Problem of N agents each, f_ti(W) = |(W - W_ti*) diag(h_t)^(1/2)|_F^2 / 2: the inputs
    of task t are the unit vectors e_c, of weight h_tc, the same for all agents.
    targets [T, N, d, k]: W_ti*. inputs [T, k]: h_t.
    """

    tasks: tuple[Problem, ...]
    targets: Real
    inputs: Real

    @property
    def means(self) -> Real:
        """The mean targets Wbar_t, where the mean losses F_t are least, [T, d, k]."""
        means: Real = self.targets.mean(axis=1)
        return means

    def losses(self, W: Real) -> Real:
        """Return the excess losses F_t(W) - min F_t = |(W - Wbar_t) diag(h_t)^(1/2)|_F^2 / 2.

        W [..., d, k] -> [..., T], by the same sum whatever the agents' spread.
        """
        gaps = np.asarray(W)[..., None, :, :] - self.means
        found: Real = np.sum(gaps**2 * self.inputs[:, None, :], axis=(-2, -1)) / 2
        return found

    def full_path(self, W0: Real | None = None) -> Real:
        """Return where gradient descent on all of W ends after each task, [T, d, k].

            W_t[:, c] = Wbar_t[:, c] where h_tc > 0, else W_{t-1}[:, c]

        From W0, by default zero. Whatever fits task t to the least F_t ends at these columns of
        h_tc > 0, plain LoRA of enough rank too; where all are positive it ends at this W, and so
        forgets the same, whatever its form or way of mixing.
        """
        W = np.zeros(self.means.shape[1:]) if W0 is None else np.asarray(W0, dtype=np.float64)
        path = []
        for mean, h in zip(self.means, self.inputs, strict=True):
            W = np.where(h > 0, mean, W)
            path.append(W)
        return np.stack(path)

    def frozen_path(self, A: Real, B: Real | None = None, s: float = 1.0) -> Real:
        """Return where LoRA with a frozen A [r, k] ends after each task, s B_t A [T, d, k].

            B_t = B_{t-1} + (Wbar_t - s B_{t-1} A) H^(1/2) (s A H^(1/2))^+,   H = diag(h_t)

        the minimizer of F_t nearest to B_{t-1}, where gradient descent converges. B: the start
        [d, r], by default zero. The step is the same for the mean over agents, which a method keeps
        that mixes by doubly stochastic weights.
        """
        A = np.asarray(A, dtype=np.float64)
        B = np.zeros((self.means.shape[1], A.shape[0])) if B is None else np.asarray(B)
        path = []
        for mean, h in zip(self.means, self.inputs, strict=True):
            root = np.sqrt(h)
            B = B + ((mean - s * B @ A) * root) @ np.linalg.pinv(s * A * root)
            path.append(s * B @ A)
        return np.stack(path)


def sequence(
    targets: Real, inputs: Real, *, tau: float = 0.0, noise: NoiseKind = "gauss"
) -> TaskSequence:
    """Return the tasks of these targets [T, N, d, k] and weights of inputs [T, k] >= 0.

    Constants of each task as in `quadratic`, whose curvatures here are equal at all agents. tau,
    noise: of the gradients.
    ValueError: other shapes, entries that are not finite, weights that are negative or all zero.
    """
    W_star, h = np.array(targets, dtype=np.float64), np.array(inputs, dtype=np.float64)
    if W_star.ndim != 4 or 0 in W_star.shape or not np.all(np.isfinite(W_star)):
        raise ValueError(f"targets must be finite [T, N, d, k], got shape {W_star.shape}")
    T, N, _, k = W_star.shape
    if h.shape != (T, k) or not np.all((h >= 0) & (h < np.inf)) or not np.all(h.any(axis=1)):
        raise ValueError(
            f"inputs must be finite [{T}, {k}], >= 0 and not all zero in any task, "
            f"got shape {h.shape}; ones are tasks that see every column"
        )
    tasks = tuple(
        quadratic(np.tile(row, (N, 1)), W, name=f"task {t + 1}", tau=tau, noise=noise)
        for t, (W, row) in enumerate(zip(W_star, h, strict=True))
    )
    return TaskSequence(tasks, W_star, h)


def planted_sequence(
    *,
    T: int = 4,
    N: int = 4,
    d: int = 8,
    k: int = 8,
    rank: int = 1,
    overlap: float = 0.0,
    shared: float = 0.0,
    kappa: float = 0.0,
    tau: float = 0.0,
    seed: int = 0,
) -> TaskSequence:
    """Return a seeded sequence: columns dealt to the tasks, targets that share a part of a matrix.

    Column c belongs to task c mod T: h_tc = 1 there and `overlap` elsewhere, so that 0 means inputs
    of its own for each task and 1 the same inputs for all. Wbar_t = sqrt(shared) C +
    sqrt(1 - shared) D_t, C and D_t `planted`, independent, of this rank and |C|_op = |D_t|_op = 1.
    kappa: the spread of the agents' targets, as in P3. ValueError: T > k, overlap or shared outside
    [0, 1].
    """
    integer("T", T, 1)
    require("T", T, f"<= k = {k}, so that each task has a column", k >= T)
    for name, share in (("overlap", overlap), ("shared", shared)):
        require(name, share, "in [0, 1]", 0 <= share <= 1)
    size = {"d": d, "k": k, "rank": rank, "seed": seed}
    common = planted(**size, name="common")
    own = np.stack([planted(**size, name=f"task {t + 1}") for t in range(T)])
    means = shared**0.5 * common + (1 - shared) ** 0.5 * own
    targets = means[:, None] + spread(N=N, d=d, k=k, kappa=kappa, seed=seed)
    inputs = np.full((T, k), float(overlap))
    inputs[np.arange(k) % T, np.arange(k)] = 1.0
    return sequence(targets, inputs, tau=tau)
