"""Hypothesis' targeted search, which draws zeros and ties that no Gaussian start has."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from decaf_theory.adversary.attack import Attack, Best, Found, Judge

if TYPE_CHECKING:
    from hypothesis.strategies import SearchStrategy


def target(
    attack: Attack,
    judge: Judge,
    *,
    seed: int = 0,
    seconds: float = 20.0,
    examples: int = 200,
    scale: float = 3.0,
) -> Found:
    """Return the best judged instance found by hypothesis' targeted search, for about `seconds`.

    Needs hypothesis (extra `test`). Every parameter is drawn entry by entry from [-scale, scale],
    zeros and ties included, which a Gaussian start never draws; where the ratio is no number there
    is no instance. Runs of `examples` each, one at least, each of its own seed; `rounds` counts
    the examples.
    """
    import hypothesis

    best = Best()

    def search(drawn: dict[str, list[float]]) -> None:
        best.rounds += 1
        instance = _instance(attack, drawn)
        ratio = None if instance is None else judge(instance)
        if instance is None or ratio is None or not np.isfinite(ratio):
            return
        hypothesis.target(float(ratio))
        best.improves(float(ratio), instance)

    settings = hypothesis.settings(
        max_examples=examples,
        deadline=None,
        database=None,
        suppress_health_check=list(hypothesis.HealthCheck),
        phases=(hypothesis.Phase.generate, hypothesis.Phase.target),
    )
    for run in itertools.count():
        draw = settings(hypothesis.given(_entries(attack, scale))(search))
        hypothesis.seed(seed + run)(draw)()
        if best.seconds() > seconds:
            break
    return best.found("hypothesis")


def _entries(attack: Attack, scale: float) -> SearchStrategy[dict[str, list[float]]]:
    """Return the strategy that draws every parameter as a list of entries in [-scale, scale]."""
    from hypothesis import strategies as st

    entry = st.one_of(st.sampled_from([0.0, 1.0, -1.0]), st.floats(-scale, scale, width=32))
    sizes = {name: int(np.prod(shape, dtype=int)) for name, shape in attack.shapes.items()}
    return st.fixed_dictionaries(
        {name: st.lists(entry, min_size=size, max_size=size) for name, size in sizes.items()}
    )


def _instance(attack: Attack, drawn: Mapping[str, list[float]]) -> Mapping[str, Any] | None:
    """Return the instance of drawn parameters, None where the ratio is not a number.

    As with zeros where a direction or a curvature is needed.
    """
    raw = {
        name: torch.tensor(values, dtype=torch.float64).reshape(1, *attack.shapes[name])
        for name, values in drawn.items()
    }
    try:
        with torch.no_grad():
            inside = attack.project(raw)
            ratio = attack.ratio(inside)
    except RuntimeError:  # torch.linalg.LinAlgError is one: an SVD that did not converge
        return None
    if not bool(torch.isfinite(ratio).all()):
        return None
    return attack.instance({name: X[0].numpy() for name, X in inside.items()})
