"""Per-sample gradients of MiniLM on SST-2 at the start of fine-tuning, under several heads.

A head is new, so it is drawn: by which draw should not matter to a property of the samples. One
more is fitted to other sentences, for a model that knows the task.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from decaf_theory.concentration import STATISTICS
from decaf_theory.rng import generator
from paper_checks import config as configs
from paper_checks.prism.gradients import norms_of_samples, projections
from paper_checks.tasks import Data, Task, load_task

EXPERIMENT, SAMPLES, BATCH = "minilm-sst2", 500, 25
DEVIATION = 0.02  # of a new head in transformers
DIGITS = 6


def measured(head: str, data_dir: str | None) -> dict[str, Any]:
    """Return by name, for each sample: the three statistics, loss and length (in tokens).

    And flipped: the largest difference that the other label makes to any statistic of any sample
    of the first batches, relative to it.
    """
    torch.set_num_threads(1)
    settings = {"data.train_samples": SAMPLES}
    task = load_task(configs.read(EXPERIMENT, settings, data_dir=data_dir))
    put_head(task, head)
    parts = torch.arange(len(task.train.labels)).split(BATCH)
    norms, losses = zip(*(of_batch(task, task.train.take(part)) for part in parts), strict=True)
    found = {name: of(np.concatenate(norms)) for name, of in STATISTICS.items()}
    lengths = task.train.lengths
    assert lengths is not None  # of texts
    rows = {**found, "loss": np.concatenate(losses), "length": lengths.numpy()}
    few = norms[:4]
    return {
        **{name: [float(f"{x:.{DIGITS}g}") for x in values] for name, values in rows.items()},
        "flipped": changed_by_labels(task, parts[: len(few)], few),
    }


def of_batch(task: Task, batch: Data) -> tuple[np.ndarray, np.ndarray]:
    """Return the gradient norms [b, sites] of a batch and its losses [b]."""
    kept: list[Tensor] = []

    def losses() -> Tensor:
        scores = task.scores(task.model, batch.inputs, 1)
        kept.append(functional.cross_entropy(scores, batch.labels, reduction="none"))
        return kept[0]

    norms = norms_of_samples(projections(task.model), losses)
    return norms.numpy(), kept[0].detach().double().numpy()


def changed_by_labels(task: Task, parts: Any, norms: Any) -> float:
    """Return the largest relative change of a statistic where every label is the other one."""
    worst = 0.0
    for part, own in zip(parts, norms, strict=True):
        batch = task.train.take(part)
        other, _ = of_batch(task, batch._replace(labels=1 - batch.labels))
        for of in STATISTICS.values():
            worst = max(worst, float(np.max(np.abs(of(other) / of(own) - 1))))
    return worst


@torch.no_grad()
def put_head(task: Task, head: str) -> None:
    """Give the model a head: drawn anew by its number, or fitted to the test sentences."""
    (name,) = task.heads
    layer = task.model.get_submodule(name)
    assert isinstance(layer, nn.Linear)  # of BERT's kind
    kind, _, number = head.partition("-")
    if kind == "drawn":
        draw = generator(int(number), "prism", "head").normal(0, DEVIATION, layer.weight.shape)
        weight, bias = torch.from_numpy(draw), torch.zeros(len(draw))
    else:
        weight, bias = fitted(task, layer)
    layer.weight.copy_(weight)
    layer.bias.copy_(bias)


def fitted(task: Task, layer: nn.Linear) -> tuple[Tensor, Tensor]:
    """Return weight [2, k] and bias [2] of a logistic regression on what the head sees there."""
    from sklearn.linear_model import LogisticRegression

    seen: list[Tensor] = []
    hook = layer.register_forward_hook(lambda _, inputs, output: seen.append(inputs[0]))
    order = task.test.passes(BATCH)
    for part in order:
        task.scores(task.model, task.test.take(part).inputs, 1)
    hook.remove()
    labels = task.test.labels[torch.cat(order)].numpy()
    found = LogisticRegression(max_iter=1000).fit(torch.cat(seen).numpy(), labels)
    w, b = torch.from_numpy(found.coef_[0]), float(found.intercept_[0])
    return torch.stack([-w, w]) / 2, torch.tensor([-b, b]) / 2
