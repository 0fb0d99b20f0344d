"""One trained LoRA adapter in peft's file format -> its factors, with the scale folded into B."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from decaf_theory.adapters.namings import PEFT, PREFIX, Naming, Site, renamed
from decaf_theory.adapters.patterns import PatternError, matches
from decaf_theory.adapters.sealing import require_sum
from decaf_theory.adapters.stored import Tensor, stored
from decaf_theory.arrays import Array
from decaf_theory.files import from_json, place
from decaf_theory.lowrank import Factors
from decaf_theory.terminal import printable

CONFIG, WEIGHTS, PICKLE = "adapter_config.json", "adapter_model.safetensors", "adapter_model.bin"
FACTOR = re.compile(r"(?P<site>.+)\.lora_(?P<factor>[AB])\.weight")

# settings of peft under which the update is not s B A alone, each with what it adds
VARIANTS = {
    "use_dora": "DoRA adds a magnitude vector",
    "use_qalora": "QALoRA pools the input of A",
    "use_bdlora": "BD-LoRA makes a factor block-diagonal over devices",
    "kasa_config": "KaSA adds a diagonal between the factors",
    "monteclora_config": "MonteCLoRA samples the factors",
    "arrow_config": "Arrow routes between adapters",
    "alora_invocation_tokens": "activated LoRA adds the update at some tokens only",
    "lora_bias": "lora_bias adds a bias to B",
    "target_parameters": "target_parameters adapts stacked parameters, not linear layers",
    "trainable_token_indices": "trainable_token_indices adapts rows of an embedding",
}
# the settings that are read, with their kinds in JSON; null and what is missing are the default
KINDS = {
    **{"rank_pattern": dict, "alpha_pattern": dict},
    **{"use_rslora": bool, "fan_in_fan_out": bool, "base_model_name_or_path": str},
}
# initializations that subtract their start from the base weights, by the prefix of their name
REBASED = ("pissa", "corda", "olora", "loftq", "lora_ga")


@dataclass(frozen=True)
class Adapter:
    """A LoRA adapter: W = W0 + B A at every site, and what was trained along with it.

    name: where it comes from. config: peft's settings. sites: float64 factors B [d, r], A [r, k] by
    module name, the LoRA scale folded into B. scales: that scale. others: the tensors that are not
    factors (heads of `modules_to_save`, biases), by name.
    """

    name: str
    config: Mapping[str, Any]
    sites: dict[str, Factors]
    scales: dict[str, float]
    others: dict[str, Array]


@dataclass(frozen=True)
class Opened:
    """An adapter whose header and settings are read and checked, and its numbers are not.

    naming: how its file names the factors. Otherwise as `Adapter`, each part with `read()`.
    """

    name: str
    config: Mapping[str, Any]
    naming: Naming
    sites: dict[str, Site]
    others: dict[str, Tensor]

    def read(self) -> Adapter:
        """Return the adapter with its numbers; ValueError names what is not finite."""
        return Adapter(
            self.name,
            self.config,
            {name: site.read() for name, site in self.sites.items()},
            {name: site.scale for name, site in self.sites.items()},
            {name: tensor.read() for name, tensor in self.others.items()},
        )


def load(folder: str | Path) -> Adapter:
    """Return the adapter of a folder, all of it read; ValueError: what `opened` raises, nan, inf.

    Half-precision files are read exactly.
    """
    return opened(folder).read()


def opened(folder: str | Path) -> Opened:
    """Return the adapter of a folder that holds adapter_config.json and adapter_model.safetensors.

    The scale of a site is alpha / r, with rsLoRA alpha / sqrt(r); r and alpha by `pattern_value`.
    With fan_in_fan_out peft adds (B A)' to a weight that is stored transposed: the factors are the
    same. A checksum in the metadata is compared, one tensor in memory at a time. ValueError names
    folder, site and rule: not an adapter folder, a kind other than plain LoRA, a file that is cut
    short, a factor without its partner, shapes and ranks that do not fit.
    """
    folder = place(folder)
    config = _read_config(folder)
    tensors, metadata = _stored(folder)
    require_sum(folder / WEIGHTS, metadata, tensors, config)
    pairs, others = _split(folder, tensors)
    sites = {site: _site(folder, site, pair, config) for site, pair in pairs.items()}
    return Opened(printable(folder), config, PEFT, sites, others)


def pattern_value(patterns: Mapping[str, Any] | None, site: str, default: Any) -> Any:
    """Return the entry of a rank_pattern or alpha_pattern for a site, by peft's rule.

    Keys are regular expressions; the first that matches the site's whole name, or its end after a
    dot, counts. A key that is literally the name counts too; if none does, it is the default.
    """
    patterns = patterns or {}
    for key, value in patterns.items():
        if matches(rf"(.*\.)?({key})$", site):
            return value
    return patterns.get(site, default)


def _read_config(folder: Path) -> dict[str, Any]:
    """Return the settings of a plain LoRA adapter; ValueError if they are of another kind."""
    if not folder.is_dir():
        raise ValueError(f"{folder}: no such folder; give one folder per trained adapter")
    path = folder / CONFIG
    if not path.is_file():
        raise ValueError(f"{folder}: not an adapter folder: {CONFIG} is missing")
    try:
        config: dict[str, Any] = from_json(path.read_bytes())
    except ValueError as error:
        raise ValueError(f"{path}: not valid JSON: {error}") from None
    kind = config.get("peft_type") if isinstance(config, dict) else None
    if kind != "LORA":
        raise ValueError(f"{path}: peft_type must be 'LORA', got {kind!r}")
    for key, reason in VARIANTS.items():
        if config.get(key):
            raise ValueError(f"{folder}: {reason} ({key}), so its update is not s B A: unsupported")
    for key, kind in KINDS.items():
        if not isinstance(config.get(key) or kind(), kind):
            name = "an object of numbers" if kind is dict else f"of type {kind.__name__}"
            raise ValueError(f"{path}: {key} must be {name}, got {config[key]!r}")
    start = config.get("init_lora_weights")
    if isinstance(start, str) and start.lower().startswith(REBASED):
        raise ValueError(
            f"{folder}: init_lora_weights = {start!r} changed the base weights, so its update is "
            f"not s B A; save it with peft's path_initial_model_for_weight_conversion"
        )
    return config


def _stored(folder: Path) -> tuple[dict[str, Tensor], Mapping[str, str]]:
    """Return every tensor of the weights file by name without peft's prefix, and the metadata."""
    path = folder / WEIGHTS
    if not path.is_file() and (folder / PICKLE).is_file():
        raise ValueError(
            f"{folder}: {PICKLE} is a pickle, which can run code and is not read; "
            f"load it in peft and save it again with safe_serialization=True"
        )
    if not path.is_file():
        raise ValueError(f"{folder}: not an adapter folder: {WEIGHTS} is missing")
    tensors, metadata = stored(path)
    for name in tensors:
        if name != (short := name.removeprefix(PREFIX)) and short in tensors:
            raise ValueError(f"{path}: tensors {name} and {short} are one; keep one of them")
    return {name.removeprefix(PREFIX): tensor for name, tensor in tensors.items()}, metadata


def _split(
    folder: Path, tensors: Mapping[str, Tensor]
) -> tuple[dict[str, dict[str, Tensor]], dict[str, Tensor]]:
    """Return the factors by site and letter, and all other tensors."""
    found: dict[str, dict[str, Tensor]] = {}
    others = {}
    for name, tensor in tensors.items():
        match = FACTOR.fullmatch(name)
        if match:
            site, letter = match["site"], match["factor"]
            named = renamed(tensor, f"{folder}: site {site}: lora_{letter}")
            found.setdefault(site, {})[letter] = named
        elif ".lora_" in name:
            reason = "DoRA's" if "lora_magnitude_vector" in name else "neither lora_A nor lora_B"
            raise ValueError(
                f"{folder}: tensor {name} is {reason}: only LoRA of linear layers is supported"
            )
        else:
            others[name] = renamed(tensor, f"{folder}: tensor {name}")
    if not found:
        raise ValueError(f"{folder}: {WEIGHTS} holds no lora_A and lora_B tensors")
    for site, pair in found.items():
        if len(pair) == 1:
            (has,) = pair
            raise ValueError(f"{folder}: site {site}: lora_{has} has no partner in the file")
    return found, others


def _site(folder: Path, name: str, pair: Mapping[str, Tensor], config: Mapping[str, Any]) -> Site:
    """Return one site; ValueError unless its shapes are those of the rank in the settings."""
    B, A = pair["B"], pair["A"]
    r = _number(folder, config, "rank_pattern", "r", name)
    alpha = _number(folder, config, "alpha_pattern", "lora_alpha", name)
    if r != int(r) or r < 1:
        raise ValueError(f"{folder}: site {name}: r must be a positive integer, got {r}")
    if len(B.shape) != 2 or len(A.shape) != 2 or 0 in (*B.shape, *A.shape):
        raise ValueError(
            f"{folder}: site {name}: lora_B and lora_A must be matrices d x r and r x k, "
            f"got shapes {B.shape} and {A.shape}"
        )
    if B.shape[1] != r or A.shape[0] != r:
        raise ValueError(
            f"{folder}: site {name}: {CONFIG} says r = {int(r)}, "
            f"but lora_B is {B.shape[0]} x {B.shape[1]} and lora_A {A.shape[0]} x {A.shape[1]}"
        )
    scale = alpha / math.sqrt(r) if config.get("use_rslora") else alpha / r
    return Site(name, (B.shape[0], A.shape[1]), int(r), scale, B, A)


def _number(folder: Path, config: Mapping[str, Any], patterns: str, key: str, site: str) -> float:
    """Return a setting of one site as a finite number."""
    try:
        value = pattern_value(config.get(patterns), site, config.get(key, 8))  # peft's default
        fits = isinstance(value, int | float) and not isinstance(value, bool)
        if fits and math.isfinite(value):
            return float(value)
    except PatternError as error:
        raise ValueError(f"{folder}: {patterns}: {error}") from None
    except OverflowError:  # of an integer with more than 308 digits
        value = "an integer beyond float64"
    raise ValueError(f"{folder}: site {site}: {key} must be a number, got {value!r}")
