"""Where a run starts: the factors that are given or drawn, each checked once."""

from __future__ import annotations

import warnings
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from decaf_theory.arrays import integer, namespace
from decaf_theory.lowrank import Factors, check_factors
from decaf_theory.methods import within_ranks
from decaf_theory.rng import generator
from decaf_theory.tsvd import check_rank

if TYPE_CHECKING:
    from decaf_theory.simulate.config import Config


class DeadStartWarning(UserWarning):
    """The first mix makes all factors zero, where every gradient is zero: nothing can train."""


def start_factors(config: Config) -> Factors:
    """Return the factors at the start, [runs, N, ...]."""
    problem, runs, form = config.problem, config.runs, config.named.form
    N, d, k = problem.N, problem.d, problem.k
    given = problem.start if config.start is None else config.start
    if given is None:
        # a full matrix starts at W - W0 = 0, whatever the rank
        r = 1 if not form.low_rank or config.rank is None else config.rank
        draws = [
            generator(config.seed, "start", run).standard_normal((r, k)) for run in range(runs)
        ]
        A = np.broadcast_to((np.stack(draws) / np.sqrt(k))[:, None], (runs, N, r, k))
        given = Factors(np.zeros((runs, N, d, r)), A)
    if config.ranks is not None:
        given = within_ranks(given, config.ranks)
    xp = namespace(given.B)
    begun = form.begin(given, config.s)
    return Factors(*(xp.broadcast_to(X, (runs, *X.shape[-3:])) for X in begun))


def check_start(config: Config) -> None:
    """Raise ValueError unless there is a start that fits the run; warn of one that dies."""
    problem, rule = config.problem, config.named
    given = problem.start if config.start is None else config.start
    if rule.form.low_rank:
        if config.rank is None and given is None:
            raise ValueError("rank must be given where neither start nor problem prescribes one")
        if config.rank is not None:
            check_rank(integer("rank", config.rank), problem.d, problem.k)
    if given is not None:
        _check_factors(config, given)
    if config.ranks is not None:
        _check_ranks(config)
    start = start_factors(config)
    _check_equal(config, start)
    dies = config.order == "mix_first" and rule.space == "products"
    if dies and _is_dead(config, start):
        warnings.warn(
            "B = 0 or A = 0 at all agents: the first mix makes both factors zero forever; "
            "use order='step_first' or zero_directions='keep'",
            DeadStartWarning,
            stacklevel=4,
        )


def _check_equal(config: Config, start: Factors) -> None:
    """Raise ValueError where agents must start equal and do not."""
    rule = config.named
    xp = namespace(start.A)
    equal = {name: bool(xp.all(X == X[:, :1])) for name, X in start._asdict().items()}
    for name in sorted(rule.fixed if rule.form.low_rank else ()):
        if not equal[name]:
            raise ValueError(
                f"start.{name} must be equal at all agents: {rule.name} {rule.why(name)}"
            )
    if rule.pools == "server" and rule.meets == "none" and not all(equal.values()):
        raise ValueError(f"start must be equal at all agents: {rule.name} is one run of all")


def _is_dead(config: Config, start: Factors) -> bool:
    """Whether the first mix of a product method makes all factors of some run zero."""
    xp = namespace(start.B)
    zero_B, zero_A = (xp.all(X == 0, axis=(-2, -1)) for X in start)
    lost = zero_A if config.zero_directions == "keep" else xp.logical_or(zero_B, zero_A)
    return bool(xp.any(xp.all(lost, axis=-1)))


def _check_factors(config: Config, given: Factors) -> None:
    problem, runs = config.problem, config.runs
    check_factors(given, "start")
    leading, inner = tuple(given.B.shape[:-2]), (given.B.shape[-2], given.A.shape[-1])
    if leading not in ((problem.N,), (runs, problem.N)) or inner != (problem.d, problem.k):
        raise ValueError(
            f"start must be B [{problem.N}, {problem.d}, r] and A [{problem.N}, r, {problem.k}], "
            f"with or without a leading axis of {runs} runs, "
            f"got B {tuple(given.B.shape)} and A {tuple(given.A.shape)}"
        )
    if config.rank not in (None, given.rank) and config.named.form.low_rank:
        raise ValueError(f"rank must be that of the start, {given.rank}, got {config.rank}")
    xp = namespace(given.B)
    if not all(bool(xp.all(xp.isfinite(X))) for X in given):
        raise ValueError("start must be finite, got nan or inf")


def _check_ranks(config: Config) -> None:
    """Raise ValueError unless there is one rank for each agent, and each fits."""
    assert config.ranks is not None
    problem, largest = config.problem, start_factors(replace(config, ranks=None)).rank
    if not config.named.form.low_rank:
        raise ValueError(f"ranks must not be given for {config.named.name}: W itself is trained")
    if len(config.ranks) != problem.N:
        raise ValueError(
            f"ranks must hold one rank for each of {problem.N} agents, got {len(config.ranks)}"
        )
    for agent, rank in enumerate(config.ranks):
        if not 1 <= integer(f"ranks[{agent}]", rank) <= largest:
            raise ValueError(
                f"ranks[{agent}] must be in 1 ... rank = {largest}, that of the largest agent, "
                f"got {rank}"
            )
