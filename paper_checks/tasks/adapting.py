"""The losses of ASDA (arXiv 2112.06161), semi-supervised adaptation to another domain.

One encoder, two heads F1 and F2 that see the direction of its features only. A loss has parts that
can be switched off one by one; each is a mean over its examples, so that all are per agent:

    supervised    (1 - a) CE(F1(source)) + a CE(F1(target)), a = `first`; of F2 with `second`
    pseudo        FixMatch: CE(F(strong view), the label that F gives the weak one), F the mean of
                  both heads' scores, where F is sure of it; unlabelled target images
    entropy       + H(F1(source)) - H(F2(target)), the encoder's gradient reversed: F1 gets sure of
                  the source while the encoder scatters it, F2 unsure of the target while the
                  encoder clusters it; target: both views of the unlabelled images
    discrepancy   squared maximum mean discrepancy of features, radial and linear kernel, of the
                  source and each view of the unlabelled target

The authors' code takes a step for each of four sums of parts, one after the other, and its heads
have a hidden layer; here one step is taken along the sum, and a head is one linear map.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, NamedTuple, TypeAlias

import torch
from torch import Tensor, nn
from torch.nn import functional

Head: TypeAlias = Callable[[Tensor], Tensor]  # features [N, m, f] -> scores [N, m, classes]
VIEWS = ("source", "target", "weak", "strong")
TEMPERATURE = 0.05
KERNELS = (0.25, 0.5, 1.0, 2.0, 4.0)  # bandwidths, in mean squared distances


class Weights(NamedTuple):
    """The share of the labelled target in each head's loss, and the weight of every other part."""

    first: float = 0.25
    second: float = 0.75
    pseudo: float = 1.0
    threshold: float = 0.95
    source_entropy: float = 0.1
    target_entropy: float = 0.1
    discrepancy: float = 0.1


class Features(NamedTuple):
    """The encoder's features of a batch, each [N, b, f], and the labels [N, b] of the first two."""

    source: Tensor
    target: Tensor
    weak: Tensor
    strong: Tensor
    source_labels: Tensor
    target_labels: Tensor


class TwoHeads(nn.Module):
    """An encoder and two linear heads, which see the direction of its features over `temperature`.

    The features are those of the first token. A point is scored by the mean of both heads' scores.
    """

    def __init__(self, encoder: Any, classes: int, temperature: float) -> None:
        """Draw the heads."""
        super().__init__()
        self.encoder, self.temperature = encoder, temperature
        width = encoder.config.hidden_size
        self.first = nn.Linear(width, classes, bias=False)
        self.second = nn.Linear(width, classes, bias=False)

    def features(self, pixel_values: Tensor) -> Tensor:
        """Return [m, f] for images [m, 1, height, width]."""
        found: Tensor = self.encoder(pixel_values=pixel_values).last_hidden_state[:, 0]
        return found

    def scores(self, head: Head, x: Tensor) -> Tensor:
        """Return a head's scores [N, m, classes] of features [N, m, f]."""
        flat = head((direction(x) / self.temperature).flatten(0, 1))
        return flat.view(*x.shape[:2], -1)

    def forward(self, pixel_values: Tensor) -> Tensor:
        """Return scores [m, classes] for images."""
        x = self.features(pixel_values)[:, None]
        return (self.scores(self.first, x) + self.scores(self.second, x))[:, 0] / 2


def asda(features: Features, first: Head, second: Head, weights: Weights) -> Tensor:
    """Return the loss of each agent, [N]; a part of weight 0 is not computed."""
    x = features
    total = supervised(x, first, weights.first) + supervised(x, second, weights.second)
    if weights.pseudo:
        weak, strong = ((first(view) + second(view)) / 2 for view in (x.weak, x.strong))
        total = total + weights.pseudo * pseudo_labelled(weak, strong, weights.threshold)
    if weights.source_entropy:
        total = total + weights.source_entropy * entropy(first(reversed_gradient(x.source)))
    unlabelled = torch.cat([x.weak, x.strong], dim=1)
    if weights.target_entropy:
        total = total - weights.target_entropy * entropy(second(reversed_gradient(unlabelled)))
    if weights.discrepancy:
        apart = [radial(x.source, view) + linear(x.source, view) for view in (x.weak, x.strong)]
        total = total + weights.discrepancy * (apart[0] + apart[1]) / 2
    return total


def of_batch(
    model: TwoHeads, inputs: Mapping[str, Tensor], agents: int, *, weights: Weights
) -> Tensor:
    """Return the loss of each agent, [N], of an agent-major batch of triples and its `labels`.

    All images go through the encoder in one stacked batch.
    """
    own = {name: x.unflatten(0, (agents, -1)) for name, x in inputs.items()}
    views = torch.stack([own[name] for name in VIEWS], dim=1)
    x = model.features(views.flatten(0, 2)).unflatten(0, views.shape[:3])
    x = x.to(torch.promote_types(x.dtype, torch.float32))
    source, target, weak, strong = x.unbind(1)
    features = Features(source, target, weak, strong, own["labels"], own["target_labels"])
    first, second = (partial(model.scores, head) for head in (model.first, model.second))
    return asda(features, first, second, weights)


def supervised(x: Features, head: Head, share: float) -> Tensor:
    """Return (1 - share) CE(source) + share CE(labelled target), [N]."""
    loss = (1 - share) * cross_entropy(head(x.source), x.source_labels).mean(1)
    return loss + share * cross_entropy(head(x.target), x.target_labels).mean(1) if share else loss


def cross_entropy(scores: Tensor, labels: Tensor) -> Tensor:
    """Return -log softmax(scores)[label], [N, m]."""
    return functional.cross_entropy(scores.flatten(0, 1), labels.flatten(), reduction="none").view(
        labels.shape
    )


def pseudo_labelled(weak: Tensor, strong: Tensor, threshold: float) -> Tensor:
    """Return FixMatch's loss [N] of scores [N, m, classes] of two views.

    The mean over all m of CE(strong, argmax weak) where max softmax(weak) >= threshold, and of 0
    elsewhere. The weak view has no gradient.
    """
    sure, labels = weak.detach().softmax(-1).max(-1)
    return (cross_entropy(strong, labels) * (sure >= threshold)).mean(1)


def entropy(scores: Tensor) -> Tensor:
    """Return the mean entropy of softmax(scores [N, m, classes]) over m, [N], in nats."""
    return -(scores.softmax(-1) * scores.log_softmax(-1)).sum(-1).mean(1)


def reversed_gradient(x: Tensor) -> Tensor:
    """Return x, bit for bit, with minus its gradient."""
    return 2 * x.detach() - x


def direction(x: Tensor) -> Tensor:
    """Return x / |x| along the last axis, 0 for x = 0: all that a cosine head sees."""
    return functional.normalize(x, dim=-1)


def linear(x: Tensor, y: Tensor) -> Tensor:
    """Return |mean x - mean y|^2, [N], of samples [N, m, f]: the discrepancy in a linear kernel."""
    return (x.mean(1) - y.mean(1)).square().sum(-1)


def radial(x: Tensor, y: Tensor) -> Tensor:
    """Return mean k(x, x') + mean k(y, y') - 2 mean k(x, y), [N], of samples [N, m, f], >= 0.

    k = sum over h in KERNELS of exp(-|x - y|^2 / (h d)), d the mean squared distance of two
    different points of both samples, without gradient. The biased estimate: pairs of a point with
    itself count, so that it is the squared distance of two means, and 0 for equal samples.
    """
    points = torch.cat([x, y], dim=1)
    count = points.shape[1]
    squares = (points[:, :, None] - points[:, None]).square().sum(-1)
    mean = squares.detach().sum((1, 2), keepdim=True) / (count * (count - 1))
    scaled = squares / mean.clamp(min=torch.finfo(mean.dtype).tiny)  # points that are all alike
    kernel = torch.stack([torch.exp(-scaled / h) for h in KERNELS]).sum(0)
    m = x.shape[1]
    signs = torch.cat([x.new_full((m,), 1 / m), x.new_full((count - m,), -1 / (count - m))])
    return signs @ kernel @ signs
