"""Stored runs of the full-scale harness: read with their checksums, and not mixed in silence."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from decaf_theory.files import NUMBER, Kinds, from_lines, require_kinds
from verification import store
from verification.provenance import code_sum, differences

MODULE = "paper_checks.finetune"  # what it loads is what can change a result
PER_RUN = ("mix.method", "mix.graph", "data.partition", "train.seed")  # differ inside a table
AGAIN = "run it again"
TRAINING = "training"
RUN: dict[str, Kinds] = {
    **dict.fromkeys(("seconds", "verdicts"), dict),
    **{"metric": str, "mixing_share": NUMBER},
}
SETTINGS: dict[str, Kinds] = {
    **dict.fromkeys(("mix.method", "mix.graph", "data.partition"), str),
    **dict.fromkeys(("train.seed", "mix.agents", "lora.rank"), int),
}


class Stored(NamedTuple):
    """A run read back: its run.json, the records of training, the rows of the claims."""

    folder: Path
    run: dict[str, Any]
    records: list[dict[str, Any]]
    rows: list[dict[str, Any]]

    @property
    def settings(self) -> dict[str, Any]:
        """What must agree for two runs to be of one experiment, but for `PER_RUN`."""
        found: dict[str, Any] = self.run["settings"]
        return found

    @property
    def scores(self) -> list[float]:
        """The scores on the test set, in order."""
        return [record["score"] for record in self.records if "score" in record]

    @property
    def finished(self) -> bool:
        """Whether it took all its steps."""
        return bool(self.run["step"] == self.settings["train.steps"])


def read(folder: Path) -> Stored:
    """Return the run of a folder. StoreError: a file is missing, cut short or altered."""
    run = store.read_run(folder, AGAIN)
    path = folder / store.ROWS
    data = store.read_summed(path, run["files"].get(store.ROWS, ""), AGAIN)
    try:
        lines = from_lines(data)
        records = [line for line in lines if line.get("claim") == TRAINING]
        _require_shape(run, records)
    except ValueError as error:
        raise store.StoreError(f"{folder} is damaged ({error}); {AGAIN}") from None
    return Stored(folder, run, records, [line for line in lines if line.get("claim") != TRAINING])


def _require_shape(run: Mapping[str, Any], records: Iterable[Mapping[str, Any]]) -> None:
    """Raise ValueError if a run or its records hold anything of another kind than readers expect.

    What a reader misses it names itself.
    """

    def require(record: Mapping[str, Any], kinds: Mapping[str, Kinds]) -> None:
        require_kinds(record, {name: kind for name, kind in kinds.items() if name in record})

    require_kinds(run, {"settings": dict, "step": int})
    require_kinds(run["settings"], {"name": str, "train.steps": int})
    require(run, RUN)
    require(run["settings"], SETTINGS)
    for name, kind in (("seconds", NUMBER), ("verdicts", dict)):
        require_kinds(held := run.get(name, {}), dict.fromkeys(held, kind))
    for verdict in run.get("verdicts", {}).values():
        require(verdict, {"outcome": str})
    for record in records:
        require(record, {"score": NUMBER})


def code() -> str:
    """Return the checksum of the sources that can change a result of the harness."""
    return code_sum(MODULE)


def require_alike(name: str, runs: Sequence[Stored], *, accept_code: bool = False) -> None:
    """Raise StoreError unless runs of today's code differ in method, graph, partition, seed alone.

    accept_code: whatever code and libraries they were made by. One run may be stored twice, but
    with the same scores.
    """
    require_one_each(runs)
    for run in runs:
        changed = differences(_shared(runs[0]), _shared(run), accept_code=accept_code)
        if changed:
            raise store.StoreError(
                f"runs of {name} differ in {'; '.join(changed)} ({runs[0].folder}, {run.folder}): "
                f"give their folders separately, train one again with --restart, or pass "
                f"--accept-code if they differ in code or libraries alone"
            )
    made_by = runs[0].settings.get("code")
    if made_by != code() and not accept_code:
        raise store.StoreError(
            f"runs of {name} were made by other code (code: {made_by} -> {code()}; {runs[0].folder}"
            f"): train them again with --restart, or pass --accept-code to show them as they are"
        )


def require_one_each(runs: Sequence[Stored]) -> None:
    """Raise StoreError if a run is stored twice with unlike scores: one of them would be lost."""
    seen: dict[tuple[str, ...], Stored] = {}
    for run in runs:
        other = seen.setdefault(tuple(str(run.settings[name]) for name in PER_RUN), run)
        if run.scores != other.scores:
            raise store.StoreError(
                f"{other.folder} and {run.folder} are the same run with unlike scores: give the "
                f"folder of one of them"
            )


def _shared(run: Stored) -> Mapping[str, Any]:
    return {name: value for name, value in run.settings.items() if name not in PER_RUN}
