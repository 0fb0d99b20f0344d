"""Mix the adapters of several agents into one, or into one per agent: in memory, or on disk."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

import decaf_theory
from decaf_theory.adapters.agents import Agents, count, matched, parts, require_rank
from decaf_theory.adapters.certificate import certificate, numbers_of
from decaf_theory.adapters.combining import Rule
from decaf_theory.adapters.namings import Naming, Site
from decaf_theory.adapters.namings import parts as parts_of
from decaf_theory.adapters.parts import Job, Piece, alone, computed, workplace
from decaf_theory.adapters.reading import Adapter, Opened
from decaf_theory.adapters.rounding import check_type, widest
from decaf_theory.adapters.rules import make_rule, title
from decaf_theory.adapters.targets import fresh, spare
from decaf_theory.adapters.writing import PARTS, all_rounded, write_adapter
from decaf_theory.files import place, temporary
from decaf_theory.lowrank import Factors, pad_rank
from decaf_theory.sums import sum_of_files

# peft's settings that leave out some of its target modules
CHOOSING = ("layers_to_transform", "layers_pattern", "exclude_modules")


def merge(
    agents: Agents,
    *,
    weights: Sequence[float] | None = None,
    method: str = "decaf",
    rank: int | str | None = None,
    energy: float | None = None,
    exact: bool = False,
) -> Adapter:
    """Return one adapter, the mix of the agents with `weights` (equal weights by default).

    "decaf" mixes the products, TSVD_r(sum_j pi_j B_j A_j); `rank` is r at every site, by default
    the largest of the agents' ranks there, at most min(d, k), or "auto": the smallest that keeps
    the share `energy` (.99) of |M|_F^2. exact: M itself, by stacked factors. "dlora" averages the
    factors, with the scale in B, and the others of `MERGES` do what `METHODS` says. Heads and
    biases are averaged in all. Unless exact, the factors returned are balanced. Rank directions
    that the mix does not use are zero in both factors, and training does not revive them (T23).
    ValueError: weights that are not a probability row, method, rank, energy.
    """
    N = len(agents.names)
    rule = make_rule(N, weights=weights, method=method, rank=rank, energy=energy, exact=exact)
    require_rank(rule.rank, {site: factors.shape for site, factors in agents.factors.items()})
    sites = {}
    for site, factors in agents.factors.items():
        pairs = [Factors(B, A) for B, A in zip(*factors, strict=True)]
        (found,) = rule.mix(site, pairs)
        sites[site] = found.factors
    others = {name: np.tensordot(rule.rows[0], X, axes=1) for name, X in agents.others.items()}
    name = f"{title(rule)} of {count(N)}"
    scales = dict.fromkeys(sites, 1.0)
    return Adapter(name, agents.config, sites, scales, others, agents.other_kind)


def merge_to(
    out: str | Path,
    adapters: Sequence[Opened],
    *,
    topology: str | None = None,
    missing: str = "refuse",
    dtype: str | None = None,
    overwrite: bool = False,
    resume: bool = False,
    **options: Any,
) -> dict[str, Any]:
    """Write the mix of adapters to a folder, one site in memory at a time; return its certificate.

    Of a topology, one adapter per agent, in folders `names_of`. dtype: by default the widest of the
    inputs', at most float32. resume: what is computed is kept next to `out` until all is, and what
    an earlier call kept is taken up. options: as `merge`. The certificate has, for every site of
    every merge, |M|_F of the mix, what the rank drops and what rounding to dtype changes, and both
    relative to |M|_F. ValueError: as `merge` and `save`; an input in `out`; parts of another merge.
    OSError.
    """
    sites = matched(adapters, missing)
    rule = make_rule(len(adapters), topology=topology, **options)
    require_rank(rule.rank, {name: _given(held)[0].shape for name, held in sites.items()})
    padded = max(_rank(rule, held) for held in sites.values())
    dtype = widest(_types(adapters)) if dtype is None else check_type(dtype)
    names = names_of([each.name for each in adapters]) if topology is not None else []
    naming = adapters[0].naming
    jobs: list[Job] = [partial(_site, rule, naming, held, padded, dtype) for held in sites.values()]
    jobs += [partial(_other, rule, adapters, name, dtype) for name in adapters[0].others]
    spare([each.name for each in adapters], place(out))
    folder = Path(os.path.realpath(place(out)))

    def plan() -> Any:
        inputs = sum_of_files([place(each.name) for each in adapters])
        chosen = {name: str(value) for name, value in options.items()}
        return [
            *(version(name) for name in ("decaf-theory", "numpy", "scipy")),
            sum_of_files([Path(decaf_theory.__file__).parent]),
            inputs,
            missing,
            dtype,
            rule.rows.tolist(),
            sorted(chosen.items()),
        ]

    kept = folder.with_name(f".{folder.name}.resume")
    with alone(kept) if resume else nullcontext():
        with fresh(folder, overwrite=overwrite, names=names) as new:
            work = kept if resume else new.with_name(f"{new.name}{PARTS}")
            with workplace(work, plan if resume else None) as parts_at:
                merges = computed(parts_at, jobs, len(rule.rows), dtype)
                places = [new / name for name in names] or [new]
                # one merge has the first agent's settings, those of a topology have their own
                for at, made, each in zip(places, merges, adapters, strict=False):
                    at.mkdir(exist_ok=True)
                    write_adapter(at, naming, made, settings_for(each, sites))
        if resume:
            gone = kept.rename(folder.with_name(f"{temporary(folder)}{PARTS}"))  # at once, or not
            shutil.rmtree(gone, ignore_errors=True)
    numbers = [[part.numbers for part in made if part.numbers] for made in merges]
    about = {
        "method": title(rule),
        "inputs": [each.name for each in adapters],
        "weights": rule.rows.tolist(),
        "dtype": dtype,
        "others": len(adapters[0].others),
    }
    return certificate(about, names or [""], numbers)


def names_of(folders: Sequence[str | Path]) -> list[str]:
    """Return the names of the merges of a topology: those of the inputs, or agent0, agent1, ..."""
    names = [Path(os.path.realpath(place(folder))).name for folder in folders]
    if len(set(names)) == len(names):
        return names
    return [f"agent{i}" for i in range(len(names))]


def settings_for(adapter: Opened, sites: Mapping[str, Sequence[Site | None]]) -> dict[str, Any]:
    """Return an adapter's settings, with all sites named if some adapters lack some."""
    config = dict(adapter.config)
    if all(site is not None for held in sites.values() for site in held):
        return config
    for part in parts_of(config) or [""] * adapter.naming.has_config:
        own = [site.removeprefix(part) for site in sites if site.startswith(part)]
        config |= {f"{part}{key}": None for key in CHOOSING if f"{part}{key}" in config}
        config[f"{part}target_modules"] = own
    return config


def _types(adapters: Sequence[Opened]) -> set[str]:
    """Return the types in which the tensors of adapters are stored."""
    factors = {
        X.dtype for each in adapters for site in each.sites.values() for X in (site.B, site.A)
    }
    return factors | {X.dtype for each in adapters for X in each.others.values()}


def _given(held: Sequence[Site | None]) -> list[Site]:
    """Return a site as the agents have it, of those that do."""
    return [site for site in held if site is not None]


def _rank(rule: Rule, held: Sequence[Site | None]) -> int:
    """Return the rank of a site's merges, where it is known beforehand."""
    given = _given(held)
    return rule.ranks(given[0].shape, [site.rank for site in given])


def _site(
    rule: Rule, naming: Naming, held: Sequence[Site | None], padded: int, dtype: str
) -> list[Piece]:
    """Return the pieces of one site, one per merge."""
    like = _given(held)[0]
    pieces = []
    for mixed in rule.mix(like.name, parts(held)):
        B, A = mixed.factors if rule.ranks_differ else pad_rank(mixed.factors, padded)
        named = {f"{like.name}.lora_B": B, f"{like.name}.lora_A": A}
        stored = Factors(*all_rounded(named, dtype).values())
        numbers = numbers_of(like.name, mixed, stored)
        pieces.append(Piece(naming.tensors(like, stored), numbers))
    return pieces


def _other(rule: Rule, adapters: Sequence[Opened], name: str, dtype: str) -> list[Piece]:
    """Return the averages of a tensor that is not a factor, one per merge."""
    X = np.stack([each.others[name].read() for each in adapters])
    return [
        Piece(all_rounded({each.naming.other(name): np.tensordot(row, X, axes=1)}, dtype), {})
        for each, row in zip(adapters, rule.rows, strict=False)
    ]
