"""What a method is: a record of the small pure functions in which it differs from the others."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Literal, NamedTuple, TypeAlias, get_args

import numpy as np

from decaf_theory.arrays import Array
from decaf_theory.lowrank import Factors, check_agents
from decaf_theory.methods.form import FULL_MATRIX, LORA, MERGED, Form, Receive
from decaf_theory.methods.form import Mixed as Mixed
from decaf_theory.methods.meeting import Answer, Meeting, messages_of, weights_of
from decaf_theory.methods.state import Clock, Message, State
from decaf_theory.tsvd.mixing import stochastic_entries


class Direction(NamedTuple):
    """Where a local step goes: along `gradients`, after which the agents hold `state`'s memory."""

    gradients: Factors
    state: State


# C: read in the paper; C(code): in its authors' code; N: in notes or code of others; K: general
# knowledge; ?: could not be confirmed; ours: derived here
Confidence: TypeAlias = Literal["C", "C(code)", "N", "K", "?", "ours"]


Space: TypeAlias = Literal["factors", "products"]  # in which agents average
MEANS = ("B", "A", "product", "product up to E")  # of the network, that mixing may preserve


class Origin(NamedTuple):
    """Where a method comes from: its exact rule in a line or two, the source, how sure we are."""

    rule: str
    source: str
    confidence: Confidence


def _always(clock: Clock) -> bool:
    return True


def _both(clock: Clock) -> tuple[str, ...]:
    return ("B", "A")


def along_the_gradient(state: State, gradients: Factors, clock: Clock) -> Direction:
    """Return the gradient itself: the local step of most methods."""
    return Direction(gradients, state)


def _no_memory(factors: Factors) -> Mapping[str, Factors | Array]:
    return {}


def send_factors(state: State, clock: Clock) -> Message:
    """Return the message of both factors."""
    return state.factors._asdict()


@dataclass(frozen=True)
class Method:
    """A decentralized method. One record serves a simulation, training, one rank, and a merge.

    receive(own, sent, weights, clock): the mixed state of the n agents `own`, from the messages of
    N agents [..., N, ., .] under weights [n, N]: all agents in a simulation; one rank and its
    neighbours in a distributed run. send(state, clock): the message of each agent, by name.
    meets, mixes(clock): with whom an agent exchanges messages at the end of the rounds that mix.
    answer: whether what a server sends back is as long as one message, or as those of all agents.
    start(factors): the memory at the beginning. trains(clock): the factors that take local steps.
    step(state, gradients, clock): where a local step goes, x - lr (gradients), or along what a
    caller's optimizer makes of them. pools: with whom agents average gradients before each step.
    form: what W is. space: whether factors are averaged, or products, whose gauge is free.
    confined: whether agents start at one B and move in the space of its columns, which a step that
    is not linear in the gradients, as AdamW's, would leave.
    keeps: of the network's means, those that mixing preserves: "B", "A", "product" (W - W0 in units
    of B A, with what was merged into W0), or "product up to E", the truncation error.
    merges: whether a mix makes sense for rows that belong to nobody, as in a merge, or depends on
    what an agent itself holds. tuned(Pi): the method for this graph, of one whose parameters depend
    on it. one_graph: whether what agents keep is true only as long as the graph is the same in
    every round. origin: rule, source and confidence.

    `check_method` tries what a method declares here, and what all of them promise.
    """

    name: str
    receive: Receive
    keeps: tuple[str, ...]
    send: Callable[[State, Clock], Message] = send_factors
    meets: Meeting = "graph"
    answer: Answer = "one"
    mixes: Callable[[Clock], bool] = _always
    start: Callable[[Factors], Mapping[str, Factors | Array]] = _no_memory
    trains: Callable[[Clock], tuple[str, ...]] = _both
    step: Callable[[State, Factors, Clock], Direction] = along_the_gradient
    pools: Meeting = "none"
    form: Form = LORA
    space: Space = "factors"
    confined: bool = False
    merges: bool = True
    tuned: Callable[[Array], Method] | None = None
    one_graph: bool = False
    origin: Origin | None = None

    def __post_init__(self) -> None:
        """Raise ValueError where a field is not one of its words, or no function."""
        words = {"meets": Meeting, "pools": Meeting, "answer": Answer, "space": Space}
        for name, choices in words.items():
            _require_word(name, getattr(self, name), get_args(choices))
        if not isinstance(self.keeps, tuple):
            raise ValueError(f'keeps must be a tuple, such as ("B", "A"), got {self.keeps!r}')
        for kept in self.keeps:
            _require_word("keeps", kept, MEANS)
        for name in ("receive", "send", "mixes", "start", "trains", "step"):
            if not callable(getattr(self, name)):
                raise ValueError(f"{name} must be a function, got {getattr(self, name)!r}")

    def trained(self, state: State, clock: Clock) -> Message:
        """Return what takes local steps now, by name: factors, and the form's own variables."""
        factors = {name: getattr(state.factors, name) for name in self.trains(clock)}
        return factors | {v.name: state.memory[v.name] for v in self.form.variables}

    def on(self, graph: Array | Callable[[int], Array] | None) -> Method:
        """Return the method for a graph: with its parameters where they depend on it, else itself.

        ValueError: such a method, or one for a single graph, on one that changes with the round.
        """
        if self.one_graph and callable(graph):
            raise ValueError(
                f"{self.name} needs one graph for all rounds, as agents keep the sum of what their "
                f"neighbours sent so far, got a function of the round"
            )
        if self.tuned is None:
            return self
        if graph is None or callable(graph):
            given = "none" if graph is None else "a function of the round"
            raise ValueError(
                f"{self.name} takes its parameters from one graph, got {given}; "
                f"for a schedule choose them yourself, as in adf_lora(5)"
            )
        return self.tuned(graph)

    def begin(self, factors: Factors) -> State:
        """Return the state at the beginning of a run."""
        return State(factors, self.start(factors))

    @property
    def fixed(self) -> set[str]:
        """The factors that agents must share: those that first are neither trained nor sent.

        And B, where it is confined.
        """
        first = Clock()
        still = {"B", "A"} - {*self.trains(first)} - {*self.send(of_numbers(self), first)}
        return still | {"B"} if self.confined else still

    @property
    def against_combine(self) -> str:
        """Why the order "combine", a gradient at the unmixed point, is not defined; "" if it is."""
        if self.space == "products":
            return (
                "which mixes products: the gradient would live in another gauge than the mixed "
                "factors"
            )
        replaced = "which merges: the gradient would be that of factors that the merge has replaced"
        return replaced if self.form == MERGED else ""

    def why(self, factor: str) -> str:
        """Return why agents must share a factor that is `fixed`, in words."""
        moves = factor == "B" and self.confined
        return "moves in the space of its columns" if moves else "starts without mixing it"

    def messages(self, Pi: Array | None, N: int) -> int:
        """Return how many messages N agents and their server send in a mix (see `messages_of`)."""
        return messages_of(self.meets, Pi, N, self.answer)

    def weights(self, Pi: Array | None, N: int, clock: Clock) -> Array | None:
        """Return the weights of the mix that ends this round, None where nobody mixes.

        Pi [n, N] for n agents, or one row [1, N] for all (see `weights_of`).
        """
        return weights_of(self.meets, Pi, N) if self.mixes(clock) else None

    def exchange(self, state: State, weights: Array, clock: Clock) -> Mixed:
        """Return what all agents hold after they exchanged their messages."""
        return self.received(state, self.send(state, clock), weights, clock)

    def received(self, own: State, sent: Message, weights: Array, clock: Clock) -> Mixed:
        """Return what `receive` does; ValueError unless that is Mixed, of factors of that shape."""
        mixed = self.receive(own, sent, weights, clock)
        if not isinstance(mixed, Mixed) or not isinstance(mixed.state, State):
            got = f"Mixed of {type(mixed[0]).__name__}" if isinstance(mixed, Mixed) else None
            raise ValueError(
                f"receive of method {self.name} must return Mixed(own._replace(factors=...)), "
                f"got {got or type(mixed).__name__}"
            )
        for name, before, after in zip("BA", own.factors, mixed.state.factors, strict=True):
            if before.shape != after.shape:
                raise ValueError(
                    f"receive of method {self.name} must return {name} of shape "
                    f"{tuple(before.shape)}, as the agents have it, got {tuple(after.shape)}"
                )
        return mixed

    def mix(self, factors: Factors, Pi: Array, t: int = 0) -> Factors:
        """Return the mixed factors of the rows Pi [n, N], from those of N agents at round t.

        n = N are the agents in their order; any other number of rows, as in a merge, belongs to
        nobody and takes agent 0's part in what is not mixed. ValueError: such rows of a method that
        does not mix, or whose agents keep something of their own; rows that do not sum to one;
        factors that `check_agents` refuses; a method that merges into W0, of which factors alone
        would lose a part: `exchange` returns the whole state.
        """
        check_agents(factors)
        if not self.form.factored:
            raise ValueError(
                f"{self.name} has W - W0 = {self.form.name}, which its factors alone do not hold; "
                f"use exchange(begin(factors), weights, clock), which returns the state"
            )
        state, N, clock = self.begin(factors), int(factors.B.shape[-3]), Clock(t)
        n = int(np.shape(Pi)[0])
        weights = self.weights(Pi, N, clock)
        if n != N and (weights is None or not self.merges):
            raise ValueError(
                f"{self.name} needs all {N} rows of Pi, one per agent, got {n}: an agent keeps "
                f"what it does not mix"
            )
        if weights is None:
            return factors
        stochastic_entries(weights, N)
        own = state if n == N else state.take([0] * n)
        return self.received(own, self.send(state, clock), weights, clock).state.factors


def _require_word(name: str, word: str, choices: tuple[str, ...]) -> None:
    """Raise ValueError unless a word is one of the choices."""
    if word not in choices:
        raise ValueError(f"{name} must be one of {', '.join(choices)}, got {word!r}")


def of_numbers(method: Method) -> State:
    """Return the state at the beginning of one agent whose factors are numbers."""
    return method.begin(Factors(np.zeros((1, 1, 1)), np.zeros((1, 1, 1))))


def wrapped(wrapper: str, method: Method) -> Method:
    """Return the method under the name of a wrapper around it, for the wrapper to change.

    ValueError: what is not a method; one that `on` would replace, and the wrapper with it; one
    whose form has variables, which the wrapper would not see.
    """
    if not isinstance(method, Method):
        raise ValueError(f"{wrapper} needs a Method, got {method!r}; METHODS['dlora'] is one")
    if method.tuned is not None:
        raise ValueError(f"{wrapper} needs a method on its graph, so {method.name}.on(Pi)")
    if method.form.given:
        names = ", ".join(v.name for v in method.form.variables)
        what = f"trains {names}, too" if names else f"has W - W0 = {method.form.name}"
        raise ValueError(
            f"{wrapper} needs a method that trains B and A alone, {method.name} {what}"
        )
    return replace(method, name=f"{wrapper} {method.name}", origin=None)


def require_unused(wrapper: str, method: Method, name: str) -> None:
    """Raise ValueError where a method keeps something by the name that the wrapper needs."""
    if name in of_numbers(method).memory:
        raise ValueError(f"{wrapper} keeps {name!r}, and so does {method.name}: use one of them")


def require_means(wrapper: str, method: Method) -> None:
    """Raise ValueError unless a mix takes the mean of the factors that are sent, nothing else."""
    state = of_numbers(method)
    sent = {name for t in (0, 1) for name in method.send(state, Clock(t))}
    if method.form not in (LORA, FULL_MATRIX) or not sent <= {*method.keeps}:
        raise ValueError(
            f"{wrapper} needs a method whose mix is the mean of the factors it sends, which "
            f"{method.name}'s is not"
        )
