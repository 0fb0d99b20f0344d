"""What a learner knows of earlier tasks: standard numbers of a table of scores.

scores [..., T, T]: R[t, j] of task j after tasks 0 ... t have been learned; only j <= t is read.
"""

from __future__ import annotations

import numpy as np

from decaf_theory.arrays import Host


def average(scores: Host) -> Host:
    """Return the mean score of all tasks after the last one, [...].

    (1/T) sum_j R[T-1, j]: ACC of Lopez-Paz and Ranzato 2017 (GEM), "average accuracy".
    """
    found: Host = _table(scores)[..., -1, :].mean(axis=-1)
    return found


def backward_transfer(scores: Host) -> Host:
    """Return how the scores of earlier tasks moved since they were learned, [...].

    (1/(T-1)) sum_{j<T-1} (R[T-1, j] - R[j, j]): BWT of Lopez-Paz and Ranzato 2017. ValueError: one
    task, of which nothing is earlier.
    """
    R = _table(scores, least=2)
    after = np.diagonal(R, axis1=-2, axis2=-1)
    found: Host = (R[..., -1, :-1] - after[..., :-1]).mean(axis=-1)
    return found


def forgetting(scores: Host, *, lower: bool = False) -> Host:
    """Return how far the earlier tasks fell from their best, [...]; >= 0 unless the last is best.

    (1/(T-1)) sum_{j<T-1} (max_{j<=t<T-1} R[t, j] - R[T-1, j]): the forgetting measure of Chaudhry
    et al. 2018, the best among the times since task j was learned. lower: less is better, as of
    losses; then R[T-1, j] - min R[t, j]. ValueError: one task, of which nothing is earlier.
    """
    R = _table(scores, least=2) * (-1.0 if lower else 1.0)
    T = R.shape[-1]
    falls = [R[..., j:-1, j].max(axis=-1) - R[..., -1, j] for j in range(T - 1)]
    found: Host = np.mean(falls, axis=0)
    return found


def _table(scores: Host, least: int = 1) -> Host:
    R = np.asarray(scores, dtype=np.float64)
    if R.ndim < 2 or R.shape[-1] != R.shape[-2] or R.shape[-1] < least:
        raise ValueError(
            f"scores must be [..., T, T] with T >= {least}, got shape {R.shape}; "
            f"row t holds the scores after task t"
        )
    return R
