"""The settings of an adapter, as peft writes them: what they must be, and the scale of a site."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from decaf_theory.adapters.patterns import PatternError, matches
from decaf_theory.files import from_json

CONFIG = "adapter_config.json"
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
    **{"task_type": str, "revision": str},
}
# initializations that subtract their start from the base weights, by the prefix of their name
REBASED = ("pissa", "corda", "olora", "loftq", "lora_ga")


def read_config(folder: Path) -> dict[str, Any]:
    """Return the settings in a folder; ValueError if they are not of plain LoRA."""
    path = folder / CONFIG
    try:
        config: dict[str, Any] = from_json(path.read_bytes())
    except ValueError as error:
        raise ValueError(f"{path}: not valid JSON: {error}") from None
    kind = config.get("peft_type") if isinstance(config, dict) else None
    if kind != "LORA":
        raise ValueError(f"{path}: peft_type must be 'LORA', got {kind!r}")
    require_plain(folder, path, config)
    return config


def require_plain(adapter: Path, source: Path | str, config: Mapping[str, Any]) -> None:
    """Raise ValueError if settings that `source` holds are of another kind than plain LoRA."""
    for key, reason in VARIANTS.items():
        if config.get(key):
            raise ValueError(
                f"{adapter}: {reason} ({key}), so its update is not s B A: unsupported"
            )
    for key, kind in KINDS.items():
        if not isinstance(config.get(key) or kind(), kind):
            name = "an object of numbers" if kind is dict else f"of type {kind.__name__}"
            raise ValueError(f"{source}: {key} must be {name}, got {config[key]!r}")
    start = config.get("init_lora_weights")
    if isinstance(start, str) and start.lower().startswith(REBASED):
        raise ValueError(
            f"{adapter}: init_lora_weights = {start!r} changed the base weights, so its update is "
            f"not s B A; save it with peft's path_initial_model_for_weight_conversion"
        )


def rank_and_scale(adapter: Path, config: Mapping[str, Any], site: str) -> tuple[int, float]:
    """Return r and alpha / r, with rsLoRA alpha / sqrt(r); ValueError: not numbers, r not >= 1."""
    r = _number(adapter, config, "rank_pattern", "r", site)
    alpha = _number(adapter, config, "alpha_pattern", "lora_alpha", site)
    if r != int(r) or r < 1:
        raise ValueError(f"{adapter}: site {site}: r must be a positive integer, got {r}")
    return int(r), alpha / math.sqrt(r) if config.get("use_rslora") else alpha / r


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


def _number(adapter: Path, config: Mapping[str, Any], patterns: str, key: str, site: str) -> float:
    """Return a setting of one site as a finite number."""
    try:
        value = pattern_value(config.get(patterns), site, config.get(key, 8))  # peft's default
        fits = isinstance(value, int | float) and not isinstance(value, bool)
        if fits and math.isfinite(value):
            return float(value)
    except PatternError as error:
        raise ValueError(f"{adapter}: {patterns}: {error}") from None
    except OverflowError:  # of an integer with more than 308 digits
        value = "an integer beyond float64"
    raise ValueError(f"{adapter}: site {site}: {key} must be a number, got {value!r}")
