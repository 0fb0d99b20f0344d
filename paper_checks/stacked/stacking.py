"""Turn a model into N agents' model: `stack` replaces its linear layers in place."""

from __future__ import annotations

import difflib
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from decaf_theory.lowrank import Factors
from decaf_theory.rng import generator
from paper_checks.stacked.layers import Layer, StackedHead, StackedLinear, at_least_float32


@dataclass(frozen=True)
class Stacked:
    """A model of N agents: its stacked layers by dotted name, and how they were named.

    targets, saved: the names of the sites and of the heads that were given to `stack`.
    """

    model: nn.Module
    sites: dict[str, StackedLinear]
    heads: dict[str, StackedHead]
    agents: int
    targets: tuple[str, ...]
    saved: tuple[str, ...]

    def factors(self) -> dict[str, Factors]:
        """Return B [N, d, r] and A [N, r, k] by site: detached views, the scale not folded in."""
        return {
            name: Factors(site.B.detach(), site.A.detach()) for name, site in self.sites.items()
        }

    def pairs(self) -> dict[str, Factors]:
        """Return the `pair` of every site, B A of which is W - W0 over the scale."""
        return {name: site.pair for name, site in self.sites.items()}

    def parameters(self) -> list[nn.Parameter]:
        """Return everything that trains: B, A and gate of every site, then every head."""
        return [X for layer in self.layers for X in layer.parameters() if X.requires_grad]

    @property
    def layers(self) -> tuple[Layer, ...]:
        """All stacked layers: the sites, then the heads."""
        return (*self.sites.values(), *self.heads.values())

    @contextmanager
    def only(self, agent: int | None) -> Iterator[None]:
        """Let the model take one agent's batches, whose gradients go to its slice; None: all.

        Less memory, the same gradients: with dropout off they agree to rounding, with dropout on
        different masks are drawn. Call backward inside, because gradient checkpointing recomputes
        the forward pass. ValueError: no such agent.
        """
        if agent is not None and not 0 <= agent < self.agents:
            raise ValueError(f"agent must be in 0 .. {self.agents - 1}, got {agent}")
        before = [layer.agent for layer in self.layers]
        try:
            for layer in self.layers:
                layer.agent = agent
            yield
        finally:
            for layer, old in zip(self.layers, before, strict=True):
                layer.agent = old


def stack(
    model: nn.Module,
    *,
    targets: Sequence[str],
    agents: int,
    rank: int,
    scale: float,
    dropout: float = 0.0,
    heads: Sequence[str] = (),
    seed: int = 0,
    equal_start: bool = True,
    train_heads: bool = True,
) -> Stacked:
    """Give a model the LoRA factors and heads of N agents, in place; all else is frozen.

    Every nn.Linear whose dotted name is a target or ends with ".target" becomes a StackedLinear,
    every nn.Linear of a module that `heads` names so becomes a StackedHead. B starts at 0 and A
    uniform in +-1/sqrt(k), as peft draws it; all agents share one A under `equal_start`, else each
    draws its own. Without `train_heads` heads stay as they are. No targets, but heads: only these
    train. ValueError: a number out of range, a name that matches nothing or layers other than
    nn.Linear, rank > min(d, k), a model that is already stacked.
    """
    _check_numbers(agents, rank, scale, dropout)
    if any(isinstance(module, Layer) for module in model.modules()):
        raise ValueError("the model is already stacked; load it again to stack it anew")
    if isinstance(targets, str) or not (targets or heads):
        raise ValueError(f"targets must be a list of one or more names, got {targets!r}")
    linear, dense = _sites(model, targets), _dense(model, heads)
    _require_one_name(model, {**linear, **dense})
    for name, layer in linear.items():
        if name in dense:
            raise ValueError(f"site {name} is both a target and part of a head; narrow the targets")
        d, k = layer.weight.shape
        if rank > min(d, k):
            raise ValueError(f"rank {rank} is above min(d, k) at site {name}, {d} x {k}; lower it")
    model.requires_grad_(False)
    starts = {
        name: _start(layer, name, agents, rank, seed, equal_start) for name, layer in linear.items()
    }
    sites = {name: StackedLinear(linear[name], A, scale, dropout) for name, A in starts.items()}
    tops = {name: StackedHead(layer, agents) for name, layer in dense.items()}
    for name, fresh in {**sites, **tops}.items():
        parent, _, child = name.rpartition(".")
        setattr(model.get_submodule(parent), child, fresh)
    for head in tops.values():
        head.requires_grad_(train_heads)
    return Stacked(model, sites, tops, agents, tuple(targets), tuple(heads))


def _check_numbers(agents: int, rank: int, scale: float, dropout: float) -> None:
    for name, value in (("agents", agents), ("rank", rank)):
        if value < 1:
            raise ValueError(f"{name} must be at least 1, got {value}")
    if not math.isfinite(scale) or scale == 0:
        raise ValueError(f"scale must be finite and not 0, got {scale}")
    if not 0 <= dropout < 1:
        raise ValueError(f"dropout must be in [0, 1), got {dropout}")


def _matches(name: str, wanted: str) -> bool:
    return name == wanted or name.endswith(f".{wanted}")  # peft's rule


def _named(model: nn.Module, wanted: str, what: str) -> dict[str, nn.Module]:
    """Return the modules of a name; ValueError with the nearest names if there is none."""
    found = {name: module for name, module in model.named_modules() if _matches(name, wanted)}
    if not found:
        names = {name.rpartition(".")[2] for name, _ in model.named_modules() if name}
        near = difflib.get_close_matches(wanted.rpartition(".")[2], sorted(names), n=3, cutoff=0.5)
        linear = {n.rpartition(".")[2] for n, m in model.named_modules() if type(m) is nn.Linear}
        hint = f"near: {', '.join(near)}" if near else f"linear: {', '.join(sorted(linear))}"
        raise ValueError(f"{what} {wanted!r} matches no module of the model; {hint}")
    return found


def _sites(model: nn.Module, targets: Sequence[str]) -> dict[str, nn.Linear]:
    """Return the linear layers that the targets name, in the model's order."""
    found = {name for target in targets for name in _named(model, target, "target")}
    sites = {name: module for name, module in model.named_modules() if name in found}
    for name, module in sites.items():
        # not isinstance: quantized layers derive from nn.Linear
        if type(module) is not nn.Linear:
            raise ValueError(f"site {name} is {_kind(module)}; targets must be plain nn.Linear")
    return sites


def _dense(model: nn.Module, heads: Sequence[str]) -> dict[str, nn.Linear]:
    """Return the linear layers inside the modules that `heads` names."""
    if isinstance(heads, str):
        raise ValueError(f"heads must be a list of names, got {heads!r}")
    found: dict[str, nn.Linear] = {}
    for wanted in heads:
        for top, head in _named(model, wanted, "head").items():
            for inner, module in head.named_modules():
                name = f"{top}.{inner}" if inner else top
                if type(module) is nn.Linear:
                    found[name] = module
                elif next(module.parameters(recurse=False), None) is not None:
                    raise ValueError(
                        f"head {name} is {_kind(module)}; only nn.Linear can be trained in heads"
                    )
    return found


def _require_one_name(model: nn.Module, layers: Mapping[str, nn.Module]) -> None:
    """Raise ValueError if a layer is used in a second place, which would keep the bare base."""
    known = {id(layer): name for name, layer in layers.items()}
    for name, module in model.named_modules(remove_duplicate=False):
        first = known.get(id(module), name)
        if first != name:
            raise ValueError(f"site {first} is also {name}; a shared layer cannot be stacked")


def _kind(module: nn.Module) -> str:
    return f"a {type(module).__module__}.{type(module).__qualname__}"


def fresh(site: StackedLinear, name: str, seed: int, equal: bool) -> Factors:
    """Return the pair at which a site would start: B = 0 and an A by streams of this seed."""
    N, rank, _ = site.A.shape
    A = _start(site.base, name, N, rank, seed, equal)
    return Factors(torch.zeros_like(site.B), A)


def _start(layer: nn.Linear, name: str, agents: int, rank: int, seed: int, equal: bool) -> Tensor:
    """Return A [N, r, k], uniform in +-1/sqrt(k), by streams of their own for site and agent."""
    k = layer.in_features
    streams = [("A", name)] * agents if equal else [("A", name, agent) for agent in range(agents)]
    draws = [
        generator(seed, *stream).uniform(-1, 1, (rank, k)) / math.sqrt(k) for stream in streams
    ]
    A = torch.stack([torch.from_numpy(draw) for draw in draws])
    return A.to(layer.weight.device, at_least_float32(layer.weight.dtype))
