"""A simulation's problem served by ranks: each steps its own agents and mixes with neighbours."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import islice
from pathlib import Path
from time import perf_counter
from typing import NamedTuple

import numpy as np

from decaf_theory.arrays import Array, Host, integer
from decaf_theory.distributed.joining import enter
from decaf_theory.distributed.neighbourhood import (
    Neighbourhood,
    Posted,
    blocks_of,
    require_neighbours,
    spread,
)
from decaf_theory.distributed.restart import Checkpoints, Held
from decaf_theory.distributed.wire import RankError
from decaf_theory.methods import Clock, Method, State, keeping_directions, limiting_ranks
from decaf_theory.problems.base import Problem
from decaf_theory.simulate import Config, Mix, SimulationError, Visit, start_factors
from decaf_theory.simulate.noise import draws
from decaf_theory.simulate.rounds import Rounds

SETTINGS = ("lr", "steps", "order", "local_steps", "runs", "seed", "s", "ranks", "zero_directions")


class Ran(NamedTuple):
    """What a rank did: its agents' numbers and state [runs, n, ., .], its bytes, and its times.

    seconds: of each mix; of messages that travelled before it, of waiting for them. rounds: of each
    round.
    """

    own: list[int]
    state: State
    sent_bytes: int
    seconds: list[float]
    rounds: list[float]


def run(
    config: Config,
    *,
    timeout: float = 60.0,
    folder: Path | None = None,
    every: int = 10,
    overlap: bool = True,
) -> Ran:
    """Return what this rank's agents hold after the rounds of the configuration.

    Starts, noise and step sizes are those of `simulate`, whose records are not made here.
    folder: where each rank saves its state after every so many rounds, and goes on from the last
    round that all have saved, bit for bit as if nothing had happened; None: nowhere. overlap:
    whether messages of order "combine" travel while the gradient is computed, or after that.
    RankError: other ranks are missing, late, or have another configuration; a number is not finite.
    ValueError: a method that does not meet on a graph.
    """
    require_neighbours(config.named)
    rank, ranks = enter(timeout)
    own = blocks_of(config.problem.N, ranks)[rank]
    graph, rule = config.graph, rule_of(config)
    if config.ranks is not None:
        rule = limiting_ranks(rule, [config.ranks[i] for i in own])
    start = start_factors(config)
    factors = start.map(lambda X: X[..., own, :, :])
    settings = {name: getattr(config, name) for name in SETTINGS}
    named = {name: value for name, value in settings.items() if not callable(value)}
    named["problem"] = config.problem.name
    neighbourhood = Neighbourhood(rule, graph, factors, timeout=timeout, settings=named)
    held = Held(0, config.rule.begin(start).take(own), 0)
    rounds = _Served(_of_agents(config, own, rule), neighbourhood, overlap)
    saved = None
    if folder is not None:
        record = neighbourhood.record | {"ranks": str(ranks)}
        saved = Checkpoints(folder, rank, record)
        held = saved.resume(held.state)
        neighbourhood.sent_bytes = held.sent_bytes
    final = _through(rounds, config, held, saved, integer("every", every, 1))
    return Ran(own, final, neighbourhood.sent_bytes, rounds.seconds, rounds.took)


def rule_of(config: Config) -> Method:
    """Return the method as it runs, on its graph, but for limits to agents' ranks."""
    rule = config.named.on(config.graph)
    return keeping_directions(rule) if config.zero_directions == "keep" else rule


class _Served(Rounds):
    """The rounds of this rank's agents, whose mixes go through the neighbourhood."""

    def __init__(self, config: Config, neighbourhood: Neighbourhood, overlap: bool) -> None:
        super().__init__(config)
        self.neighbourhood = neighbourhood
        self.early = overlap and config.order == "combine"
        self.seconds: list[float] = []
        self.took: list[float] = []
        self.posted: Posted | None = None

    def after(self, visit: Visit, drawn: list[Host | None]) -> Visit:
        """Return the next step; RankError: a number on the way is not finite."""
        begun = perf_counter()
        try:
            following = self.advance(visit, drawn, check=True)
        except SimulationError as error:
            served = self.neighbourhood
            agent = served.own[error.agent]
            named = SimulationError(error.what, run=error.run, agent=agent, step=error.step)
            raise RankError(f"rank {served.rank}: {named}; take smaller steps") from None
        assert following is not None  # or its name was raised
        self.took.append(perf_counter() - begun)
        return following

    def gradient(self, at: State, drawn: Host | None, clock: Clock, check: bool) -> Array:
        """Return the gradient; messages of the round travel meanwhile if they are sent early."""
        rule = self.neighbourhood.method
        if self.early and rule.mixes(clock):
            self.posted = self.neighbourhood.post([rule.send(at, clock)], clock.round)
        return super().gradient(at, drawn, clock, check)

    def mix(self, state: State, t: int) -> tuple[State, Mix]:
        """Return the state after the mix that ends round t, and that there was one."""
        K = self.config.local_steps
        clock, served = Clock(t, K - 1, K), self.neighbourhood
        begun = perf_counter()
        if self.posted is None:
            mixed = served.exchange({"": state}, clock)[""]
        else:
            mixed = served.receive([state], served.wait(self.posted), clock)[0]
        self.posted = None
        self.seconds.append(perf_counter() - begun)
        return mixed.state, Mix()


def _through(
    rounds: _Served, config: Config, held: Held, saved: Checkpoints | None, every: int
) -> State:
    """Return the state after all rounds; save it after every so many."""
    served, K = rounds.neighbourhood, config.local_steps
    noise, state, mix = islice(draws(config), held.round * K, None), held.state, Mix()
    if config.order == "mix_first" and held.round == 0:
        state, mix = rounds.mix(state, 0)
    visit = Visit(rounds.config, held.round, state, mix, 0)
    with np.errstate(over="ignore", invalid="ignore"):  # overflow is looked for, by name
        while visit.step < config.steps:
            drawn = [
                None if draw is None else draw[..., served.own, :, :] for draw in islice(noise, K)
            ]
            visit = rounds.after(visit, drawn)
            if saved is not None and visit.step % every == 0:
                saved.save(Held(visit.step, visit.state, served.sent_bytes))
    return visit.state


def _of_agents(config: Config, own: Sequence[int], rule: Method) -> Config:
    """Return the configuration of these agents alone, for their local steps."""
    given = config.problem.start if config.start is None else config.start
    return replace(
        config,
        problem=problem_of(config.problem, own),
        method=rule,
        form=None,
        Pi=np.full((len(own), len(own)), 1 / len(own)),  # nobody mixes by it
        target=None,
        ranks=None,
        # the first mix, of one that mixes first, is made here
        order="combine" if config.order == "combine" else "step_first",
        zero_directions="drop",
        start=None if given is None else given.map(lambda X: X[..., own, :, :]),
        noise=False,
    )


def problem_of(problem: Problem, own: Sequence[int]) -> Problem:
    """Return the problem of these agents, n of the N, at their own points [..., n, d, k].

    The others' losses are computed at the point of the first of them, and left out.
    """
    places = spread(problem.N, own)

    def everyone(X: Array) -> Array:
        return X[..., places, :, :]

    noise_at = problem.noise_at
    return replace(
        problem,
        N=len(own),
        loss=lambda W: problem.loss(everyone(W))[..., own],
        grad=lambda W: problem.grad(everyone(W))[..., own, :, :],
        noise=None,
        noise_at=None
        if noise_at is None
        else lambda drawn, W: noise_at(everyone(drawn), everyone(W))[..., own, :, :],
        Pi=None,
        start=None,
    )
