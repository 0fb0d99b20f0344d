"""An experiment with its runs, read from folders, or from one file that has its tables and curves.

The file: a line about what all runs share (settings, floors, the plan, the baseline), then a line
for each run: its own settings, its scored records, seconds, verdicts.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from decaf_theory.files import write_atomically
from decaf_theory.sums import seal_lines
from paper_checks import protocol, trials
from paper_checks.baseline import BASELINE
from paper_checks.protocol import Plan
from verification import store
from verification.harness import AGAIN, PER_RUN, Stored, read, require_alike
from verification.store import RUN, StoreError

COMMAND = "python -m paper_checks table FOLDER --keep FILE"
SCORES = ("score", "accuracy", "averaged_score", "averaged_factors_score", "ensemble_score")
RECORD = ("step", "round", "comm_bytes", "validation_score", *SCORES)  # of a record


class Experiment(NamedTuple):
    """Finished runs of one experiment, what they were to show, and what beats no training."""

    runs: list[Stored]
    plan: Plan | None
    baseline: Mapping[str, Any] | None

    @property
    def name(self) -> str:
        """The name of its config."""
        return str(self.runs[0].settings["name"])

    @property
    def varied(self) -> tuple[str, ...]:
        """The settings of its grid."""
        return tuple(self.plan.grid) if self.plan else ()


def experiments(places: Sequence[Path]) -> tuple[list[Experiment], list[str]]:
    """Return the experiments in files and below folders, and the names of unfinished runs.

    StoreError: no finished run; a damaged one.
    """
    found = [load(path) for path in places if path.is_file()]
    runs, unfinished = collect([path for path in places if not path.is_file()])
    for name in sorted({run.settings["name"] for run in runs}):
        own = [run for run in runs if run.settings["name"] == name]
        folder, plan = protocol.of_run(own[0].folder)
        found.append(Experiment(own, plan, _baseline(folder / BASELINE)))
    if not found:
        raise StoreError(
            f"no finished run below {', '.join(map(str, places))}; train some: "
            f"python -m paper_checks sweep"
        )
    return found, unfinished


def collect(folders: Sequence[Path]) -> tuple[list[Stored], list[str]]:
    """Return the finished runs below the folders, and the names of the unfinished ones."""
    places = [path.parent for folder in folders for path in sorted(folder.rglob(RUN))]
    # the claims' own run.json has none
    found = [read(place) for place in places if "settings" in store.read_run(place, AGAIN)]
    unfinished = [run.folder.name for run in found if not run.finished]
    return [run for run in found if run.finished], unfinished


def _baseline(path: Path) -> dict[str, Any] | None:
    return store.read_sealed(path, "remove it and sweep again") if path.is_file() else None


def save(one: Experiment, path: Path, *, accept_code: bool = False) -> None:
    """Write an experiment to a file. StoreError: its runs do not share a table."""
    require_alike(one.name, one.runs, accept_code=accept_code, varied=one.varied)
    own, first = {*PER_RUN, *one.varied}, one.runs[0]
    about = {
        "settings": {name: x for name, x in first.settings.items() if name not in own},
        **{name: first.run.get(name) for name in ("commit", "metric", "floors")},
        "plan": one.plan and one.plan._asdict(),
        "baseline": one.baseline,
    }
    rows = [
        {
            "settings": {name: run.settings[name] for name in run.settings if name in own},
            "records": _records(run),
            "seconds": run.run.get("seconds", {}),
            "verdicts": {n: {"outcome": v["outcome"]} for n, v in _verdicts(run).items()},
        }
        for run in one.runs
    ]
    write_atomically(path, seal_lines([about, *rows]))


def _verdicts(run: Stored) -> Mapping[str, Mapping[str, Any]]:
    found: Mapping[str, Mapping[str, Any]] = run.run.get("verdicts", {})
    return found


def _records(run: Stored) -> list[dict[str, Any]]:
    """Return what the tables and curves show of the scored records."""
    scored = [record for record in run.records if "score" in record]
    return [{name: one[name] for name in RECORD if name in one} for one in scored]


def load(path: Path) -> Experiment:
    """Return the experiment of a file. StoreError: it is damaged."""
    about, *rows = trials.read(path, COMMAND)
    with store.fitting(path, f"run {COMMAND}"):
        runs = [Stored(path, _run(about, row), row["records"], []) for row in rows]
        plan = about["plan"] and protocol.plan_of(about["plan"])
        return Experiment(runs, plan, about["baseline"])


def _run(about: Mapping[str, Any], row: Mapping[str, Any]) -> dict[str, Any]:
    """Return what the tables need of a run.json."""
    return {
        **{name: about[name] for name in ("commit", "metric")},
        "floors": about["floors"] or {},
        "settings": about["settings"] | row["settings"],
        "step": row["records"][-1]["step"],
        **{name: row[name] for name in ("seconds", "verdicts")},
    }
