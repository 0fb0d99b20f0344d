"""The rules of single settings: types, choices and limits, and messages with the nearest names."""

from __future__ import annotations

import difflib
import math
import sys
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from decaf_theory.methods import FORMS, METHODS
from decaf_theory.simulate import ORDERS
from decaf_theory.topology import TOPOLOGIES
from paper_checks.partition import KINDS as KINDS_OF_PARTITION

MOST = int(sys.float_info.max)
MOST32 = float(np.finfo(np.float32).max)  # of numbers that torch takes as float32
PARTITIONS = tuple(KINDS_OF_PARTITION)
ADAPTER_METHODS = tuple(name for name, method in METHODS.items() if method.form.low_rank)
SWEPT = ("local", "centralized", "fedavg", "dlora", "dlora_fa", "decaf")  # where none are named
IMAGE_SETS = ("flowers102", "ucf101", "food101", "own-images")  # tasks whose images are files
DTYPES = ("float32", "float64", "bfloat16", "float16")
AUTOCASTS = ("bfloat16", "float16")
# the settings of the tables that tasks read; those of model by its kind
TASK = {"name": str, "metric": str}
SEQUENTIAL = {"digits": {"sequence": int}}  # tasks whose classes can be learned in turn
MODEL = {"from": str, "kind": str, "dtype": str, "base": str}
PROMPTS: dict[str, Any] = {"clip": str, "causal": tuple[str, ...]}  # task.prompt by model.kind
_TRANSFORMER: dict[str, type] = dict.fromkeys(
    ("hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size"), int
)
# the settings of tasks of own data, and those of them that a kind of model reads
_NAMES: Any = tuple[str, ...]
OWN: dict[str, dict[str, Any]] = {
    "own-text": {"folder": str, "label": str, "classes": _NAMES},
    "own-images": {"folder": str},
}
OWN_BY_KIND: dict[str, dict[str, Any]] = {
    "classifier": {"pair": _NAMES, "heads": _NAMES},
    "causal": {"answers": _NAMES},
    "image": {"heads": _NAMES},
}
# the settings of the task digit-domains
DOMAINS = ("turned", "inverted", "turned_inverted")
SHARES = ("first", "second", "threshold")
PARTS = ("pseudo", "source_entropy", "target_entropy", "discrepancy")
ADAPTING: dict[str, Any] = {"domains": _NAMES, "labelled": int, "temperature": float}
ADAPTING |= dict.fromkeys((*SHARES, *PARTS), float)
PRETRAINING: dict[str, type] = {"steps": int, "batch": int, "lr": float, "weight_decay": float}
KINDS: dict[str, dict[str, type]] = {
    "classifier": _TRANSFORMER | {"max_position_embeddings": int},
    "causal": _TRANSFORMER | {"num_key_value_heads": int, "max_position_embeddings": int},
    "clip": {},
    "image": {},
    "vit": _TRANSFORMER | {"patch_size": int} | PRETRAINING,
}
HEADLESS = ("causal", "clip")  # kinds of models that score classes without a head of their own
IN_TURN = ("sd_lora", "rank1_pool")  # forms that are for tasks in turn
HEADS_ONLY = "heads_only_"  # before the name of the method by whose weights the heads are mixed
CONTROLS = (f"{HEADS_ONLY}centralized", f"{HEADS_ONLY}dlora")
CHOICES = {
    "task.metric": ("accuracy", "f1"),
    "model.dtype": DTYPES,
    "model.kind": tuple(KINDS),
    "lora.scaling": ("eta/r", "rslora"),
    "data.partition": PARTITIONS,
    "data.augment": ("resized_crop_flip",),
    "train.optimizer": ("adamw", "sgd"),
    "train.schedule": ("cosine", "constant"),
    "train.period": ("run", "round"),
    "train.order": ORDERS,
    "train.autocast": AUTOCASTS,
    "mix.method": ADAPTER_METHODS,
    "mix.form": tuple(FORMS),
    "mix.graph": tuple(TOPOLOGIES),
    "mix.zero_directions": ("keep", "drop"),
    "mix.moments": ("reset", "keep", "rotate"),
    "mix.weights": ("equal", "samples"),
}
QUANTIZED = ("load_in_4bit", "load_in_8bit", "quantization_config")
NOT_QUANTIZED = (
    "asks for a base of 4 or 8 bits, which is not supported: no GPU has run it here. A base in "
    "float32 or, with model.dtype, in bfloat16 is"
)
COUNTS = (
    *("data.batch", "data.shots", "data.train_samples", "data.test_samples", "data.max_length"),
    "data.validation_shots",
    *("data.eval_batch", "mix.agents", "mix.every", "mix.every_epochs", "mix.after"),
    "task.sequence",
    *("mix.active", "mix.merged"),
    *("observe.every", "observe.eval_every", "observe.patience", "observe.checkpoint_every"),
    *(f"model.{name}" for kind in KINDS.values() for name, of in kind.items() if of is int),
)
# setting -> (least value, whether it may be attained, value that is too large)
LIMITS: dict[str, tuple[float, bool, float]] = {
    "task.labelled": (1, True, math.inf),
    "task.temperature": (0, False, math.inf),
    **dict.fromkeys((f"task.{name}" for name in SHARES), (0, True, 1)),
    **dict.fromkeys((f"task.{name}" for name in PARTS), (0, True, math.inf)),
    "lora.rank": (1, True, math.inf),
    "lora.eta": (0, False, math.inf),
    "lora.alpha": (0, False, math.inf),
    "lora.dropout": (0, True, 1),
    "data.validation": (0, False, math.inf),
    "observe.share": (0, False, 1),
    "train.steps": (1, True, 1e9),  # nine digits in the names of checkpoints
    "train.lr": (0, False, MOST32),
    "train.lr_min": (0, True, MOST32),
    "train.weight_decay": (0, True, MOST32),
    "train.momentum": (0, True, 1),
    "train.seed": (0, True, math.inf),
    "model.lr": (0, False, MOST32),
    "model.weight_decay": (0, True, MOST32),
    **dict.fromkeys(COUNTS, (1, True, math.inf)),
    "mix.lam": (0, True, MOST32),
    "mix.gate_speed": (0, True, MOST32),
    "mix.magnitude": (0, False, MOST32),
    "mix.overlap": (0, True, MOST32),
    "mix.router_seed": (0, True, math.inf),
    "mix.agents": (1, True, 10_000),  # Pi is dense: 0.8 GB, 3.2 while it is made
    "data.batch": (1, True, 1e6),
}


class ConfigError(ValueError):
    """A setting that breaks a rule; the message names setting, rule, value and a hint."""


def require_component(setting: str, value: Any) -> None:
    """Raise ConfigError unless a setting can be the name of a folder, and no path elsewhere."""
    plain = isinstance(value, str) and value.isprintable() and value.strip(" .") == value
    if not plain or not value or any(mark in value for mark in '/\\:*?"<>|'):
        raise ConfigError(
            f"{setting} must be a plain name, since results go to a folder of that name; "
            f"got {value!r}"
        )


def row_of(settings: Mapping[str, Any]) -> str:
    """Return a run's name among the methods: its own, or that of the control without adapters."""
    with_adapters = settings.get("lora.train_adapters", True)
    return ("" if with_adapters else HEADS_ONLY) + str(settings["mix.method"])


def settings_of_row(name: str) -> dict[str, Any]:
    """Return the settings that make a run the one of this name, see `row_of`."""
    method = name.removeprefix(HEADS_ONLY)
    return {"mix.method": method, "lora.train_adapters": method == name}


def near(name: str, known: Iterable[str]) -> str:
    """Return the known names nearest to a mistyped one, or all of them, in words."""
    known = list(known)
    found = difflib.get_close_matches(name, known, n=3, cutoff=0.5)
    return f"{'near' if found else 'known'}: {', '.join(found or known)}"


def require_known(what: str, given: Iterable[str], known: Iterable[str]) -> None:
    """Raise ConfigError at the first given name that is not known."""
    for name in given:
        if name not in known:
            raise ConfigError(f"unknown {what}: {name!r}; {near(name, known)}")


def checked(table: str, given: Mapping[str, Any], kinds: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings of a table in their types; ConfigError: one unknown or out of range."""
    require_known(f"setting in [{table}]", given, kinds)
    values = {name: typed(f"{table}.{name}", kinds[name], value) for name, value in given.items()}
    for name, value in values.items():
        check_value(f"{table}.{name}", value)
    return values


def kinds_of_task(name: str, model: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings that the table of a task may have: a prompt if its model reads one."""
    kind = str(model.get("kind"))
    prompt = PROMPTS.get(kind)
    own = OWN[name] | OWN_BY_KIND.get(kind, {}) if name in OWN else {}
    own |= ADAPTING if name == "digit-domains" else {}
    in_turn = SEQUENTIAL.get(name, {})
    return TASK | ({} if prompt is None else {"prompt": prompt}) | own | in_turn


def kinds_of_model(given: Mapping[str, Any]) -> dict[str, type]:
    """Return the settings that the table of a model may have, by its kind if it names one.

    ConfigError: one that asks for a quantized base.
    """
    for name in given:
        if name in QUANTIZED:
            raise ConfigError(f"model.{name} {NOT_QUANTIZED}; leave it out, got {given[name]!r}")
    kind = given.get("kind")
    known = {kind: KINDS[kind]} if isinstance(kind, str) and kind in KINDS else KINDS
    return MODEL | {name: of for kinds in known.values() for name, of in kinds.items()}


def typed(setting: str, hint: Any, value: Any) -> Any:
    """Return a value in the type of its field; ConfigError if it has another type."""
    words = {int: "an integer", float: "a number", bool: "true or false", str: "a string"}
    for kind, word in words.items():
        if hint in (kind, kind | None):
            # bool is an int in Python, and a number where a float is wanted may be an int
            fits = isinstance(value, (int, float) if kind is float else kind)
            if not fits or (isinstance(value, bool) and kind is not bool):
                raise ConfigError(f"{setting} must be {word}, got {value!r}")
            if kind is float and isinstance(value, int) and abs(value) > MOST:
                raise ConfigError(f"{setting} must be {word} within float64, got a larger integer")
            if kind is int and abs(value) >= 1 << 63:
                raise ConfigError(f"{setting} must be {word} of 64 bits, got a larger one")
            return kind(value)
    if hint not in (tuple[str, ...], tuple[float, ...]):
        if not isinstance(value, Mapping):
            raise ConfigError(f"{setting} must be a table, got {value!r}")
        return dict(value)
    member, what = (str, "strings") if hint == tuple[str, ...] else ((int, float), "numbers")
    fits = isinstance(value, (list, tuple)) and all(
        isinstance(x, member) and not isinstance(x, bool) for x in value
    )
    if not fits or (setting == "lora.targets" and "" in value):
        raise ConfigError(f"{setting} must be a list of {what}, got {value!r}")
    return tuple(value)


def check_value(setting: str, value: Any) -> None:
    """Raise ConfigError if a value is not among its choices or is beyond its limits."""
    if setting in CHOICES and value not in CHOICES[setting]:
        choices = CHOICES[setting]
        raise ConfigError(
            f"{setting} must be one of {choices}, got {value!r}; {near(value, choices)}"
        )
    if setting in LIMITS:
        least, attained, beyond = LIMITS[setting]
        if not (value > least or (attained and value == least)) or not value < beyond:
            rule = f"{'>=' if attained else '>'} {least:g}"
            ends = {math.inf: "and finite", MOST32: "and finite in float32"}
            rule += f" {ends.get(beyond, f'and < {beyond:g}')}"
            raise ConfigError(f"{setting} must be {rule}, got {value}")
