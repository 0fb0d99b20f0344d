"""Tasks of the harness: one training per seed, scored by the agents' accuracy on the test set."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from paper_checks import config as configs
from paper_checks.config import Config
from paper_checks.tournament.tasks import Found, Scores, Task

if TYPE_CHECKING:
    from paper_checks.run import Run

ENDLESS = 10**6  # steps or rounds; a trial ends where its last stop is


def harness_task(
    name: str,
    title: str,
    overrides: Mapping[str, Any],
    *,
    networks: tuple[str, ...],
    rounds: int,
    longest: int,
    grid: tuple[float, ...],
    tuning: tuple[int, ...],
    reported: tuple[int, ...],
    experiment: str | None = None,
) -> Task:
    """Return the task of an experiment of `paper_checks.configs` (or a file), by default `name`."""
    chosen = {
        **{"train.steps": ENDLESS, "train.schedule": "constant"},
        **{"observe.every": ENDLESS, "observe.eval_every": ENDLESS},
        **overrides,
    }

    def config(method: str, network: str, **more: Any) -> Config:
        # a server's methods use no graph
        graph = {} if network == "server" else {"mix.graph": network}
        chosen_here = {name.replace("__", "."): value for name, value in more.items()}
        settings = {**chosen, "mix.method": method, **graph, **chosen_here}
        return configs.read(experiment or name, settings)

    def trial(
        method: str, network: str, lr: float, seeds: Sequence[int], stops: Sequence[int]
    ) -> Found:
        found = [
            accuracies(config(method, network, train__lr=lr, train__seed=seed), stops)
            for seed in seeds
        ]
        reached = [stop for stop in stops if all(stop in each for each in found)]
        return {stop: Scores([each[stop] for each in found]) for stop in reached}

    def sent(method: str, network: str, rounds: int) -> list[int]:
        return bytes_by_round(config(method, network, data__batch=1), rounds)

    first = config("dlora", "ring")
    return Task(
        name=name,
        title=title,
        score="accuracy in %",
        lower=False,
        networks=networks,
        rounds=rounds,
        longest=longest,
        grid=grid,
        tuning=tuning,
        reported=reported,
        settings={
            n: x
            for n, x in first.settings().items()
            if n not in ("mix.method", "mix.graph", "train.lr", "train.seed")
        },
        trial=trial,
        sent=sent,
    )


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
