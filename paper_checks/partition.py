"""Who holds which examples of N agents: IID, balanced, label skew, Dirichlet, exclusive, k shots.

A partition is a list of N index arrays into the labels: disjoint, sorted, none empty, a function of
(labels, agents, kind, settings, seed) alone. Agents have equal sizes unless `equal=False` or whole
classes are dealt: the stacked forward takes batches of one size from every agent, and an epoch then
means the same for all. A class that nobody holds is refused where the settings decide the counts of
classes; where they are drawn (IID, Dirichlet), another seed may deal it, and `shards` says so.
The stream of draws is named by the kind, never by the method: methods see the same shards.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any, get_type_hints

import numpy as np

from decaf_theory.rng import generator

# three agents of each leaning and four neutral: the usual table for two classes and ten agents
SKEW_3_3_4 = ((0.9, 0.1),) * 3 + ((0.1, 0.9),) * 3 + ((0.5, 0.5),) * 4


def partition(
    labels: Any, agents: int, *, kind: str, seed: int, **settings: Any
) -> list[np.ndarray]:
    """Return the examples of every agent: N disjoint sorted index arrays into `labels` [n].

    kind and its settings (`samples`: examples per agent, default as many as the labels allow):
    "iid"        samples, equal: a random deal; equal=False leaves no example over
    "balanced"   samples, equal: agents hold the same number of every class, to within one
    "exclusive"  whole classes, dealt in turn from a shuffled list: no class has two holders
    "skew"       samples, proportions: [N][classes] shares of every class, rows summing to 1; or N
                 numbers, shares of class 1 of 2; or one number, the share of the agent's main
                 class (agent modulo classes), the others equal; or "3-3-4", three agents of
                 90/10, three of 10/90, four of 50/50
    "dirichlet"  samples, alpha, equal: agents draw class shares ~ Dirichlet(alpha) and then, in
                 turn, one example of a class drawn by them, among the classes that are not used up;
                 equal=False: every class is cut by shares of the agents ~ Dirichlet(alpha)
    "shots"      shots: that many examples of every class in all, over the agents together; split:
                 "iid" deals them as "balanced", "skew", "dirichlet" and "exclusive" as above
    ValueError: what the labels or the settings cannot give; an agent without examples, or a class
    without a holder though the settings decide who holds it.
    """
    labels = np.asarray(labels)
    if labels.ndim != 1 or not np.issubdtype(labels.dtype, np.integer) or labels.min(initial=0) < 0:
        raise ValueError(
            "labels must be class numbers 0, 1, ... in one axis, "
            f"got dtype {labels.dtype}, shape {labels.shape}"
        )
    if not 1 <= agents <= len(labels):
        raise ValueError(f"agents must lie in 1..{len(labels)}, the examples; got {agents}")
    if kind not in KINDS:
        raise ValueError(f"partition kind must be one of {', '.join(KINDS)}; got {kind!r}")
    shares = _dealt(kind, labels, agents, seed, settings)
    for agent, share in enumerate(shares):
        if len(share) == 0:
            raise ValueError(f"partition {kind!r} leaves agent {agent} without examples")
    drawn = kind in DRAWN or settings.get("split") in DRAWN - {"iid"}
    if (left := unheld(labels, shares)) and not drawn:
        raise ValueError(
            f"partition {kind!r} leaves class {left[0]} without a holder: its test examples would "
            f"be of a class that nobody trains on; raise samples or agents, or change the shares"
        )
    return [np.sort(share) for share in shares]


def unheld(labels: np.ndarray, shares: Sequence[np.ndarray]) -> list[int]:
    """Return the classes among the labels that are in nobody's shard."""
    return [int(c) for c in np.setdiff1d(labels, labels[np.concatenate(shares)])]


def _dealt(
    kind: str, labels: np.ndarray, agents: int, seed: int, settings: Mapping[str, Any]
) -> list[np.ndarray]:
    """Return the shards of one kind, unsorted; ValueError: a setting that it does not have."""
    deal = KINDS[kind]
    signature = inspect.signature(deal)
    try:
        signature.bind(labels, agents, seed, **settings)
    except TypeError as error:
        known = ", ".join(settings_of(kind, settings)) or "none"
        raise ValueError(f"partition {kind!r}: {error}; its settings: {known}") from None
    return deal(labels, agents, seed, **settings)


def settings_of(kind: str, given: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings that a kind has, each with its type; of shots with those of its split."""
    common = ("labels", "agents", "seed", "settings", "return")
    own = {name: of for name, of in get_type_hints(KINDS[kind]).items() if name not in common}
    split = SPLITS.get(str(given.get("split", "iid"))) if kind == "shots" else None
    return own | (settings_of(split, {}) if split else {})


def iid(
    labels: np.ndarray, agents: int, seed: int, samples: int | None = None, equal: bool = True
) -> list[np.ndarray]:
    """Return a random deal of the examples, or of `samples` per agent."""
    order = generator(seed, "partition", "iid").permutation(len(labels))
    if samples is not None or equal:
        order = order[: agents * _samples(samples, len(labels), agents)]
    return [order[agent::agents] for agent in range(agents)]


def balanced(
    labels: np.ndarray, agents: int, seed: int, samples: int | None = None, equal: bool = True
) -> list[np.ndarray]:
    """Return shards that hold the same number of examples of every class, to within one."""
    draw = generator(seed, "partition", "balanced")
    piles = _piles(labels, draw)
    if samples is not None or equal:
        sizes = np.array([[len(pile) for pile in piles]])
        most = agents * _samples(samples, len(labels), agents)
        counts = _counts(sizes / len(labels), most, draw.random(sizes.shape))[0]
        piles = [pile[:count] for pile, count in zip(piles, counts, strict=True)]
    # in turn through one class after the other, so that no two agents differ by two in any
    order = np.concatenate(piles)
    return [order[turn::agents] for turn in draw.permutation(agents)]


def exclusive(labels: np.ndarray, agents: int, seed: int) -> list[np.ndarray]:
    """Return shards of whole classes, dealt in turn from a shuffled list; sizes differ."""
    classes = generator(seed, "partition", "exclusive").permutation(np.unique(labels))
    if agents > len(classes):
        raise ValueError(
            f"partition 'exclusive' deals whole classes, so agents must be <= {len(classes)}, the "
            f"classes; got {agents}"
        )
    return [np.flatnonzero(np.isin(labels, classes[agent::agents])) for agent in range(agents)]


def skew(
    labels: np.ndarray,
    agents: int,
    seed: int,
    proportions: float | str | Sequence[Any] = 0.8,
    samples: int | None = None,
) -> list[np.ndarray]:
    """Return shards whose class shares are `proportions`, to within one example per class."""
    there = np.bincount(labels)
    table = proportions_table(proportions, agents, len(there))
    ties = generator(seed, "partition", "skew", "ties").random(table.shape)
    if samples is None:
        used = table.sum(axis=0) > 0
        samples = int((there[used] / table.sum(axis=0)[used]).min())  # up to the rounding of counts
        while samples and (_counts(table, samples, ties).sum(axis=0) > there).any():
            samples -= 1
    counts = _counts(table, _samples(samples, len(labels), agents), ties)
    for label, (wanted, given) in enumerate(zip(counts.sum(axis=0), there, strict=True)):
        if wanted > given:
            raise ValueError(
                f"label skew needs {wanted} examples of class {label}, which has {given}; "
                f"lower samples ({samples} per agent) or change proportions"
            )
    piles = _piles(labels, generator(seed, "partition", "skew"))
    cuts = np.cumsum(counts, axis=0)
    return [
        np.concatenate(
            [pile[end[c] - n[c] : end[c]] for c, pile in enumerate(piles)]  # disjoint: cumulative
        )
        for n, end in zip(counts, cuts, strict=True)
    ]


def dirichlet(
    labels: np.ndarray,
    agents: int,
    seed: int,
    alpha: float = 0.5,
    samples: int | None = None,
    equal: bool = True,
) -> list[np.ndarray]:
    """Return shards with class shares ~ Dirichlet(alpha); small alpha: few classes each."""
    if not alpha > 0:
        raise ValueError(f"alpha must be > 0 (small: few classes per agent), got {alpha}")
    draw = generator(seed, "partition", "dirichlet")
    piles = [list(pile) for pile in _piles(labels, draw)]
    if not equal:
        return _dirichlet_of_classes(piles, agents, alpha, draw)
    size = _samples(samples, len(labels), agents)
    shares = draw.dirichlet([alpha] * len(piles), size=agents)
    taken: list[list[int]] = [[] for _ in range(agents)]
    for _ in range(size):
        for agent in range(agents):
            left = np.array([len(pile) > 0 for pile in piles])
            # 1e-12: an agent whose classes are all used up takes any other, evenly
            weights = np.where(left, shares[agent] + 1e-12, 0.0)
            label = draw.choice(len(piles), p=weights / weights.sum())
            taken[agent].append(piles[label].pop())
    return [np.array(examples, dtype=np.int64) for examples in taken]


def _dirichlet_of_classes(
    piles: list[list[int]], agents: int, alpha: float, draw: np.random.Generator
) -> list[np.ndarray]:
    taken: list[list[np.ndarray]] = [[] for _ in range(agents)]
    for pile in piles:
        shares = draw.dirichlet([alpha] * agents)
        cuts = np.floor(np.cumsum(shares)[:-1] * len(pile) + 0.5).astype(int)
        for agent, part in enumerate(np.split(np.array(pile, dtype=np.int64), cuts)):
            taken[agent].append(part)
    return [np.concatenate(parts) for parts in taken]


def shots(
    labels: np.ndarray,
    agents: int,
    seed: int,
    shots: int = 40,
    split: str = "iid",
    **settings: Any,
) -> list[np.ndarray]:
    """Return a partition of `shots` examples of every class, in total and not per agent."""
    piles = _piles(labels, generator(seed, "partition", "shots"))
    for label, pile in enumerate(piles):
        if not 1 <= shots <= len(pile):
            raise ValueError(f"shots must lie in 1..{len(pile)}, class {label}'s size; got {shots}")
    pool = np.concatenate([pile[:shots] for pile in piles])
    if split not in SPLITS:
        raise ValueError(f"split must be {', '.join(SPLITS)}; got {split!r}")
    return [pool[share] for share in _dealt(SPLITS[split], labels[pool], agents, seed, settings)]


KINDS: dict[str, Callable[..., list[np.ndarray]]] = {
    "iid": iid,
    "balanced": balanced,
    "exclusive": exclusive,
    "skew": skew,
    "dirichlet": dirichlet,
    "shots": shots,
}
# kinds by which few shots are dealt: the shots of every class are few, so IID means evenly here
SPLITS = {name: name for name in ("skew", "dirichlet", "exclusive")} | {"iid": "balanced"}
DRAWN = {"iid", "dirichlet"}  # their counts of classes are random


def proportions_table(proportions: Any, agents: int, classes: int) -> np.ndarray:
    """Return the class shares [N, classes] that `proportions` (see `partition`) means."""
    if proportions == "3-3-4":
        proportions = SKEW_3_3_4
    if isinstance(proportions, str):
        raise ValueError(f'proportions by name: only "3-3-4" is known, got {proportions!r}')
    try:
        table = np.asarray(proportions, dtype=np.float64)
    except (TypeError, ValueError):
        raise ValueError(
            f"proportions must be a number, a list of numbers or a list of rows of them, "
            f"got {proportions!r}"
        ) from None
    if table.ndim == 0:
        table = _main_class(float(table), agents, classes)
    elif table.ndim == 1 and classes == 2:
        table = np.stack([1 - table, table], axis=1)
    if table.shape != (agents, classes):
        raise ValueError(
            f"proportions must have a row for each of {agents} agents and a share for each of "
            f"{classes} classes, got shape {table.shape}"
        )
    # a row of shares as written in decimals: each is rounded to eps/2, and so is every sum
    rounding = 2 * classes * np.finfo(np.float64).eps
    if (table < 0).any() or (np.abs(table.sum(axis=1) - 1) > rounding).any():
        bad = int(np.argmax((table < 0).any(axis=1) | (np.abs(table.sum(axis=1) - 1) > rounding)))
        raise ValueError(
            f"proportions of agent {bad} must be >= 0 and sum to 1, got {table[bad].tolist()}"
        )
    return table


def _main_class(share: float, agents: int, classes: int) -> np.ndarray:
    if not 0 <= share <= 1 or classes < 2:
        raise ValueError(
            f"the main class's share must lie in [0, 1] with >= 2 classes, got {share}"
        )
    table = np.full((agents, classes), (1 - share) / (classes - 1))
    table[np.arange(agents), np.arange(agents) % classes] = share
    return table


def _counts(table: np.ndarray, samples: int, ties: np.ndarray) -> np.ndarray:
    """Return whole counts [N, classes] with rows summing to `samples`, by largest remainders.

    ties: a number for each count; of equal remainders those with the smallest are rounded up.
    """
    exact = table * samples
    counts = np.floor(exact + 1e-9).astype(np.int64)  # .7 * 10 = 7 although it is 6.999... here
    rests = np.round(exact - counts, 9)  # and .1 * 5 = .5 * 1: a tie, whatever their last digits
    for row, rest, tie in zip(counts, rests, ties, strict=True):
        row[np.lexsort((tie, -rest))[: samples - row.sum()]] += 1
    return counts


def _samples(samples: int | None, examples: int, agents: int) -> int:
    most = examples // agents
    if samples is None:
        return most
    if not 1 <= samples <= most:
        raise ValueError(
            f"samples must lie in 1..{most} ({examples} examples over {agents} agents), "
            f"got {samples}"
        )
    return int(samples)


def _piles(labels: np.ndarray, draw: np.random.Generator) -> list[np.ndarray]:
    """Return the shuffled examples of every class."""
    return [draw.permutation(np.flatnonzero(labels == c)) for c in range(int(labels.max()) + 1)]
