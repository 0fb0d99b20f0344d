"""The loop: rounds of local steps and mixing, watched for divergence and non-finite numbers."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from itertools import islice
from weakref import ref

import numpy as np

from decaf_theory.arrays import Array, Host, convert
from decaf_theory.lowrank import mean_over_agents
from decaf_theory.memory import keep_freed
from decaf_theory.methods import Clock, State, for_agents
from decaf_theory.methods.meeting import messages_of, weights_of
from decaf_theory.methods.state import Message, message_bytes
from decaf_theory.simulate.config import Config, DisconnectedWarning
from decaf_theory.simulate.divergence import Divergence, advice
from decaf_theory.simulate.noise import draws, noisy
from decaf_theory.simulate.start import start_factors
from decaf_theory.simulate.trace import Trace, assemble, quantities
from decaf_theory.simulate.visit import (
    Mix,
    SimulationError,
    Visit,
    finite,
    points,
    require_finite,
    require_finite_factors,
    require_shape,
)
from decaf_theory.topology.checks import components

Watch = Callable[[Visit], object]


def simulate(config: Config, watch: Watch | None = None) -> Trace:
    """Run the method; return what it did.

    watch(visit) is called at every step; the run ends there where what it returns is true. The
    batch of runs ends where one of them diverges. SimulationError: a loss, gradient or factor that
    is not finite; its `trace` holds the finite steps before (None where there are none).
    ValueError: a function of the problem or a schedule returns what it must not.

    Examples:
        >>> from decaf_theory import PROBLEMS, TOPOLOGIES, Config
        >>> from decaf_theory.simulate import simulate
        >>> problem, ring = PROBLEMS["P3"](N=4), TOPOLOGIES["ring"](4)
        >>> config = Config(problem=problem, Pi=ring, rank=2, lr=0.1, steps=100)
        >>> trace = simulate(config)
        >>> trace.status, trace.loss.shape, bool(trace.loss[0, -1] < trace.loss[0, 0])
        ('finished', (1, 101), True)
    """
    if watch is not None and not callable(watch):
        raise ValueError(f"watch must be a function of a Visit, got {watch!r}")
    records: list[dict[str, Array]] = []
    last: Visit | None = None
    divergence: Divergence | None = None
    status, note = "finished", ""
    with np.errstate(over="ignore", invalid="ignore"):  # overflow is looked for, by name
        try:
            for visit in visits(config):
                divergence = divergence or Divergence(config, visit)
                note = divergence.words(visit)
                if note:
                    status, note = "diverged", note + advice(config)
                    break
                stop = watch is not None and bool(watch(visit))
                ends = stop or visit.step == config.steps
                if ends or visit.step % config.record_every == 0:
                    records.append(quantities(visit))
                last = visit
                if stop and visit.step < config.steps:
                    status, note = "stopped", f"its caller stopped it at step {visit.step}"
                    break
        except SimulationError as error:
            if last is not None:  # a smaller step cannot mend the start
                error.args = (f"{error}{advice(config)}",)
            if records and last is not None:
                error.trace = assemble("nonfinite", str(error), records, last.state)
            raise
    assert last is not None  # the loss at the start cannot exceed its own scale
    return assemble(status, note, records, last.state)


def visits(config: Config) -> Iterator[Visit]:
    """Yield the state at steps 0 ... steps; SimulationError where it stops being finite."""
    rounds = Rounds(config)
    keep_freed()
    noise = draws(config)
    state, mix = config.rule.begin(start_factors(config)), Mix()
    if config.order == "mix_first":
        state, mix = rounds.mix(state, 0)
    visit = Visit(config, 0, state, mix, mix.comm_bytes)
    for _ in range(config.steps):
        drawn = list(islice(noise, config.local_steps))
        following = rounds.advance(visit, drawn)
        fine = following is not None and following.finite
        if not fine:
            visit.require_finite()
        yield visit
        if not fine:  # what is not finite is looked for by name, in the same round once more
            following = rounds.advance(visit, drawn, check=True)
        assert following is not None  # or its name was raised
        visit = following
    yield visit


class Rounds:
    """The rounds of one run: its method, and its graphs, each checked and counted once."""

    def __init__(self, config: Config) -> None:
        """Take the configuration of the run."""
        self.config, self.rule = config, config.rule
        _warn_of_components(config)
        # by identity, as a schedule may cycle, and only while they exist: it may make new ones
        self.known: dict[int, tuple[ref[Array], int]] = {}

    def graph(self, t: int) -> tuple[Array | None, int]:
        """Return Pi of round t, and how many messages a meeting on it takes."""
        given = self.config.graph
        Pi = given(t) if callable(given) else given
        number = id(Pi)
        if number in self.known:
            return Pi, self.known[number][1]
        if callable(given):  # one matrix for all rounds was checked with the configuration
            self.config.check_graph(Pi, t)
        messages = self.rule.messages(Pi, self.config.problem.N)
        if hasattr(Pi, "shape"):  # lists and None cannot be watched
            self.known[number] = ref(Pi, lambda _: self.known.pop(number)), messages
        return Pi, messages

    def advance(
        self, visit: Visit, drawn: list[Host | None], *, check: bool = False
    ) -> Visit | None:
        """Return the next step, None where products to be mixed are not finite.

        check: raise SimulationError at the first number on the way that is not finite.
        """
        config, t = self.config, visit.step
        if config.order == "combine":
            g = self.gradient(visit.state, drawn[0], Clock(t), check)
            mixed, mix = self.mix(visit.state, t)
            state, pooled = self.step(mixed, visit.state, g, Clock(t), check)
        else:
            state, pooled = visit.state, 0
            for local, draw in enumerate(drawn):
                clock = Clock(t, local, config.local_steps)
                g = self.gradient(state, draw, clock, check)
                state, sent = self.step(state, state, g, clock, check)
                pooled += sent
        if config.order != "combine":
            if self.rule.space == "products" and not finite(state.factors):
                return None
            state, mix = self.mix(state, t)
        if check:
            require_finite_factors(state.factors, t)
        return Visit(config, t + 1, state, mix, visit.comm_bytes + pooled + mix.comm_bytes)

    def gradient(self, at: State, drawn: Host | None, clock: Clock, check: bool) -> Array:
        """Return the gradient [..., N, d, k] in W at these states, with the noise that is drawn."""
        W = points(self.config, at)
        g = self.config.problem.grad(W)
        if clock.round == 0:
            require_shape("grad", g, W, self.config.problem.N)
        if check:
            require_finite("gradient", g, clock.round)
        return noisy(self.config.problem, g, drawn, W)

    def step(
        self, moved: State, at: State, g: Array, clock: Clock, check: bool
    ) -> tuple[State, int]:
        """Return `moved` after a local step along the gradient g at `at`, and the pooled bytes."""
        config, rule = self.config, self.rule
        gradients = rule.form.gradients(g, at, config.s)
        slopes = {v.name: v.gradient(g, at, config.s) for v in rule.form.variables}
        trained = rule.trains(clock)
        pooled = 0
        if rule.pools != "none":
            sent = {name: getattr(gradients, name) for name in trained} | slopes
            means, pooled = self.pool(sent, clock.round)
            gradients = gradients._replace(**{name: means[name] for name in trained})
            slopes = {name: means[name] for name in slopes}
        direction = rule.step(moved, gradients, clock)
        lr = _for_runs(config.step_sizes(clock.round), g)
        steps = {
            name: getattr(moved.factors, name) - lr * getattr(direction.gradients, name)
            for name in trained
        }
        factors = moved.factors._replace(**steps)
        if check:
            require_finite_factors(factors, clock.round)
        state = direction.state._replace(factors=factors)
        return rule.form.moved(state, slopes, lr), pooled

    def pool(self, sent: Message, t: int) -> tuple[Message, int]:
        """Return the gradients averaged over those whom the agents meet, and the bytes sent."""
        N = self.config.problem.N
        Pi, _ = self.graph(t)
        weights = weights_of(self.rule.pools, Pi, N)
        assert weights is not None  # asked for by methods that pool
        means = {name: for_agents(mean_over_agents(X, weights), N) for name, X in sent.items()}
        messages = messages_of(self.rule.pools, Pi, N)
        return means, messages * message_bytes(sent)

    def mix(self, state: State, t: int) -> tuple[State, Mix]:
        """Return the state after the mix that ends round t, and the mix."""
        K = self.config.local_steps
        clock = Clock(t, K - 1, K)
        if self.rule.meets == "none" or not self.rule.mixes(clock):
            return state, Mix()
        Pi, messages = self.graph(t)
        weights = self.rule.weights(Pi, self.config.problem.N, clock)
        assert weights is not None  # of a method that mixes in this round
        sent = self.rule.send(state, clock)
        mixed = self.rule.received(state, sent, weights, clock)
        comm_bytes = messages * message_bytes(sent)
        return mixed.state, Mix(state.factors, weights, mixed.truncated, comm_bytes, state.memory)


def _warn_of_components(config: Config) -> None:
    """Warn, once a run, where one graph for all rounds is disconnected."""
    if "graph" not in (config.named.meets, config.named.pools) or callable(config.graph):
        return
    count = components(config.graph)
    if count > 1:
        warnings.warn(
            f"the graph of Pi falls into {count} components, which cannot agree with each other; "
            f"add edges, or filter DisconnectedWarning if that is what you want",
            DisconnectedWarning,
            stacklevel=5,
        )


def _for_runs(lr: float | Host, like: Array) -> float | Array:
    """Return the step size, those of the runs as [runs, 1, 1, 1]."""
    return lr if isinstance(lr, float) else convert(lr.reshape(-1, 1, 1, 1), like)
