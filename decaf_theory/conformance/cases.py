"""What an aggregation function is given: adapters of every kind that breaks one of them."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, TypeAlias

import numpy as np

from decaf_theory.arrays import Array
from decaf_theory.lowrank import Factors, gauge, pad_rank
from decaf_theory.rng import generator
from decaf_theory.topology import TOPOLOGIES

Agents: TypeAlias = tuple[Factors, ...]  # B [d, r_j] and A [r_j, k] of each

SQUARE, TALL, WIDE = (8, 8), (9, 6), (6, 9)
RANK, GAP = 2, 1.5  # of the factors; least sigma_r / sigma_{r+1} of a mix that may be truncated
SITES = ("layers.2.q_proj", "layers.10.q_proj")
WEIGHTS = (0.5, 0.3, 0.2)
DIRECTED = np.array([[0.5, 0.3, 0.2], [0.1, 0.6, 0.3], [0.25, 0.0, 0.75]])
SPACING = {"bfloat16": 2.0**-7, "float16": 2.0**-10, "float32": 2.0**-23, "float64": 2.0**-52}
ALPHA = 16.0  # lora_alpha, where scales are given


@dataclass(frozen=True)
class Case:
    """The adapters of N agents, and how they are to be mixed.

    name: in words. sites: the agents' factors by site, float64 numbers that `dtype` holds exactly.
    weights: rows [n, N]; one row is a mix for all. heads [N, 2, 3]. reference: by site, the last
    mixed factors. scales: of each agent's product. about: what this case is the only one to ask.
    """

    name: str
    sites: dict[str, Agents]
    weights: Array
    heads: Array
    reference: dict[str, Factors]
    scales: tuple[float, ...]
    dtype: str = "float32"
    round: int = 0
    about: str = ""

    @property
    def N(self) -> int:
        """The number of agents."""
        return int(self.weights.shape[1])

    @property
    def ranks(self) -> list[int]:
        """The agents' ranks."""
        return [factors.rank for factors in self.sites[SITES[0]]]

    @cached_property
    def scaled(self) -> dict[str, Factors]:
        """B [N, d, r] and A [N, r, k] by site, zero-padded to the largest rank, the scales in B."""
        return {site: self._stacked(agents) for site, agents in self.sites.items()}

    def _stacked(self, agents: Agents) -> Factors:
        padded = [pad_rank(factors, max(self.ranks)) for factors in agents]
        B, A = (np.stack(column) for column in zip(*padded, strict=True))
        return Factors(np.asarray(self.scales)[: len(B), None, None] * B, A)

    @property
    def shape(self) -> tuple[int, int]:
        """The shape [d, k] of the adapted matrices."""
        return self.sites[SITES[0]][0].shape


@dataclass(frozen=True)
class Asked:
    """What a function can be asked for.

    graph: a topology by name, for one result per agent; None: one result for all. weighs, scaled,
    referred, timed: whether it takes weights (or Pi), scales, the last mixed factors, the round.
    torch: whether it is given tensors of torch. shared: whether agents have one A. listed: whether
    agents come one by one, so that ranks may differ.
    """

    graph: str | None = None
    weighs: bool = False
    scaled: bool = False
    referred: bool = False
    timed: bool = False
    torch: bool = False
    shared: bool = False
    listed: bool = False


def rounded(X: Array, dtype: str) -> Array:
    """Return the float64 numbers nearest to X that `dtype` holds exactly."""
    if dtype != "bfloat16":
        return X.astype(dtype).astype(np.float64)
    bits = X.astype(np.float32).view(np.uint32) + np.uint32(0x8000)
    upper = bits & np.uint32(0xFFFF0000)  # a bfloat16 is the upper half of a float32
    return upper.view(np.float32).astype(np.float64)


class Draws:
    """Cases of one seed for what is asked."""

    def __init__(self, seed: int, asked: Asked) -> None:
        """Draw cases of this seed."""
        self.seed, self.asked = seed, asked

    def case(
        self,
        name: str,
        *,
        N: int = 3,
        shape: tuple[int, int] = SQUARE,
        ranks: Sequence[int] | None = None,
        rows: Array | None = None,
        dtype: str = "float32",
        change: Callable[[Agents], Agents] = tuple,
        **more: Any,
    ) -> Case:
        """Return agents around a common pair, `change`d, whose mixes have a gap behind rank r."""
        draw = generator(self.seed, "conformance", name)
        ranks = [RANK] * N if ranks is None else ranks
        rows = self._rows(N) if rows is None else rows

        def site() -> Agents:
            while True:
                agents = change(self._near_each_other(draw, shape, ranks))
                held = tuple(f.map(lambda X: rounded(X, dtype)) for f in agents)
                if _gaps(held, rows):
                    return held

        sites = {name: site() for name in SITES}
        heads = rounded(draw.standard_normal((N, 2, 3)), dtype)
        reference = {name: _turned(agents[0]) for name, agents in sites.items()}
        scales = more.pop("scales", (1.0,) * N)
        return Case(name, sites, rows, heads, reference, scales, dtype, **more)

    def _rows(self, N: int) -> Array:
        graph = self.asked.graph
        return np.full((1, N), 1.0 / N) if graph is None else TOPOLOGIES[graph](N)

    def _near_each_other(self, draw: Any, shape: tuple[int, int], ranks: Sequence[int]) -> Agents:
        (d, k), most = shape, max(ranks)
        steps = 2.0 ** -np.arange(most)  # of the directions, which so differ in size
        common = Factors(draw.standard_normal((d, most)) * steps, draw.standard_normal((most, k)))
        agents = [common.map(lambda X: X + 0.3 * draw.standard_normal(X.shape)) for _ in ranks]
        A = [common.A if self.asked.shared else f.A for f in agents]
        return tuple(
            Factors(f.B[:, :r], A[j][:r])
            for j, (f, r) in enumerate(zip(agents, ranks, strict=True))
        )


def _gaps(agents: Agents, rows: Array) -> bool:
    """Return whether each mix has a gap behind each of the agents' ranks, or nothing behind it."""
    products = np.stack([f.B @ f.A for f in agents])
    S = np.linalg.svd(np.tensordot(rows, products, axes=1), compute_uv=False)
    S = np.where(S > 1e-9 * S[:, :1], S, 0.0)
    ranks = {f.rank for f in agents if f.rank < S.shape[1]}
    return all(bool(np.all(S[:, r - 1] >= GAP * S[:, r])) for r in ranks)


def _turned(factors: Factors) -> Factors:
    """Return the factors turned by .3 in their first two directions, as an earlier mix might be."""
    r = factors.rank
    R = np.eye(r)
    if r > 1:
        R[:2, :2] = [[math.cos(0.3), -math.sin(0.3)], [math.sin(0.3), math.cos(0.3)]]
    return Factors(factors.B @ R, R.T @ factors.A).map(lambda X: rounded(X, "float32"))


def cases(seed: int, asked: Asked) -> Iterator[Case]:
    """Yield every case that a function can be asked for."""
    draws = Draws(seed, asked)
    yield draws.case("square")
    yield draws.case("a second call")
    yield draws.case("more rows than columns", shape=TALL)
    yield draws.case("more columns than rows", shape=WIDE)
    for N in (1, 2, 10, 11):
        yield draws.case(f"N = {N}", N=N)
    if asked.weighs:
        yield from _weighted(draws)
    if not asked.shared:
        yield from _in_gauges(draws)
    yield from _degenerate(draws)
    yield from _of_other_sizes(draws)
    if asked.listed and not asked.shared:
        yield draws.case("unequal ranks", ranks=(1, 3, 2), shape=TALL, about="unequal ranks")
    if asked.scaled:
        yield from _scaled(draws)
    if asked.timed:
        yield draws.case("the second round", round=1)


def _weighted(draws: Draws) -> Iterator[Case]:
    if draws.asked.graph is not None:
        yield draws.case("a Pi that is not symmetric", rows=DIRECTED)
        return
    counts = np.arange(1.0, 12.0)
    yield draws.case("unequal weights", rows=np.array([WEIGHTS]))
    yield draws.case("unequal weights, N = 11", N=11, rows=counts[None] / counts.sum())
    yield draws.case("a weight of zero", rows=np.array([[0.75, 0.0, 0.25]]))


def _in_gauges(draws: Draws) -> Iterator[Case]:
    draw = generator(draws.seed, "conformance", "gauges")
    turns = [np.linalg.qr(draw.standard_normal((RANK, RANK)))[0] for _ in range(3)]
    own = [np.diag([2.0**j, 1.0]) @ R for j, R in enumerate(turns)]
    mirror = np.diag([-1.0, 1.0])
    yield draws.case(
        "each agent in a gauge of its own",
        change=lambda agents: tuple(gauge(f, own[j]) for j, f in enumerate(agents)),
    )
    for name, R in (("both signs", -np.eye(RANK)), ("one direction's signs", mirror)):
        yield draws.case(
            f"one agent with {name} flipped",
            change=lambda agents, R=R: (agents[0], gauge(agents[1], R), agents[2]),  # type: ignore[misc]
        )


def _degenerate(draws: Draws) -> Iterator[Case]:
    def nothing_learned(f: Factors) -> Factors:
        return Factors(0 * f.B, f.A)

    def one_direction(agents: Agents) -> Agents:
        B, A = agents[0].B * [1, 0], np.stack([agents[0].A[0]] * RANK)
        return tuple(Factors((j + 1) * B, A) for j in range(len(agents)))

    def near(agents: Agents) -> Agents:
        return tuple(agents[0].map(lambda X, own: X + (own - X) / 128, f) for f in agents)

    yield draws.case(
        "B = 0, as at the start", change=lambda a: tuple(map(nothing_learned, a)), about="zero"
    )
    if not draws.asked.shared:
        yield draws.case(
            "all zero", change=lambda a: tuple(f.map(np.zeros_like) for f in a), about="zero"
        )
        yield draws.case("of rank one", change=one_direction, about="rank deficient")
    yield draws.case("one agent at zero", change=lambda a: (*a[:2], nothing_learned(a[2])))
    yield draws.case("consensus", change=lambda a: (a[0],) * len(a))
    yield draws.case(
        "consensus, one direction small",
        change=lambda a: (Factors(a[0].B * [1, 2.0**-7], a[0].A),) * len(a),
    )
    yield draws.case("near consensus", change=near)


def _of_other_sizes(draws: Draws) -> Iterator[Case]:
    for name, size in (("large", 2.0**20), ("small", 2.0**-20)):
        yield draws.case(
            name,
            change=lambda a, size=size: tuple(f.map(lambda X: size * X) for f in a),  # type: ignore[misc]
            about=name,
        )
    for dtype in ("float16", "bfloat16") if draws.asked.torch else ("float16",):
        yield draws.case(dtype, dtype=dtype, about=dtype)


def _scaled(draws: Draws) -> Iterator[Case]:
    yield draws.case("scales of rsLoRA", scales=(ALPHA / math.sqrt(RANK),) * 3)
    yield draws.case("unequal scales", scales=(2.0, 0.5, 1.0))
    if draws.asked.listed:
        ranks = (1, 3, 2)
        yield draws.case(
            "scales of rsLoRA, unequal ranks",
            ranks=ranks,
            shape=TALL,
            scales=tuple(ALPHA / math.sqrt(r) for r in ranks),
            about="unequal ranks",
        )
