"""A run at ranks of torch.distributed: each trains some of its agents, and they mix by messages.

    torchrun --nproc-per-node 4 -m paper_checks run vit-digits --distributed

Every rank starts as one process does, with all agents, and keeps its own; the data are read by all.
Adapters and heads are mixed by one message to each neighbour and round. What is measured and scored
is computed by rank 0, at which all agents are gathered for it, and known to all ranks then.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

import torch
from torch import Tensor

from decaf_theory.distributed import Neighbourhood, enter
from decaf_theory.distributed.collective import at_first, of_everyone, of_first
from decaf_theory.distributed.neighbourhood import Posted, blocks_of, require_neighbours
from decaf_theory.lowrank import Factors, mean_over_agents
from decaf_theory.methods import METHODS, Clock, State
from decaf_theory.methods.base import along_the_gradient
from decaf_theory.methods.state import Message
from paper_checks import checkpoint, mixing, observe
from paper_checks.config import Config, ConfigError
from paper_checks.run import Run

T = TypeVar("T")


@dataclass
class Ranks:
    """How this rank takes part: whom it talks to, and what of the run is one row for all agents.

    sent_bytes: what all ranks have sent by the last record. posted: messages that travel.
    """

    neighbourhood: Neighbourhood
    shared: frozenset[str]
    sent_bytes: int = 0
    posted: Posted | None = None

    @property
    def rank(self) -> int:
        """This rank's number."""
        return self.neighbourhood.rank

    @property
    def own(self) -> Sequence[int]:
        """The numbers of this rank's agents."""
        return self.neighbourhood.own


def require_served(config: Config) -> None:
    """Raise ConfigError, with the reason, unless ranks that talk to neighbours can do the run."""
    try:
        require_neighbours(METHODS[config.mix.method])
    except ValueError as error:
        raise ConfigError(f"mix.method cannot be run with --distributed: {error}") from None
    train, lora = config.train, config.lora
    reasons = {
        "task.sequence": (config.task.get("sequence"), None, "tasks in turn are of one process"),
        "lora.dropout": (lora.dropout, 0.0, "masks are drawn for the batches of all agents"),
        "train.autocast": (
            "float16" if train.autocast == "float16" else None,
            None,
            "the loss has one scale for all agents",
        ),
    }
    for setting, (value, rule, why) in reasons.items():
        if value != rule:
            raise ConfigError(
                f"{setting} must be {'left out' if rule is None else rule} with --distributed, as "
                f"{why}, got {value!r}; run it in one process, or change it with --set"
            )


def place(folder: Path, agents: int, timeout: float) -> Path:
    """Return where this rank keeps its checkpoints: rank 0 in the folder of the run.

    ConfigError: more ranks than agents. RankError: not all ranks came within `timeout` seconds.
    """
    rank, ranks = enter(timeout)
    if ranks > agents:
        raise ConfigError(
            f"mix.agents must be >= {ranks}, one for each rank at least, got {agents}; start fewer "
            f"ranks, or set more agents"
        )
    return folder / f"rank-{rank}" if rank else folder


def join(run: Run, timeout: float) -> None:
    """Keep this rank's agents of a run at its start. RankError: other ranks have other settings."""
    rank, ranks = enter(timeout)
    N, rule = run.stacked.agents, run.config.mix.rule
    own = blocks_of(N, ranks)[rank]
    everything = tensors(run)
    shared = frozenset(name for name, X in everything.items() if len(X) < N)
    run.stamp["ranks"] = ranks
    assert run.Pi is not None  # of a method that meets on a graph
    served = Neighbourhood(rule, run.Pi, {}, timeout=timeout, settings=run.stamp)
    put(run, {name: X if name in shared else X[own] for name, X in everything.items()}, len(own))
    run.batches.agents = own
    run.ranks = Ranks(served, shared)


# ---------------------------------------------------------------- who holds what


def tensors(run: Run) -> dict[str, Tensor]:
    """Return everything that the agents stacked here hold, by name."""
    trained = {name: X.detach() for name, X in checkpoint.named(run.stacked).items()}
    return trained | checkpoint.memory_tensors(run)


def put(run: Run, held: Mapping[str, Tensor], agents: int) -> None:
    """Let the run's model be that of these agents, by what they hold; parameters stay the same."""
    for name, X in checkpoint.named(run.stacked).items():
        X.data = held[name].to(X.device)
    trained = {variable.name for variable in run.config.mix.rule.form.variables}
    for site, kept in run.memory.items():
        layer = run.stacked.sites[site]
        for what, value in kept.items():
            names = checkpoint.names_of(what, site, value)
            if what in trained:
                kept[what] = getattr(layer, what).data
            elif isinstance(value, Factors):
                kept[what] = Factors(*(held[name].to(run.device) for name in names))
            else:
                kept[what] = held[names[0]].to(run.device)
        base = kept.get("base")
        assert not isinstance(base, Factors)  # as the form has it
        layer.merged = base
    run.stacked = replace(run.stacked, agents=agents)


def observed(run: Run, what: Callable[[], T]) -> T:
    """Return what() with all agents stacked: at ranks computed by rank 0, for all of them."""
    if run.ranks is None:
        return what()
    parts = at_first(tensors(run), f"as agents were gathered at step {run.step}")
    found = None
    if parts is not None:
        with _whole(run, run.ranks, parts):
            found = what()
    result = of_first(found, f"as rank 0 measured at step {run.step}")
    assert result is not None  # as what() returns something
    return result


@contextmanager
def _whole(run: Run, ranks: Ranks, parts: Sequence[Mapping[str, Tensor]]) -> Iterator[None]:
    """Let the run's model be that of all agents inside."""
    own, n = tensors(run), run.stacked.agents
    everything = {
        name: X if name in ranks.shared else torch.cat([part[name].to(X.device) for part in parts])
        for name, X in own.items()
    }
    put(run, everything, ranks.neighbourhood.N)
    try:
        yield
    finally:
        put(run, own, n)


def agreed(run: Run, value: T) -> T:
    """Return the value that rank 0 has."""
    return value if run.ranks is None else of_first(value, f"at step {run.step}")


def mean_losses(run: Run) -> list[float]:
    """Return the mean over all agents of each step's losses; count what ranks have sent so far."""
    parts = [run.losses]
    if (ranks := run.ranks) is not None:
        every = of_everyone(
            (run.losses, ranks.neighbourhood.sent_bytes), f"as step {run.step} ended a round"
        )
        parts = [losses for losses, _ in every]
        ranks.sent_bytes = sum(sent for _, sent in every)
    dtype = observe.trained(run.stacked.layers[0])[0].dtype  # as of the losses
    rows = ([loss for own in step for loss in own] for step in zip(*parts, strict=True))
    return [float(torch.tensor(row, dtype=dtype).mean()) for row in rows]


# ---------------------------------------------------------------- messages


def post(run: Run, clock: Clock) -> None:
    """Let the messages of a mix travel from now on, if no step before it changes them."""
    rule = run.config.mix.rule
    if run.ranks is not None and rule.mixes(clock) and rule.step is along_the_gradient:
        factors = run.stacked.factors()
        states = [mixing.state_of(factors, run.memory, names) for names in mixing.by_shape(factors)]
        run.ranks.posted = _posted(run, run.ranks, states, clock)


def meeting(run: Run, clock: Clock) -> mixing.Meet | None:
    """Return how agents mix with those of other ranks, None in one process."""
    if (ranks := run.ranks) is None:
        return None

    def meet(
        states: Iterator[State], heads: Sequence[Tensor]
    ) -> tuple[Iterator[mixing.Change], Iterator[Tensor]]:
        old = list(states)
        posted = ranks.posted or _posted(run, ranks, old, clock)
        ranks.posted = None
        heard = ranks.neighbourhood.wait(posted)
        new = (m.state for m in ranks.neighbourhood.receive(old, heard, clock))
        of_heads = heard.messages[len(old)]
        means = (
            mean_over_agents(of_heads[str(i)], heard.weights).reshape(X.shape)
            for i, X in enumerate(heads)
        )
        return zip(old, new, strict=True), means

    return meet


def _posted(run: Run, ranks: Ranks, states: Sequence[State], clock: Clock) -> Posted:
    """Begin to send what the method sends of these states, and the heads, in one message."""
    rule = run.config.mix.rule
    heads: Message = {
        str(i): X.detach().reshape(len(X), 1, -1)
        for i, X in enumerate(mixing.trained_heads(run.stacked))
    }
    sent = [*(rule.send(state, clock) for state in states), heads]
    return ranks.neighbourhood.post(sent, clock.round)
