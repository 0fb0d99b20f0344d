"""A task's baseline without any network: if training does not beat it, a table says nothing."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from typing import Any

import numpy as np

from decaf_theory.files import to_json, write_atomically
from decaf_theory.sums import sealed, sum_of
from paper_checks import stamp, tasks
from paper_checks.config import Config
from verification.store import StoreError, read_sealed

BASELINE = "baseline.json"
FEATURES = 4096  # of an example, at most: more are too many for a small machine
PENALTIES = (0.01, 0.1, 1.0, 10.0)  # scikit-learn's C, the inverse of the penalty


def keep(config: Config, folder: Path) -> None:
    """Write the baseline of a config's task into a folder, once, if the task has one.

    One that is damaged or of other data is computed again, and that is said.
    """
    path, of = folder / BASELINE, sum_of_task(config)
    if path.exists():
        try:
            if read_sealed(path, "computed again").get("of") == of:
                return
            print(f"{path} is of another task or other data; computed again", file=sys.stderr)
        except StoreError as error:
            print(error, file=sys.stderr)
    found = logistic(tasks.load_task(config))
    if found is not None:
        write_atomically(path, to_json(sealed({**found, "of": of})))


def sum_of_task(config: Config) -> str:
    """Return the checksum of the settings and the files that decide a config's examples."""
    tables = ("task.", "model.", "data.", "sum.data")
    dealt = "data.partition"  # to the agents: the baseline sees all examples
    return sum_of(
        {
            name: value
            for name, value in stamp.of(config).items()
            if name.startswith(tables) and not name.startswith(dealt)
        }
    )


def logistic(task: tasks.Task) -> dict[str, Any] | None:
    """Return the test accuracy of logistic regression on raw inputs, trained on all examples.

    The penalty is the best of `PENALTIES` on the validation examples, or without any on the test
    set, which favours it. None if inputs are not small arrays (texts, large images) or
    scikit-learn is not installed.
    """
    inputs = [*task.train.inputs.values()]
    floating = len(inputs) == 1 and getattr(inputs[0], "is_floating_point", bool)()
    if not floating or inputs[0][0].numel() > FEATURES or not importlib.util.find_spec("sklearn"):
        return None
    from sklearn.linear_model import LogisticRegression

    favoured = task.validation is None
    train, test, chosen = (
        (np.asarray(next(iter(part.inputs.values()))).reshape(len(part.labels), -1), part.labels)
        for part in (task.train, task.test, task.validation or task.test)
    )
    fits = [LogisticRegression(C=C, max_iter=10_000).fit(*train) for C in PENALTIES]
    best = max(fits, key=lambda fit: float(fit.score(*chosen)))
    on = "the test set, which favours it" if favoured else "validation examples"
    what = f"logistic regression on raw inputs, its penalty chosen on {on}"
    return {"what": what, "score": float(best.score(*test))}
