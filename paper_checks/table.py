"""The paper's table from stored runs: methods x graphs x partitions, one experiment at a time.

A cell is the mean over seeds with its t-interval. Of a grid the point counts that is best on the
validation examples. Differences are those of `contrasts`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from decaf_theory.stats import mean_interval
from paper_checks import contrasts, kept, reported, selection
from paper_checks.contrasts import difference, pairs, word
from paper_checks.kept import Experiment
from paper_checks.reported import Place, Reported
from paper_checks.rules import HEADLESS, HEADS_ONLY
from paper_checks.scores import (
    Column,
    Scores,
    best,
    columns_of,
    last,
    mean_of,
    recorded,
    score_table,
    scores,
    validated,
)
from verification.harness import Stored, require_alike

OWN, AVERAGED = "agents' own models", "averaged model"  # endpoints
CENTRAL = "centralized"
FACTORS = ", averaged factors"  # after a row's name: the model of the averaged factors


def text(
    folders: Sequence[Path],
    *,
    against: str = "dlora",
    level: float = 0.95,
    accept_code: bool = False,
) -> str:
    """Return the tables of all runs below the folders, or in files of `kept`, in Markdown.

    StoreError: no finished run; a damaged one; runs of one experiment with other settings, code or
    data; one run that is stored twice with unlike scores.
    """
    found, unfinished = kept.experiments(folders)
    given = reported.read()
    parts: list[str] = []
    shown: set[Place] = set()
    for one in found:
        require_alike(one.name, one.runs, accept_code=accept_code, varied=one.varied)
        parts += experiment(one, against, level, given)
        shown |= places_of(one.name, one.runs)
    if unfinished:
        parts.append(f"left out because not finished: {', '.join(unfinished)}")
    if listing := reported.listing(reported.elsewhere(given, shown)):
        parts.append(f"## Reported elsewhere\n\nIn other settings than ours.\n\n{listing}")
    return "\n\n".join(parts)


def places_of(name: str, runs: Sequence[Stored]) -> set[Place]:
    """Return the cells that an experiment's tables show."""
    found = scores(runs, columns_of(runs), last)
    metric = runs[0].run["metric"]
    return {(name, method, *column, metric) for method in found for column in found[method]}


def experiment(
    one: Experiment, against: str, level: float, published: Sequence[Reported]
) -> Iterator[str]:
    """Yield the parts of one experiment's page: what is chosen, scores, differences, controls."""
    name, runs, plan = one.name, one.runs, one.plan
    settings, metric = runs[0].settings, runs[0].run["metric"]
    what = f"{settings['mix.agents']} agents, rank {settings['lora.rank']}, "
    yield f"## {name}\n\n{what}{settings['train.steps']} steps; {metric} in %."
    if plan is not None and plan.grid:
        selected = selection.select(runs, plan)
        yield selection.text(selected, plan)
        runs = selected.runs
    columns = columns_of(runs)
    given = {row.place[1:4]: row for row in published if row.place[::4] == (name, metric)}
    floors = runs[0].run.get("floors", {})
    yield from score_tables(runs, columns, level, given, floors)
    ends = {OWN: scores(runs, columns, last)}
    ends[AVERAGED] = scores(runs, columns, recorded("averaged_score"))
    shown = {endpoint: found for endpoint, found in ends.items() if found}
    yield from contrasts.text(shown, against, columns, level, plan)
    if found := controls(one.baseline, runs, ends[OWN], columns, level):
        yield f"### Controls\n\n{found}"


def score_tables(
    runs: Sequence[Stored],
    columns: Sequence[Column],
    level: float,
    given: Mapping[tuple[str, str, str], Reported],
    floors: Mapping[str, Mapping[str, float]],
) -> Iterator[str]:
    """Yield the tables of scores: last round, accuracy next to F1, averaged, ensemble, best."""
    metric = runs[0].run["metric"]

    def constant(name: str) -> dict[str, float]:
        return {row: values[name] for row, values in floors.items()}

    own = scores(runs, columns, last)
    yield f"### Last round\n\n{score_table(own, columns, level, given, constant(metric))}"
    if metric != "accuracy" and (found := scores(runs, columns, recorded("accuracy"))):
        table = score_table(found, columns, level, floors=constant("accuracy"))
        yield f"### Accuracy, last round\n\n{table}"
    if found := averaged(runs, columns):
        yield f"### Averaged model, last round\n\n{score_table(found, columns, level)}"
    if found := scores(runs, columns, recorded("ensemble_score")):
        yield f"### Ensemble, last round\n\n{score_table(found, columns, level)}"
    on = "chosen on validation" if all(map(validated, runs)) else "chosen on the test set"
    yield f"### Best round ({on})\n\n{score_table(scores(runs, columns, best), columns, level)}"


def averaged(runs: Sequence[Stored], columns: Sequence[Column]) -> Scores:
    """Return the scores of the averaged models, each row's averaged factors below its updates."""
    updates, factors = (
        scores(runs, columns, recorded(name))
        for name in ("averaged_score", "averaged_factors_score")
    )
    found: Scores = {}
    for row, values in updates.items():
        found[row] = values
        if row in factors:
            found[row + FACTORS] = factors[row]
    return found


def controls(
    baseline: Mapping[str, Any] | None,
    runs: Sequence[Stored],
    own: Scores,
    columns: Sequence[Column],
    level: float,
) -> str:
    """Return whether centralized training is above the baseline, and above its heads alone."""
    lines = []
    if baseline is not None:
        lines.append(f"Baseline, {baseline['what']}: {100 * baseline['score']:.1f}.")
    for column in columns:
        values = list(own.get(CENTRAL, {}).get(column, {}).values())
        if len(values) >= 2:
            said = [adapters_text(runs, own, column, level)]
            if baseline is not None:
                mean = mean_interval(values, level)
                above = "is above" if mean.low > 100 * baseline["score"] else "is not above"
                said.insert(0, f"{mean_of(values, level)} {above} the baseline")
            lines.append(f"{' '.join(column)}: {CENTRAL} {'; '.join(filter(None, said))}.")
    return "\n".join(lines)


def adapters_text(runs: Sequence[Stored], own: Scores, column: Column, level: float) -> str:
    """Return whether adapters add to what heads learn alone, "" where no head is trained."""
    settings = runs[0].settings
    if settings.get("model.kind") in HEADLESS or not settings.get("lora.train_heads", True):
        return ""
    found = difference(pairs(own, CENTRAL, HEADS_ONLY + CENTRAL, column), level)
    if found is None:
        return f"without {HEADS_ONLY}{CENTRAL}, whether adapters add to its heads is not shown"
    adds = word(found, found.p, level) == " better"
    return (
        f"{found.text()} from its heads alone: adapters "
        f"{'add to them' if adds else 'are not shown to add anything'}"
    )
