"""Local steps and rounds of mixing on a stacked model: factors by a method, heads by its weights.

Sites of one shape d x k are stacked to [layer, agent, ., .], so that one call mixes them all.
All agents share one LoRA scale, so it can stay out of the products that are mixed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np
import torch
from torch import Tensor

from decaf_theory.arrays import Host
from decaf_theory.lowrank import Factors, mean_over_agents
from decaf_theory.methods import Clock, Method, State, for_agents
from decaf_theory.methods.base import along_the_gradient
from decaf_theory.methods.meeting import messages_of, weights_of
from decaf_theory.methods.state import message_bytes as bytes_of_message
from decaf_theory.topology import TOPOLOGIES
from paper_checks.beginning import Memory, one_row
from paper_checks.moments import rotate_all
from paper_checks.stacked import Stacked

# a state before a mix, and after it
Change: TypeAlias = tuple[State, State]
# mixes states of sites, one after the other as they are asked for, and heads
Meet: TypeAlias = Callable[
    [Iterator[State], Sequence[Tensor]], tuple[Iterator[Change], Iterator[Tensor]]
]


def graph_of(
    rule: Method, graph: str, agents: int, samples: Sequence[int] | None = None
) -> Host | None:
    """Return the weights Pi with which agents are averaged, None for 1/N of all, or for nobody.

    [N, N] on a graph; of a server that weighs agents by their `samples`, the one row [1, N].
    """
    if "graph" in (rule.meets, rule.pools):
        return np.asarray(TOPOLOGIES[graph](agents))
    return None if samples is None else np.array([samples]) / np.sum(samples)


@torch.no_grad()
def settle(stacked: Stacked, rule: Method, lr: float) -> None:
    """Let the form's variables settle after an optimizer's step of size lr."""
    for variable in rule.form.variables:
        for site in stacked.sites.values():
            X = getattr(site, variable.name)  # as `begin` bound it
            X.copy_(variable.settle(X, variable.speed * lr))


def let_train(stacked: Stacked, rule: Method, clock: Clock) -> None:
    """Unfreeze the factors that the method trains at this step, and freeze the others."""
    trained = rule.trains(clock)
    for site in stacked.sites.values():
        site.A.requires_grad_("A" in trained)
        site.B.requires_grad_("B" in trained)


def by_shape(factors: Mapping[str, Factors]) -> list[list[str]]:
    """Return the names of the sites, those of one shape (d, k) together."""
    groups: dict[tuple[int, int], list[str]] = {}
    for name, pair in factors.items():
        groups.setdefault(pair.shape, []).append(name)
    return list(groups.values())


def together(factors: Iterable[Factors]) -> Factors:
    """Return sites of one shape as B [layer, agent, d, r] and A [layer, agent, r, k]."""
    pairs = list(factors)
    return Factors(torch.stack([pair.B for pair in pairs]), torch.stack([p.A for p in pairs]))


def state_of(factors: Mapping[str, Factors], memory: Memory, names: Sequence[str]) -> State:
    """Return the state of sites of one shape, [layer, agent, ., .]."""
    own = together(factors[site] for site in names)
    N = len(factors[names[0]].B)

    def joined(name: str) -> Factors | Tensor:
        parts = [memory[site][name] for site in names]
        if isinstance(parts[0], Factors):
            return together(pair for pair in parts if isinstance(pair, Factors))
        rows: Tensor = for_agents(torch.stack([X for X in parts if isinstance(X, Tensor)]), N)
        return rows

    return State(own, {name: joined(name) for name in memory.get(names[0], {})})


def _remember(memory: Memory, names: Sequence[str], state: State) -> None:
    """Store a method's state of these sites; arrays in place, as sites may be bound to them."""
    for layer, site in enumerate(names):
        for name, kept in state.memory.items():
            held = memory[site][name]
            if isinstance(kept, Factors):
                memory[site][name] = kept.map(lambda X, layer=layer: X[layer].clone())
            elif isinstance(held, Tensor):
                held.copy_(one_row(kept[layer]))


@torch.no_grad()
def direct(stacked: Stacked, rule: Method, Pi: Host | None, memory: Memory, clock: Clock) -> int:
    """Turn the gradients in place into the direction of the method's local step.

    First they are averaged over the agents that the method pools, heads too; the bytes that all
    agents send for that are returned.
    """
    sent = 0
    if rule.pools != "none":
        weights = weights_of(rule.pools, Pi, stacked.agents) if Pi is None else Pi
        assert weights is not None  # of a method that pools
        for X in stacked.parameters():
            if X.grad is not None:
                X.grad = _mean(X.grad, weights)
        sent = messages_of(rule.pools, Pi, stacked.agents) * pooled_bytes(
            stacked, rule, memory, clock
        )
    if rule.form.penalty is not None:
        _penalize(stacked, rule, memory)
    if rule.step is along_the_gradient:
        return sent
    factors = stacked.factors()
    for names in by_shape(factors):
        sites = [stacked.sites[name] for name in names]
        gradients = together(_gradients(site) for site in sites)
        direction = rule.step(state_of(factors, memory, names), gradients, clock)
        _remember(memory, names, direction.state)
        for layer, site in enumerate(sites):
            for part in rule.trains(clock):
                X = getattr(direction.gradients, part)[layer]
                getattr(site, part).grad = X.contiguous()
    return sent


def _penalize(stacked: Stacked, rule: Method, memory: Memory) -> None:
    """Add the gradients of what the form adds to the loss, the mean over the sites."""
    factors = stacked.factors()
    assert rule.form.penalty is not None
    for names in by_shape(factors):
        slopes = rule.form.penalty(state_of(factors, memory, names)) / len(factors)
        for layer, name in enumerate(names):
            X = stacked.sites[name].B
            if X.grad is not None:
                X.grad += slopes[layer]


@torch.no_grad()
def turn(stacked: Stacked, memory: Memory, change: Callable[[State, Sequence[str]], State]) -> None:
    """Change the state of the sites of each shape in place, as where a task ends or begins."""
    factors = stacked.factors()
    for names in by_shape(factors):
        new = change(state_of(factors, memory, names), names)
        for layer, name in enumerate(names):
            factors[name].B.copy_(new.factors.B[layer])
            factors[name].A.copy_(new.factors.A[layer])
        _remember(memory, names, new)


def _gradients(site: Any) -> Factors:
    """Return the gradients of a site, zero for a factor that is not being trained."""
    return Factors(*(torch.zeros_like(X) if X.grad is None else X.grad for X in (site.B, site.A)))


@torch.no_grad()
def mix(
    stacked: Stacked,
    rule: Method,
    Pi: Host | None,
    memory: Memory,
    clock: Clock,
    *,
    moments: str = "reset",
    optimizer: torch.optim.Optimizer | None = None,
    meet: Meet | None = None,
) -> int:
    """Mix all adapters and heads of a stacked model in place; return the bytes sent by all agents.

    meet: how, None: with each other.

    moments: "reset" clears the optimizer's, like creating a new optimizer every round; "keep"
    leaves them, in the wrong basis after a truncation; "rotate" moves those of methods that mix
    products by `moments.rotated`, and keeps the others', whose coordinates mean the same before
    and after. The policy applies at the end of every round whatever the method, even if nothing is
    mixed, so that methods differ only in the mix.
    """
    weights, sent = rule.weights(Pi, stacked.agents, clock), 0
    if weights is not None:
        weights = weights if Pi is None else Pi  # a server's own, too
        sent = mix_bytes(stacked, rule, Pi, memory, clock)
        rotate = moments == "rotate" and rule.space == "products"
        meet = meet or with_each_other(rule, weights, clock)
        _mix(stacked, memory, meet, optimizer if rotate else None)
    if moments == "reset" and optimizer is not None:
        optimizer.state.clear()
    return sent


def with_each_other(rule: Method, weights: Host, clock: Clock) -> Meet:
    """Return how all agents, stacked in one process, mix by the rows of the weights."""

    def meet(
        states: Iterator[State], heads: Sequence[Tensor]
    ) -> tuple[Iterator[Change], Iterator[Tensor]]:
        changes = ((old, rule.exchange(old, weights, clock).state) for old in states)
        return changes, (_mean(X, weights) for X in heads)

    return meet


def _mix(
    stacked: Stacked, memory: Memory, meet: Meet, rotating: torch.optim.Optimizer | None
) -> None:
    """Mix adapters and heads in place; move the moments of `rotating`, an optimizer, with them."""
    factors, heads = stacked.factors(), trained_heads(stacked)
    groups = by_shape(factors)
    changes, means = meet((state_of(factors, memory, names) for names in groups), heads)
    for names, (old, new) in zip(groups, changes, strict=True):
        if rotating is not None:
            sites = [stacked.sites[name] for name in names]
            rotate_all(rotating, sites, old.factors, new.factors)
        for layer, name in enumerate(names):
            factors[name].B.copy_(new.factors.B[layer])
            factors[name].A.copy_(new.factors.A[layer])
        _remember(memory, names, new)
    for X, mixed in zip(heads, means, strict=True):
        X.copy_(mixed)


def _mean(X: Tensor, weights: Host) -> Tensor:
    """Return sum_j w_ij X_j for X [N, ...] and weights [N, N], or one row of them for all."""
    mean: Tensor = for_agents(mean_over_agents(X.reshape(len(X), 1, -1), weights), len(X))
    return mean.reshape(X.shape).contiguous()


def mix_bytes(stacked: Stacked, rule: Method, Pi: Host | None, memory: Memory, clock: Clock) -> int:
    """Return the bytes of a mix: of adapters, and of heads, of which a server sends their mean."""
    heads, N = head_bytes(stacked), stacked.agents
    if rule.meets == "none":
        return 0
    adapters = message_bytes(stacked, rule, memory, clock) - heads
    return rule.messages(Pi, N) * adapters + messages_of(rule.meets, Pi, N) * heads


def message_bytes(stacked: Stacked, rule: Method, memory: Memory, clock: Clock) -> int:
    """Return the bytes of the message that one agent sends to one other in a mix, heads too."""
    if rule.meets == "none":
        return 0
    factors = stacked.factors()
    sites = (rule.send(state_of(factors, memory, [name]), clock) for name in factors)
    return sum(bytes_of_message(message) for message in sites) + head_bytes(stacked)


def pooled_bytes(stacked: Stacked, rule: Method, memory: Memory, clock: Clock) -> int:
    """Return the bytes of the gradients that one agent sends at a step, heads too."""
    if rule.pools == "none":
        return 0
    factors = stacked.factors()
    sites = (rule.trained(state_of(factors, memory, [name]), clock) for name in factors)
    return sum(bytes_of_message(message) for message in sites) + head_bytes(stacked)


def head_bytes(stacked: Stacked) -> int:
    """Return the bytes of one agent's heads, 0 where they are frozen."""
    return sum(X[0].numel() * X.element_size() for X in trained_heads(stacked))


def trained_heads(stacked: Stacked) -> list[torch.nn.Parameter]:
    """Return the tensors [N, ...] of the heads that train, and so are mixed."""
    heads = [X for head in stacked.heads.values() for X in head.parameters()]
    return [X for X in heads if X.requires_grad]
