"""Tasks of the harness: one training per seed, scored by the agents' accuracy on the test set."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from paper_checks import config as configs
from paper_checks.config import Config
from paper_checks.tournament.tasks import Found, Scores, Task, task_of

if TYPE_CHECKING:
    from paper_checks.run import Run

STEPS = 10**6  # a trial ends where its last stop is
ENDLESS: dict[str, Any] = {
    "train.steps": STEPS,
    "observe.every": STEPS,
    "observe.eval_every": STEPS,
}
# so that a longer training begins like a shorter one
ENDLESS |= {"train.schedule": "constant", "train.lr_min": 0.0}
PER_MATCH = ("mix.method", "mix.graph", "train.lr", "train.seed")


class Setting(NamedTuple):
    """What is trained: an experiment of `paper_checks.configs` or a file, and changed settings."""

    experiment: str
    overrides: Mapping[str, Any]


def harness_task(name: str, title: str, setting: Setting, **plan: Any) -> Task:
    """Return the task of an experiment; plan: the fields of `Task` that say how it is played."""
    about = {"name": name, "title": title, "score": "accuracy in %", "lower": False}
    return task_of(setting, trial, sent, described(setting), **about, **plan)


def trial(
    setting: Setting,
    method: str,
    network: str,
    lr: float,
    seeds: Sequence[int],
    stops: Sequence[int],
) -> Found:
    """Return the scores after the rounds `stops`, those that the runs of all seeds reached."""
    chosen = [{"train.lr": lr, "train.seed": seed} for seed in seeds]
    found = [accuracies(config(setting, method, network, one), stops) for one in chosen]
    reached = [stop for stop in stops if all(stop in each for each in found)]
    return {stop: Scores([each[stop] for each in found]) for stop in reached}


def sent(setting: Setting, method: str, network: str, rounds: int) -> list[int]:
    """Return the bytes that all agents sent until the end of each round."""
    return bytes_by_round(config(setting, method, network, {"data.batch": 1}), rounds)


def config(setting: Setting, method: str, network: str, more: Mapping[str, Any]) -> Config:
    """Return a training without measurements of its own. ConfigError: the method is not for it."""
    chosen = dict(setting.overrides) | {"mix.method": method} | dict(more)
    if network != "server":  # whose methods use no graph
        chosen["mix.graph"] = network
    return configs.read(setting.experiment, {**ENDLESS, **chosen})


def described(setting: Setting) -> dict[str, Any]:
    """Return the settings that all matches share, those that are given or have a default."""
    shared = config(setting, "dlora", "ring", {}).settings()
    return {n: value for n, value in shared.items() if n not in PER_MATCH and value is not None}


def accuracies(config: Config, stops: Sequence[int]) -> dict[int, float]:
    """Return the mean of the agents' scores in percent after the rounds `stops`.

    Those that a diverged run did not reach are missing. ValueError: the harness cannot run this.
    """
    from paper_checks import finetune, observe  # torch: in the process that trains

    run = prepared(config)
    size = config.data.eval_batch or config.data.batch
    found = {}
    for stop in sorted(set(stops)):
        try:
            while run.step < stop * run.every:
                finetune.advance(run)
        except finetune.TrainingError:
            break
        found[stop] = 100 * observe.evaluate(run.stacked, run.task, size)["score"]
    return found


def prepared(config: Config) -> Run:
    """Return a run at its start, on one thread: scores must not depend on the number of jobs."""
    import torch

    from paper_checks import finetune

    torch.set_num_threads(1)
    return finetune.prepare(config, device="cpu")


def bytes_by_round(config: Config, rounds: int) -> list[int]:
    """Return the bytes that all agents of a training sent until the end of each round."""
    from paper_checks import finetune

    run = prepared(config)
    sent = [0]
    for _ in range(rounds):
        for _ in range(run.every):
            finetune.advance(run)
        sent.append(run.sent)
    return sent
