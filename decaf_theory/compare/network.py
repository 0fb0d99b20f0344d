"""The graph of a run as the bounds see it: q, S and lam, or why they do not fit (T25, T35-T37)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple
from weakref import ref

import numpy as np

from decaf_theory import bounds
from decaf_theory.arrays import host
from decaf_theory.compare.drawn import law_of
from decaf_theory.compare.path import EPS, averages, momentum_of
from decaf_theory.methods import Clock
from decaf_theory.simulate import Config
from decaf_theory.topology import mixing_eigenvalues, reversible_eigenvalues
from decaf_theory.topology.checks import components, is_sparse

ROUNDING = 1e-9  # |Pi - J| this near to one is no mixing: a gap that T ~ 1e9 rounds would not see


class Network(NamedTuple):
    """The letters of a graph, and the claim whose constants they are; `why` if there are none."""

    claim: str
    q: float = np.inf
    S: float = np.inf
    lam: float = 1.0
    why: str = ""
    eigenvalues: tuple[float, ...] = ()  # but the leading 1, of one symmetric Pi


def matrices(config: Config) -> Iterator[tuple[int, Any]]:
    """Yield each matrix on which the agents of a run meet, with the first round that has it.

    Each once, by identity, as long as it exists: a schedule may cycle, or make new ones.
    """
    rule, graph, K = config.rule, config.graph, config.local_steps
    known: dict[int, ref[Any]] = {}

    def watch(number: int, Pi: Any) -> None:
        known[number] = ref(Pi, lambda _: known.pop(number))

    for t in range(config.steps):
        mixes = rule.meets == "graph" and rule.mixes(Clock(t, K - 1, K))
        if not (mixes or rule.pools == "graph"):
            continue
        Pi = graph(t) if callable(graph) else graph
        if id(Pi) in known:
            continue
        if hasattr(Pi, "shape"):  # lists cannot be watched
            watch(id(Pi), Pi)
        yield t, Pi
        if not callable(graph):
            return


def network_of(config: Config) -> Network:
    """Return q, S and lam of the bounds on the consensus distance (T25, T35-T37)."""
    rule, K = config.rule, config.local_steps
    N = config.problem.N
    order = "CB" if config.order == "combine" else "MS"
    clocks = [Clock(t, K - 1, K) for t in range(config.steps)]
    if rule.meets == "none" or not all(rule.mixes(clock) for clock in clocks):
        return Network("T25", why=f"graph: {config.named.name} does not mix in every round")
    beta = momentum_of(rule) or 0.0
    if rule.meets == "graph" and callable(config.graph):
        if beta or config.target is not None:
            claim = "T36" if beta else "T37-reversible"
            return Network(claim, why=f"graph: changes, and {claim} is known for one matrix")
        return _changing(config, order)
    if config.target is not None:
        return _weighted(config)
    Pi = np.full((N, N), 1 / N) if rule.meets == "server" else dense(config.graph)
    if not np.allclose(Pi, Pi.T, rtol=0, atol=ROUNDING):
        if beta:
            return Network("T36", why="graph: directed, and T36 is known for symmetric matrices")
        return _varying([Pi], order, K, "graph: directed, and q and S are known for")
    # of J all are 0, and not what rounding leaves of them
    eigenvalues = [0.0] * (N - 1) if np.ptp(Pi) == 0 else spectrum(Pi)
    lam = max(map(abs, eigenvalues), default=0.0)
    if not lam < 1 - ROUNDING:
        return Network("T35" if K > 1 else "T36" if beta else "T25", why=_unmixed(Pi, lam))
    if beta:
        q, S = bounds.momentum_q_S(lam=lam, eigenvalues=eigenvalues, beta=beta)
        return Network("T36", q, S, lam, eigenvalues=tuple(eigenvalues))
    if K > 1:
        q, S = bounds.local_steps_q_S(lam=lam, eigenvalues=eigenvalues, N=N, K=K)
        return Network("T35", q, S, lam, eigenvalues=tuple(eigenvalues))
    q = bounds.network_q(lam=lam, order=order)
    S = bounds.network_S(eigenvalues=eigenvalues, order=order)
    return Network("T25", q, S, lam, eigenvalues=tuple(eigenvalues))


def _changing(config: Config, order: str) -> Network:
    if law := law_of(config):
        return _at_random(config, order, law.rho())
    Pis = [dense(Pi) for _, Pi in matrices(config)]
    return _varying(Pis, order, config.local_steps, "graph: changes, and q and S are known for")


def _varying(Pis: list[np.ndarray], order: str, K: int, words: str) -> Network:
    """Return T37's letters: any doubly stochastic matrices with |Pi_t - J|_op <= lam < 1."""
    if order != "MS" or K > 1:
        return Network("T37", why=f"{words} order MS with one local step")
    N = len(Pis[0])
    sizes = [float(np.linalg.norm(Pi - 1 / N, ord=2)) for Pi in Pis]
    lam = max(sizes)
    if not lam < 1 - ROUNDING:
        return Network("T37", why=_unmixed(Pis[int(np.argmax(sizes))], lam))
    q = bounds.network_q(lam=lam, order="MS")
    return Network("T37", q, bounds.time_varying_S(lam=lam, N=N), lam)


def _at_random(config: Config, order: str, rho: float) -> Network:
    """Return the letters of T37-random, of matrices that are drawn independently."""
    words = "graph: drawn at random, and T37-random is known for"
    if order != "MS" or config.local_steps > 1:
        return Network("T37-random", why=f"{words} order MS with one local step")
    if not averages(config.rule):
        return Network("T37-random", why=f"{words} mixes that are means")
    lam = rho**0.5
    if not lam < 1 - ROUNDING:
        return Network("T37-random", why=f"graph: does not mix on average (rho = {rho:.6g})")
    N = config.problem.N
    q = bounds.network_q(lam=lam, order="MS")
    return Network("T37-random", q, bounds.time_varying_S(lam=lam, N=N), lam)


def _weighted(config: Config) -> Network:
    """Return the letters of T37-reversible, S over the sum of squared shares (see `letters_of`)."""
    shares = config.shares
    assert shares is not None
    Pi = dense(config.graph)
    values = reversible_eigenvalues(Pi, shares)
    lam = float(np.abs(values).max(initial=0.0))
    if not lam < 1 - ROUNDING:
        return Network("T37-reversible", why=_unmixed(Pi, lam))
    q = bounds.network_q(lam=lam, order="MS")
    S = bounds.reversible_S(lam=lam, pi=shares.tolist()) / float(shares @ shares)
    return Network("T37-reversible", q, S, lam)


def spectrum(Pi: np.ndarray) -> list[float]:
    """Return the eigenvalues of a symmetric Pi but the leading 1."""
    return [float(mu) for mu in mixing_eigenvalues(Pi)]


def _unmixed(Pi: np.ndarray, lam: float) -> str:
    count = components(Pi)
    hint = f"disconnected, {count} components" if count > 1 else f"|Pi - J|_op = {lam:.6g}"
    return f"graph: does not mix ({hint})"


def sums_off(Pi: np.ndarray, shares: np.ndarray | None = None) -> float:
    """Return how far rows, and columns in proportion to the shares, are from sum one, in eps.

    A mix by weights that somebody rounded is off by as many roundings. Of some rows, by rows.
    """
    off = float(np.abs(Pi.sum(axis=1) - 1).max())
    if len(Pi) == Pi.shape[1]:
        pi = np.full(len(Pi), 1 / len(Pi)) if shares is None else shares
        off = max(off, float(np.abs(pi @ Pi / pi - 1).max()))
    return off / EPS


def dense(Pi: Any) -> np.ndarray:
    """Return a mixing matrix of any kind as a dense one on the host."""
    return np.asarray(Pi.toarray() if is_sparse(Pi) else host(Pi), dtype=np.float64)
