"""Settings that are fine each and do not go together."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from decaf_theory.methods import METHODS
from decaf_theory.topology import TOPOLOGIES
from paper_checks.ignored import require_used
from paper_checks.protocol import contrast_of
from paper_checks.rules import (
    HEADLESS,
    IN_TURN,
    SEQUENTIAL,
    ConfigError,
)
from paper_checks.settings import Lora
from paper_checks.together_data import require_data_together

if TYPE_CHECKING:  # which checks by this module
    from paper_checks.config import Config

# of these a config gives one
EXCLUSIVE = ({"lora.eta", "lora.alpha"}, {"mix.every", "mix.every_epochs"})


def require_together(config: Config) -> None:
    """Raise ConfigError if settings that are fine individually do not go together."""
    lora, train, mix = config.lora, config.train, config.mix
    _check_form(config)
    for one, other in (sorted(pair) for pair in EXCLUSIVE):
        given = [config.settings()[name] is not None for name in (one, other)]
        if given[0] == given[1]:
            raise ConfigError(f"give exactly one of {one} and {other}")
    if train.lr_min > train.lr:
        raise ConfigError(f"train.lr_min must be <= train.lr = {train.lr}, got {train.lr_min}")
    _check_scale(lora)
    _check_targets(lora)
    _check_rounds(config)
    _check_half_types(config)
    if len(train.betas) != 2 or not all(0 <= beta < 1 for beta in train.betas):
        raise ConfigError(f"train.betas must be two numbers in [0, 1), got {train.betas}")
    if METHODS[mix.method].meets == "graph":
        try:
            TOPOLOGIES[mix.graph](mix.agents)
        except ValueError as error:
            raise ConfigError(
                f"mix.graph {mix.graph!r}, mix.agents {mix.agents}: {error}"
            ) from None
    if train.order == "combine" and (reason := mix.rule.against_combine):
        raise ConfigError(
            f"train.order 'combine' is not defined for {mix.method}, {reason}; use 'step_first'"
        )
    if mix.rule.confined and train.optimizer == "adamw":
        raise ConfigError(
            f"train.optimizer must be 'sgd' for {mix.method}: its B moves in the space of r "
            f"columns, which AdamW's elementwise steps would leave"
        )
    require_data_together(config)
    _check_trained(config)
    if config.protocol.primary is not None:
        contrast_of(config.protocol.primary)
    _check_weights(config)
    _check_sequence(config)
    if "A" in mix.rule.fixed and not lora.equal_start:
        raise ConfigError(
            f"lora.equal_start must be true for {mix.method}: A is neither trained nor mixed at "
            f"first, so it must be equal at all agents from the start"
        )
    require_used(config)


def _check_form(config: Config) -> None:
    """Raise ConfigError where the method cannot carry the form of W - W0, or nothing has it."""
    mix = config.mix
    if mix.form == "lora":
        return
    if METHODS[mix.method].space == "products" and mix.moments == "rotate":
        raise ConfigError(
            f"mix.moments must be 'reset' or 'keep' for mix.form {mix.form!r}, got 'rotate', which "
            f"moves those of B and A alone"
        )
    if not config.lora.train_adapters:
        raise ConfigError(
            f"mix.form must be 'lora' where lora.train_adapters is false and there is no W - W0, "
            f"got {mix.form!r}; leave one of them out"
        )
    _check_in_turn(config)
    try:
        _ = mix.rule
    except ValueError as error:
        raise ConfigError(
            f"mix.form {mix.form!r} with mix.method {mix.method!r}: {error}"
        ) from None


def _check_in_turn(config: Config) -> None:
    """Raise ConfigError at a form for tasks in turn without them, or a pool that is too small."""
    mix, name = config.mix, config.task["name"]
    if mix.form in IN_TURN and config.task.get("sequence") is None:
        where = "give it" if name in SEQUENTIAL else f"which {', '.join(SEQUENTIAL)} can have"
        raise ConfigError(
            f"mix.form {mix.form!r} needs tasks in turn, task.sequence: {where}, or use 'lora'"
        )
    for setting, value in {"active": mix.active, "merged": mix.merged}.items():
        if mix.form == "rank1_pool" and value > config.lora.rank:
            raise ConfigError(
                f"mix.{setting} must be <= lora.rank = {config.lora.rank}, the pairs of the pool, "
                f"got {value}"
            )


def _check_sequence(config: Config) -> None:
    """Raise ConfigError at a setting that has no meaning, or another one, for tasks in turn."""
    parts, data, train, mix = (
        config.task.get("sequence"),
        config.data,
        config.train,
        config.mix,
    )
    if parts is None:
        return
    each = train.steps // parts
    reasons = {
        "train.steps": (train.steps, train.steps % parts, f"a multiple of {parts}, the tasks"),
        "mix.every": (
            mix.every,
            mix.every is None or each % mix.every,
            f"given, and divide the {each} steps of a task",
        ),
        "mix.after": (mix.after, mix.after is not None, "left out: each task has whole rounds"),
        "train.order": (train.order, train.order != "step_first", "'step_first'"),
        "train.period": (
            train.period,
            train.schedule == "cosine" and train.period == "run",
            "'round', or train.schedule 'constant': later tasks would take smaller steps",
        ),
        "data.validation": (
            data.validation,
            data.validation is not None,
            "left out: it is of all classes, and nothing is chosen by it",
        ),
    }
    for setting, (value, broken, rule) in reasons.items():
        if broken:
            raise ConfigError(
                f"{setting} must be {rule}, for the task.sequence of {parts}; got {value!r}"
            )


def _check_weights(config: Config) -> None:
    """Raise ConfigError at weights by samples for a method that does not take a server's mean."""
    mix = config.mix
    reasons = {
        "graph": f"agents are weighed by mix.graph {mix.graph!r}",
        "none": "nothing is mixed",
        "samples": "it rescales by how many messages arrive, whoever sent them",
    }
    if mix.weights == "samples" and (mix.weighing != "samples" or mix.method == "salf"):
        raise ConfigError(
            f"mix.weights must be 'equal' for {mix.method}, got {mix.weights!r}: "
            f"{reasons[mix.weighing]}; methods of a server, such as fedavg, take it"
        )


def _check_trained(config: Config) -> None:
    """Raise ConfigError where heads matter that the model does not have, or nothing trains."""
    kind, lora = config.model.get("kind"), config.lora
    given = {"train_heads": lora.train_heads, "train_adapters": lora.train_adapters}
    for name, trains in given.items():
        if kind in HEADLESS and not trains:
            raise ConfigError(
                f"lora.{name} must be true for model.kind {kind!r}, which has no head to "
                f"{'freeze' if name == 'train_heads' else 'train instead'}; got false, leave it out"
            )
    if not any(given.values()):
        raise ConfigError(
            "lora.train_adapters and lora.train_heads must not both be false: nothing would train; "
            "set one of them"
        )


def _check_scale(lora: Lora) -> None:
    """Raise ConfigError if the factor of B A is no number of float32, in which it is applied."""
    least, most = (float(x) for x in (np.finfo(np.float32).tiny, np.finfo(np.float32).max))
    if not least <= lora.scale <= most:
        raise ConfigError(
            f"lora.eta, or lora.alpha, must give a scale (lora.scaling) in [{least:.1e}, "
            f"{most:.1e}], the range of float32; it gives {lora.scale:g}"
        )


def _check_targets(lora: Lora) -> None:
    if len(set(lora.targets)) < len(lora.targets):
        raise ConfigError(f"lora.targets must be different names, got {list(lora.targets)}")


def _check_rounds(config: Config) -> None:
    """Raise ConfigError if a run ends before its first mix."""
    mix, steps = config.mix, config.train.steps
    for name, value in (("every", mix.every), ("after", mix.after)):
        if value is not None and value > steps:
            raise ConfigError(
                f"mix.{name} must be <= train.steps = {steps}, or nothing is ever mixed, "
                f"got {value}"
            )
    if mix.after is not None and config.train.order == "mix_first":
        raise ConfigError(
            f"mix.after = {mix.after} is the number of steps before the first mix, and train.order "
            f"'mix_first' mixes before all steps; use 'step_first', or leave one of them out"
        )


def _check_half_types(config: Config) -> None:
    """Raise ConfigError if gradients would vanish in float16, or two half types meet."""
    dtype, autocast = config.model.get("dtype", "float32"), config.train.autocast
    if dtype == "float16" and autocast is None:
        raise ConfigError(
            "model.dtype must not be 'float16' without a scaled loss, as small gradients would "
            "become zero; add train.autocast = 'float16', or use 'bfloat16'"
        )
    if autocast is not None and dtype not in ("float32", autocast):
        raise ConfigError(
            f"train.autocast {autocast!r} needs model.dtype 'float32' or {autocast!r}, got "
            f"{dtype!r}; leave one of them out"
        )
