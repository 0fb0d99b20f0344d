"""vit-digits with its classes in turn: the five unseen digits, upright and turned by a quarter.

Ten classes, 1 3 5 7 9 and then the same turned, dealt to `task.sequence` tasks in this order. A
turned image is that of an upright one, so that training and test examples stay apart. Of the forms
of the square the pretraining has seen other digits, and of these digits none.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from paper_checks.config import Config
from paper_checks.tasks import digits
from paper_checks.tasks.models import drawn, frozen
from paper_checks.tasks.records import Data, Task

QUARTER = 1  # of `digits.turned`
CLASSES = 2 * len(digits.UNSEEN)


def load(config: Config, data_dir: Path | None) -> Task:
    """Return vit-digits, with ten classes in turn where task.sequence asks for them.

    ValueError: a sequence that does not give each task as many classes, two or more.
    """
    task, parts = digits.load(config, data_dir), config.task.get("sequence")
    if parts is None:
        return task
    if parts < 2 or CLASSES % parts or CLASSES // parts < 2:
        raise ValueError(
            f"task.sequence must be 2 or 5, tasks of 5 or 2 of the {CLASSES} classes each, got "
            f"{parts}; leave it out for one task of {len(digits.UNSEEN)} classes"
        )
    return task._replace(
        model=_with_head(task, CLASSES),
        classes=CLASSES,
        train=_in_both_forms(task.train),
        test=_in_both_forms(task.test),
        parts=parts,
    )


def _with_head(task: Task, classes: int) -> Any:
    """Return the model with a head of as many classes, drawn like the one it replaces."""
    from torch import nn

    model = task.model
    width = getattr(model, digits.HEAD).in_features
    setattr(model, digits.HEAD, drawn(lambda: nn.Linear(width, classes)))
    return frozen(model)


def _in_both_forms(data: Data) -> Data:
    """Return every example upright, then every example turned, as the next five classes."""
    import torch

    pictures = data.inputs["pixel_values"][:, 0].numpy()
    forms = np.full(len(pictures), QUARTER)
    turned = torch.from_numpy(digits.turned(pictures, forms))[:, None]
    return Data(
        {"pixel_values": torch.cat([data.inputs["pixel_values"], turned])},
        torch.cat([data.labels, data.labels + len(digits.UNSEEN)]),
    )
