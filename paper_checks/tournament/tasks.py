"""What a task of the tournament is, on which networks it is played, and who meets whom there."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple, TypeAlias

from decaf_theory.methods import METHODS, Method
from decaf_theory.topology import SCHEDULES, TOPOLOGIES

BUDGETS = ("rounds", "bytes")
# network -> the method that all others are compared with there
BASES = {"ring": "dlora", "complete": "dlora", "one_peer": "dlora", "server": "fedavg"}


class Scores(NamedTuple):
    """Scores by seed: of the agents' own points, and of their mean point where it is known."""

    own: list[float]
    mean: list[float] | None = None


Found: TypeAlias = Mapping[int, Scores]  # round -> scores; a round that was not reached is missing


@dataclass(frozen=True, kw_only=True)
class Task:
    """One task: `trial` plays a method there, `sent` counts its bytes.

    trial(method, network, lr, seeds, stops): the scores after the rounds `stops`, those before a
    run diverged. sent(method, network, rounds): the bytes that all agents sent until the end of
    each round, [rounds + 1]. ValueError of either: the method cannot run there, and why.
    score: what is scored, in words; lower: whether less is better. rounds: of the budget "rounds";
    a method that sends less than the base plays at most `longest` times as many. grid: step sizes.
    settings: all else that the scores depend on.
    """

    name: str
    title: str
    score: str
    lower: bool
    networks: tuple[str, ...]
    rounds: int
    longest: int
    grid: tuple[float, ...]
    tuning: tuple[int, ...]
    reported: tuple[int, ...]
    settings: Mapping[str, Any]
    trial: Callable[[str, str, float, Sequence[int], Sequence[int]], Found]
    sent: Callable[[str, str, int], list[int]]

    def described(self) -> dict[str, Any]:
        """Return what the scores depend on, as JSON has it."""
        names = "title score lower rounds longest settings".split()
        lists = "networks grid tuning reported".split()
        return {name: getattr(self, name) for name in names} | {
            name: list(getattr(self, name)) for name in lists
        }


def task_of(
    setting: Any,
    trial: Callable[..., Found],
    sent: Callable[..., list[int]],
    settings: Mapping[str, Any],
    **plan: Any,
) -> Task:
    """Return the task that trial(setting, ...) plays and sent(setting, ...) counts."""
    return Task(
        trial=partial(trial, setting), sent=partial(sent, setting), settings=settings, **plan
    )


def graph_of(network: str, agents: int) -> Any:
    """Return Pi, or the schedule of it; None where a server is met."""
    if network == "server":
        return None
    if network == "one_peer":
        return SCHEDULES["one_peer_hypercube"](agents)
    return TOPOLOGIES[network](agents)


def plays(method: Method, network: str) -> bool:
    """Whether a method meets others in this way; one that meets nobody plays everywhere."""
    met = {method.meets, method.pools} - {"none"}
    return not met or met == {"server" if network == "server" else "graph"}


def methods_on(network: str) -> list[str]:
    """Return the methods that play on a network, in the order of METHODS."""
    return [name for name, method in METHODS.items() if plays(method, network)]
