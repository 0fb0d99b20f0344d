"""What a simulation is asked to do: its parameters, each checked once."""

from __future__ import annotations

import warnings
from dataclasses import dataclass

import numpy as np

from decaf_theory.arrays import Array, convert, integer, namespace, require_real
from decaf_theory.lowrank import Factors, check_factors, product
from decaf_theory.methods import METHODS, Method
from decaf_theory.problems.base import Problem
from decaf_theory.rng import generator
from decaf_theory.topology import check_mixing_matrix
from decaf_theory.tsvd import check_rank

ORDERS = ("step_first", "mix_first", "combine")
# the constants by which the bounds call an order -> the orders that have them
OF_BOUNDS = {"MS": "'step_first' or 'mix_first'", "CB": "'combine'"}


class DeadStartWarning(UserWarning):
    """The first mix makes all factors zero, where every gradient is zero: nothing can train."""


@dataclass(frozen=True, eq=False, kw_only=True)
class Config:
    """A simulation. `steps` rounds, each of `local_steps` gradient steps and one mix.

    order: "step_first" steps at the mixed point, then mixes. "mix_first" mixes the start, then is
    the same sequence. "combine" is x <- mix(x) - lr g(x), the gradient at the unmixed point.
    Pi, start, rank default to the problem's, where it prescribes them. Otherwise the start is
    LoRA's: B = 0, A Gaussian of variance 1/k, the same at all agents, drawn by run. start: factors
    [N, d, r] for all runs or [runs, N, d, r]; they decide the kind of arrays, device and dtype.
    zero_directions: "drop" leaves what the truncation returns; "keep" gives dead directions their
    old row of A again (`keep_directions`). noise: whether gradients have the problem's noise, a
    stream by run and seed that methods, ranks and step sizes share.
    record_every: steps between records; the first and the last are always recorded.
    Full-matrix methods start at W - W0 = s B A and need no rank.

    ValueError names the argument that breaks a rule. DeadStartWarning: see there.
    """

    problem: Problem
    method: str | Method = "decaf"
    Pi: Array | None = None
    rank: int | None = None
    s: float = 1.0
    lr: float
    steps: int
    order: str = "step_first"
    local_steps: int = 1
    runs: int = 1
    seed: int = 0
    start: Factors | None = None
    zero_directions: str = "drop"
    noise: bool = True
    record_every: int = 1

    def __post_init__(self) -> None:
        """Check every argument once."""
        _check_choices(self)
        _check_numbers(self)
        _check_mixing(self)
        _check_start(self)

    @property
    def rule(self) -> Method:
        """The method itself."""
        return METHODS[self.method] if isinstance(self.method, str) else self.method

    @property
    def scale(self) -> float:
        """The factor of B A in W - W0: s, or 1 where the state is W - W0 itself."""
        return 1.0 if self.rule.full_matrix else self.s

    @property
    def mixing(self) -> Array:
        """Pi, or the problem's; methods that meet by a server or not at all need none."""
        given = self.problem.Pi if self.Pi is None else self.Pi
        N, meets = self.problem.N, self.rule.meets
        if given is None and meets != "graph":
            return np.eye(N) if meets == "none" else np.full((N, N), 1 / N)
        return given


def start_factors(config: Config) -> Factors:
    """Return the factors at the start, [runs, N, ...]."""
    problem, runs = config.problem, config.runs
    N, d, k = problem.N, problem.d, problem.k
    given = problem.start if config.start is None else config.start
    if given is None:
        # a full matrix starts at W - W0 = 0, whatever the rank
        r = 1 if config.rule.full_matrix or config.rank is None else config.rank
        draws = [
            generator(config.seed, "start", run).standard_normal((r, k)) for run in range(runs)
        ]
        A = np.broadcast_to((np.stack(draws) / np.sqrt(k))[:, None], (runs, N, r, k))
        given = Factors(np.zeros((runs, N, d, r)), A)
    xp = namespace(given.B)
    if config.rule.full_matrix:
        W = config.s * product(given)
        given = Factors(W, xp.broadcast_to(convert(np.eye(k), W), (*W.shape[:-2], k, k)))
    return Factors(*(xp.broadcast_to(X, (runs, *X.shape[-3:])) for X in given))


def _check_choices(config: Config) -> None:
    if isinstance(config.method, str) and config.method not in METHODS:
        raise ValueError(f"method must be one of {sorted(METHODS)}, got {config.method!r}")
    for name, allowed in (("order", ORDERS), ("zero_directions", ("drop", "keep"))):
        value = getattr(config, name)
        if value not in allowed:
            hint = (
                f"; the bounds' {value!r} is {OF_BOUNDS[value]} here" if value in OF_BOUNDS else ""
            )
            raise ValueError(f"{name} must be one of {allowed}, got {value!r}{hint}")
    if config.order == "combine" and config.rule.product:
        raise ValueError(
            f"order 'combine' is not defined for {config.rule.name}, which mixes products: the "
            f"gradient would live in another gauge than the mixed factors; use 'step_first'"
        )
    if config.order == "combine" and config.local_steps != 1:
        raise ValueError(
            f"order 'combine' takes one gradient per mix, got local_steps = {config.local_steps}"
        )


def _check_numbers(config: Config) -> None:
    least = {"steps": 0, "local_steps": 1, "runs": 1, "record_every": 1, "seed": 0}
    for name, lowest in least.items():
        integer(name, getattr(config, name), lowest)
    if not 0 <= config.lr < np.inf:
        raise ValueError(f"lr must be finite and >= 0, got {config.lr}")
    if not 0 < config.s < np.inf:
        raise ValueError(f"s must be finite and > 0, got {config.s}")


def _check_mixing(config: Config) -> None:
    Pi = config.mixing
    if Pi is None:
        raise ValueError(f"Pi must be given: problem {config.problem.name} prescribes none")
    check_mixing_matrix(Pi, config.problem.N)


def _check_start(config: Config) -> None:
    problem, rule = config.problem, config.rule
    given = problem.start if config.start is None else config.start
    if not rule.full_matrix:
        if config.rank is None and given is None:
            raise ValueError("rank must be given where neither start nor problem prescribes one")
        if config.rank is not None:
            check_rank(integer("rank", config.rank), problem.d, problem.k)
    if given is not None:
        _check_factors(config, given)
    start = start_factors(config)
    once = namespace(start.A)
    equal = [bool(once.all(X == X[:, :1])) for X in start]
    if not rule.full_matrix and "A" not in rule.trains and not equal[1]:
        raise ValueError(f"start.A must be equal at all agents: {rule.name} never mixes it")
    if rule.pools_gradients and not all(equal):
        raise ValueError(f"start must be equal at all agents: {rule.name} is one run of all")
    if config.order == "mix_first" and rule.product and _is_dead(config, start):
        warnings.warn(
            "B = 0 or A = 0 at all agents: the first mix makes both factors zero for ever; "
            "use order='step_first' or zero_directions='keep'",
            DeadStartWarning,
            stacklevel=4,
        )


def _is_dead(config: Config, start: Factors) -> bool:
    """Whether the first mix of a product method makes all factors of some run zero."""
    xp = namespace(start.B)
    zero_B, zero_A = (xp.all(X == 0, axis=(-2, -1)) for X in start)
    lost = zero_A if config.zero_directions == "keep" else xp.logical_or(zero_B, zero_A)
    return bool(xp.any(xp.all(lost, axis=-1)))


def _check_factors(config: Config, given: Factors) -> None:
    problem, runs = config.problem, config.runs
    if not isinstance(given, Factors):
        raise ValueError(f"start must be lowrank.Factors(B, A), got {type(given).__name__}")
    check_factors(given)
    require_real("start.B", given.B)
    require_real("start.A", given.A)
    leading, inner = tuple(given.B.shape[:-2]), (given.B.shape[-2], given.A.shape[-1])
    if leading not in ((problem.N,), (runs, problem.N)) or inner != (problem.d, problem.k):
        raise ValueError(
            f"start must be B [{problem.N}, {problem.d}, r] and A [{problem.N}, r, {problem.k}], "
            f"with or without a leading axis of {runs} runs, "
            f"got B {tuple(given.B.shape)} and A {tuple(given.A.shape)}"
        )
    if config.rank not in (None, given.rank) and not config.rule.full_matrix:
        raise ValueError(f"rank must be that of the start, {given.rank}, got {config.rank}")
    xp = namespace(given.B)
    if not all(bool(xp.all(xp.isfinite(X))) for X in given):
        raise ValueError("start must be finite, got nan or inf")
