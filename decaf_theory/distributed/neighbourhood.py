"""One rank's side of a method: its agents, whom they hear, and the round in which they mix."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple, overload

import numpy as np

from decaf_theory.arrays import Array, Host, namespace
from decaf_theory.distributed.joining import (
    ROUNDS,
    Graph,
    agree,
    dense,
    enter,
    record_of,
    rounds_of,
)
from decaf_theory.distributed.wire import RankError, Swap, packed, post, room, unpacked, wait
from decaf_theory.lowrank import Factors, check_agents
from decaf_theory.methods import METHODS, Clock, Method, Mixed, State
from decaf_theory.methods.base import along_the_gradient
from decaf_theory.methods.state import Message
from decaf_theory.tsvd.mixing import stochastic_entries

Sites = Mapping[str, Factors]


class Posted(NamedTuple):
    """Messages of this rank's agents that are on their way, and whom its agents hear, by rank."""

    sent: Sequence[Message]
    rows: Host  # of Pi
    of: Mapping[int, Sequence[int]]
    swap: Swap


class Heard(NamedTuple):
    """The messages of all whom this rank's agents hear, and their weights [own, heard]."""

    messages: list[Message]
    weights: Host


class Neighbourhood:
    """The agents of this rank and their neighbours, who exchange messages at the end of rounds.

    method: one that meets on a graph. graph: Pi [N, N], dense or sparse, or a function of the round
    that returns one, the same at all ranks. factors: those of this rank's agents at the start,
    B [..., n, d, r] and A [..., n, r, k], or a mapping from names of sites to them; it may be empty
    where the caller keeps states and uses `post`, `wait` and `receive`. The N agents
    are dealt to the ranks in blocks as equal as can be, `blocks`; `own` are this rank's. timeout:
    for how many seconds a rank waits for the others, at the start and in a round. settings: what
    else must be the same at all ranks, by name, as the step size.

    record: what all ranks have alike, by name. sent_bytes: what this rank has sent so far. With one
    agent at each rank all ranks together send what `Method.messages` and `message_bytes` declare,
    for each run or layer of the leading axes; else less: what agents of one rank say to each other
    does not travel, and goes but once to a rank at which several hear it.

    ValueError: a method that meets no neighbours, a graph or factors that do not fit. RankError:
    ranks are missing, or do not agree.
    """

    def __init__(
        self,
        method: Method,
        graph: Graph,
        factors: Factors | Sites,
        *,
        timeout: float = 60.0,
        settings: Mapping[str, object] | None = None,
    ) -> None:
        """Join the other ranks."""
        require_neighbours(method)
        if not timeout > 0:
            raise ValueError(f"timeout must be > 0 seconds, got {timeout}")
        self.timeout = timeout
        self.rank, self.ranks = enter(timeout)
        self.method, self.graph = method.on(graph), graph
        self.N = len(self.Pi(0))
        if self.N < self.ranks:
            raise ValueError(
                f"Pi must have a row for each of {self.ranks} ranks at least, got {self.N}"
            )
        self.blocks = blocks_of(self.N, self.ranks)
        self.own = self.blocks[self.rank]
        given = _by_site(factors)
        _require_own(given, len(self.own))
        self.shapes = _shapes(given)
        self.record = record_of(self.method, graph, given, settings)
        agree(self.record)
        self.compared = 0
        self.memory = {site: self._begun(pair).memory for site, pair in given.items()}
        self.sent_bytes = 0

    def Pi(self, t: int) -> Host:
        """Return the mixing matrix of round t, [N, N]; ValueError: rows that do not sum to one."""
        Pi = dense(self.graph(t) if callable(self.graph) else self.graph)
        if Pi.ndim != 2 or Pi.shape[0] != Pi.shape[1]:
            raise ValueError(f"Pi must be [N, N], a row for each agent, got shape {Pi.shape}")
        stochastic_entries(Pi, len(Pi))
        return Pi

    @overload
    def mix(self, factors: Factors, round: int) -> Factors: ...
    @overload
    def mix(self, factors: Sites, round: int) -> dict[str, Factors]: ...
    def mix(self, factors: Factors | Sites, round: int) -> Factors | dict[str, Factors]:
        """Return what this rank's agents hold after the mix of the round, given their factors.

        What the method keeps from round to round is kept here. Torch's gradients do not pass.
        ValueError: factors of other sites, shapes or dtypes than at the start; a method that
        changes local steps, too, which are the caller's (`exchange` takes its whole state).
        """
        if self.method.step is not along_the_gradient:
            raise ValueError(
                f"{self.method.name} has local steps of its own, which mix would leave out; use "
                f"method.step and exchange, as run does"
            )
        given = {site: pair.map(_detached) for site, pair in _by_site(factors).items()}
        if _shapes(given) != self.shapes:
            raise ValueError(
                f"factors must be as at the start, {self.shapes}, got {_shapes(given)}"
            )
        states = {site: State(pair, self.memory[site]) for site, pair in given.items()}
        mixed = {site: m.state for site, m in self.exchange(states, Clock(round)).items()}
        self.memory = {site: state.memory for site, state in mixed.items()}
        found = {site: state.factors for site, state in mixed.items()}
        return found[""] if isinstance(factors, Factors) else found

    def exchange(self, states: Mapping[str, State], clock: Clock) -> dict[str, Mixed]:
        """Return what the agents hold of each site after the mix that ends the clock's round.

        RankError: a neighbour that is late or has ended, or a message that is not finite.
        """
        if not self.method.mixes(clock):
            return {site: Mixed(state) for site, state in states.items()}
        sent = [self.method.send(state, clock) for state in states.values()]
        heard = self.wait(self.post(sent, clock.round))
        mixed = self.receive(list(states.values()), heard, clock)
        return dict(zip(states, mixed, strict=True))

    def receive(self, states: Sequence[State], heard: Heard, clock: Clock) -> list[Mixed]:
        """Return what the agents hold of sites, whose messages come first among those heard."""
        return [
            self.method.receive(state, message, heard.weights, clock)
            for state, message in zip(states, heard.messages, strict=False)
        ]

    def post(self, sent: Sequence[Message], t: int) -> Posted:
        """Begin to send messages of this rank's agents to all who hear them in round t.

        They travel while the caller computes, until `wait`. All ranks send messages of the same
        names, shapes and dtypes, whose third axis from the right are the agents.
        """
        self._compare_rounds(t)
        Pi = self.Pi(t)
        others = [peer for peer in range(self.ranks) if peer != self.rank]
        to = {peer: heard_by(Pi, self.blocks[peer], self.own) for peer in others}
        of = {peer: heard_by(Pi, self.own, block) for peer, block in enumerate(self.blocks)}
        outgoing = {peer: packed(sent, rows) for peer, rows in to.items() if rows}
        incoming = {peer: room(sent, len(of[peer])) for peer in others if of[peer]}
        swap = post(outgoing, incoming, round=t, timeout=self.timeout)
        return Posted(sent, Pi[self.own], of, swap)

    def _compare_rounds(self, t: int) -> None:
        """Compare the graphs of round t and the next ones at all ranks, unless they have been.

        RankError: they are not the same.
        """
        if callable(self.graph) and not self.compared <= t < self.compared + ROUNDS:
            agree(rounds_of(self.graph, t), f"came to round {t}")
            self.compared = t

    def wait(self, posted: Posted) -> Heard:
        """Return the messages of all agents to which this rank's give weight, in their order.

        RankError: a neighbour that is late or has ended, or a message that is not finite.
        """
        sent, rows, of, swap = posted
        wait(swap, rank=self.rank, timeout=self.timeout)
        self.sent_bytes += sum(buffer.nbytes for buffer in swap.outgoing.values())
        self._require_finite(sent, self.rank, range(len(self.own)), swap.round)
        parts = []
        for peer, senders in of.items():
            if peer == self.rank:
                parts.append([_rows(message, senders) for message in sent])
            elif senders:
                parts.append(unpacked(swap.incoming[peer], sent, len(senders)))
                self._require_finite(parts[-1], peer, senders, swap.round)
        messages = [_joined(messages) for messages in zip(*parts, strict=True)]
        return Heard(messages, rows[:, rows.any(axis=0)])

    def _require_finite(
        self, messages: Sequence[Message], sender: int, rows: Sequence[int], t: int
    ) -> None:
        """Raise RankError at a number that is not finite, with the agent that sent it."""
        for X in (X for message in messages for X in message.values()):
            finite = namespace(X).isfinite(X)
            for place, row in enumerate(rows):
                if not bool(finite[..., place, :, :].all()):
                    raise RankError(
                        f"rank {self.rank}: the message of agent {self.blocks[sender][row]} at "
                        f"rank {sender} in round {t} holds nan or inf; take smaller steps there"
                    )

    def _begun(self, factors: Factors) -> State:
        """Return the state at the start: begun with all agents, so that each has its number."""
        places = spread(self.N, self.own)
        return self.method.begin(factors.map(lambda X: X[..., places, :, :])).take(self.own)


def require_neighbours(method: Method) -> None:
    """Raise ValueError, with the reason, unless the method needs messages of neighbours alone."""
    if method.meets == "graph" and method.pools == "none":
        return
    if method.meets == "server":
        reason = "meets by a server, which ranks that talk to neighbours do not have"
    else:
        pools = method.pools != "none"
        reason = "pools gradients before each step" if pools else "sends nothing"
    known = ", ".join(m.name for m in METHODS.values() if (m.meets, m.pools) == ("graph", "none"))
    raise ValueError(f"{method.name} {reason}; choose one that meets on a graph: {known}")


def blocks_of(N: int, ranks: int) -> list[list[int]]:
    """Return which of N agents each rank holds: blocks in order, as equal as can be."""
    return [[int(i) for i in block] for block in np.array_split(np.arange(N), ranks)]


def heard_by(Pi: Host, receivers: Sequence[int], senders: Sequence[int]) -> list[int]:
    """Return the places in `senders` of those to which some receiver gives weight."""
    return [int(i) for i in np.flatnonzero(Pi[np.ix_(receivers, senders)].any(axis=0))]


def spread(N: int, own: Sequence[int]) -> list[int]:
    """Return for each of N agents the place in `own` whose values stand there: its own, or 0."""
    places = dict(zip(own, range(len(own)), strict=True))
    return [places.get(agent, 0) for agent in range(N)]


def _by_site(factors: Factors | Sites) -> dict[str, Factors]:
    return {"": factors} if isinstance(factors, Factors) else dict(factors)


def _require_own(factors: Sites, n: int) -> None:
    for site, pair in factors.items():
        check_agents(pair)
        if pair.B.shape[-3] != n:
            where = f" of site {site}" if site else ""
            raise ValueError(
                f"factors{where} must be those of this rank's {n} agents, B [..., {n}, d, r], got "
                f"B {tuple(pair.B.shape)}"
            )


def _shapes(factors: Sites) -> dict[str, list[tuple[object, ...]]]:
    return {site: [(*X.shape, str(X.dtype)) for X in pair] for site, pair in factors.items()}


def _detached(X: Array) -> Array:
    return X.detach() if hasattr(X, "detach") else X


def _rows(message: Message, rows: Sequence[int]) -> Message:
    return {name: X[..., list(rows), :, :] for name, X in message.items()}


def _joined(messages: Sequence[Message]) -> Message:
    """Return the messages of several blocks of agents as one."""
    return {
        name: namespace(X).concat([message[name] for message in messages], axis=-3)
        for name, X in messages[0].items()
    }
