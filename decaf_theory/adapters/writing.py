"""Adapters in the files that peft loads, written from parts: header first, tensor by tensor."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any

from decaf_theory.adapters.agents import BASE, base_name
from decaf_theory.adapters.namings import LINEAR, PEFT, Naming, config_of, scale_one
from decaf_theory.adapters.parts import Part, Piece, computed, in_order, workplace
from decaf_theory.adapters.reading import CONFIG, Adapter
from decaf_theory.adapters.rounding import check_type, rounded
from decaf_theory.adapters.sealing import sum_of_stream
from decaf_theory.adapters.streams import chunks, write_tensors
from decaf_theory.adapters.targets import fresh
from decaf_theory.arrays import Array
from decaf_theory.lowrank import pad_rank
from decaf_theory.sums import SUM

PARTS = "-parts"  # ends the name of the folder of parts


def save(
    adapter: Adapter, folder: str | Path, *, overwrite: bool = False, dtype: str = "float32"
) -> None:
    """Write an adapter of linear layers that peft loads: one rank r at all sites, scale one.

    Sites of smaller rank are zero-padded, and alpha = r. The rounding to float32 changes a product
    by at most 2^-23 |B|_F |A|_F, that to float16 or bfloat16 by more. The folder appears whole or
    not at all, with a checksum in the weights' metadata; one that exists already is replaced only
    under `overwrite`, and only if it holds nothing but an adapter. Of a link, the folder it points
    to is written. ValueError: that rule, another dtype, or a number beyond it. OSError: a place
    that cannot be written.
    """
    check_type(dtype)
    if adapter.other_kind:
        raise ValueError(
            f"{adapter.name}: save writes linear layers in peft's naming, not "
            f"{adapter.other_kind}; "
            "merge_to writes it as it was read"
        )
    r = max(factors.rank for factors in adapter.sites.values())

    def of_site(site: str) -> list[Piece]:
        B, A = pad_rank(adapter.sites[site], r)
        named = {site + LINEAR.B: B, site + LINEAR.A: A}
        return [Piece(_prefixed(all_rounded(named, dtype)), {"site": site, "rank": r})]

    def of_other(name: str) -> list[Piece]:
        return [Piece(_prefixed(all_rounded({name: adapter.others[name]}, dtype)), {})]

    jobs = [partial(of_site, site) for site in adapter.sites]
    jobs += [partial(of_other, name) for name in adapter.others]
    with fresh(folder, overwrite=overwrite) as new:
        with workplace(new.with_name(f"{new.name}{PARTS}"), None) as work:
            (parts,) = computed(work, jobs, 1, dtype)
            write_adapter(new, PEFT, parts, adapter.config)


def _prefixed(tensors: Mapping[str, Array]) -> dict[str, Array]:
    return {PEFT.prefix + name: X for name, X in tensors.items()}


def all_rounded(tensors: Mapping[str, Array], dtype: str) -> dict[str, Array]:
    """Return tensors by name in the numbers of a type, see `rounded`."""
    return {name: rounded(name, X, dtype) for name, X in tensors.items()}


def write_adapter(
    folder: Path, naming: Naming, parts: Sequence[Part], config: Mapping[str, Any]
) -> None:
    """Write an adapter into a folder from its parts: tensors, and peft's settings if they go along.

    The scale is one at all sites, the base model named as on any machine.
    """
    ranks = {p.numbers["site"]: int(p.numbers["rank"]) for p in parts if "site" in p.numbers}
    tensors = in_order(parts)
    if naming.has_config:
        config = {BASE: None, **config, **scale_one(ranks)}
    bases = {key: base_name(config[key]) or None for key in config if key.endswith(BASE)}
    config = {**config, **bases}
    metadata = naming.metadata(config, ranks)
    path = folder / naming.weights
    sealed = config if naming.has_config else config_of(path, metadata)
    plain = sorted((name.removeprefix(naming.prefix), X) for name, X in tensors.items())
    metadata[SUM] = sum_of_stream(((name, X.numbers()) for name, X in plain), sealed)
    with path.open("wb") as file:
        table = {name: (X.dtype, X.shape) for name, X in tensors.items()}
        write_tensors(file, table, chain.from_iterable(map(chunks, tensors.values())), metadata)
    if naming.has_config:
        text = json.dumps(config, indent=2, sort_keys=True)
        (folder / CONFIG).write_text(text + "\n", encoding="utf-8")
