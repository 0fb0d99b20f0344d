"""Any method with another form of W - W0: what agents then step, send and mix."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from decaf_theory.arrays import Array
from decaf_theory.lowrank import Factors, mean_over_agents
from decaf_theory.methods.base import (
    Method,
    Mixed,
    along_the_gradient,
    of_numbers,
    wrapped,
)
from decaf_theory.methods.form import LORA, Form
from decaf_theory.methods.state import Clock, Message, State, for_agents


def with_form(method: Method, form: Form) -> Method:
    """Return the method whose agents hold W - W0 in this form.

    A method that averages factors averages the form's variables, too, each by itself and in every
    mix; one that mixes products mixes those of the form's `pair`, and the form splits what the
    truncation leaves, or says which `products` are mixed while its variables are averaged. LORA is
    the form that methods have, and changes nothing. ValueError: a method of another form already,
    with a local step of its own, whose mix is neither the mean of the factors it sends nor a
    truncation, or whose parameters depend on the graph; one that mixes products, of a form that
    says nothing of them.
    """
    if form == LORA == method.form:
        return method
    base = wrapped(form.label, method)
    _require_plain(method, form)

    def start(factors: Factors) -> Mapping[str, Factors | Array]:
        return {**method.start(factors), **form.start(factors)}

    base = replace(base, start=start, form=form)
    if method.space == "products" and form.split is not None:
        return _of_products(base, method)
    if method.space == "products" and form.products is not None:
        return _of_means(base, replace(method, receive=form.products(method.receive)))
    return _of_means(base, method)


def steady_mean(X: Array, weights: Array) -> Array:
    """Return sum_j w_ij X_j of X [..., N, a, b], exactly X where all agents hold the same."""
    first = X[..., :1, :, :]
    return first + mean_over_agents(X - first, weights)


def _of_means(base: Method, method: Method) -> Method:
    """Return the method that averages what its agents send, and the form's variables."""
    names = [v.name for v in base.form.variables]

    def send(state: State, clock: Clock) -> Message:
        own = {name: state.memory[name] for name in names}
        return {**method.send(state, clock), **own}

    def receive(own: State, sent: Message, weights: Array, clock: Clock) -> Mixed:
        factors = {name: X for name, X in sent.items() if name not in names}
        mixed = method.receive(own, factors, weights, clock)
        means = {n: for_agents(steady_mean(sent[n], weights), own.agents) for n in names}
        memory = {**mixed.state.memory, **means}
        return mixed._replace(state=mixed.state._replace(memory=memory))

    if method.meets == "none":
        return base
    kept = tuple(name for name in method.keeps if not name.startswith("product"))
    return replace(base, send=send, receive=receive, keeps=kept)


def _of_products(base: Method, method: Method) -> Method:
    """Return the method that mixes the products of the form's pairs, and splits what is left."""
    form = base.form

    def send(state: State, clock: Clock) -> Message:
        return method.send(state._replace(factors=form.pair(state)), clock)

    def receive(own: State, sent: Message, weights: Array, clock: Clock) -> Mixed:
        mixed = method.receive(own, sent, weights, clock)
        assert form.split is not None  # as `_require_plain` asked
        assert mixed.truncated is not None  # mixing products is truncating them
        factors, variables = form.split(mixed.truncated)
        return mixed._replace(state=State(factors, {**mixed.state.memory, **variables}))

    return replace(base, send=send, receive=receive)


def _remembers(method: Method) -> bool:
    """Whether a method keeps anything of factors whose rank is below the largest."""
    return bool(method.start(Factors(np.zeros((1, 2, 1)), np.zeros((1, 1, 2)))))


def _require_plain(method: Method, form: Form) -> None:
    """Raise ValueError unless the method can carry the form."""
    products = method.space == "products"
    sent = {name for t in (0, 1) for name in method.send(of_numbers(method), Clock(t))}
    reasons = {
        f"has W - W0 = {method.form.name}": method.form != LORA,
        "has a local step of its own": method.step is not along_the_gradient,
        "mixes neither the means of its factors nor their products": (
            "product up to E" not in method.keeps if products else not sent <= {*method.keeps}
        ),
        "truncates products, which this form cannot split": (
            products and form.split is None and form.products is None
        ),
        "keeps what it truncates with, which is not of one pair": (
            products and form.active is not None and _remembers(method)
        ),
    }
    for reason, holds in reasons.items():
        if holds:
            raise ValueError(
                f"{form.label} needs a method of W - W0 = s B A that steps along its gradients and "
                f"mixes factors or products; {method.name} {reason}"
            )
