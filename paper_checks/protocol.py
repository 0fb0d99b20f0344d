"""What a sweep is to show, stored before it trains: its grid, its seeds, its primary contrast.

sweep.json, in the folder of an experiment: rows, graphs, partitions and seeds; grid, the settings
of which several values are tried; primary, each contrast that was named and how many runs had
finished by then.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from decaf_theory.files import to_json, write_atomically
from decaf_theory.sums import sealed
from decaf_theory.topology import TOPOLOGIES
from paper_checks.rules import ADAPTER_METHODS, HEADS_ONLY, PARTITIONS, ConfigError, require_known
from verification.store import StoreError, read_sealed

SWEEP = "sweep.json"
SEEDS = 10  # at least, for the primary contrast
FORM = re.compile(r"\s*(\w+)\s*-\s*(\w+)\s+on\s+(\w+)\s*,\s*(\w+)\s*")


class Contrast(NamedTuple):
    """The difference of two rows' scores in one column: own models of the agents, last round."""

    first: str
    second: str
    graph: str
    partition: str

    def __str__(self) -> str:
        """Return it as a config writes it."""
        return f"{self.first} - {self.second} on {self.graph}, {self.partition}"


class Plan(NamedTuple):
    """What a sweep trains, and which contrast it is about; see sweep.json above."""

    rows: tuple[str, ...]
    graphs: tuple[str, ...]
    partitions: tuple[str, ...]
    seeds: tuple[int, ...]
    grid: Mapping[str, Sequence[Any]] = {}
    primary: tuple[Mapping[str, Any], ...] = ()


def contrast_of(text: str) -> Contrast:
    """Return the contrast that a text names. ConfigError: another form, or an unknown name."""
    found = FORM.fullmatch(text)
    if found is None:
        raise ConfigError(
            f"protocol.primary must be as 'decaf - dlora on ring, skew': METHOD - METHOD on GRAPH, "
            f"PARTITION; got {text!r}"
        )
    contrast = Contrast(*found.groups())
    rows = [row.removeprefix(HEADS_ONLY) for row in contrast[:2]]
    require_known("method in protocol.primary", rows, ADAPTER_METHODS)
    require_known("graph in protocol.primary", [contrast.graph], [*TOPOLOGIES, "any"])
    require_known("partition in protocol.primary", [contrast.partition], PARTITIONS)
    if contrast.first == contrast.second:
        raise ConfigError(f"protocol.primary must compare two methods, got {text!r}")
    return contrast


def require_planned(contrast: Contrast, plan: Plan) -> None:
    """Raise ConfigError unless the sweep trains what its primary contrast compares."""
    graphs = plan.graphs if contrast.graph != "any" else ("any",)
    for what, names, known in (
        ("--methods", contrast[:2], plan.rows),
        ("--graphs", (contrast.graph,), graphs),
        ("--partitions", (contrast.partition,), plan.partitions),
    ):
        for name in names:
            if name not in known:
                raise ConfigError(
                    f"protocol.primary {str(contrast)!r} needs {name} in {what}, "
                    f"got {' '.join(known)}"
                )


def stored(folder: Path) -> Plan | None:
    """Return the plan in the folder of an experiment, if any. StoreError: a damaged one."""
    if not (folder / SWEEP).is_file():
        return None
    return plan_of(read_sealed(folder / SWEEP, "remove it and sweep again"))


def plan_of(found: Mapping[str, Any]) -> Plan:
    """Return a plan that was stored as plain values."""
    lists = {name: tuple(found[name]) for name in ("rows", "graphs", "partitions", "seeds")}
    return Plan(**lists, grid=found["grid"], primary=tuple(found["primary"]))


def of_run(folder: Path) -> tuple[Path, Plan | None]:
    """Return the folder of a run's experiment and the plan there; of a grid it is one more up."""
    for place in (folder.parent, folder.parent.parent):
        if plan := stored(place):
            return place, plan
    return folder.parent, None


def keep(folder: Path, wanted: Plan, contrast: Contrast | None, finished: int) -> Plan:
    """Store a sweep's plan, together with that of earlier sweeps to the same folder; return both.

    contrast: the primary one, which is added to those named before if it is another. finished: the
    runs that there are now. StoreError: an earlier sweep varied other settings. ConfigError: the
    contrast is not trained.
    """
    old = stored(folder) or wanted._replace(primary=())
    if old.grid.keys() != wanted.grid.keys():
        names = [", ".join(plan.grid) or "no setting" for plan in (old, wanted)]
        raise StoreError(
            f"{folder} holds a sweep over {names[0]}, and this one is over {names[1]}: choose "
            f"another folder with --out"
        )
    named = old.primary
    if contrast is not None and (not named or named[-1]["contrast"] != str(contrast)):
        named = (*named, {"contrast": str(contrast), "finished": finished})
    plan = Plan(
        rows=_union(old.rows, wanted.rows),
        graphs=_union(old.graphs, wanted.graphs),
        partitions=_union(old.partitions, wanted.partitions),
        seeds=_union(old.seeds, wanted.seeds),
        grid={name: list(_union(old.grid[name], wanted.grid[name])) for name in wanted.grid},
        primary=named,
    )
    if contrast is not None:
        require_planned(contrast, plan)
    write_atomically(folder / SWEEP, to_json(sealed(plan._asdict())))
    return plan


def _union(old: Sequence[Any], new: Sequence[Any]) -> tuple[Any, ...]:
    return (*old, *(x for x in new if x not in old))


def point_name(point: Mapping[str, Any]) -> str:
    """Return the folder name of a point of a grid: "train.lr=0.001", "" of no grid."""
    text = ",".join(f"{name}={value}" for name, value in point.items())
    return re.sub(r'[/\\:*?"<>|]', "_", text)
