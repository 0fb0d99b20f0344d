"""DeCAF in the frame in which it is DLoRA with an error of mixing (T30), and what its bounds need.

The same functions serve DLoRA, whose error of mixing is zero.
"""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np

from decaf_theory.arrays import Array, host, namespace
from decaf_theory.lowrank import Factors, align, mix_factors
from decaf_theory.measure import consensus_distance, sigma_max
from decaf_theory.methods import METHODS, Clock, State
from decaf_theory.methods.base import Mixed
from decaf_theory.methods.state import Message
from decaf_theory.simulate import Config, Visit, visits
from decaf_theory.simulate.visit import points


def _onto_dlora(own: State, sent: Message, weights: Array, clock: Clock) -> Mixed:
    """Return DeCAF's mix, each output turned onto DLoRA's mix of the same factors."""
    mixed = METHODS["decaf"].receive(own, sent, weights, clock)
    means = mix_factors(Factors(sent["B"], sent["A"]), weights)
    turned = align(mixed.state.factors, means)
    return mixed._replace(state=mixed.state._replace(factors=turned))


TURNED = replace(METHODS["decaf"], name="decaf turned onto dlora", receive=_onto_dlora)


def means_of(visit: Visit) -> Factors:
    """Return DLoRA's mix of the factors that entered the mix before this step."""
    before, weights = visit.mix.before, visit.mix.weights
    assert before is not None  # of a step after a mix
    return mix_factors(before, weights)


def mixing_error(visit: Visit) -> Factors:
    """Return e_i, the agents' factors less DLoRA's mix."""
    return difference(visit.factors, means_of(visit))


def difference(left: Factors, right: Factors) -> Factors:
    """Return the factors of the left less those of the right."""
    return left.map(lambda X, Y: X - Y, right)


def norms(e: Factors) -> Any:
    """Return the Euclidean norm of (B, A) for each agent, [..., N]."""
    xp = namespace(e.B)
    return (xp.sum(e.B**2, axis=(-2, -1)) + xp.sum(e.A**2, axis=(-2, -1))) ** 0.5


def slopes_at_mean(visit: Visit) -> tuple[Any, Any]:
    """Return |grad Phi|^2 and (1/N) sum |grad phi_i - grad Phi|^2 at the mean factors, [runs].

    The gradients are those in the factors that the method trains.
    """
    config, form = visit.config, visit.config.named.form
    mean = visit.state.each(lambda X: namespace(X).mean(X, axis=-3, keepdims=True))
    g = config.problem.grad(points(config, mean))
    xp = namespace(g)
    common = xp.mean(g, axis=-3, keepdims=True)
    trained = config.named.trains(Clock(visit.step))

    def square(gradient: Any) -> Any:
        slopes = form.gradients(gradient, mean, config.s)._asdict()
        return sum(xp.sum(slopes[name] ** 2, axis=(-2, -1)) for name in trained)

    return square(common)[..., 0], xp.mean(square(g - common), axis=-1)


class Path(NamedTuple):
    """What T25 and T29 need of runs that train both factors, [steps, runs] if nothing is said."""

    gradient: np.ndarray  # |grad Phi|^2 at the mean factors
    kappa: np.ndarray  # root of (1/N) sum |grad phi_i - grad Phi|^2 there
    Xi: np.ndarray  # consensus distance of the factors
    ebar: np.ndarray  # |mean_i e_i|
    apart: np.ndarray  # |e~|_F
    norm_B: np.ndarray  # largest |B_i|_F
    norm_A: np.ndarray
    c: np.ndarray  # [runs] largest sigma_1 of any factor, at the end, too


def path_of(config: Config) -> Path:
    """Run the simulation; return what bounds need of its steps."""
    columns = []
    tops = []
    for at, after in pairwise(visits(config)):
        y = at.factors
        gradient, heterogeneity = slopes_at_mean(at)
        e = mixing_error(after)
        ebar = norms(e.map(lambda X: namespace(X).mean(X, axis=-3)))
        apart = (consensus_distance(e) * config.problem.N) ** 0.5
        columns.append(
            (gradient, heterogeneity**0.5, consensus_distance(y), ebar, apart, *_sizes(y))
        )
        tops.append(_largest(sigma_max(y)))
    tops.append(_largest(sigma_max(after.factors)))
    stacked = (np.stack([host(x) for x in column]) for column in zip(*columns, strict=True))
    return Path._make([*stacked, np.max(tops, axis=0)])


def _sizes(factors: Factors) -> tuple[np.ndarray, np.ndarray]:
    """Return the largest |B_i|_F and |A_i|_F, [runs]."""
    B, A = (_largest(namespace(X).linalg.matrix_norm(X, ord="fro")) for X in factors)
    return B, A


def _largest(x: Any) -> np.ndarray:
    """Return the largest over agents, [runs]."""
    largest: np.ndarray = host(x).max(axis=-1)
    return largest
