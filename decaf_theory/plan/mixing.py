"""A mix as one agent does it: the bytes of its messages, and what it takes on this machine, timed.

The agent has its own message and those of its neighbours, and mixes one matrix after the other with
the method's own code, as in a run: `Method.receive` for one row of weights.
"""

from __future__ import annotations

import tracemalloc
from collections.abc import Sequence
from functools import lru_cache
from math import prod
from time import perf_counter
from typing import NamedTuple

import numpy as np
from numpy.typing import DTypeLike

from decaf_theory.lowrank import Factors
from decaf_theory.methods import METHODS, Clock, Method
from decaf_theory.methods.cost import begun
from decaf_theory.methods.state import message_bytes
from decaf_theory.plan.models import Site
from decaf_theory.rng import generator
from decaf_theory.tsvd.flops import mix_flops, svd_flops

DTYPES = {"float64": 8, "float32": 4, "bfloat16": 2, "float16": 2}
FLOPS = 1e9  # of the largest mix that is run: about 0.1 s
ROOM = 2**28  # bytes of its messages
BUDGET = 0.15  # seconds for the repeats of one mix
REPEATS = 20


class Mix(NamedTuple):
    """A mix of one agent: milliseconds, and bytes that its work adds at most; None: not measured.

    scaled: whether fewer messages were mixed than the agent gets.
    """

    milliseconds: float | None
    working: int | None
    scaled: bool = False


def graph_methods() -> list[str]:
    """Return the names of the methods whose agents send messages to their neighbours, and only so.

    The others meet at a server, or nobody.
    """
    return [name for name, each in METHODS.items() if (each.meets, each.pools) == ("graph", "none")]


def sent_bytes(method: Method, sites: Sequence[Site], dtype: str = "float32") -> int:
    """Return the bytes of the message that one agent sends to one other, for all sites."""
    number = _kind(dtype)
    return sum(
        site.copies * message_bytes(method.send(begun(method, *site[:3], dtype=number), Clock(1)))
        for site in sites
    )


def measured(method: Method, sites: Sequence[Site], messages: int, dtype: str = "float32") -> Mix:
    """Return what a mix of this many messages, the agent's own among them, takes for all sites.

    Half types are mixed in float32. More messages than `FLOPS` and `ROOM` allow are not mixed:
    time is scaled by the flops of both, memory by the messages. None where two are too many.
    """
    wide = "float64" if dtype == "float64" else "float32"
    found = [_of_site(method.name, site._replace(copies=1), messages, wide) for site in sites]
    if any(mix.milliseconds is None for mix in found):
        return Mix(None, None)
    return Mix(
        sum(site.copies * (mix.milliseconds or 0) for site, mix in zip(sites, found, strict=True)),
        max(mix.working or 0 for mix in found),
        any(mix.scaled for mix in found),
    )


@lru_cache(maxsize=256)
def _of_site(name: str, site: Site, messages: int, dtype: str) -> Mix:
    """Return the mix of a site of one matrix."""
    method, few = METHODS[name], messages
    while few > 2 and not _fits(method, site, few, dtype):
        few = max(2, few // 2)
    if not _fits(method, site, few, dtype):
        return Mix(None, None)
    seconds, working = _timed(method, site, few, dtype)
    share = flops(method, site, messages) / flops(method, site, few)
    return Mix(1e3 * seconds * share, round(working * messages / few), few < messages)


def _fits(method: Method, site: Site, messages: int, dtype: str) -> bool:
    size = messages * sent_bytes(method, [site], dtype)
    return size <= ROOM and flops(method, site, messages) <= FLOPS


def flops(method: Method, site: Site, messages: int) -> float:
    """Return the flops of one matrix's mix, to leading order, as `methods.cost` counts them."""
    d, k, r, _ = site
    if method.space == "factors":
        sent = method.send(begun(method, d, k, r), Clock(1))
        numbers: int = sum(prod(X.shape[-2:]) for X in sent.values())
        return 2.0 * messages * numbers
    if messages * r >= min(d, k):  # the dense path
        return 2.0 * d * k * messages * r + svd_flops(d, k)
    factors = begun(method, d, k, r, messages).factors
    return float(mix_flops(factors, np.full((1, messages), 1 / messages), r))


def _timed(method: Method, site: Site, messages: int, dtype: str) -> tuple[float, int]:
    """Return the least seconds of some mixes of random factors, and the most bytes of one."""
    d, k, r, _ = site
    random = generator(0, "plan")
    shapes = ((messages, d, r), (messages, r, k))
    factors = Factors(*(random.standard_normal(shape).astype(dtype) for shape in shapes))
    state = method.begin(method.form.begin(factors, 1.0))
    sent, own = method.send(state, Clock(1)), state.take([0])
    weights = np.full((1, messages), 1 / messages)
    tracemalloc.start()
    method.receive(own, sent, weights, Clock(1))  # loads and warms what it needs, too
    tracemalloc.reset_peak()
    before, _ = tracemalloc.get_traced_memory()
    method.receive(own, sent, weights, Clock(1))
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    seconds: list[float] = []
    while len(seconds) < 2 or (len(seconds) < REPEATS and sum(seconds) < BUDGET):
        start = perf_counter()
        method.receive(own, sent, weights, Clock(1))
        seconds.append(perf_counter() - start)
    return min(seconds), most - before


def _kind(dtype: str) -> DTypeLike:
    """Return NumPy's type of that size; it has no bfloat16."""
    return {8: np.float64, 4: np.float32, 2: np.float16}[DTYPES[dtype]]
