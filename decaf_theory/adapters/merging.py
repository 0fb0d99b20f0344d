"""Mix the adapters of several agents into one, and write an adapter in peft's file format."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any
from uuid import uuid4

import numpy as np

from decaf_theory.adapters.agents import Agents, base_name, count
from decaf_theory.adapters.namings import PREFIX
from decaf_theory.adapters.reading import CONFIG, WEIGHTS, Adapter
from decaf_theory.adapters.sealing import in_order, sum_of_adapter
from decaf_theory.arrays import Array, integer
from decaf_theory.files import place, remove_torn, temporary, torn
from decaf_theory.lowrank import Factors, balance, pad_rank
from decaf_theory.methods import METHODS
from decaf_theory.sums import SUM
from decaf_theory.tsvd import tsvd_of_mix

MERGES = ("decaf", "dlora")
ASIDE = "-old"  # ends the name of a folder that is being replaced


def merge(
    agents: Agents,
    *,
    weights: Sequence[float] | None = None,
    method: str = "decaf",
    rank: int | None = None,
) -> Adapter:
    """Return one adapter, the mix of the agents with `weights` (equal weights by default).

    "decaf" mixes the products, TSVD_r(sum_j pi_j B_j A_j); `rank` is r at every site, by default
    the largest of the agents' ranks there, at most min(d, k). "dlora" averages the factors, with
    the scale in B. Heads and biases are averaged in both. The factors returned are balanced. Rank
    directions that the mix does not use are zero in both factors, and training does not revive
    them (T23). ValueError: weights that are not a probability row, method, rank.
    """
    if method not in MERGES:
        raise ValueError(f"method must be one of {MERGES}, got {method!r}")
    if method == "dlora" and rank is not None:
        raise ValueError("rank belongs to method 'decaf': averaged factors keep the agents' rank")
    row = check_weights(weights, len(agents.names))[None, :]
    sites = {site: _mix(factors, row, method, rank) for site, factors in agents.factors.items()}
    others = {name: np.tensordot(row[0], X, axes=1) for name, X in agents.others.items()}
    scales = dict.fromkeys(sites, 1.0)
    return Adapter(f"{method} of {count(len(agents.names))}", agents.config, sites, scales, others)


def check_weights(weights: Sequence[float] | None, N: int) -> Array:
    """Return the agents' weights [N], equal if None; ValueError: not a probability row."""
    if weights is None:
        return np.full(N, 1.0 / N)
    given = np.asarray(weights)
    if given.dtype.kind not in "fiu":
        raise ValueError(f"weights must be {N} numbers, one per agent, got {weights!r}")
    row = given.astype(np.float64)
    if row.shape != (N,):
        raise ValueError(f"weights must be {N} numbers, one per agent, got {row.size}")
    if not np.all(np.isfinite(row)) or np.any(row < 0):
        raise ValueError(f"weights must be nonnegative numbers, got {row.tolist()}")
    # room for decimals that were typed with ten digits, or for the rounding of what they came in
    room = N * float(np.finfo(given.dtype).eps) if given.dtype.kind == "f" else 0.0
    if abs(row.sum() - 1.0) > max(1e-9, room):
        raise ValueError(f"weights must sum to one, got sum {row.sum():.10g}; divide by it")
    return row


def _mix(factors: Factors, row: Array, method: str, rank: int | None) -> Factors:
    """Return the balanced factors of one site's mix."""
    if METHODS[method].space == "products":
        r = min(factors.rank, *factors.shape) if rank is None else integer("rank", rank)
        mixed = tsvd_of_mix(factors, row, r).factors
    else:
        mixed = balance(METHODS[method].mix(factors, row, 0))
    return Factors(mixed.B[0], mixed.A[0])


def save(adapter: Adapter, folder: str | Path, *, overwrite: bool = False) -> None:
    """Write an adapter that peft loads: float32, one rank r at all sites, alpha = r (scale one).

    Sites of smaller rank are zero-padded. The rounding to float32 changes a product by at most
    2^-23 |B|_F |A|_F. The folder appears whole or not at all, with a checksum in the weights'
    metadata; one that exists already is replaced only under `overwrite`, and only if it holds
    nothing but an adapter. Of a link, the folder it points to is written. ValueError: that rule, or
    a number beyond float32. OSError: a place that cannot be written.
    """
    from safetensors.numpy import save as to_bytes

    folder = Path(os.path.realpath(place(folder)))
    recover(folder)
    check_target(folder, overwrite=overwrite)
    r = max(factors.rank for factors in adapter.sites.values())
    tensors = _tensors(adapter, r)
    made = [path for path in folder.absolute().parents if not path.exists()]
    fresh = folder.with_name(f"{temporary(folder)}{uuid4().hex}")
    config = _portable(adapter.config, r)
    named = {name.removeprefix(PREFIX): X for name, X in tensors.items()}
    metadata = {"format": "pt", SUM: sum_of_adapter(named, config)}
    try:
        fresh.mkdir(parents=True)
        (fresh / WEIGHTS).write_bytes(in_order(to_bytes(tensors, metadata=metadata)))
        text = json.dumps(config, indent=2, sort_keys=True)
        (fresh / CONFIG).write_text(text + "\n", encoding="utf-8")
        _replace(fresh, folder)
    except BaseException as error:
        shutil.rmtree(fresh, ignore_errors=True)
        for path in made:  # inmost first
            with suppress(OSError):
                path.rmdir()
        if isinstance(error, OSError):
            raise _unwritable(folder, error) from error
        raise


def recover(folder: Path) -> None:
    """Undo what a process that was killed while it replaced a folder left behind."""
    for left in torn(folder):
        if left.name.endswith(ASIDE) and not folder.exists():
            left.rename(folder)
    remove_torn(folder)


def check_target(folder: str | Path, *, overwrite: bool = False) -> None:
    """Raise ValueError or OSError if `save` could not or must not write to this folder."""
    folder = place(folder)
    if folder.is_dir() and any(folder.iterdir()):
        foreign = sorted(path.name for path in folder.iterdir() if not _is_of_an_adapter(path))
        if foreign:
            raise ValueError(f"{folder}: holds {foreign[0]!r}, which is not part of an adapter")
        if not overwrite:
            raise ValueError(f"{folder}: exists already; overwrite it (--force) or name another")
    elif folder.exists() and not folder.is_dir():
        raise ValueError(f"{folder}: is a file; name a folder")
    above = next(path for path in folder.absolute().parents if path.exists())
    try:  # and not os.access, which root passes everywhere
        Path(tempfile.mkdtemp(dir=above)).rmdir()
    except OSError as error:
        raise _unwritable(folder, error) from error


def _is_of_an_adapter(path: Path) -> bool:
    """Return whether a path is a plain file with one of the two names: no folder, no link."""
    return path.name in (CONFIG, WEIGHTS) and path.is_file() and not path.is_symlink()


def _unwritable(folder: Path, error: OSError) -> OSError:
    """Return an error of the same kind that says in words why a target cannot be written."""
    reason = error.strerror or str(error)
    return type(error)(f"{folder}: cannot be written: {reason}; name another folder (--out)")


def _replace(fresh: Path, folder: Path) -> None:
    """Move `fresh` to `folder`; what was there is put aside first and removed last."""
    if not folder.exists():
        fresh.rename(folder)
        return
    aside = fresh.with_name(f"{fresh.name}{ASIDE}")
    folder.rename(aside)
    try:
        fresh.rename(folder)
    except OSError:
        aside.rename(folder)
        raise
    shutil.rmtree(aside)


def _tensors(adapter: Adapter, r: int) -> dict[str, Array]:
    """Return the float32 tensors by peft's names; ValueError: beyond float32, or lost in it."""
    tensors = {PREFIX + name: X for name, X in adapter.others.items()}
    for site, factors in adapter.sites.items():
        B, A = pad_rank(factors, r)
        tensors[f"{PREFIX}{site}.lora_B.weight"] = B
        tensors[f"{PREFIX}{site}.lora_A.weight"] = A
    largest = np.finfo(np.float32).max
    for name, X in tensors.items():
        if not np.all(np.abs(X) <= largest):
            raise ValueError(f"tensor {name} holds numbers beyond float32; scale the adapters down")
        if X.any() and not X.astype(np.float32).any():
            raise ValueError(f"tensor {name} is zero in float32; scale the adapters up")
    # and not ascontiguousarray alone, which makes a scalar a vector of one
    return {
        name: np.ascontiguousarray(X, dtype=np.float32).reshape(X.shape)
        for name, X in tensors.items()
    }


def _portable(config: Mapping[str, Any], r: int) -> dict[str, Any]:
    """Return peft's settings for rank r and scale one, the base model by name, not by path."""
    own = {
        "r": r,
        "lora_alpha": r,
        "rank_pattern": {},
        "alpha_pattern": {},
        "use_rslora": False,
        "init_lora_weights": True,
        "base_model_name_or_path": base_name(config.get("base_model_name_or_path")) or None,
    }
    return {**config, **own}
