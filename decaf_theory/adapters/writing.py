"""Adapters in the files that peft loads, written from parts: header first, tensor by tensor."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any

from decaf_theory.adapters.agents import base_name
from decaf_theory.adapters.namings import PREFIX
from decaf_theory.adapters.parts import Part, Piece, computed, in_order, workplace
from decaf_theory.adapters.reading import CONFIG, WEIGHTS, Adapter
from decaf_theory.adapters.rounding import check_type, rounded
from decaf_theory.adapters.sealing import sum_of_stream
from decaf_theory.adapters.streams import chunks, write_tensors
from decaf_theory.adapters.targets import fresh
from decaf_theory.arrays import Array
from decaf_theory.lowrank import pad_rank
from decaf_theory.sums import SUM

PLAIN = re.compile(r"[\w.]+")  # names that are patterns without operators but the dot
PARTS = "-parts"  # ends the name of the folder of parts


def save(
    adapter: Adapter, folder: str | Path, *, overwrite: bool = False, dtype: str = "float32"
) -> None:
    """Write an adapter that peft loads: one rank r at all sites, alpha = r (scale one).

    Sites of smaller rank are zero-padded. The rounding to float32 changes a product by at most
    2^-23 |B|_F |A|_F, that to float16 or bfloat16 by more. The folder appears whole or not at all,
    with a checksum in the weights' metadata; one that exists already is replaced only under
    `overwrite`, and only if it holds nothing but an adapter. Of a link, the folder it points to is
    written. ValueError: that rule, another dtype, or a number beyond it. OSError: a place that
    cannot be written.
    """
    check_type(dtype)
    r = max(factors.rank for factors in adapter.sites.values())

    def of_site(site: str) -> list[Piece]:
        B, A = pad_rank(adapter.sites[site], r)
        name = f"{PREFIX}{site}.lora"
        named = {f"{name}_B.weight": B, f"{name}_A.weight": A}
        return [Piece(all_rounded(named, dtype), {"site": site, "rank": r})]

    def of_other(name: str) -> list[Piece]:
        return [Piece(all_rounded({PREFIX + name: adapter.others[name]}, dtype), {})]

    jobs = [partial(of_site, site) for site in adapter.sites]
    jobs += [partial(of_other, name) for name in adapter.others]
    with fresh(folder, overwrite=overwrite) as new:
        with workplace(new.with_name(f"{new.name}{PARTS}"), None) as work:
            (parts,) = computed(work, jobs, 1, dtype)
            write_adapter(new, parts, adapter.config)


def all_rounded(tensors: Mapping[str, Array], dtype: str) -> dict[str, Array]:
    """Return tensors by name in the numbers of a type, see `rounded`."""
    return {name: rounded(name, X, dtype) for name, X in tensors.items()}


def write_adapter(folder: Path, parts: Sequence[Part], config: Mapping[str, Any]) -> None:
    """Write the two files of an adapter into a folder, from its parts and peft's settings."""
    ranks = {p.numbers["site"]: int(p.numbers["rank"]) for p in parts if "site" in p.numbers}
    config = _portable(config, ranks)
    tensors = in_order(parts)
    numbers = ((name.removeprefix(PREFIX), X.numbers()) for name, X in tensors.items())
    metadata = {"format": "pt", SUM: sum_of_stream(numbers, config)}
    shapes = {name: X.shape for name, X in tensors.items()}
    (dtype,) = {X.dtype for X in tensors.values()}
    with (folder / WEIGHTS).open("wb") as file:
        stored = chain.from_iterable(map(chunks, tensors.values()))
        write_tensors(file, shapes, dtype, stored, metadata)
    text = json.dumps(config, indent=2, sort_keys=True)
    (folder / CONFIG).write_text(text + "\n", encoding="utf-8")


def _portable(config: Mapping[str, Any], ranks: Mapping[str, int]) -> dict[str, Any]:
    """Return peft's settings for these ranks and scale one, the base model by name, not by path."""
    r = max(ranks.values())
    patterns = _patterns(ranks, r)
    own = {
        "r": r,
        "lora_alpha": r,
        "rank_pattern": patterns,
        "alpha_pattern": patterns,
        "use_rslora": False,
        "init_lora_weights": True,
        "base_model_name_or_path": base_name(config.get("base_model_name_or_path")) or None,
    }
    return {**config, **own}


def _patterns(ranks: Mapping[str, int], r: int) -> dict[str, int]:
    """Return the ranks that are not r, by patterns that match their site alone."""
    own = {site: rank for site, rank in sorted(ranks.items()) if rank != r}
    # as peft itself writes them, unless one also matches the end of another name
    if all(PLAIN.fullmatch(site) for site in own) and not any(
        re.match(rf"(.*\.)?({site})$", other) for site in own for other in ranks if other != site
    ):
        return own
    return {f"^{re.escape(site)}": rank for site, rank in own.items()}
