"""One trained LoRA adapter -> its factors, with the scale folded into B."""

from __future__ import annotations

from pathlib import Path

from decaf_theory.adapters import lone, pairing
from decaf_theory.adapters.namings import PEFT, PEFT_FORMS
from decaf_theory.adapters.pairing import Stated
from decaf_theory.adapters.records import Adapter, Opened
from decaf_theory.adapters.sealing import require_sum
from decaf_theory.adapters.settings import CONFIG, rank_and_scale, read_config
from decaf_theory.adapters.stored import INDEX, whole
from decaf_theory.files import place
from decaf_theory.terminal import printable

WEIGHTS, PICKLE = PEFT.weights, "adapter_model.bin"

__all__ = ["CONFIG", "WEIGHTS", "Adapter", "Opened", "load", "opened"]


def load(folder: str | Path) -> Adapter:
    """Return an adapter, all of it read; ValueError: what `opened` raises, nan, inf.

    Half-precision files are read exactly.
    """
    return opened(folder).read()


def opened(folder: str | Path) -> Opened:
    """Return the adapter of a folder that peft or diffusers wrote, or of a file of safetensors.

    With adapter_config.json the scale of a site is alpha / r, with rsLoRA alpha / sqrt(r), r and
    alpha by `pattern_value`; without it alpha is a tensor, or in the file's metadata, or r. With
    fan_in_fan_out peft adds (B A)' to a weight that is stored transposed: the factors are the same.
    A checksum in the metadata is compared, one tensor in memory at a time. ValueError names place,
    site and rule: not an adapter, a kind other than plain LoRA, a file that is cut short, a factor
    without its partner, shapes and ranks that do not fit.
    """
    folder = place(folder)
    if folder.name in (WEIGHTS, WEIGHTS + INDEX) and (folder.parent / CONFIG).is_file():
        folder = folder.parent
    if (folder / CONFIG).is_file():
        return _of_peft(folder)
    return lone.opened(lone.file_of(folder))


def _of_peft(folder: Path) -> Opened:
    """Return the adapter of a folder with peft's settings."""
    config = read_config(folder)
    path = _weights(folder)
    stored, metadata = whole(path)
    tensors = pairing.plain_names(path, stored, PEFT.prefix)
    require_sum(path, metadata, tensors, config)
    pairs, others = pairing.split(folder, tensors, PEFT_FORMS)
    if not pairs:
        raise ValueError(f"{folder}: {path.name} holds no lora_A and lora_B tensors")
    sites = {
        site: pairing.site(
            folder, site, pair, Stated(*rank_and_scale(folder, config, site), CONFIG)
        )
        for site, pair in pairs.items()
    }
    return Opened(printable(folder), config, PEFT, sites, others)


def _weights(folder: Path) -> Path:
    """Return the file of the tensors that go with peft's settings, or the index of several."""
    for name in (WEIGHTS, WEIGHTS + INDEX):
        if (folder / name).is_file():
            return folder / name
    if (folder / PICKLE).is_file():
        raise lone.pickled(folder, PICKLE)
    raise ValueError(f"{folder}: not an adapter folder: {WEIGHTS} is missing")
