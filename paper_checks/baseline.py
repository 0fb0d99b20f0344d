"""A task's baseline without any network: if training does not beat it, a table says nothing."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import numpy as np

from decaf_theory.files import to_json, write_atomically
from paper_checks import tasks
from paper_checks.config import Config

BASELINE = "baseline.json"
FEATURES = 4096  # of an example, at most: more are too many for a small machine
PENALTIES = (0.01, 0.1, 1.0, 10.0)  # scikit-learn's C, the inverse of the penalty


def keep(config: Config, folder: Path) -> None:
    """Write the baseline of a config's task into a folder, once, if the task has one."""
    path = folder / BASELINE
    if path.exists():
        return
    found = logistic(tasks.load_task(config))
    if found is not None:
        write_atomically(path, to_json(found))


def logistic(task: tasks.Task) -> dict[str, Any] | None:
    """Return the test accuracy of logistic regression on raw inputs, trained on all examples.

    The best of `PENALTIES`, chosen on the test set, which favours it. None if inputs are not
    small arrays (texts, large images) or scikit-learn is not installed.
    """
    inputs = [*task.train.inputs.values()]
    floating = len(inputs) == 1 and getattr(inputs[0], "is_floating_point", bool)()
    if not floating or inputs[0][0].numel() > FEATURES or not importlib.util.find_spec("sklearn"):
        return None
    from sklearn.linear_model import LogisticRegression

    train, test = (
        (np.asarray(next(iter(part.inputs.values()))).reshape(len(part.labels), -1), part.labels)
        for part in (task.train, task.test)
    )
    fits = [LogisticRegression(C=C, max_iter=10_000).fit(*train).score(*test) for C in PENALTIES]
    return {"what": "logistic regression on raw inputs", "score": max(fits)}
