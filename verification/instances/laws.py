"""Random mixing matrices by enumeration: every outcome of a round and its probability."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from decaf_theory.topology import check_mixing_matrix


class Law(NamedTuple):
    """The outcomes of one round: matrices [n, N, N] and their probabilities [n]."""

    Pis: np.ndarray
    chances: np.ndarray

    @property
    def rho(self) -> float:
        """|E Pi'Pi - J|_op. ValueError: rows or columns of an outcome do not sum to one."""
        for Pi in self.Pis:
            check_mixing_matrix(Pi)
        square = np.einsum("n,nki,nkj->ij", self.chances, self.Pis, self.Pis)
        return float(np.linalg.norm(square - 1 / len(square), 2))


def pairwise_gossip(N: int, links: list[tuple[int, int]] | None = None) -> Law:
    """Return one link at a time, of those given or of all."""
    given = list(itertools.combinations(range(N), 2)) if links is None else links
    return _equally_likely([_averaging(N, [link]) for link in given])


def random_matching(N: int) -> Law:
    """Return all agents in pairs, one alone if N is odd."""
    return _equally_likely([_averaging(N, pairs) for pairs in _matchings(list(range(N)))])


def dropped_links(Pi: np.ndarray, p: float) -> Law:
    """Return a matrix each link of which fails with probability p."""
    links = [(i, j) for i, j in itertools.combinations(range(len(Pi)), 2) if Pi[i, j]]
    found = []
    for kept in itertools.product([False, True], repeat=len(links)):
        weights = [Pi[link] * stays for link, stays in zip(links, kept, strict=True)]
        chance = (1 - p) ** sum(kept) * p ** (len(links) - sum(kept))
        found.append((_weighted(len(Pi), links, weights), chance))
    return _law(found)


def stragglers(Pi: np.ndarray, p: float) -> Law:
    """Return a matrix each agent of which misses the round with probability p."""
    N = len(Pi)
    found = []
    for there in itertools.product([0, 1], repeat=N):
        links = [(i, j) for i, j in itertools.combinations(range(N), 2) if there[i] and there[j]]
        chance = (1 - p) ** sum(there) * p ** (N - sum(there))
        found.append((_weighted(N, links, [Pi[link] for link in links]), chance))
    return _law(found)


def contacts(N: int, rounds: list[list[tuple[int, int]]]) -> Law:
    """Return one of these rounds of contacts, all as likely, Metropolis weights."""
    return _equally_likely([_metropolis(N, links) for links in rounds])


def erdos_renyi(N: int, p: float) -> Law:
    """Return a random graph a round, Metropolis weights."""
    pairs = list(itertools.combinations(range(N), 2))
    found = []
    for kept in itertools.product([0, 1], repeat=len(pairs)):
        links = list(itertools.compress(pairs, kept))
        chance = p ** len(links) * (1 - p) ** (len(pairs) - len(links))
        found.append((_metropolis(N, links), chance))
    return _law(found)


def directed_peers(N: int) -> Law:
    """Return rounds in which each agent averages with the one h ahead, h uniform in 1 ... N - 1."""
    eye = np.eye(N)
    return _equally_likely([(eye + np.roll(eye, h, axis=1)) / 2 for h in range(1, N)])


def all_or_nothing(N: int, rho: float) -> Law:
    """Return rounds in which all agents average, with probability 1 - rho, or none does."""
    return _law([(np.eye(N), rho), (np.full((N, N), 1 / N), 1 - rho)])


def _matchings(agents: list[int]) -> Iterator[list[tuple[int, int]]]:
    if len(agents) < 2:
        yield []
        return
    if len(agents) % 2:
        for alone in agents:
            yield from _matchings([agent for agent in agents if agent != alone])
        return
    first, *rest = agents
    for other in rest:
        for pairs in _matchings([agent for agent in rest if agent != other]):
            yield [(first, other), *pairs]


def _averaging(N: int, pairs: list[tuple[int, int]]) -> np.ndarray:
    return _weighted(N, pairs, [0.5] * len(pairs))


def _metropolis(N: int, links: list[tuple[int, int]]) -> np.ndarray:
    degree = np.bincount(np.ravel(links).astype(int), minlength=N)
    return _weighted(N, links, [1 / (1 + max(degree[i], degree[j])) for i, j in links])


def _weighted(N: int, links: list[tuple[int, int]], weights: list[float]) -> np.ndarray:
    """Return I less the weighted Laplacian of the links."""
    Pi = np.eye(N)
    for (i, j), weight in zip(links, weights, strict=True):
        e = np.eye(N)[i] - np.eye(N)[j]
        Pi -= weight * np.outer(e, e)
    return Pi


def _equally_likely(Pis: list[np.ndarray]) -> Law:
    return Law(np.stack(Pis), np.full(len(Pis), 1 / len(Pis)))


def _law(found: list[tuple[np.ndarray, float]]) -> Law:
    Pis, chances = zip(*found, strict=True)
    return Law(np.stack(Pis), np.array(chances))
