"""Models and data sets: `load_task(config)` gives a frozen model, its data and how it scores.

A task is a data set together with a kind of model; a new one is a line in TASKS. torch,
transformers, scikit-learn and datasets are imported inside the functions that need them.
"""

from __future__ import annotations

from pathlib import Path

from paper_checks.config import Config
from paper_checks.tasks import causal, clip, domains, in_turn, own, text
from paper_checks.tasks.records import Data, Task

_TEXT = {"classifier": text.load, "causal": causal.load}
_IMAGES = {"clip": clip.load}

# data set -> kind of model -> loader(config, data_dir) -> Task
TASKS = {
    "sst2": _TEXT,
    "wic": _TEXT,
    "boolq": _TEXT,
    "toy-text": _TEXT,
    "flowers102": _IMAGES,
    "ucf101": _IMAGES,
    "food101": _IMAGES,
    "toy-images": _IMAGES,
    "digits": {"vit": in_turn.load},
    "digit-domains": {"vit": domains.load},
    "own-text": _TEXT,
    "own-images": {"image": own.load_images},
}

__all__ = ["TASKS", "Data", "Task", "load_task"]


def load_task(config: Config) -> Task:
    """Return the task of config.task["name"] with the frozen model of config.model.

    It reads the config's task, model, lora.targets, data and data_dir, but no seed: all runs of a
    configuration see the same model and examples; partition and training draw the rest.
    data.shots: at most that many training examples of every class, in all. data_dir: the folder
    that holds the data sets (one folder each, see data.py and images.py); None takes the hub.
    ValueError names what is missing and how to get it.
    """
    name, kind = config.task["name"], config.model.get("kind")
    if name not in TASKS:
        raise ValueError(f"task.name must be one of {', '.join(TASKS)}; got {name!r}")
    if kind not in TASKS[name]:
        raise ValueError(
            f"model.kind of task {name} must be {' or '.join(TASKS[name])}; got {kind!r}"
        )
    metric = config.task.get("metric", "accuracy")
    if metric not in ("accuracy", "f1"):
        raise ValueError(f"task.metric must be accuracy or f1; got {metric!r}")
    folder = None if config.data_dir is None else Path(config.data_dir).expanduser()
    task = TASKS[name][kind](config, folder)
    if task.metric == "f1" and task.classes != 2:
        raise ValueError(
            f"task.metric f1 is the score of the second of two classes; {name} has {task.classes}: "
            f"use accuracy"
        )
    return task
