"""What a simulation is asked to do: its parameters, each checked once."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TypeAlias

import numpy as np

from decaf_theory.arrays import Array, Host, integer, namespace
from decaf_theory.lowrank import Factors
from decaf_theory.methods import (
    FORMS,
    METHODS,
    Form,
    Method,
    keeping_directions,
    limiting_ranks,
    with_form,
)
from decaf_theory.problems.base import Problem
from decaf_theory.simulate.start import check_start
from decaf_theory.simulate.trace import QUANTITIES
from decaf_theory.topology import (
    TOPOLOGIES,
    check_mixing_matrix,
    check_reversible,
    target_weights,
)

ORDERS = ("step_first", "mix_first", "combine")
# the constants by which the bounds call an order -> the orders that have them
OF_BOUNDS = {"MS": "'step_first' or 'mix_first'", "CB": "'combine'"}
StepSize: TypeAlias = float | Sequence[float] | Array


class DisconnectedWarning(UserWarning):
    """The graph of a run falls into components, which cannot agree with each other."""


@dataclass(frozen=True, eq=False, kw_only=True)
class Config:
    """A simulation. `steps` rounds, each of `local_steps` gradient steps and one mix.

    method: a name in METHODS or a `Method` of your own. form: what W - W0 is, a name in FORMS or a
    `Form` such as sora(lam=0.1), which `with_form` gives to the method; None: the method's own.
    Pi [N, N], dense or sparse, or a function of the round that returns one. lr: one number, one for
    each run, or a function of the round that returns either.
    order: "step_first" steps at the mixed point, then mixes. "mix_first" mixes the start, then is
    the same sequence. "combine" is x <- mix(x) - lr g(x), the gradient at the unmixed point.
    target: the weights by which the agents' losses count, such as numbers of samples, [N]. Pi must
    then be reversible for them (`topology.reversible`) instead of having columns that sum to one:
    methods on the graph minimize sum_i target_i f_i / sum_i target_i, and every mean over agents
    that a `Trace` records has these weights.
    Pi, start, rank default to the problem's, where it prescribes them. Otherwise the start is
    LoRA's: B = 0, A Gaussian of variance 1/k, the same at all agents, drawn by run. start: factors
    [N, d, r] for all runs or [runs, N, d, r]; they decide the kind of arrays, device and dtype.
    ranks: one for each agent, at most `rank`; directions beyond an agent's own are zero.
    zero_directions: "drop" leaves what the truncation returns; "keep" gives dead directions their
    old row of A again (`keep_directions`). noise: whether gradients have the problem's noise, a
    stream by run and seed that methods, ranks and step sizes share; or draws in place of those of
    the problem, one for each gradient [steps local_steps, runs, N, d, k]: all paths, for instance.
    What a method draws itself (`noisy`, `private`, `stragglers`, a redrawn A) has the seed that it
    was made with, as in salf(0.1, seed=7), whatever the seed here.
    record_every: steps between records; the first and the last are always recorded. record: the
    quantities of `Trace` to compute there, all by default; those that take a decomposition of every
    agent's factors cost several times a step.
    Full-matrix methods start at W - W0 = s B A and need no rank.

    ValueError names the argument that breaks a rule. DeadStartWarning: see there, and
    DisconnectedWarning, once a run begins.

    Examples:
        >>> from decaf_theory import PROBLEMS, TOPOLOGIES, Config
        >>> problem, ring = PROBLEMS["P3"](N=4), TOPOLOGIES["ring"](4)
        >>> config = Config(problem=problem, Pi=ring, rank=2, lr=0.1, steps=100)
        >>> config.order, config.method
        ('step_first', 'decaf')
    """

    problem: Problem
    method: str | Method = "decaf"
    form: str | Form | None = None
    Pi: Array | Callable[[int], Array] | None = None
    target: Sequence[float] | Host | None = None
    rank: int | None = None
    ranks: Sequence[int] | None = None
    s: float = 1.0
    lr: StepSize | Callable[[int], StepSize]
    steps: int
    order: str = "step_first"
    local_steps: int = 1
    runs: int = 1
    seed: int = 0
    start: Factors | None = None
    zero_directions: str = "drop"
    noise: bool | Host = True
    record_every: int = 1
    record: Sequence[str] | None = None

    def __post_init__(self) -> None:
        """Check every argument once."""
        _check_choices(self)
        _check_numbers(self)
        _check_noise(self)
        _check_target(self)
        _check_builder(self)
        self.check_graph(self.graph(0) if callable(self.graph) else self.graph)
        self.step_sizes(0)
        check_start(self)

    @cached_property
    def named(self) -> Method:
        """The method itself, with the form that is asked for."""
        method = METHODS[self.method] if isinstance(self.method, str) else self.method
        if self.form is None:
            return method
        return with_form(method, FORMS[self.form] if isinstance(self.form, str) else self.form)

    @property
    def rule(self) -> Method:
        """The method as it runs: with what graph, `zero_directions` and `ranks` ask for."""
        rule = self.named.on(self.graph)
        rule = keeping_directions(rule) if self.zero_directions == "keep" else rule
        return rule if self.ranks is None else limiting_ranks(rule, self.ranks)

    @property
    def scale(self) -> float:
        """The factor of B A in W - W0: s, or 1 where the state is W - W0 itself."""
        return self.named.form.scale(self.s)

    @cached_property
    def base(self) -> Array | None:
        """W0, None where it is zero."""
        W0 = self.problem.W0
        return W0 if bool(namespace(W0).any(W0 != 0)) else None

    @cached_property
    def shares(self) -> Host | None:
        """The weights of the agents' means, [N] with sum one; None where all count alike."""
        return None if self.target is None else target_weights(self.target, self.problem.N)

    @property
    def graph(self) -> Array | Callable[[int], Array] | None:
        """Pi or the function that returns it; the problem's where none is given."""
        return self.problem.Pi if self.Pi is None else self.Pi

    def check_graph(self, Pi: Array | None, t: int = 0) -> None:
        """Raise ValueError unless Pi, of round t, is a mixing matrix of N agents, or not needed.

        With a target, one that is reversible for it.
        """
        if Pi is not None:
            try:
                if self.target is None:
                    check_mixing_matrix(Pi, self.problem.N)
                else:
                    check_reversible(Pi, self.target, self.problem.N)
            except ValueError as error:
                raise ValueError(f"{error}{_of_round(self.graph, t)}") from None
        elif callable(self.graph) and self.named.meets == "graph":
            raise ValueError(f"Pi must return a matrix, got None{_of_round(self.graph, t)}")
        elif self.named.meets == "graph":
            raise ValueError(f"Pi must be given: problem {self.problem.name} prescribes none")

    def step_sizes(self, t: int) -> float | Host:
        """Return the step size of round t, or those of the runs [runs].

        ValueError: not finite, negative, or neither one number nor one for each run.
        """
        given = self.lr(t) if callable(self.lr) else self.lr
        if isinstance(given, float) and 0 <= given < np.inf:
            return given
        where = _of_round(self.lr, t)
        try:
            lr = np.asarray(given)
            if lr.dtype.kind not in "fiuO":
                raise TypeError
            lr = lr.astype(np.float64)
        except (TypeError, ValueError):
            raise ValueError(
                f"lr must be one number, one for each run, or a function of the round, "
                f"got {given!r}{where}"
            ) from None
        if lr.shape not in ((), (self.runs,)):
            raise ValueError(
                f"lr must be one number or one for each of {self.runs} runs, "
                f"got shape {lr.shape}{where}"
            )
        if not np.all((lr >= 0) & (lr < np.inf)):
            raise ValueError(f"lr must be finite and >= 0, got {given}{where}")
        return lr if lr.shape else float(lr)


def _of_round(given: object, t: int) -> str:
    """Return which round a value is of, in words, where a function of the round returned it."""
    return f" in round {t}" if callable(given) else ""


def _check_choices(config: Config) -> None:
    if not isinstance(config.problem, Problem):
        raise ValueError(
            f"problem must be a Problem, got {config.problem!r}; "
            f"PROBLEMS['P3'](N=8, d=6, k=5) builds one"
        )
    if not isinstance(config.method, str | Method):
        raise ValueError(f"method must be a name in METHODS or a Method, got {config.method!r}")
    if isinstance(config.method, str) and config.method not in METHODS:
        raise ValueError(METHODS.unknown("method", config.method))
    if not isinstance(config.form, str | Form | None):
        raise ValueError(f"form must be a name in FORMS or a Form, got {config.form!r}")
    if isinstance(config.form, str) and config.form not in FORMS:
        raise ValueError(FORMS.unknown("form", config.form))
    for name, allowed in (("order", ORDERS), ("zero_directions", ("drop", "keep"))):
        value = getattr(config, name)
        if value not in allowed:
            hint = (
                f"; the bounds' {value!r} is {OF_BOUNDS[value]} here" if value in OF_BOUNDS else ""
            )
            raise ValueError(f"{name} must be one of {allowed}, got {value!r}{hint}")
    if config.zero_directions == "keep":
        keeping_directions(config.named)
    for name in config.record or ():
        if name not in QUANTITIES:
            raise ValueError(f"record must name some of {sorted(QUANTITIES)}, got {name!r}")
    if config.named.one_graph:
        config.named.on(config.graph)
    if config.order == "combine" and (reason := config.named.against_combine):
        raise ValueError(
            f"order 'combine' is not defined for {config.named.name}, {reason}; use 'step_first'"
        )
    if config.order == "combine" and config.local_steps != 1:
        raise ValueError(
            f"order 'combine' takes one gradient per mix, got local_steps = {config.local_steps}"
        )


def _check_target(config: Config) -> None:
    """Raise ValueError unless the method's means can have the weights that are asked for."""
    rule = config.named
    if config.shares is not None and "server" in (rule.meets, rule.pools):
        raise ValueError(f"target must be None for {rule.name}, whose server counts agents alike")


def _check_builder(config: Config) -> None:
    """Raise ValueError where a line of TOPOLOGIES is given, which is no function of the round."""
    for name, builder in TOPOLOGIES.items():
        if config.Pi is builder:
            N = config.problem.N
            raise ValueError(
                f"Pi must be a matrix or a function of the round, got what builds {name!r}; "
                f"TOPOLOGIES[{name!r}]({N}) is one"
            )


def _check_noise(config: Config) -> None:
    if isinstance(config.noise, bool):
        return
    problem, gradients = config.problem, config.steps * config.local_steps
    expected = gradients, config.runs, problem.N, problem.d, problem.k
    if np.shape(config.noise) != expected:
        raise ValueError(
            f"noise must be True, False or draws [steps local_steps, runs, N, d, k] = {expected}, "
            f"got shape {np.shape(config.noise)}"
        )


def _check_numbers(config: Config) -> None:
    least = {"steps": 0, "local_steps": 1, "runs": 1, "record_every": 1, "seed": 0}
    for name, lowest in least.items():
        integer(name, getattr(config, name), lowest)
    if not 0 < config.s < np.inf:
        raise ValueError(f"s must be finite and > 0, got {config.s}")
