"""Several agents' adapters as one batch per site, after a check that they belong together."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

import numpy as np

from decaf_theory.adapters.namings import BASES, Site
from decaf_theory.adapters.reading import Opened, opened
from decaf_theory.arrays import Array
from decaf_theory.lowrank import Factors, pad_rank
from decaf_theory.tsvd import check_rank

BASE = "base_model_name_or_path"
# settings in which agents may differ by oversight
DIFFERING = {"task_type": "tasks", "revision": "revisions of the base model"}
ABSENT = ("refuse", "zero")  # what a site that an agent lacks means


@dataclass(frozen=True)
class Agents:
    """The adapters of N agents.

    names: one per agent. factors: by site, in natural order, B [N, d, r] and A [N, r, k] in
    float64, the LoRA scale folded into B, agents of smaller rank zero-padded (exact). scales: the
    scale of each agent by site, 0 of a site that it lacks. others [N, ...]: the tensors that are
    not factors, by name. bases: the base model that each agent names. config: the first agent's
    settings. said: remarks on how the files were read. other_kind: as of `Adapter`.
    """

    names: tuple[str, ...]
    factors: dict[str, Factors]
    scales: dict[str, tuple[float, ...]]
    others: dict[str, Array]
    bases: tuple[str, ...]
    config: Mapping[str, Any]
    said: tuple[str, ...] = ()
    other_kind: str = ""


def load_agents(folders: Iterable[str | Path], missing: str = "refuse") -> Agents:
    """Return the adapters of these folders or files, one per agent, in the order given.

    missing: "zero" counts a site that an agent lacks as a product of zero. ValueError: what
    `opened` raises; what `matched` raises; nan or inf. Ranks and scales may differ.
    """
    adapters = [opened(folder) for folder in folders]
    sites = matched(adapters, missing)
    return Agents(
        names=tuple(a.name for a in adapters),
        factors={name: stack(parts(held)) for name, held in sites.items()},
        scales={
            name: tuple(0.0 if site is None else site.scale for site in held)
            for name, held in sites.items()
        },
        others={
            name: np.stack([a.others[name].read() for a in adapters]) for name in adapters[0].others
        },
        bases=tuple(base_of(a.config) for a in adapters),
        config=adapters[0].config,
        said=tuple(said(adapters, sites)),
        other_kind=next(filter(None, (a.other_kind() for a in adapters)), ""),
    )


def matched(
    adapters: Sequence[Opened], missing: str = "refuse"
) -> dict[str, tuple[Site | None, ...]]:
    """Return each site's part in every adapter, in natural order; None is a product of zero.

    ValueError: no adapter; namings that differ; a site that some have and others lack, unless
    missing is "zero"; another tensor that some lack; shapes that differ.
    """
    if missing not in ABSENT:
        raise ValueError(f"missing must be one of {ABSENT}, got {missing!r}")
    if not adapters:
        raise ValueError("no adapter folder given; give one per agent")
    for each in adapters:
        if each.naming != adapters[0].naming:
            raise ValueError(
                f"{each.name}: its names are those of {each.naming.name}, but of "
                f"{adapters[0].naming.name} in {adapters[0].name}; save all in one naming"
            )
    if missing == "refuse":
        _require_equal_keys(adapters, "site", [a.sites for a in adapters])
    _require_equal_keys(adapters, "tensor", [a.others for a in adapters])
    names = sorted({name for a in adapters for name in a.sites}, key=natural)
    sites = {name: tuple(a.sites.get(name) for a in adapters) for name in names}
    for name, held in sites.items():
        shapes = [None if site is None else _shape(site) for site in held]
        _require_equal_shapes(adapters, f"site {name}", shapes)
    for name in adapters[0].others:
        shapes = [_times(a.others[name].shape) for a in adapters]
        _require_equal_shapes(adapters, f"tensor {name}", shapes)
    return sites


def said(adapters: Sequence[Opened], sites: Mapping[str, Sequence[Site | None]]) -> list[str]:
    """Return what a reader must know of adapters that were read together: sites counted as zero,

    settings that speak of different tasks, scales that no file states.
    """
    found = [remark for adapter in adapters for remark in adapter.remarks]
    for i, adapter in enumerate(adapters):
        lacked = [name for name, held in sites.items() if held[i] is None]
        if lacked:
            more = f" and {len(lacked) - 1} more" if len(lacked) > 1 else ""
            found.append(f"{adapter.name} lacks {lacked[0]}{more}: counted as an update of zero.")
    for key, what in DIFFERING.items():
        values = sorted({str(a.config.get(key) or "none") for a in adapters})
        if len(values) > 1:
            found.append(f"The agents name different {what} ({key}: {', '.join(values)}).")
    return found


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


def idle(N: int, sites: Iterable[Factors]) -> list[int]:
    """Return the agents whose B or A is zero at every site, of B [N, d, r], A [N, r, k] each."""
    still = list(range(N))
    for B, A in sites:
        still = [i for i in still if not (np.any(B[i]) and np.any(A[i]))]
        if not still:  # as many sites as are needed to see that all agents move
            break
    return still


def mixing_matrix(topology: str, N: int) -> Array:
    """Return Pi [N, N] of a topology by name; ValueError: unknown name, or no such graph on N.

    Examples:
        >>> from decaf_theory import adapters
        >>> adapters.mixing_matrix("complete", 4).tolist()[0]
        [0.25, 0.25, 0.25, 0.25]
    """
    from decaf_theory.topology import TOPOLOGIES

    if topology not in TOPOLOGIES:
        near = difflib.get_close_matches(topology.lower(), TOPOLOGIES, n=1, cutoff=0.0)
        raise ValueError(
            f"topology must be one of {', '.join(TOPOLOGIES)}, got {topology!r}; "
            f"the nearest name is {near[0]}"
        )
    return TOPOLOGIES[topology](N)


def require_rank(rank: int | None, shapes: Mapping[str, tuple[int, int]]) -> None:
    """Raise ValueError, of the smallest site, unless all sites can have a rank; None: their own.

    shapes: d, k by site. What fits the smallest fits all, whichever comes first.
    """
    if rank is None:
        return
    site = min(shapes, key=lambda name: min(shapes[name]))
    try:
        check_rank(rank, *shapes[site])
    except ValueError as error:
        raise ValueError(f"site {site}, the smallest: {error}") from None


def base_of(config: Mapping[str, Any]) -> str:
    """Return the base model that settings name, by `base_name`; "" if none."""
    keys = [key for key in config if key.endswith(BASE)] + [key for key in BASES if key in config]
    return next((base_name(config[key]) for key in keys if config[key]), "")


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


def parts(held: Sequence[Site | None]) -> list[Factors]:
    """Return the factors of each agent at one site, zero of rank one where it has none."""
    d, k = next(site.shape for site in held if site is not None)
    zero = Factors(np.zeros((d, 1)), np.zeros((1, k)))
    return [zero if site is None else site.read() for site in held]


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
                    + (
                        ", or a merge counts it as zero (--missing zero; missing='zero' in Python)"
                        if what == "site"
                        else ""
                    )
                )


def _require_equal_shapes(
    adapters: Sequence[Opened], what: str, shapes: Sequence[str | None]
) -> None:
    """Raise ValueError unless shapes in words are one; None is no shape."""
    first = next(i for i, shape in enumerate(shapes) if shape is not None)
    for adapter, shape in zip(adapters, shapes, strict=True):
        if shape not in (None, shapes[first]):
            raise ValueError(
                f"{adapter.name}: {what} is {shape}, but {shapes[first]} in "
                f"{adapters[first].name}; agents must share one base model"
            )


def _shape(site: Site) -> str:
    """Return the shape of the weights of a site in words."""
    return _times(site.weight) + " of an embedding" * site.form.embedding


def _times(shape: tuple[int, ...]) -> str:
    return " x ".join(map(str, shape)) or "a number"
