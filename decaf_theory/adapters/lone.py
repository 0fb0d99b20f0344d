"""Files of adapters without peft's settings next to them, as diffusers and sd-scripts write them.

A site's scale is alpha / r. alpha is a tensor of the file (sd-scripts), or follows from peft's
settings in the metadata (diffusers), or is nowhere: then both take r for it, and the scale is one.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from decaf_theory.adapters import pairing
from decaf_theory.adapters.namings import (
    DIFFUSERS,
    KOHYA,
    KOHYA_FORM,
    LONE_FORMS,
    PEFT,
    SETTINGS,
    config_of,
    parts,
)
from decaf_theory.adapters.pairing import Pairs, Stated
from decaf_theory.adapters.records import Opened
from decaf_theory.adapters.sealing import require_sum
from decaf_theory.adapters.settings import CONFIG, rank_and_scale, require_plain
from decaf_theory.adapters.stored import ALPHA, INDEX, Tensor, whole
from decaf_theory.terminal import printable

FILE = ".safetensors"
STATED = ("alpha", "lora_alpha", "network_alpha")  # in metadata, of some trainers
PICKLES = (".bin", ".pt", ".pth", ".ckpt")


def file_of(place: Path) -> Path:
    """Return a file without peft's settings, or the only one of a folder; ValueError: no such."""
    if not place.exists():
        raise ValueError(f"{place}: no such folder; give one folder per trained adapter")
    if place.is_dir():
        return _only(place)
    if place.suffix in PICKLES:
        raise pickled(place.parent, place.name)
    if not place.name.endswith((FILE, FILE + INDEX)):
        raise ValueError(f"{place}: must be a folder or a file of safetensors")
    return place


def _only(folder: Path) -> Path:
    found = sorted(folder.glob(f"*{FILE}{INDEX}")) or sorted(folder.glob(f"*{FILE}"))
    found = [path for path in found if not path.name.startswith(PEFT.weights)]
    if not found:
        raise ValueError(f"{folder}: not an adapter folder: {CONFIG} is missing")
    if len(found) > 1:
        first, second, *_ = (path.name for path in found)
        raise ValueError(
            f"{folder}: holds {first} and {second}, and no {CONFIG}; name the file that is meant"
        )
    return found[0]


def pickled(folder: Path, name: str) -> ValueError:
    """Return the error that a file is a pickle."""
    return ValueError(
        f"{folder}: {name} is a pickle, which can run code and is not read; "
        f"load it in peft and save it again with safe_serialization=True"
    )


def opened(path: Path) -> Opened:
    """Return the adapter of a file, or of an index of several; ValueError as `reading.opened`."""
    stored, metadata = whole(path)
    config = config_of(path, metadata)
    require_sum(path, metadata, stored, config)
    tensors = pairing.plain_names(path, stored, "")
    alphas = {name: tensors.pop(name) for name in list(tensors) if name.endswith(ALPHA)}
    pairs, others = pairing.split(path, tensors, LONE_FORMS)
    _require_known(path, pairs, others)
    sites = {
        name: pairing.site(path, name, pair, stated)
        for (name, pair), stated in zip(
            pairs.items(), _stated(path, config, alphas, pairs), strict=True
        )
    }
    silent = not alphas and not parts(config)
    if silent:
        _require_one(path, metadata, pairs)
    remark = f"{printable(path)} states no alpha: the scale of its matrices is taken as one."
    forms = {pair.form for pair in pairs.values()}
    naming = KOHYA if forms == {KOHYA_FORM} else DIFFUSERS
    return Opened(printable(path), config, naming, sites, {}, (remark,) if silent else ())


def _require_known(path: Path, pairs: Pairs, others: Mapping[str, Tensor]) -> None:
    """Raise ValueError unless a file holds factors alone, in a naming that needs no settings."""
    if others:
        raise ValueError(f"{path}: tensor {min(others)} is neither a factor nor an alpha")
    if not pairs:
        raise ValueError(f"{path}: holds no factors by the names of diffusers or sd-scripts")
    if any(site.startswith(PEFT.prefix) for site in pairs):
        raise ValueError(
            f"{path}: its names are peft's, and {CONFIG}, which states the scale, is not next to it"
        )


def _require_one(path: Path, metadata: Mapping[str, str], pairs: Pairs) -> None:
    """Raise ValueError if the metadata state an alpha that is not r: few loaders read it there."""
    for key in STATED:
        if key in metadata and any(metadata[key] not in _texts(pair.r) for pair in pairs.values()):
            raise ValueError(
                f"{path}: its metadata say {key} = {metadata[key]!r}, which few loaders read, and "
                f"no tensor does; store alpha as tensors, or scale B by alpha / r and remove it"
            )


def _texts(r: int) -> tuple[str, str]:
    """Return how metadata may write an alpha of r."""
    return str(r), str(float(r))


def _stated(
    path: Path, config: Mapping[str, Any], alphas: Mapping[str, Tensor], pairs: Pairs
) -> list[Stated]:
    """Return what a file says of the rank and the scale of each of its sites."""
    if parts(config) and alphas:
        raise ValueError(
            f"{path}: alpha is stated twice, by {min(alphas)} and by {SETTINGS}; keep one of them"
        )
    if parts(config):
        return [_by_settings(path, config, site) for site in pairs]
    lost = sorted(alphas.keys() - {site + ALPHA for site in pairs})
    if lost:
        raise ValueError(f"{path}: tensor {lost[0]} belongs to no site")
    if alphas:
        return [_by_tensor(path, site, alphas.get(site + ALPHA), pairs[site].r) for site in pairs]
    return [Stated(pair.r, 1.0, pair.form.label("A")) for pair in pairs.values()]


def _by_settings(path: Path, config: Mapping[str, Any], site: str) -> Stated:
    """Return what peft's settings of the part of the model, such as `unet`, say of a site."""
    part = next((part for part in parts(config) if site.startswith(part)), None)
    if part is None:
        raise ValueError(f"{path}: site {site}: {SETTINGS} holds no r for this part of the model")
    own = {key.removeprefix(part): value for key, value in config.items() if key.startswith(part)}
    require_plain(path, f"{path}: {SETTINGS}", own)
    return Stated(*rank_and_scale(path, own, site.removeprefix(part)), SETTINGS)


def _by_tensor(path: Path, site: str, alpha: Tensor | None, r: int) -> Stated:
    """Return the scale alpha / r of a site from its tensor; ValueError: none, not one number, 0."""
    if alpha is None:
        raise ValueError(f"{path}: site {site}: has no tensor alpha, which other sites have")
    if alpha.shape not in ((), (1,)):
        raise ValueError(f"{path}: site {site}: alpha must be one number, got shape {alpha.shape}")
    value = float(alpha.read().reshape(()))
    if value == 0:
        raise ValueError(
            f"{path}: site {site}: alpha is 0, which sd-scripts take for r, "
            f"and others for 0; write r"
        )
    return Stated(r, value / r, "alpha", alpha=True)
