"""Decentralized SGD on quadratics, run many times: sample means with their standard errors."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np


class Sample(NamedTuple):
    """The mean over the runs and its standard error."""

    mean: float
    error: float


def gossip_samples(H, b, root, Pi, *, lr, order, start, times, runs, seed):
    """Return, for each t of `times`, samples of |grad F(xbar_t)|^2 and Xi_t.

    f_i = x'H_i x / 2 - b_i'x for H [N, p, p], b [N, p]; noise root_i e with signs e = +-1, so of
    covariance root_i root_i'; start [N, p]. "MS" mixes the stepped points, "CB" steps from the
    mixed points with the gradient of the unmixed ones.
    """
    rng = np.random.default_rng(seed)
    x = np.repeat(start[None], runs, axis=0)
    found = {}
    for t in range(max(times) + 1):
        if t in times:
            found[t] = (_sample(_gradient(H, b, x)), _sample(_spread(x)))
        signs = 2.0 * rng.integers(0, 2, x.shape) - 1.0
        steps = [lr * (x[:, i] @ H[i] - b[i] + signs[:, i] @ root[i].T) for i in range(len(H))]
        step = np.stack(steps, axis=1)
        x = _mixed(Pi, x - step) if order == "MS" else _mixed(Pi, x) - step
    return found


def _mixed(Pi, x):
    return np.stack([sum(w * x[:, j] for j, w in enumerate(row)) for row in Pi], axis=1)


def _gradient(H, b, x):
    center = x.mean(axis=1)
    slope = sum(center @ H[i] - b[i] for i in range(len(H))) / len(H)
    return np.sum(slope**2, axis=1)


def _spread(x):
    off = x - x.mean(axis=1, keepdims=True)
    return np.sum(off**2, axis=(1, 2)) / x.shape[1]


def _sample(values):
    return Sample(float(values.mean()), float(values.std(ddof=1) / np.sqrt(len(values))))
