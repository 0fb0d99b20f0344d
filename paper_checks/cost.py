"""The cost of one training step of a stacked model, counted as it is dispatched: also on meta."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from paper_checks.stacked import Stacked


class Memory(NamedTuple):
    """Bytes on one device during a step, without the work space of single operations."""

    base: int  # the frozen model, once for all agents
    adapters: int  # factors and heads of all agents
    gradients: int
    optimizer: int
    activations: int  # what the forward pass saves for the backward pass

    @property
    def total(self) -> int:
        """The sum of all parts."""
        return sum(self)


class Step(NamedTuple):
    """A forward and backward pass."""

    activations: int  # bytes
    flops: int  # of products of matrices and convolutions, 2 m n k each


def step_cost(
    model: nn.Module, scores: Callable[[], Tensor], *, layers: int, checkpointing: bool = False
) -> Step:
    """Return the cost of one step of `scores()`, which runs the model in training mode.

    Activations: every distinct storage that autograd saves, except parameters. With gradient
    checkpointing: those at the end of its forward pass, and 1 / layers of those of a plain pass for
    the layer that is computed again; that recomputation is in the flops.
    """
    model.train()
    if not checkpointing:
        return _counted(model, scores)
    with saved_storages(model) as plain:
        scores()
    recompute(model, True)
    step = _counted(model, scores)
    recompute(model, False)
    return step._replace(activations=step.activations + sum(plain.values()) // layers)


def _counted(model: nn.Module, scores: Callable[[], Tensor]) -> Step:
    with FlopCounterMode(display=False) as counter:
        with saved_storages(model) as saved:
            total = scores().float().sum()
        total.backward()
    return Step(sum(saved.values()), counter.get_total_flops())


def memory(stacked: Stacked, activations: int, *, moments: int) -> Memory:
    """Return the bytes of a step; moments: the optimizer's numbers for each that trains."""
    held = [X for layer in stacked.layers for X in layer.parameters(recurse=False)]
    everything = (*stacked.model.parameters(), *stacked.model.buffers())
    trained, adapters = size(*stacked.parameters()), size(*held)
    return Memory(size(*everything) - adapters, adapters, trained, moments * trained, activations)


def size(*tensors: Tensor) -> int:
    """Return the bytes of some tensors."""
    return sum(X.numel() * X.element_size() for X in tensors)


@contextmanager
def saved_storages(model: nn.Module) -> Iterator[dict[int, int]]:
    """Collect the bytes of the storages that autograd saves, parameters and buffers apart."""
    own = {_address(X) for X in (*model.parameters(), *model.buffers())}
    found: dict[int, int] = {}
    alive: list[Tensor] = []  # the address of a freed storage would be reused by another

    def pack(X: Tensor) -> Tensor:
        if _address(X) not in own:
            found[_address(X)] = X.untyped_storage().nbytes()
            alive.append(X)
        return X

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda X: X):
        yield found


def _address(X: Tensor) -> int:
    return int(X.untyped_storage()._cdata)  # meta tensors have no data pointer


def recompute(model: nn.Module, on: bool) -> None:
    """Turn gradient checkpointing of a model of transformers on or off."""
    ending = "enable" if on else "disable"
    # the second name is that of transformers before 5.20 and warns after it
    for name in (f"activation_checkpointing_{ending}", f"gradient_checkpointing_{ending}"):
        if hasattr(model, name):
            getattr(model, name)()
            return
    raise ValueError(f"{type(model).__name__} has no gradient checkpointing")
