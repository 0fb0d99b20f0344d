"""Several agents' adapters as one batch per site, after a check that they belong together."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

import numpy as np

from decaf_theory.adapters.reading import Opened, opened
from decaf_theory.arrays import Array
from decaf_theory.lowrank import Factors, pad_rank


@dataclass(frozen=True)
class Agents:
    """The adapters of N agents.

    names: one per agent. factors: by site, in natural order, B [N, d, r] and A [N, r, k] in
    float64, the LoRA scale folded into B, agents of smaller rank zero-padded (exact). scales: the
    scale of each agent by site. others [N, ...]: the tensors that are not factors, by name.
    bases: the base model that each agent names. config: the first agent's settings.
    """

    names: tuple[str, ...]
    factors: dict[str, Factors]
    scales: dict[str, tuple[float, ...]]
    others: dict[str, Array]
    bases: tuple[str, ...]
    config: Mapping[str, Any]


def load_agents(folders: Iterable[str | Path]) -> Agents:
    """Return the adapters of these folders, one per agent, in the order given.

    ValueError: what `load` raises; a site or tensor that some agents have and others lack; shapes
    that differ between agents. Ranks and scales may differ.
    """
    found = [opened(folder) for folder in folders]
    require_alike(found)
    adapters = [each.read() for each in found]
    sites = sorted(adapters[0].sites, key=natural)
    return Agents(
        names=tuple(a.name for a in adapters),
        factors={site: stack([a.sites[site] for a in adapters]) for site in sites},
        scales={site: tuple(a.scales[site] for a in adapters) for site in sites},
        others={name: np.stack([a.others[name] for a in adapters]) for name in adapters[0].others},
        bases=tuple(base_name(a.config.get("base_model_name_or_path")) for a in adapters),
        config=adapters[0].config,
    )


def require_alike(adapters: Sequence[Opened]) -> None:
    """Raise ValueError unless adapters have the same sites and tensors, of the same shapes."""
    if not adapters:
        raise ValueError("no adapter folder given; give one per agent")
    _require_equal_keys(adapters, "site", [a.sites for a in adapters])
    _require_equal_keys(adapters, "tensor", [a.others for a in adapters])
    for site in adapters[0].sites:
        _require_equal_shapes(adapters, f"site {site}", [a.sites[site].shape for a in adapters])
    for name in adapters[0].others:
        _require_equal_shapes(adapters, f"tensor {name}", [a.others[name].shape for a in adapters])


def twins(N: int, sites: Iterable[Factors]) -> list[tuple[int, int]]:
    """Return each agent whose factors equal those of an earlier one, as (earlier, later).

    sites: B [N, d, r], A [N, r, k] one after another, as many as are needed to tell agents apart.
    """
    groups = [list(range(N))]  # of agents that are equal so far
    for factors in sites:
        if all(len(group) == 1 for group in groups):
            break
        split: dict[tuple[int, bytes], list[int]] = {}
        for number, group in enumerate(groups):
            for i in group:
                held = b"".join(X[i].tobytes() for X in factors)
                split.setdefault((number, held), []).append(i)
        groups = list(split.values())
    return sorted(((g[0], i) for g in groups for i in g[1:]), key=lambda pair: pair[1])


def mixing_matrix(topology: str, N: int) -> Array:
    """Return Pi [N, N] of a topology by name; ValueError: unknown name, or no such graph on N."""
    from decaf_theory.topology import TOPOLOGIES

    if topology not in TOPOLOGIES:
        near = difflib.get_close_matches(topology.lower(), TOPOLOGIES, n=1, cutoff=0.0)
        raise ValueError(
            f"topology must be one of {', '.join(TOPOLOGIES)}, got {topology!r}; "
            f"the nearest name is {near[0]}"
        )
    return TOPOLOGIES[topology](N)


def base_name(path: str | None) -> str:
    """Return a base model's name that means the same on another machine.

    The name on the hub is kept, and found again in a path of the hub's cache; of another local path
    the last component is kept.
    """
    text = str(path or "")
    cached = re.search(r"models--(.+?)--([^/\\]+)", text)  # the hub's cache: models--owner--name
    if cached:
        return f"{cached[1]}/{cached[2]}"
    windows = PureWindowsPath(text)  # takes both kinds of slashes
    posix = PurePosixPath(text)
    local = windows.is_absolute() or posix.is_absolute() or text.startswith((".", "~"))
    # a name on the hub is "name" or "owner/name"
    return windows.name if local or "\\" in text or text.count("/") > 1 else text


def count(N: int) -> str:
    """Return "1 agent", "2 agents", ..."""
    return "1 agent" if N == 1 else f"{N} agents"


def natural(name: str) -> list[tuple[int, str]]:
    """Return the key that sorts layer.10 after layer.9."""
    parts = re.split(r"(\d+)", name)
    # not isdigit, which a superscript is; and int reads 4300 digits at most
    return [(int(p), "") if p.isdecimal() and len(p) < 4300 else (-1, p) for p in parts]


def stack(agents: Sequence[Factors]) -> Factors:
    """Return B [N, d, r] and A [N, r, k] of N agents, smaller ranks zero-padded."""
    rank = max(factors.rank for factors in agents)
    padded = [pad_rank(factors, rank) for factors in agents]
    return Factors(np.stack([f.B for f in padded]), np.stack([f.A for f in padded]))


def _require_equal_keys(
    adapters: Sequence[Opened], what: str, held: Sequence[Mapping[str, Any]]
) -> None:
    first, *rest = held
    for adapter, other in zip(adapters[1:], rest, strict=True):
        for has, lacks, names in (
            (adapters[0], adapter, first.keys() - other.keys()),
            (adapter, adapters[0], other.keys() - first.keys()),
        ):
            if names:
                more = f" (and {len(names) - 1} more)" if len(names) > 1 else ""
                raise ValueError(
                    f"{lacks.name}: {what} {min(names, key=natural)}{more} is missing, "
                    f"which {has.name} has; all agents must adapt the same modules"
                )


def _require_equal_shapes(
    adapters: Sequence[Opened], what: str, shapes: Sequence[tuple[int, ...]]
) -> None:
    for adapter, shape in zip(adapters, shapes, strict=True):
        if shape != shapes[0]:
            raise ValueError(
                f"{adapter.name}: {what} is {_times(shape)}, but {_times(shapes[0])} in "
                f"{adapters[0].name}; agents must share one base model"
            )


def _times(shape: tuple[int, ...]) -> str:
    return " x ".join(map(str, shape)) or "a number"
