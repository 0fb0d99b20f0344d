"""The command line of merging: adapters of one model, joined and scored."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from decaf_theory.faults import OK
from decaf_theory.sums import sum_of
from paper_checks import stamp, sweep, trials
from paper_checks.rules import ConfigError

STUDY = trials.Study("merging", ("paper_checks.merging.play",), unit="sets of adapters")


class Job(NamedTuple):
    """One set of adapters on one data set, by a name that says which files they are."""

    name: str
    folders: tuple[str, ...]
    data_dir: str | None


def add_to(commands: Any) -> None:
    """Add the subcommand."""
    p = STUDY.parser(commands, "real adapters merged at several ranks, scored on SST-2")
    p.add_argument("--adapters", nargs="+", metavar="DIR", help="two or more of minilm-sst2")
    p.add_argument("--data-dir", metavar="DIR", help="folder of the data sets' folders")


def main(args: argparse.Namespace) -> int:
    """Score what is not in the store yet, and write its rows to one file next to it."""
    if args.page:
        from paper_checks.merging import page

        page.write()
        return OK
    if len(args.adapters or ()) < 2:
        raise ConfigError("--adapters needs two folders or more; `run --export` writes them")
    job = job_of(args.adapters, args.data_dir)
    with STUDY.stored(args, [job.name]) as run:
        return trials.take(run, [job], args.jobs, play_job)


def job_of(folders: Sequence[str], data_dir: str | None) -> Job:
    """Return the job of some adapters. ConfigError, OSError: the files that it is named by."""
    from paper_checks.merging import play  # torch: not for a page

    known = stamp.of(play.config_of(len(folders), data_dir), folders)
    files = [known["sum.adapters"], known["sum.data"]]
    return Job(f"adapters-{sum_of(files)[:12]}", tuple(folders), data_dir)


def play_job(job: Job, stop: Callable[[], bool]) -> sweep.Outcome:
    """Score all models, to the end even if it is to stop: that is a matter of minutes."""
    from paper_checks.merging import play

    def work() -> list[trials.Row]:
        return [*map(trials.told, play.play(job.folders, job.data_dir))]

    return trials.timed(job.name, work, summary)


def summary(rows: Sequence[trials.Row]) -> str:
    """Return the share of right answers of each model."""
    shares = {row["model"]: row["right"].count("1") / len(row["right"]) for row in rows}
    return ", ".join(f"{model} {share:.3f}" for model, share in shares.items())
