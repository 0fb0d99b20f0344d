"""Settings that a run would ignore, so that it refuses them: nobody should believe in their effect.

mix.graph and mix.zero_directions are not among them: a sweep gives one of each to all its methods,
those that have no graph or do not truncate as well. Nor are the settings of partitions that are not
chosen, which a sweep over partitions chooses later.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

from paper_checks.rules import IMAGE_SETS, KINDS, PRETRAINING, ConfigError

if TYPE_CHECKING:  # which checks by this module
    from paper_checks.config import Config

FIXED = ("digits", "digit-domains", "toy-images")  # tasks whose examples are always the same
IMAGES = ("clip", "vit", "image")  # kinds of model


class Use(NamedTuple):
    """The settings that have an effect only if a condition holds, which `words` say."""

    settings: tuple[str, ...]
    holds: Callable[[Config], bool]
    words: str


def _kind(config: Config) -> str:
    return str(config.model.get("kind"))


def _random(config: Config) -> bool:
    return bool(config.model["from"] == "random")


def _local(config: Config) -> bool:
    source = config.model["from"]
    return source not in ("random", "pretrained") and not source.startswith(("package:", "hub:"))


def _with_moments(config: Config) -> bool:
    return config.train.optimizer == "adamw" or config.train.momentum > 0


SIZES = tuple(
    f"model.{name}" for kind in KINDS.values() for name in kind if name not in PRETRAINING
)
USES = (
    Use(("train.betas",), lambda c: c.train.optimizer == "adamw", "train.optimizer = 'adamw'"),
    Use(("train.momentum",), lambda c: c.train.optimizer == "sgd", "train.optimizer = 'sgd'"),
    Use(
        ("train.lr_min", "train.period"),
        lambda c: c.train.schedule == "cosine",
        "train.schedule = 'cosine'",
    ),
    Use(
        ("mix.magnitude", "mix.carried"),
        lambda c: c.mix.form == "sd_lora",
        "mix.form = 'sd_lora'",
    ),
    Use(
        ("mix.active", "mix.merged", "mix.overlap", "mix.router_seed"),
        lambda c: c.mix.form == "rank1_pool",
        "mix.form = 'rank1_pool'",
    ),
    Use(("mix.lam", "mix.gate_speed"), lambda c: c.mix.form == "sora", "mix.form = 'sora'"),
    Use(("mix.moments",), _with_moments, "adamw, or sgd with train.momentum > 0"),
    Use(
        ("data.shots", "data.train_samples", "data.test_samples"),
        lambda c: c.task["name"] not in FIXED,
        f"a task whose examples are chosen, other than {' and '.join(FIXED)}",
    ),
    Use(
        ("data.augment",),
        lambda c: c.task["name"] in IMAGE_SETS,
        f"a task whose images are files: {', '.join(IMAGE_SETS)}",
    ),
    Use(
        ("data.validation_shots",),
        lambda c: c.task["name"] in IMAGE_SETS and c.data.validation is not None,
        f"data.validation and a task of {', '.join(IMAGE_SETS)}",
    ),
    Use(("data.max_length",), lambda c: _kind(c) not in IMAGES, "a task of texts"),
    Use(("model.base",), _local, "model.from = the folder of a model"),
    Use(("model.dtype",), lambda c: _kind(c) != "vit", "a model.kind other than 'vit'"),
    Use(SIZES, lambda c: _random(c) or _kind(c) == "vit", "model.from = 'random'"),
    Use(
        tuple(f"model.{name}" for name in PRETRAINING),
        lambda c: c.model["from"] == "pretrained",
        "model.from = 'pretrained'",
    ),
)


def require_used(config: Config) -> None:
    """Raise ConfigError at a setting, not left at its default, that the run would ignore."""
    for use in USES:
        for setting in use.settings:
            table, name = setting.split(".")
            value, default = _given(getattr(config, table), name)
            if value != default and not use.holds(config):
                raise ConfigError(
                    f"{setting} = {value!r} would have no effect, as it needs {use.words}; leave "
                    f"it out" + ("" if default is None else f", or at its default {default!r}")
                )


def _given(table: Any, name: str) -> tuple[Any, Any]:
    """Return the value of a setting and its default, None where it has none."""
    if isinstance(table, Mapping):
        return table.get(name), None
    (default,) = (f.default for f in dataclasses.fields(table) if f.name == name)
    return getattr(table, name), default
