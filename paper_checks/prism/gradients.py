"""The norms of each sample's gradient at every projection matrix, in one pass for a batch."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn

PROJECTIONS = (
    *("attention.self.query", "attention.self.key", "attention.self.value"),
    *("attention.output.dense", "intermediate.dense", "output.dense"),
)
Kept: TypeAlias = dict[str, Tensor]  # by name of the layer


def projections(model: nn.Module, names: tuple[str, ...] = PROJECTIONS) -> dict[str, nn.Linear]:
    """Return the linear layers whose dotted name is "..layer.N." and one of `names`, by name."""
    ends = tuple(f".{name}" for name in names)
    return {
        name: layer
        for name, layer in model.named_modules()
        if isinstance(layer, nn.Linear) and ".layer." in name and name.endswith(ends)
    }


def norms_of_samples(sites: Mapping[str, nn.Linear], losses: Callable[[], Tensor]) -> Tensor:
    """Return |d loss_s / d W_l|_F of every sample s at every site l, [samples, sites].

        d loss_s / d W_l = G_s' X_s,   |G_s' X_s|_F^2 = <G_s G_s', X_s X_s'>

    with X_s [t, k] the inputs of a layer y = W x and G_s [t, d] the gradients at its outputs. Texts
    have fewer tokens t than layers are wide, so that the matrices [t, t] cost much less than the
    gradient [d, k] itself; they are formed in float64, as the sum may cancel. losses() runs the
    model and returns one loss per sample [b] of a batch [b, t, .] that no layer mixes: then the
    gradient of their sum at the outputs of a sample is its own. The weights need not train.
    """
    with outputs(sites) as (x, y):
        total = losses().sum()
    gradients = torch.autograd.grad(total, [y[name] for name in sites])
    each = []
    for name, g in zip(sites, gradients, strict=True):
        G, X = g.double(), x[name].double()
        square = ((G @ G.mT) * (X @ X.mT)).sum(dim=(-2, -1))
        each.append(square.clamp(min=0).sqrt())  # a gradient of zero, up to rounding
    return torch.stack(each, dim=1)


@contextmanager
def outputs(sites: Mapping[str, nn.Linear]) -> Iterator[tuple[Kept, Kept]]:
    """Keep inputs and outputs of layers that run inside, by name; outputs have gradients."""
    x: Kept = {}
    y: Kept = {}

    def keeping(name: str) -> Callable[..., None]:
        def keep(layer: nn.Module, inputs: tuple[Any, ...], output: Tensor) -> None:
            if not output.requires_grad:  # of a first layer whose weights are frozen
                output.requires_grad_()
            x[name], y[name] = inputs[0].detach(), output

        return keep

    hooks = [layer.register_forward_hook(keeping(name)) for name, layer in sites.items()]
    try:
        yield x, y
    finally:
        for hook in hooks:
            hook.remove()
