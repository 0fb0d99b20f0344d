"""A run as the bounds on rates see it, DeCAF in the frame in which it is DLoRA with an error (T30).

The same functions serve DLoRA, whose error of mixing is zero, and other methods that step along the
gradient: what they do beyond averaging is their error of mixing.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np

from decaf_theory.arrays import Array, host, namespace
from decaf_theory.lowrank import Factors, align, mix_factors
from decaf_theory.measure import consensus_distance, sigma_max
from decaf_theory.methods import METHODS, Clock, Method, State
from decaf_theory.methods.base import Mixed, along_the_gradient, of_numbers
from decaf_theory.methods.factor import average_factors
from decaf_theory.methods.memory import HeavyBall
from decaf_theory.methods.state import Message
from decaf_theory.simulate import Config, Visit, visits
from decaf_theory.simulate.visit import mean_of_agents, points

EPS = float(np.finfo(np.float64).eps)


def turned(method: Method) -> Method:
    """Return a product method each output of which is turned onto the mean of the factors (T30)."""

    def receive(own: State, sent: Message, weights: Array, clock: Clock) -> Mixed:
        mixed = method.receive(own, sent, weights, clock)
        means = mix_factors(Factors(sent["B"], sent["A"]), weights)
        turned = align(mixed.state.factors, means)
        return mixed._replace(state=mixed.state._replace(factors=turned))

    return replace(method, name=f"{method.name} turned onto dlora", receive=receive)


TURNED = turned(METHODS["decaf"])


def means_of(visit: Visit) -> Factors:
    """Return DLoRA's mix of the factors that entered the mix before this step."""
    before, weights = visit.mix.before, visit.mix.weights
    assert before is not None  # of a step after a mix
    return mix_factors(before, weights)


def mixing_error(visit: Visit) -> Factors:
    """Return e_i, the agents' factors less DLoRA's mix of those that entered it; 0 without a mix.

    Of order "combine", where a step follows the mix, it is not known; of means it is 0.
    """
    if visit.mix.before is None or visit.config.order == "combine":
        return visit.factors.map(lambda X: 0 * X)
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

    The gradients are those in the factors that the method trains. With momentum the first is that
    at the point `ahead` of the mean.
    """
    mean = mean_state(visit)
    gradient, heterogeneity = _slopes(visit, mean)
    if momentum_of(visit.config.named):
        gradient, _ = _slopes(visit, ahead(visit, mean))
    return gradient, heterogeneity


def _slopes(visit: Visit, at: State) -> tuple[Any, Any]:
    """Return both at one state [runs, 1, ...]."""
    config, form = visit.config, visit.config.named.form
    g = config.problem.grad(points(config, at))
    xp = namespace(g)
    common = mean_of_agents(g, config.shares, -3)[..., None, :, :]
    trained = config.named.trains(Clock(visit.step))

    def square(gradient: Any) -> Any:
        slopes = form.gradients(gradient, at, config.s)._asdict()
        return sum(xp.sum(slopes[name] ** 2, axis=(-2, -1)) for name in trained)

    return square(common)[..., 0], mean_of_agents(square(g - common), config.shares, -1)


def mean_state(visit: Visit) -> State:
    """Return the mean of the agents' states, weighted by the target's shares, [runs, 1, ...]."""
    shares = visit.config.shares
    return visit.state.each(lambda X: mean_of_agents(X, shares, -3)[..., None, :, :])


def momentum_of(method: Method) -> float | None:
    """Return beta of steps along the gradient with local momentum, 0 without; None of others."""
    step = method.step
    if isinstance(step, HeavyBall) and step.of is along_the_gradient:
        return step.beta
    return 0.0 if step is along_the_gradient else None


def averages(rule: Method) -> bool:
    """Whether the mix is the mean of all that trains, in every round: no error of mixing."""
    sent = set(rule.send(of_numbers(rule), Clock()))
    return rule.receive is average_factors and set(rule.trains(Clock())) <= sent


def ahead(visit: Visit, mean: State) -> State:
    """Return z = xbar - lr beta/(1 - beta) vbar of T36-rate, the mean where beta = 0.

    z+ = z - lr/(1 - beta) (mean gradient + noise). lr is one number.
    """
    beta = momentum_of(visit.config.named)
    if not beta:
        return mean
    lr = float(np.max(visit.config.step_sizes(visit.step)))
    momentum = mean.pair("momentum")._asdict()
    moved = {
        name: getattr(mean.factors, name) - lr * beta / (1 - beta) * momentum[name]
        for name in visit.config.named.trains(Clock(visit.step))
    }
    return mean._replace(factors=mean.factors._replace(**moved))


class Path(NamedTuple):
    """What T25 and T29 need of runs, [steps, runs] if nothing is said."""

    gradient: np.ndarray  # |grad Phi|^2 at the mean factors, or `ahead` of them
    kappa: np.ndarray  # root of (1/N) sum |grad phi_i - grad Phi|^2 there
    Xi: np.ndarray  # consensus distance of the factors
    ebar: np.ndarray  # |mean_i e_i|
    apart: np.ndarray  # |e~|_F
    norm_B: np.ndarray  # largest |B_i|_F
    norm_A: np.ndarray
    lag: np.ndarray  # |z - mean|^2 of the point `ahead`, 0 without momentum
    c: np.ndarray  # [runs] largest sigma_1 of any factor, at the end, too, and of z


class Recorder:
    """Takes the visits of a run one by one, as `simulate`'s watch; `path` is what was seen."""

    def __init__(self) -> None:
        """Begin without a visit."""
        self.last: Visit | None = None
        self.columns: list[tuple[Any, ...]] = []
        self.tops: list[np.ndarray] = []

    def __call__(self, after: Visit) -> None:
        """Record the step before, now that the mix that followed it is known."""
        self.tops.append(_largest(sigma_max(after.factors)))
        if momentum_of(after.config.named):
            self.tops.append(_largest(sigma_max(ahead(after, mean_state(after)).factors)))
        at, self.last = self.last, after
        if at is None:
            return
        gradient, heterogeneity = slopes_at_mean(at)
        e = mixing_error(after)
        ebar = norms(e.map(lambda X: namespace(X).mean(X, axis=-3)))
        apart = (consensus_distance(e) * at.config.problem.N) ** 0.5
        spread = consensus_distance(at.factors, at.config.shares)
        sizes = _sizes(at.factors)
        mean = mean_state(at)
        lag = norms(difference(ahead(at, mean).factors, mean.factors))[..., 0] ** 2
        self.columns.append((gradient, heterogeneity**0.5, spread, ebar, apart, *sizes, lag))

    @property
    def path(self) -> Path:
        """What was recorded."""
        columns = zip(*self.columns, strict=True)
        stacked = (np.stack([host(x) for x in column]) for column in columns)
        return Path._make([*stacked, np.max(self.tops, axis=0)])


def path_of(config: Config) -> Path:
    """Run the simulation; return what bounds need of its steps."""
    recorder = Recorder()
    for visit in visits(config):
        recorder(visit)
    return recorder.path


def rate_rounding(bound: Any, points: Any, *, terms: float, lr: float) -> Any:
    """Return how far rounding moves the mean squared gradient of a run against a bound of T29.

    A computed round is an exact one with one more error of mixing, as the errors are measured. It
    is at most 4 `terms` eps |y| where a mix sums N numbers of size |y| = `points` and a step d, k
    and r products, `terms` being the sum of these, and where lr L <= 1, by which a step and the
    gradient that is measured are no larger than a few |y| and |y|/lr. With eta this error over lr,
    each form of the bound grows by at most 4 eta sqrt(bound) + 2 eta^2: (D + eps/lr)^2 by
    2 eta sqrt(bound) + eta^2, and by as much for the noise on which rounding may depend (the
    cross term of T29-sharp); 2 eps^2/lr^2 and T29-joint for errors that depend on the noise by
    2 sqrt(2) eta sqrt(bound) + 2 eta^2.
    """
    eta = 4 * terms * EPS * points / lr
    return 4 * eta * bound**0.5 + 2 * eta**2


def _sizes(factors: Factors) -> tuple[np.ndarray, np.ndarray]:
    """Return the largest |B_i|_F and |A_i|_F, [runs]."""
    B, A = (_largest(namespace(X).linalg.matrix_norm(X, ord="fro")) for X in factors)
    return B, A


def _largest(x: Any) -> np.ndarray:
    """Return the largest over agents, [runs]."""
    largest: np.ndarray = host(x).max(axis=-1)
    return largest
