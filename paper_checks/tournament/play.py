"""One match: the step size is chosen on the tuning seeds, the reported seeds are scored with it."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import fmean
from typing import Any, NamedTuple

from paper_checks.choosing import at_an_end, best
from paper_checks.tournament.tasks import BASES, BUDGETS, Found, Scores, Task

DIGITS = 3  # decimals of a stored score
Row = dict[str, Any]


class Budget(NamedTuple):
    """The rounds that a method plays in a budget, and the bytes that all agents send in them."""

    rounds: int
    sent: int
    limit: int | None = None  # of bytes, where they are limited
    cut: bool = False  # whether bytes were left when the longest play was over


def play(task: Task, network: str, method: str) -> list[Row]:
    """Return the rows of a match, one per budget, or one that says why it cannot be played."""
    where: Row = {"task": task.name, "network": network, "method": method}
    try:
        given = budgets(task, network, method)
    except ValueError as error:
        return [{**where, "status": "refused", "why": str(error)}]
    stops = sorted({budget.rounds for budget in given.values()})
    tuned = {lr: task.trial(method, network, lr, task.tuning, stops) for lr in task.grid}
    chosen = {name: best_step(task, tuned, given[name].rounds) for name in given}
    played = {
        lr: task.trial(method, network, lr, task.reported, [0, *stops])
        for lr in sorted({lr for lr in chosen.values() if lr is not None})
    }
    return [
        {**where, "budget": name, **budget_row(budget)}
        | outcome(task, chosen[name], tuned, played, budget.rounds)
        for name, budget in given.items()
    ]


def budgets(task: Task, network: str, method: str) -> dict[str, Budget]:
    """Return how far a method plays in each budget; without bytes there is only one.

    The last round within the bytes is the one after which the next would send more than the base
    sends in the task's rounds. ValueError: the method cannot run here.
    """
    limit = task.sent(BASES[network], network, task.rounds)[-1]
    sent = task.sent(method, network, task.longest * task.rounds)
    found = {BUDGETS[0]: Budget(task.rounds, sent[task.rounds])}
    if sent[-1] > 0:
        within = max(t for t, total in enumerate(sent) if total <= limit)
        cut = within == len(sent) - 1 and sent[-1] < limit
        found[BUDGETS[1]] = Budget(within, sent[within], limit, cut)
    return found


def budget_row(budget: Budget) -> Row:
    """Return a budget's part of a row."""
    return {
        "rounds": budget.rounds,
        "bytes": budget.sent,
        "limit": budget.limit,
        "cut": budget.cut,
    }


def best_step(task: Task, tuned: dict[float, Found], stop: int) -> float | None:
    """Return the step size of the best mean score of the agents, the smallest of equals.

    None: with each of them some tuning run diverged.
    """
    means = {lr: fmean(found[stop].own) for lr, found in tuned.items() if stop in found}
    return best(means, lower=task.lower)


def outcome(
    task: Task,
    lr: float | None,
    tuned: dict[float, Found],
    played: dict[float, Found],
    stop: int,
) -> Row:
    """Return the scores of a budget, those at the start as their mean."""
    if lr is None:
        return {"status": "diverged", "why": "with every step size of the grid", "lr": None}
    row: Row = {"lr": lr, "edge": stop > 0 and at_an_end(lr, task.grid)}
    row["tuned"] = round(fmean(tuned[lr][stop].own), DIGITS)
    if stop not in played[lr]:
        return {**row, "status": "diverged", "why": "on a reported seed"}
    end, start = played[lr][stop], played[lr][0]
    return {**row, "status": "played", "start": mean(start.own), **stored(end)}


def stored(scores: Scores) -> Row:
    """Return scores as they are stored."""
    return {
        name: None if values is None else [round(x, DIGITS) for x in values]
        for name, values in scores._asdict().items()
    }


def mean(values: Sequence[float]) -> float:
    """Return the mean as it is stored."""
    return round(fmean(values), DIGITS)
