"""The records of claims and of rows of evidence. No theory here."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING, Any

import numpy as np

from decaf_theory.rng import generator

if TYPE_CHECKING:  # it loads torch
    from decaf_theory.adversary import Attack

RELATIONS = ("<=", ">=", "==")
RESOLUTION = 1e-6  # a claim is called tight within 1e-6 of 1: rounding must leave these digits
Value = str | int | float | bool


class Outcome(StrEnum):
    """The outcome of a row or a claim, ordered by severity.

    Two never apply to a row. ERROR: the claim's program raised. SLACK: all rows are as expected,
    but a regime stays below what it reached (`Claim.reaches`).
    """

    ERROR = "error"
    VIOLATED = "violated"
    INCONCLUSIVE = "inconclusive"
    SLACK = "slack"
    HOLDS = "holds"
    NOT_APPLICABLE = "not_applicable"


@dataclass(frozen=True)
class Row:
    """One comparison: `measured relation bound`, up to `rounding`.

    For "==" `measured` is the residual |left - right| and `bound` is 0. `low` and `high` enclose
    the true value of `measured`: equal to it if it is computed exactly, the ends of a confidence
    interval if it is estimated. `rounding` is the allowance for floating point, derived from eps
    where the row is made. `params` are the coordinates of the row (r, N, topology, ...),
    for tables and figures: plain strings, numbers and booleans.
    """

    case: str
    relation: str
    measured: float
    bound: float
    rounding: float
    low: float
    high: float
    assumptions_held: bool = True
    params: Mapping[str, Value] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Reject rows that cannot be judged or stored; NaN and infinities are accepted."""
        if self.relation not in RELATIONS:
            raise ValueError(f"relation must be one of {RELATIONS}, got {self.relation!r}")
        if self.rounding < 0:
            raise ValueError(f"rounding must be >= 0, got {self.rounding}")
        # a pair of ends in the wrong order could satisfy both sides of the judgement
        if self.low > self.high or self.measured < self.low or self.measured > self.high:
            raise ValueError(
                "measured must lie between low and high, "
                f"got {self.measured} in [{self.low}, {self.high}]"
            )
        if self.relation == "==" and (self.bound != 0 or self.low < 0):
            raise ValueError(
                "an identity needs its residual |left - right| >= 0 as measured and 0 as bound, "
                f"got {self.measured} and {self.bound}; use evidence.same()"
            )
        taken = FIELDS & self.params.keys()
        if taken:
            raise ValueError(f"params must not be named {sorted(taken)}: fields of every row")
        for name, value in self.params.items():
            if not isinstance(value, Value):
                raise ValueError(
                    f"params must be str, int, float or bool, got {name}={value!r} "
                    f"of type {type(value).__name__}; convert it"
                )

    @property
    def limit(self) -> float:
        """The last value that still passes: the bound, widened by rounding."""
        return self.bound + (-self.rounding if self.relation == ">=" else self.rounding)

    @property
    def outcome(self) -> Outcome:
        """How this row is judged: NaN and infinite bounds never pass."""
        if not self.assumptions_held:
            return Outcome.NOT_APPLICABLE
        # the limit too: two finite numbers may add up to an infinite one
        if not all(map(math.isfinite, (self.measured, self.low, self.high, self.limit))):
            return Outcome.INCONCLUSIVE
        if self.slack >= 0:
            return Outcome.HOLDS
        beyond = self.high < self.limit if self.relation == ">=" else self.low > self.limit
        return Outcome.VIOLATED if beyond else Outcome.INCONCLUSIVE

    @property
    def slack(self) -> float:
        """Room left before the row stops holding; negative if it does not hold."""
        return self.low - self.limit if self.relation == ">=" else self.limit - self.high

    @property
    def margin(self) -> float:
        """Slack over the larger of the two numbers compared: in [-1, 1] for nonnegative ones.

        1 - ratio for a row that holds, 1/ratio - 1 for one that is violated, ratio = measured/limit
        for "<="; of an identity, the share of its rounding that is left. So rows of unlike sizes
        can be ranked. 0 against 0 compares nothing: 1. Not finite: -inf.
        """
        end = self.low if self.relation == ">=" else self.high
        size = max(abs(end), abs(self.limit))
        if not math.isfinite(self.slack) or not math.isfinite(size):
            return -math.inf
        return self.slack / size if size > 0 else 1.0

    @property
    def tightness(self) -> float | None:
        """measured / bound (bound / measured for ">="): 1 is an extremal case.

        None for "==", if an assumption is broken, and if the ratio is meaningless: a number
        that is not finite, a negative numerator, a denominator that is not positive or not above
        rounding (0 <= 1e-16 on noise is not an extremal case).
        """
        over, under = (
            (self.bound, self.measured) if self.relation == ">=" else (self.measured, self.bound)
        )
        if self.relation == "==" or not self.assumptions_held:
            return None
        if not (math.isfinite(over) and math.isfinite(under) and over >= 0 and under > 0):
            return None
        return over / under if self.rounding <= RESOLUTION * under else None

    def as_json(self) -> dict[str, Value]:
        """Return the flat object that is stored."""
        return {
            "case": self.case,
            "relation": self.relation,
            "measured": self.measured,
            "low": self.low,
            "high": self.high,
            "bound": self.bound,
            "rounding": self.rounding,
            "assumptions_held": self.assumptions_held,
            "outcome": self.outcome.value,
            **self.params,
        }

    @classmethod
    def from_json(cls, record: Mapping[str, Any]) -> Row:
        """Return the row of a stored object; its outcome is judged anew. ValueError: not a row."""
        for name, kind in KINDS.items():
            value = record.get(name, True if kind is bool else None)
            if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
                raise ValueError(f"a row needs {name}, of its kind, got {value!r}")
        params = {name: value for name, value in record.items() if name not in FIELDS}
        fields = FIELDS & record.keys() - {"claim", "outcome"}
        return cls(**{name: record[name] for name in fields}, params=params)


KINDS: dict[str, Any] = {
    **dict.fromkeys(("case", "relation"), str),
    **dict.fromkeys(("measured", "low", "high", "bound", "rounding"), (int, float, np.number)),
    "assumptions_held": bool,
}
FIELDS = frozenset(KINDS) | {"claim", "outcome"}


@dataclass(frozen=True)
class Context:
    """What a run provides to its claims: its size, random streams, and the kind of arrays."""

    claim: str
    size: str = "quick"
    seed: int = 0
    device: str = "cpu"

    def pick(self, quick: Any, full: Any) -> Any:
        """Return `quick` or `full`, by the size of the run."""
        return full if self.size == "full" else quick

    def rng(self, *name: str | int) -> np.random.Generator:
        """Return the random stream `name` of this claim."""
        return generator(self.seed, self.claim, *name)

    def array(self, x: Any) -> Any:
        """Return x as a float64 array of the run's device: NumPy on "cpu", else a torch tensor."""
        if self.device == "cpu":
            return np.asarray(x, dtype=np.float64)
        import torch  # only on request: verification itself needs only NumPy

        device = "cpu" if self.device == "torch" else self.device
        return torch.as_tensor(np.asarray(x, dtype=np.float64), device=device)


Instance = Mapping[str, Any]


@dataclass(frozen=True)
class Claim:
    """A statement, the function that yields its evidence, and what is known about it.

    `rows.__doc__` is the text of the claim: its first line is the statement, then follow those of
    the sections Assumptions, Proof, Extremal, Counterexample and Source that it has.
    """

    id: str
    area: str
    status: str  # paraphrased, derived or numerical
    rows: Callable[[Context], Iterable[Row]]
    expected: str = "holds"  # or "violated": worded as it might be read, and false
    # functions of decaf_theory.bounds that it judges: lowering one by two percent breaks a row
    bounds: tuple[Callable[..., Any], ...] = ()
    loose: str = ""  # why no row reaches its bound, if it is an inequality and none does
    # regime -> how near to its bound it comes in every run; `reaches ID` prints what to paste
    reaches: Mapping[str, float] = field(default_factory=dict)
    regimes: tuple[str, ...] = ()  # coordinates that tell regimes apart although they are numbers
    # how near it comes to its bound, or how far beyond, is set by a number that was chosen, such as
    # the accuracy of a limit or a parameter of a counterexample: there is no tightness
    chosen_bound: bool = False
    conditional: bool = False  # whether its assumptions are judged row by row, and fail in some
    # the searches for a counterexample, by name; called late, since they load torch
    attacks: Callable[[], Mapping[str, Attack]] | None = None
    not_attacked: str = ""  # why there are none
    replay: Callable[[Instance], Row] | None = None  # the row of an instance, computed anew
    # plain numbers and lists that attain the bound, or violate it if the claim is false
    instance: Callable[[], Instance] | None = None
    # counterexamples/<script>.py prints the row of `instance`; needs only NumPy
    script: str | None = None

    @property
    def text(self) -> str:
        """The docstring of `rows`, dedented."""
        return inspect.getdoc(self.rows) or ""

    @property
    def statement(self) -> str:
        """The one-line statement."""
        return self.text.split("\n", 1)[0]


def deciding_row(rows: Iterable[Row]) -> Row | None:
    """Return the row that decides a claim: of the worst outcome, the one with the least margin.

    That is the row nearest to its bound if the claim holds, and the one farthest beyond it, in
    proportion, if it does not.
    """
    order = list(Outcome)
    return min(rows, key=lambda row: (order.index(row.outcome), row.margin), default=None)


def tightest_row(rows: Iterable[Row]) -> Row | None:
    """Return the row that comes nearest to its bound, None if no row has a ratio."""
    return max(
        (row for row in rows if row.tightness is not None),
        key=lambda row: row.tightness or 0.0,
        default=None,
    )


def collect(claim: Claim, context: Context) -> Iterator[Row]:
    """Yield the rows of a claim; RuntimeError for a claim without rows."""
    count = 0
    for row in claim.rows(context):
        count += 1
        yield row
    if not count:
        raise RuntimeError(f"claim {claim.id} yielded no rows")
