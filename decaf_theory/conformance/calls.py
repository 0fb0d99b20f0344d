"""How a function is called: in which of the common shapes, and what its parameters want."""

from __future__ import annotations

import inspect
import math
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from fractions import Fraction
from itertools import product
from typing import Any, NamedTuple, TypeAlias

import numpy as np

from decaf_theory.arrays import Array
from decaf_theory.conformance.cases import ALPHA, SITES, Case
from decaf_theory.lowrank import Factors

Function: TypeAlias = Callable[..., Any]

# what a parameter wants, by its name in lower case and without "_"
ROLES = {
    "weights": "weights weight w ws p probabilities coefficients coeffs fractions",
    "samples": "samples numsamples nsamples counts samplecounts sizes datasizes numexamples",
    "Pi": "pi mixing mixingmatrix mixingweights topology adjacency",
    "scales": "scales scale scalings scaling",
    "configs": "configs config peftconfigs loraconfigs adapterconfigs",
    "ranks": "ranks clientranks",
    "rank": "rank r targetrank maxrank",
    "reference": "reference ref globalfactors globalstate globalmodel previous last",
    "round": "round t roundnumber serverround currentround",
}
ROLE_OF = {name: role for role, names in ROLES.items() for name in names.split()}
HEAD = "base_model.model.classifier.weight"
SHAPES = {
    "stacked": "B [N, d, r] and A [N, r, k], matrix by matrix",
    "lists": "a list of B and a list of A, matrix by matrix",
    "pairs": "a list of (B, A), matrix by matrix",
    "states": "a list of state dicts in peft's naming",
    "clients": 'a dict "0", "1", ... of state dicts in peft\'s naming',
    "results": "a list of ([A, B, A, B, head], examples)",
}
BY_MATRIX = ("stacked", "lists", "pairs")


class Returned(NamedTuple):
    """What a function returned, by site or under "" for all, and if it changed its arguments."""

    values: dict[str, Any]
    changed: bool


@dataclass(frozen=True)
class Call:
    """One way to call a function.

    shape: of SHAPES. A_first: whether A comes before B. roles: what the further parameters want, by
    name. torch: whether arrays are tensors of torch. plain: whether weights are a list of floats,
    else an array. samples: whether weights are counts. heads: whether states have a head.
    """

    function: Function
    shape: str
    A_first: bool
    roles: Mapping[str, str]
    torch: bool
    plain: bool
    samples: bool
    heads: bool

    def wants(self, *roles: str) -> bool:
        """Return whether a parameter wants one of these."""
        return bool({*roles} & {*self.roles.values()})

    @property
    def weighs(self) -> bool:
        """Whether the function is given weights."""
        return self.shape == "results" or self.wants("weights", "samples", "Pi")

    @property
    def listed(self) -> bool:
        """Whether agents come one by one, so that their ranks may differ."""
        return self.shape != "stacked"

    def __str__(self) -> str:
        """Return the call in words."""
        more = "".join(f", {name}: {role}" for name, role in self.roles.items())
        return f"{SHAPES[self.shape]}{more}, in {'torch' if self.torch else 'NumPy'}"

    def __call__(self, case: Case) -> Returned:
        """Return what the function returns for a case; whatever it raises is raised."""
        sites = SITES if self.shape in BY_MATRIX else ("",)
        values, changed = {}, False
        for site in sites:
            given = self._agents(case, site)
            more = {name: self._value(role, case, site) for name, role in self.roles.items()}
            values[site] = self.function(*given, **more)
            changed |= not _equal(given, self._agents(case, site))
        return Returned(values, changed)

    def array(self, X: Array, dtype: str) -> Any:
        """Return a new array of the kind that is asked for."""
        if self.torch:
            import torch

            halves = {"float16": torch.float16, "bfloat16": torch.bfloat16}
            return torch.tensor(np.array(X, dtype=np.float64)).to(halves.get(dtype, torch.float32))
        return np.array(X, dtype=dtype)

    def _agents(self, case: Case, site: str) -> tuple[Any, ...]:
        """Return the leading arguments."""
        if self.shape in BY_MATRIX:
            pairs = [self._pair(f, case.dtype) for f in case.sites[site]]
            if self.shape == "pairs":
                return (pairs,)
            columns = [list(column) for column in zip(*pairs, strict=True)]
            return tuple(self._stack(c) if self.shape == "stacked" else c for c in columns)
        states = [self._state(case, j) for j in range(case.N)]
        if self.shape == "results":
            counts = sample_counts(case.weights[0])
            return ([(list(s.values()), n) for s, n in zip(states, counts, strict=True)],)
        return (self._by_client(states) if self.shape == "clients" else states,)

    def _pair(self, factors: Factors, dtype: str) -> tuple[Any, ...]:
        B, A = (self.array(X, dtype) for X in factors)
        return (A, B) if self.A_first else (B, A)

    def _stack(self, arrays: list[Any]) -> Any:
        if self.torch:
            import torch

            return torch.stack(arrays)
        return np.stack(arrays)

    def names(self, case: Case) -> list[str]:
        """Return the names of an agent's arrays, in their order."""
        return list(self._state(case, 0))

    def _state(self, case: Case, j: int) -> dict[str, Any]:
        state = {}
        for site, agents in case.sites.items():
            state.update(self._named(site, agents[j], case.dtype))
        return {**state, HEAD: self.array(case.heads[j], case.dtype)} if self.heads else state

    def _named(self, site: str, factors: Factors, dtype: str) -> dict[str, Any]:
        prefix = f"base_model.model.{site}.lora_"
        return {f"{prefix}{X}.weight": self.array(getattr(factors, X), dtype) for X in "AB"}

    def _by_client(self, values: list[Any]) -> Any:
        """Return the values by the clients' names, where clients have names."""
        return (
            {str(j): value for j, value in enumerate(values)} if self.shape == "clients" else values
        )

    def _value(self, role: str, case: Case, site: str) -> Any:
        """Return what a parameter wants."""
        if role in ("weights", "samples"):
            counted = role == "samples" or self.samples
            row = sample_counts(case.weights[0]) if counted else case.weights[0].tolist()
            if self.plain or self.shape == "clients":
                return self._by_client(row)
            return self.array(np.array(row), "int64" if counted else case.dtype)
        if role == "Pi":
            return self.array(case.weights, case.dtype)
        if role == "scales":
            return self._by_client(list(case.scales))
        if role == "configs":
            pairs = zip(case.ranks, case.scales, strict=True)
            return self._by_client([config(r, scale) for r, scale in pairs])
        if role == "reference":
            if site:
                return self._pair(case.reference[site], case.dtype)
            named = (self._named(s, f, case.dtype) for s, f in case.reference.items())
            return {key: X for one in named for key, X in one.items()}
        return {"rank": max(case.ranks), "ranks": case.ranks, "round": case.round}[role]


def _equal(left: Any, right: Any) -> bool:
    """Return whether two nests of arrays are equal, bit for bit."""
    if isinstance(left, dict):
        return left.keys() == right.keys() and all(_equal(left[key], right[key]) for key in left)
    if isinstance(left, list | tuple):
        return len(left) == len(right) and all(map(_equal, left, right))
    if hasattr(left, "shape"):
        return bool(left.shape == right.shape and (left == right).all())
    return bool(left == right)


def config(r: int, scale: float) -> dict[str, Any]:
    """Return peft's settings of an adapter of this rank and scale."""
    rs = math.isclose(scale, ALPHA / math.sqrt(r))
    return {"r": r, "lora_alpha": ALPHA if rs else scale * r, "use_rslora": rs, "peft_type": "LORA"}


def sample_counts(row: Array) -> list[int]:
    """Return whole numbers with the ratios of these weights, thousands as of real data."""
    parts = [Fraction(float(w)).limit_denominator(1000) for w in row]
    common = 1000 * math.lcm(*(part.denominator for part in parts))
    return [int(part * common) for part in parts]


def calls(
    function: Function, *, graph: bool, samples: bool, heads: bool, shape: str | None = None
) -> Iterator[Call]:
    """Yield the ways to call a function, likely ones first. ValueError: none can be told."""
    parameters = _parameters(function)
    pair = [
        re.fullmatch(r"(lora|all|client)?_?([ab])(s|_.*)?", p.name.lower()) for p in parameters[:2]
    ]
    letters = [found[2] for found in pair if found]
    two = sorted(letters) == ["a", "b"]
    for name in (
        [shape] if shape else _shapes(two, many=[found[3] for found in pair if found] == ["s", "s"])
    ):
        roles = _roles(function, parameters[2 if name in ("stacked", "lists") else 1 :], graph)
        tensors = name != "results" and _is_of_torch(function)
        for torch, first in product((tensors, not tensors), (True, False)):
            plain = first == (name != "stacked")
            A_first = letters[:1] == ["a"]
            yield Call(function, name, A_first, roles, torch, plain, samples, heads)


def _shapes(two: bool, many: bool) -> tuple[str, ...]:
    """Return the shapes to try: for B and A, in the plural if many, or for one argument."""
    if not two:
        return ("states", "clients", "pairs", "results")
    return ("lists", "stacked") if many else ("stacked", "lists")


def _is_of_torch(function: Function) -> bool:
    """Return whether the module of the function, below its wrappers, has torch."""
    inner: Any = inspect.unwrap(function)
    while hasattr(inner, "func"):  # functools.partial
        inner = inspect.unwrap(inner.func)
    if not hasattr(inner, "__globals__"):
        inner = type(inner).__call__
    return "torch" in getattr(inner, "__globals__", {})


def _parameters(function: Function) -> list[inspect.Parameter]:
    try:
        parameters = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):
        raise ValueError(f"function must be callable with a signature, got {function!r}") from None
    passed = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    if any(p.kind is inspect.Parameter.POSITIONAL_ONLY for p in parameters):
        raise ValueError("function must take its parameters by name, too; remove the / in it")
    return [p for p in parameters if p.kind in passed]


def _roles(function: Function, rest: list[inspect.Parameter], graph: bool) -> dict[str, str]:
    """Return what each further parameter wants; one without a known name wants the weights."""
    roles: dict[str, str] = {}
    for p in rest:
        role = ROLE_OF.get(p.name.lower().replace("_", ""))
        needed = p.default is inspect.Parameter.empty
        if role is None and needed and not {"weights", "samples", "Pi"} & {*roles.values()}:
            role = "weights"
        if role == "weights" and graph:
            role = "Pi"
        if role is None and needed:
            raise ValueError(
                f"parameter {p.name!r} of the function must have a default or a name that "
                f"says what it wants: {', '.join(ROLES)}"
            )
        if role is not None:
            roles[p.name] = role
    return roles
