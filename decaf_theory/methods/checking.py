"""A method against its own words: what it keeps, what it sends, of whom and of what it depends.

    from decaf_theory.methods import check_method
    print(check_method(method))        # each promise: the worst that was found, what is allowed

What it finds is a counterexample; what it does not find is no proof.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterator
from typing import NamedTuple

import numpy as np

from decaf_theory.arrays import Host
from decaf_theory.extras import installed
from decaf_theory.findings import Checked
from decaf_theory.lowrank import Factors
from decaf_theory.methods import promises
from decaf_theory.methods.base import Method
from decaf_theory.methods.gaps import Gap, Round
from decaf_theory.methods.promises import Promise
from decaf_theory.methods.state import Clock
from decaf_theory.names import Table
from decaf_theory.rng import generator
from decaf_theory.topology import TOPOLOGIES

ROUNDS = 10  # of a run, from the first on


def _by_rows(method: Method) -> bool:
    return method.merges and method.meets != "none" and method.form.factored


def _gauge_free(method: Method) -> bool:
    return method.space == "products" and method.form.factored


def _keeping(mean: str) -> Callable[[Method], bool]:
    return lambda method: mean in method.keeps


FIRST = ("inputs", "finite", "again")  # what is not so makes nonsense of the rest
PROMISES: Table[Promise] = Table(
    {
        "inputs": Promise("change of what was given", promises.inputs_left),
        "finite": Promise("numbers that are NaN or inf", promises.finite),
        "again": Promise("gap of a second call with the same", promises.same_again),
        "equal agents": Promise("move of agents that hold the same", promises.equal_agents),
        "numbering": Promise("gap of agents numbered anew", promises.numbering),
        "one agent": Promise("gap of one with its neighbours' messages", promises.one_agent),
        "one step": Promise("gap of the step of one by itself", promises.one_agents_step),
        "bytes": Promise("bytes of a message, and those counted", promises.bytes_sent),
        "keeps B": Promise("change of the mean B", promises.keeps_factor("B"), _keeping("B")),
        "keeps A": Promise("change of the mean A", promises.keeps_factor("A"), _keeping("A")),
        "keeps product": Promise(
            "change of the mean product", promises.keeps_product, _keeping("product")
        ),
        "keeps product up to E": Promise(
            "|M_i - P_i|_F, and that of TSVD_r", promises.keeps_up_to_E, _keeping("product up to E")
        ),
        "gauge": Promise("gap of products in other gauges", promises.gauge, _gauge_free),
        "rows": Promise("gap of a mix of some rows of Pi", promises.rows_alone, _by_rows),
        "sparse": Promise("gap of a sparse Pi", promises.sparse_weights),
        "batch": Promise("gap of three runs at once", promises.batches),
        "float32": Promise("gap of a mix in float32", promises.narrow),
        "tensors": Promise(
            "gap of a mix of torch's tensors", promises.tensors, lambda m: installed("torch")
        ),
    }
)

BRANCHES = ("generic", "rank-deficient", "zero", "one zero agent", "tiny", "huge", "gauge")


class Case(NamedTuple):
    """Factors of a kind, sizes and a graph, on which every promise is asked."""

    branch: str
    sizes: tuple[int, int, int, int]  # N, d, k, r
    graph: str

    def __str__(self) -> str:
        """Return it in words."""
        N, d, k, r = self.sizes
        return f"{self.branch} factors, N = {N}, {d} x {k} of rank {r}, {self.graph}"


NO_EDGES = "no edges"
CASES = (
    *(Case(branch, (5, 4, 3, 2), "path") for branch in BRANCHES),
    Case("generic", (4, 3, 5, 1), "star"),
    Case("generic", (6, 5, 4, 4), "ring"),  # of full rank
    Case("generic", (3, 4, 7, 2), "complete"),
    Case("generic", (2, 1, 1, 1), "path"),
    Case("generic", (1, 3, 2, 1), "path"),
    Case("generic", (4, 5, 5, 2), NO_EDGES),
)


class Finding(NamedTuple):
    """The worst that was found of a promise, the most that rounding allows, and where it was."""

    name: str
    what: str
    found: float
    allowed: float
    where: str

    @property
    def held(self) -> bool:
        """Whether it is no more than what is allowed; NaN is more."""
        return self.found <= self.allowed

    @property
    def complaint(self) -> str:
        """What is wrong, by how much, and where."""
        return (
            f"{self.name}: {self.what}, found {self.found:.6g}, allowed {self.allowed:.6g}, "
            f"{self.where}"
        )

    def __str__(self) -> str:
        """Return the line of the promise."""
        return f"{self.name:22}{self.found:>12.4g}{self.allowed:>12.4g}  {self.what}"


HEADING = f"{'':22}{'found':>12}{'allowed':>12}  what was found"


def check_method(
    method: Method, *, without: Collection[str] = (), seed: int = 0
) -> Checked[Finding]:
    """Return what is found of each promise of a method, by name: the worst of all rounds tried.

    What every method promises: numbers that are finite, inputs left as they were, the same again
    for the same; agents that hold the same stay; their numbers do not matter; one agent with its
    neighbours' messages does, and steps, as it does among all; a message holds no more bytes than
    are counted; a sparse Pi, several runs at once, float32 and torch's tensors (where torch is
    installed) change no result. What it declares: each of `keeps`; products that do not see the
    gauge; rows of Pi by themselves, where it merges. Factors of seven kinds, graphs with and
    without edges, one agent, in the first round; nine more rounds of generic factors.

    without: promises that are not asked, as "equal agents", "numbering" and "batch" of a method
    that draws random numbers, and "tensors" of one for simulations alone.

    ValueError: not a Method; a name in `without` that is none; a promise that is not kept, naming
    what was found, what is allowed, sizes, graph and round.

    Examples:
        >>> from dataclasses import replace
        >>> from decaf_theory.methods import METHODS, check_method
        >>> check_method(METHODS["decaf"])["keeps product up to E"].held
        True
        >>> check_method(replace(METHODS["dlora"], keeps=("product",)))
        Traceback (most recent call last):
        ...
        ValueError: method dlora: keeps product: change of the mean product, found ..., allowed ...
    """
    if not isinstance(method, Method):
        got = type(method).__name__
        raise ValueError(f"method must be a Method, got {got}; replace(METHODS['dlora'], ...) is")
    for name in without:
        if name not in PROMISES:
            raise ValueError(PROMISES.unknown("without", name))
    asked = {
        name: promise
        for name, promise in PROMISES.items()
        if name not in without and promise.of(method)
    }
    rounds = list(_rounds(method, seed))
    subject = f"method {method.name}"
    findings: list[Finding] = []
    for name, promise in asked.items():
        try:
            findings.append(_worst(method, name, promise, rounds))
        except Exception:
            Checked(findings, HEADING).require(subject)  # what was found before says more
            raise
        if name in FIRST:
            Checked(findings, HEADING).require(subject)
    return Checked(findings, HEADING).require(subject)


def _rounds(method: Method, seed: int) -> Iterator[tuple[str, Round]]:
    """Yield rounds that fit the method, each in words: of every case, later ones of the first."""
    for number, case in enumerate(CASES):
        N = case.sizes[0]
        Pi = np.eye(N) if case.graph == NO_EDGES else TOPOLOGIES[case.graph](N)
        rng = generator(seed, "check method", number)
        at = fitting(method, rng, *case.sizes, Pi=Pi, branch=case.branch)
        if method.meets == "server":
            case = case._replace(graph="a server")
        for t in range(1 if number else ROUNDS):
            yield f"{case}, round {t}", at._replace(clock=Clock(t))


def fitting(
    method: Method,
    rng: np.random.Generator,
    N: int,
    d: int,
    k: int,
    r: int,
    *,
    Pi: Host,
    branch: str = "generic",
) -> Round:
    """Return a round that fits the method: A shared if it is fixed, A = I for the full matrix.

    What a server is given for Pi does not matter to it, but means are computed with it: all 1/N.
    """
    full = not method.form.low_rank
    r = k if full else r
    B, A = rng.standard_normal((N, d, r)), rng.standard_normal((N, r, k))
    if branch == "rank-deficient":
        B[..., -1] = 0.0
    elif branch == "zero":
        B[:] = 0.0
    elif branch == "one zero agent":
        B[0], A[0] = 0.0, 0.0
    elif branch == "tiny":
        B, A = 1e-8 * B, 1e-8 * A
    elif branch == "huge":
        B, A = 1e8 * B, 1e8 * A
    elif branch == "gauge":  # one product, turned at each agent
        Q = np.linalg.qr(rng.standard_normal((N, r, r)))[0]
        B, A = B[:1] @ Q.mT, Q @ A[:1]
    if "B" in method.fixed:
        B = np.broadcast_to(B[:1], B.shape).copy()
    if "A" in method.fixed:
        A = np.broadcast_to(np.eye(k) if full else A[:1], A.shape).copy()
    return Round(Factors(B, A), np.full((N, N), 1 / N) if method.meets == "server" else Pi)


def _worst(method: Method, name: str, promise: Promise, rounds: list[tuple[str, Round]]) -> Finding:
    """Return the entry that is most above what is allowed, of all rounds; the first NaN."""
    worst = None
    for where, at in rounds:
        try:
            found, allowed, ratio = _largest(promise.gap(method, at))
        except Exception as error:
            error.add_note(f"while check_method tried {name!r} of {method.name}: {where}")
            raise
        if worst is None or ratio > worst[0]:
            worst = ratio, Finding(name, promise.what, found, allowed, where)
    assert worst is not None  # there are rounds
    return worst[1]


def _largest(gap: Gap) -> tuple[float, float, float]:
    """Return the entry whose ratio to what is allowed is largest, both, and the ratio."""
    found, allowed = (x.ravel() for x in np.broadcast_arrays(*gap))
    none = np.where(found == 0, 0.0, math.inf)  # allowed; NaN is the worst
    ratio = np.divide(found, allowed, out=none, where=allowed > 0)
    ratio = np.nan_to_num(ratio, nan=math.inf, posinf=math.inf)
    at = int(np.argmax(ratio))
    return float(found[at]), float(allowed[at]), float(ratio[at])
