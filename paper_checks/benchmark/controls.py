"""Variants of methods that say which part of a method its effect comes from."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from decaf_theory.arrays import Array, namespace
from decaf_theory.lowrank import Factors
from decaf_theory.methods import METHODS, Method, Mixed, State, keeping_directions
from decaf_theory.methods.product import keep_directions
from decaf_theory.methods.state import Clock, Message
from decaf_theory.tsvd import tsvd_of_mix
from paper_checks.settings import Mix

START = 3**-0.5  # the root mean square norm of a row of A at the start, uniform in +-1/sqrt(k)
Watch = Callable[[State, Array, Clock], None]


@dataclass(frozen=True, kw_only=True)
class Chosen(Mix):
    """The mix of an experiment with a method that need not be in the table."""

    chosen: Method

    @property
    def rule(self) -> Method:
        """The method."""
        return self.chosen


def in_loras_gauge(factors: Factors) -> Factors:
    """Return the same products, every row of A as long as at LoRA's start: (B D, D^-1 A).

    Rows that are zero stay so.
    """
    xp = namespace(factors.A)
    lengths = xp.sqrt(xp.sum(factors.A * factors.A, axis=-1, keepdims=True))  # [..., r, 1]
    D = xp.where(lengths > 0, lengths / START, xp.ones_like(lengths))
    return Factors(factors.B * D[..., 0][..., None, :], factors.A / D)


def decaf_lora_gauge() -> Method:
    """Return DeCAF, its product in LoRA's own gauge instead of the balanced one."""
    decaf = keeping_directions(METHODS["decaf"])

    def receive(own: State, sent: Message, weights: Array, clock: Clock) -> Mixed:
        state = decaf.receive(own, sent, weights, clock).state
        return Mixed(state._replace(factors=in_loras_gauge(state.factors)))

    # its factors are not those of the truncation, to which dead directions would be given back
    return replace(decaf, name="decaf_lora_gauge", receive=receive, space="factors", origin=None)


def dlora_rebalanced() -> Method:
    """Return DLoRA with the product of the mean factors in balanced factors, as DeCAF leaves it."""
    dlora = METHODS["dlora"]

    def receive(own: State, sent: Message, weights: Array, clock: Clock) -> Mixed:
        state = dlora.receive(own, sent, weights, clock).state
        each = np.eye(own.agents)
        found = tsvd_of_mix(state.factors, each, state.factors.rank)  # of rank r: nothing is lost
        return Mixed(state._replace(factors=keep_directions(found, own.factors)))

    return replace(dlora, name="dlora_rebalanced", receive=receive, origin=None)


CONTROLS: dict[str, Callable[[], Method]] = {
    "decaf_lora_gauge": decaf_lora_gauge,
    "dlora_rebalanced": dlora_rebalanced,
}


def watched(method: Method, watch: Watch) -> Method:
    """Return the method with watch(state, weights, clock) called before each mix it takes."""

    def receive(own: State, sent: Message, weights: Array, clock: Clock) -> Mixed:
        watch(own, weights, clock)
        return method.receive(own, sent, weights, clock)

    return replace(method, receive=receive)
