"""What W is, given what an agent holds: forms of W - W0 and the gradients in their variables."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import NamedTuple, TypeAlias

import numpy as np

from decaf_theory.arrays import Array, convert, namespace
from decaf_theory.lowrank import Factors, mean_over_agents, product
from decaf_theory.measure import factor_gradients
from decaf_theory.methods.state import Clock, Message, State
from decaf_theory.tsvd import TSVD


class Mixed(NamedTuple):
    """What mixing leaves: the new state and, where products were truncated, their truncation."""

    state: State
    truncated: TSVD | None = None


Receive: TypeAlias = Callable[[State, Message, Array, Clock], Mixed]


def _stay(X: Array, size: float | Array) -> Array:
    return X


class Variable(NamedTuple):
    """What trains in W - W0 besides B and A: an array of the state's memory, by its name.

    gradient(g, state, s): the gradient in it, from that of W, g [..., n, d, k]. speed: its step
    size in units of lr. settle(X, size): what a step of this size leaves of X, a threshold for one.
    """

    name: str
    gradient: Callable[[Array, State, float], Array]
    speed: float = 1.0
    settle: Callable[[Array, float | Array], Array] = _stay


def _as_it_is(state: State) -> State:
    return state


def _goes_on(state: State, t: int, fresh: Factors, inputs: Array | None) -> State:
    return state


def _holds_nothing(factors: Factors) -> Mapping[str, Factors | Array]:
    return {}


def _own_factors(state: State) -> Factors:
    return state.factors


@dataclass(frozen=True)
class Form:
    """How W - W0 depends on the state, for a LoRA scale s.

    update(state, s): W - W0 [..., n, d, k]. gradients(g, state, s): the gradients in (B, A), from
    the weight-space gradient g [..., n, d, k]. begin(factors, s): the factors at which a run
    starts, given LoRA factors of the same W - W0. scale(s): the factor of B A in W - W0.
    low_rank: whether agents train low-rank factors, or W itself. factored: whether W - W0 is
    scale(s) B A and nothing more, so that its norm and its rank are those of the product.

    Of forms that hold more than B and A, which `with_form` gives to a method: label: a word for it.
    start(factors): what it holds in the memory. variables: those of that which train.
    pair(state): one pair of factors with W - W0 = s B A, whatever its rank. split(truncated): the
    factors, and the variables by name, that hold a truncated product; None where there is no way.
    active: how many pairs an input uses, where that depends on the input. penalty(state): the
    gradient in B of what the form adds to the loss, which `gradients` has included.
    products(receive): how the products of B and A alone are mixed, given how a method mixes those
    of one pair, of a form that cannot be split; its variables are then averaged by themselves.

    Of tasks in turn: ends(state): what is left when a task has been learned, which is what is
    scored. begins(state, t, fresh, inputs): the state in which task t starts, from 0, with factors
    at which a new pair would; inputs [k]: the weights of the columns of W that the task sees, where
    these are known.
    """

    name: str
    update: Callable[[State, float], Array]
    gradients: Callable[[Array, State, float], Factors]
    begin: Callable[[Factors, float], Factors]
    scale: Callable[[float], float]
    low_rank: bool = True
    factored: bool = True
    label: str = ""
    start: Callable[[Factors], Mapping[str, Factors | Array]] = _holds_nothing
    variables: tuple[Variable, ...] = ()
    pair: Callable[[State], Factors] = _own_factors
    split: Callable[[TSVD], tuple[Factors, Mapping[str, Array]]] | None = None
    penalty: Callable[[State], Array] | None = None
    active: int | None = None
    products: Callable[[Receive], Receive] | None = None
    ends: Callable[[State], State] = _as_it_is
    begins: Callable[[State, int, Factors, Array | None], State] = _goes_on

    @property
    def given(self) -> bool:
        """Whether `with_form` gave it to a method, which then holds more than B and A."""
        return self.label not in ("lora", "merged", "full")

    def moved(self, state: State, slopes: Mapping[str, Array], lr: float | Array) -> State:
        """Return the state after a step of size lr of the form's own variables."""
        if not self.variables:
            return state
        stepped = {
            v.name: v.settle(state.memory[v.name] - v.speed * lr * slopes[v.name], v.speed * lr)
            for v in self.variables
        }
        return state._replace(memory={**state.memory, **stepped})


def interference_of(form: Form, state: State, weights: Array) -> Array:
    """Return sum_j w_ij D_j - D(means of B, A and the variables), D = W - W0 in units of B A.

    What an agent loses that averages everything that trains by itself, dense [..., n, d, k]; of a
    form without variables it is `measure.interference`.
    """

    def mean(X: Array) -> Array:
        return mean_over_agents(X, weights)

    means = {v.name: mean(state.memory[v.name]) for v in form.variables}
    apart = State(state.factors.map(mean), {**state.memory, **means})
    return mean(form.update(state, 1.0)) - form.update(apart, 1.0)


def _scaled_product(state: State, s: float) -> Array:
    B, A = state.factors
    return product(Factors(B if s == 1 else s * B, A))


def _merged(state: State, s: float) -> Array:
    """Return s (base + B A): the base is what was merged into W0, in units of B A."""
    return s * (state.memory["base"] + product(state.factors))


def _factor_gradients(g: Array, state: State, s: float) -> Factors:
    return factor_gradients(g, state.factors, s)


def _full_matrix(factors: Factors, s: float) -> Factors:
    """Return B = s B A and A = I, one identity for all agents."""
    W = s * product(factors)
    identity = convert(np.eye(W.shape[-1]), W)
    return Factors(W, namespace(W).broadcast_to(identity, (*W.shape[:-2], *identity.shape)))


LORA = Form(
    "s B A",
    _scaled_product,
    _factor_gradients,
    lambda factors, s: factors,
    lambda s: s,
    label="lora",
)
MERGED = Form(
    "s (base + B A)",
    _merged,
    _factor_gradients,
    lambda factors, s: factors,
    lambda s: s,
    factored=False,
    label="merged",
)
FULL_MATRIX = Form(
    "B",
    lambda state, s: state.factors.B,
    lambda g, state, s: Factors(g, state.factors.A),  # A = I does not train
    _full_matrix,
    lambda s: 1.0,
    low_rank=False,
    label="full",
)
