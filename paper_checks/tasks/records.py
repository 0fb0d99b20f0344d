"""The two records that every task gives: Data and Task."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from decaf_theory.rng import generator

if TYPE_CHECKING:  # torch is imported where it is needed
    from torch import Tensor, nn


class Data(NamedTuple):
    """Examples in order: inputs by name, first axis = example, and labels, int64 [n].

    Texts are padded on the right; their lengths are known by an input `last` [n], the place of the
    last token, or by `attention_mask` [n, L].
    """

    inputs: dict[str, Any]  # tensors, or sequences that an index tensor indexes (images on disk)
    labels: Tensor

    def take(self, index: Tensor, draws: Sequence[np.random.Generator] = ()) -> Data:
        """Return the examples at `index` [m], int64; texts are padded to the longest of them.

        draws: for inputs that are augmented, a stream for each of the equal parts of the index.
        """
        inputs, lengths = self.inputs, self.lengths
        if lengths is not None:
            longest = int(lengths[index].max())
            inputs = {n: x[:, :longest] if x.dim() == 2 else x for n, x in inputs.items()}
        found = {
            name: x.drawn(index, draws) if draws and hasattr(x, "drawn") else x[index]
            for name, x in inputs.items()
        }
        return Data(found, self.labels[index])

    @property
    def lengths(self) -> Tensor | None:
        """The tokens of each text [n]; None if the inputs are not texts."""
        if "last" in self.inputs:
            found: Tensor = self.inputs["last"] + 1
            return found
        mask = self.inputs.get("attention_mask")
        return None if mask is None else mask.sum(1)

    def passes(self, size: int) -> list[Tensor]:
        """Return the places of all examples in parts of `size`; of texts, the longest first."""
        import torch

        order = torch.arange(len(self.labels))
        if self.lengths is not None:  # like lengths together: little padding
            order = torch.argsort(self.lengths, descending=True, stable=True)
        return list(order.split(size))


class Task(NamedTuple):
    """A frozen model with the data that it is fine-tuned on and the rule that scores classes."""

    name: str
    model: nn.Module  # evaluation mode, no gradients
    base: str  # portable name of the base model, for adapters that are exported
    targets: tuple[str, ...]  # names of the nn.Linear modules that get adapters
    heads: tuple[str, ...]  # names of the modules that are trained dense
    classes: int
    metric: str  # "accuracy" | "f1" (of class 1)
    train: Data
    test: Data
    scores: Callable[[Any, dict[str, Any], int], Tensor]
    """(model, inputs of a batch, agent-major [N*b, ...], N) -> class scores [N*b, classes]."""
    common: Callable[[Any, int], dict[str, Any]] = lambda model, agents: {}
    """(model, N) -> inputs that are the same for every batch until the adapters change."""
    losses: Callable[[Any, dict[str, Any], int], Tensor] | None = None
    """(model, inputs of a batch and its `labels`, N) -> each agent's loss of its examples, [N].

    None: the mean cross-entropy of `scores`, by which all tasks are tested.
    """
    validation: Data | None = None  # neither trained nor tested on; what is chosen is chosen there
    parts: int = 1  # tasks in turn, of equally many classes in their order


def few(labels: np.ndarray, shots: int) -> np.ndarray:
    """Return the places, sorted, of at most `shots` examples of every class, a fixed draw."""
    draw = generator(0, "examples", "shots")
    piles = [draw.permutation(np.flatnonzero(labels == label)) for label in np.unique(labels)]
    return np.sort(np.concatenate([pile[:shots] for pile in piles]))


def cut(examples: int, samples: int | None, part: str) -> np.ndarray:
    """Return the places, sorted, of at most `samples` examples (None: all), a fixed draw."""
    if samples is None or samples >= examples:
        return np.arange(examples)
    return np.sort(generator(0, "examples", part).permutation(examples)[:samples])


def validation_size(wanted: float, examples: int) -> int:
    """Return how many examples `data.validation` means: that many, or below 1 a share of them."""
    return max(1, round(wanted * examples)) if wanted < 1 else int(wanted)


def without_validation(groups: Sequence[Hashable], wanted: float) -> tuple[np.ndarray, np.ndarray]:
    """Return the places, sorted, of training and of validation examples, a fixed draw.

    groups: of every training example; those of one group stay together, so that validation is at
    least as large as `wanted` (see `validation_size`). ValueError: nothing is left to train on.
    """
    members: dict[Hashable, list[int]] = {}
    for place, group in enumerate(groups):
        members.setdefault(group, []).append(place)
    size, chosen = validation_size(wanted, len(groups)), list[int]()
    piles = list(members.values())
    for pile in generator(0, "examples", "validation").permutation(len(piles)):
        if len(chosen) >= size:
            break
        chosen += piles[pile]
    if len(chosen) == len(groups):
        raise ValueError(
            f"data.validation must leave examples to train on, got {wanted:g} of the {len(groups)} "
            f"that the data set has for training; lower it"
        )
    taken = np.zeros(len(groups), dtype=bool)
    taken[chosen] = True
    return np.flatnonzero(~taken), np.flatnonzero(taken)


def divided(train: Data, wanted: float | None) -> tuple[Data, Data | None]:
    """Return training and validation examples, the latter taken out of the former; None: none."""
    if wanted is None:
        return train, None
    import torch

    kept, apart = without_validation(range(len(train.labels)), wanted)
    return train.take(torch.from_numpy(kept)), train.take(torch.from_numpy(apart))
