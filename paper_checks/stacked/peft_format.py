"""Agents of a stacked model <-> adapter folders in peft's format."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from decaf_theory.adapters import Adapter, load_agents, save
from decaf_theory.arrays import Array
from decaf_theory.lowrank import Factors, pad_rank
from paper_checks.stacked.layers import StackedLinear
from paper_checks.stacked.stacking import Stacked


def export(
    stacked: Stacked, agent: int, folder: str | Path, *, base: str, overwrite: bool = False
) -> None:
    """Write one agent's adapter, heads included, as a folder that peft loads.

    `base` names the base model; of a local path the last component is kept. Float32, with the LoRA
    scale and gates folded into B, and alpha = r. The folder appears whole or not at all.
    ValueError: no such agent, a site with something merged into W0, which an adapter cannot hold,
    or a folder that `decaf_theory.adapters.save` must not write.
    """
    if not 0 <= agent < stacked.agents:
        raise ValueError(f"agent must be in 0 .. {stacked.agents - 1}, got {agent}")
    for name, site in stacked.sites.items():
        if site.merged is not None and bool(site.merged.any()):
            raise ValueError(
                f"agent {agent} cannot be written as an adapter: the method has merged into W0 at "
                f"site {name}, and B A is only what was trained since; its checkpoint holds both"
            )
    sites = {
        name: Factors(stacked.sites[name].scale * float64(B[agent]), float64(A[agent]))
        for name, (B, A) in stacked.pairs().items()
    }
    heads = {name: float64(X[agent]) for name, X in head_tensors(stacked).items()}
    first = next(iter(stacked.sites.values()))
    config = {
        "peft_type": "LORA",
        "task_type": None,
        "base_model_name_or_path": base,
        "target_modules": list(stacked.targets),
        "modules_to_save": list(stacked.saved) or None,
        "lora_dropout": getattr(first.dropout, "p", 0.0),
        "bias": "none",
        "fan_in_fan_out": False,
        "inference_mode": True,
    }
    save(
        Adapter(f"agent {agent}", config, sites, dict.fromkeys(sites, 1.0), heads),
        folder,
        overwrite=overwrite,
    )


def load_into(stacked: Stacked, folders: Sequence[str | Path]) -> None:
    """Start the agents from adapters, one folder per agent, heads included.

    The adapters' scales go into B, so that the updates are theirs whatever `scale` the sites have.
    Directions that an adapter of smaller rank lacks keep their row of A, with B = 0 there: the
    update is the adapter's, and they can still train. ValueError: the wrong number of folders, or
    sites, shapes, ranks or heads that do not fit.
    """
    if len(folders) != stacked.agents:
        raise ValueError(
            f"need {stacked.agents} adapter folders, one per agent, got {len(folders)}"
        )
    agents = load_agents(folders)
    heads = head_tensors(stacked)
    _require_equal_names(f"{agents.names[0]}: site", set(agents.factors), set(stacked.sites))
    _require_equal_names(f"{agents.names[0]}: tensor", set(agents.others), set(heads))
    starts = {
        name: _fitted(name, factors, stacked.sites[name])
        for name, factors in agents.factors.items()
    }
    for name, X in agents.others.items():
        _require_shape(f"tensor {name}", X.shape[1:], tuple(heads[name].shape[1:]))
    with torch.no_grad():  # nothing is changed before all of it has been checked
        for name, (B, A) in starts.items():
            stacked.sites[name].B.copy_(torch.from_numpy(B))
            stacked.sites[name].A.copy_(torch.from_numpy(A))
        for name, X in agents.others.items():
            heads[name].copy_(torch.from_numpy(X))


def head_tensors(stacked: Stacked) -> dict[str, Tensor]:
    """Return the parameters of the heads, [N, ...], by peft's names."""
    return {
        f"{name}.{part}": X
        for name, head in stacked.heads.items()
        for part, X in head.named_parameters()
    }


def float64(X: Tensor) -> Array:
    """Return a tensor as a NumPy array in float64."""
    return X.detach().cpu().double().numpy()


def _fitted(name: str, factors: Factors, site: StackedLinear) -> Factors:
    """Return the factors at the site's rank and scale; ValueError if they do not fit."""
    d, k = site.B.shape[-2], site.A.shape[-1]
    _require_shape(f"site {name}", factors.shape, (d, k))
    rank = site.A.shape[-2]
    if factors.rank > rank:
        raise ValueError(f"site {name}: adapters of rank {factors.rank} do not fit in rank {rank}")
    B, A = pad_rank(factors, rank)
    missing = ~np.any(A, axis=-1)  # [N, r]: rows that contribute nothing to the update
    return Factors(
        np.where(missing[:, None, :], 0.0, B / site.scale),
        np.where(missing[:, :, None], float64(site.A), A),
    )


def _require_equal_names(what: str, given: set[str], wanted: set[str]) -> None:
    for names, rule in (
        (wanted - given, "is missing"),
        (given - wanted, "has no place in the model"),
    ):
        if names:
            raise ValueError(f"{what} {min(names)} {rule} ({len(names)} such)")


def _require_shape(what: str, given: tuple[int, ...], wanted: tuple[int, ...]) -> None:
    if tuple(given) != wanted:
        raise ValueError(f"{what} is {tuple(given)} in the adapters and {wanted} in the model")
