"""The domain of an attack, its judge, and the best instance that a search has found."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

Point = dict[str, torch.Tensor]  # parameters of one instance, or of all restarts [restarts, ...]
Judge = Callable[[Mapping[str, Any]], float | None]


@dataclass(frozen=True)
class Attack:
    """The domain of a claim as free parameters, and the ratio that is to be made large.

    shapes: name -> shape of each parameter of one instance. ratio(p): measured / bound [restarts],
    differentiable in the torch tensors p[name] [restarts, *shape]. instance(p): the plain instance
    (numbers, nested lists) of one set of NumPy parameters, as `Claim.replay` reads it. project(p):
    parameters in the domain, p itself where it is inside, differentiable, applied after every step.
    loose: why the bound is not attained; empty where it is, so that one 2 % smaller must break.
    """

    shapes: Mapping[str, tuple[int, ...]]
    ratio: Callable[[Point], torch.Tensor]
    instance: Callable[[dict[str, np.ndarray[Any, Any]]], Mapping[str, Any]]
    project: Callable[[Point], Point] = lambda p: p
    loose: str = ""


@dataclass(frozen=True)
class Found:
    """The best instance of a search, as judged; seconds until it was found and in all."""

    ratio: float
    instance: Mapping[str, Any] | None
    searcher: str
    rounds: int
    seconds_to_best: float
    seconds: float


@dataclass
class Best:
    """The best judged instance of a search that goes on, and its clock."""

    begin: float = field(default_factory=time.monotonic)
    ratio: float = -np.inf
    instance: Mapping[str, Any] | None = None
    seconds_to_best: float = 0.0
    rounds: int = 0

    def seconds(self) -> float:
        """Return the time since the search began."""
        return time.monotonic() - self.begin

    def improves(self, ratio: float, instance: Mapping[str, Any]) -> bool:
        """Keep a judged instance if it is the best; return whether it is."""
        if not ratio > self.ratio:
            return False
        self.ratio = ratio
        self.instance = instance
        self.seconds_to_best = self.seconds()
        return True

    def found(self, searcher: str) -> Found:
        """Return the result of the search."""
        return Found(
            self.ratio,
            self.instance,
            searcher,
            self.rounds,
            self.seconds_to_best,
            self.seconds(),
        )
