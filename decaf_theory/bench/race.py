"""A race: the peers that can run here, timed on one case, and the requested ratios."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import NamedTuple, TypeAlias

from decaf_theory.bench.cases import Case, Inputs, draw, on_torch
from decaf_theory.bench.rows import Labelled, Row, seconds, skipped, verdict
from decaf_theory.bench.timing import Clock, Contestant, Timed, clock_of, interleaved, ratios


class Settings(NamedTuple):
    """How to run."""

    quick: bool
    device: str  # "cpu" or "cuda"
    clock: Clock
    rounds: int = 3

    @classmethod
    def of(cls, quick: bool, device: str) -> Settings:
        """Return the settings with the clock of the device."""
        return cls(quick, device, clock_of(device))

    @property
    def budget(self) -> float:
        """Seconds of a contestant in a round."""
        return 0.06 if self.quick else 0.5


class Limit(NamedTuple):
    """A ratio of two roles' times, and what it must reach; only reported without a relation."""

    over: str
    under: str
    relation: str | None = None
    limit: float | None = None


Build: TypeAlias = Callable[[Inputs], Callable[[], object]]


class Peer(NamedTuple):
    """A way to do the round: on which backends, and how many of its calls do the whole work."""

    role: str
    build: Build
    backends: tuple[str, ...] = ("numpy", "torch")
    times: float = 1.0
    once: bool = False


def race(
    goal: str, case: Case, field: Sequence[Peer], limits: Sequence[Limit], settings: Settings
) -> Iterator[Row]:
    """Yield the times of a field of peers on one case, and the requested ratios."""
    contestants, reasons = entrants(case, field, settings.device)
    yield from compete(goal, case, contestants, limits, settings, reasons)


def compete(
    goal: str,
    case: Labelled,
    contestants: Sequence[Contestant],
    limits: Sequence[Limit],
    settings: Settings,
    absent: Mapping[str, str] = MappingProxyType({}),
) -> Iterator[Row]:
    """Yield the times of contestants, and the ratios; `absent` says by role why others are not."""
    timed = interleaved(contestants, settings.clock, rounds=settings.rounds, budget=settings.budget)
    yield from seconds(goal, case, timed)
    yield from judged(goal, case, timed, limits, absent)


def entrants(
    case: Case, field: Sequence[Peer], device: str
) -> tuple[list[Contestant], dict[str, str]]:
    """Return the contestants that can run here, and by role why others cannot."""
    inputs = draw(case)
    backends = {"torch": on_torch(inputs, device)}
    if device == "cpu":
        backends["numpy"] = inputs
    contestants, reasons = [], {}
    for role, build, wanted, times, once in field:
        for backend in sorted(set(wanted) & set(backends)):
            try:
                run = build(backends[backend])
            except ModuleNotFoundError as error:
                reasons[role] = f"{error.name} is not installed"
                continue
            contestants.append(Contestant(role, backend, run, times, once))
        if not set(wanted) & set(backends):
            reasons[role] = f"does not run on {device}"
    return contestants, reasons


def judged(
    goal: str,
    case: Labelled,
    timed: Sequence[Timed],
    limits: Sequence[Limit],
    reasons: Mapping[str, str],
) -> Iterator[Row]:
    """Yield the verdict of each limit; skipped if one of its roles could not run."""
    for over, under, relation, limit in limits:
        measure = f"{over} / {under}"
        missing = [reasons[role] for role in (over, under) if role in reasons]
        if missing:
            yield skipped(goal, case.label, measure, missing[0])
        else:
            values = ratios(timed, over, under)
            yield verdict(goal, case.label, measure, values, relation, limit)
