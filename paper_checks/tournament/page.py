"""The tournament as Markdown, from the stored rows alone."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from decaf_theory.formats import size as bytes_text
from decaf_theory.methods import METHODS
from paper_checks.tournament.tasks import BASES, BUDGETS
from paper_checks.tournament.verdicts import LEVEL, WORDS, comparisons, counts, place

Row = Mapping[str, Any]
ORDER = {name: i for i, name in enumerate(METHODS)}
HOW = """\
Each method of `decaf_theory.methods`, with its registered parameters, against DLoRA on graphs and
against FedAvg where methods meet a server. Two budgets: **equal rounds**, and **equal bytes**: a
method plays until one more round would send more bytes than the base's rounds do (bytes of all
agents together; the local steps per round stay the same). A method that sends nothing has no budget
of bytes. Numbers are sent as they are computed: float64 on problems, float32 in training.

The server of FLoRA and FedEx-LoRA answers with the pairs of all agents, as published, also where
a dense matrix would be shorter.

All agents have the same rank, at which raFLoRA is FedAvg. Directions that die in a truncation stay
dead on problems, and get their old row of A again in training: the defaults of simulator and
harness.

The step size is the best of one grid, the same for all methods of a task, on tuning seeds;
it is constant, and chosen for each budget. An asterisk marks one at an end of the grid. The
scores are those of the reported seeds, none of which was tuned on; data, noise and start
of a seed are the same for all methods. What a method draws itself (AirFedAvg's and LA-LoRA's noise,
SALF's arrivals, the redrawn A of FLoRA and RAC-LoRA) comes from a seed of its own and not from that
of the run, so that the intervals do not cover it.

Scored are the agents' *own points*: the mean over the agents of F at their own point, F being the
mean of all agents' losses; next to it F at their *mean point*. F* is the infimum over all matrices.
Differences are paired by seed; the interval is in brackets. All {count} intervals of this page hold
together at {level:.0%} (Bonferroni). Best: the method with the best score on the tuning seeds.

**wins, ties, loses**: the interval of the difference from the base at the agents' own points is on
one side of zero, or contains it, which shows nothing. **fails**: a run diverged, or the score is no
better than at the start, also because the bytes do not suffice for one round."""
HEAD = (
    *("method", "step size", "rounds", "bytes", "own points", "mean point"),
    *("own, from {base}", "mean, from {base}", "own, from the best", "verdict"),
)


def page(rows: Sequence[Row]) -> str:
    """Return the page of stored rows: the first says what was run, the others are judged."""
    about, *judged = rows
    level = about.get("level", LEVEL)
    how = HOW.format(count=comparisons(judged), level=level)
    parts = [
        "# A tournament of the methods",
        how,
        run_text(about, judged),
        summary(judged),
        bests(judged),
    ]
    for task in about["tasks"]:
        own = [row for row in judged if row["task"] == task]
        if own:
            parts.append(task_text(task, about["tasks"][task], own))
    parts.append(refusals(judged))
    return "\n\n".join(part for part in parts if part) + "\n"


def run_text(about: Row, rows: Sequence[Row]) -> str:
    """Return how to make the rows again, what that takes, and how often a grid was too short."""
    steps = [bool(row.get("edge")) for row in rows if row.get("lr")]
    quick = " --quick" if about["size"] == "quick" else ""
    return (
        f"```sh\npython -m paper_checks tournament{quick}    # these rows and this page\n```\n\n"
        f"{about['matches']} matches; {about['minutes']} minutes of one core. "
        f"Of {len(steps)} chosen step sizes {sum(steps)} are at an end of the grid."
        + (f" {about['note']}" if "note" in about else "")
    )


def summary(rows: Sequence[Row]) -> str:
    """Return the table of verdicts, methods on graphs and those that meet a server apart."""
    parts = ["## Who wins, ties, loses and fails"]
    for server in (False, True):
        own = [row for row in rows if (row["network"] == "server") is server]
        found = counts(own)
        names = sorted({method for method, _ in found}, key=rank)
        lines = [["method", *(f"{word}, equal {b}" for b in BUDGETS for word in WORDS)]]
        for method in names:
            cells = [found[method, b][word] for b in BUDGETS for word in WORDS]
            lines.append([method, *(str(cell or "") for cell in cells)])
        where = "By a server, against FedAvg:" if server else "On graphs, against DLoRA:"
        if names:
            parts.append(f"{where}\n\n{table(lines)}")
    return "\n\n".join(parts)


def bests(rows: Sequence[Row]) -> str:
    """Return the table of the best methods."""
    found = {place(row): row.get("best") for row in rows if "budget" in row}
    tasks = list(dict.fromkeys(task for task, _, _ in found))
    networks = [name for name in BASES if any(network == name for _, network, _ in found)]
    columns = [(network, budget) for network in networks for budget in BUDGETS]
    lines = [["task", *(f"{network}, {budget}" for network, budget in columns)]]
    lines += [[task, *(found.get((task, *column)) or "" for column in columns)] for task in tasks]
    return f"## The best method on the tuning seeds\n\n{table(lines)}"


def task_text(name: str, about: Row, rows: Sequence[Row]) -> str:
    """Return the tables of a task, each network and budget apart."""
    settings = ", ".join(f"{key} = {value}" for key, value in about["settings"].items())
    grid = ", ".join(f"{lr:g}" for lr in about["grid"])
    head = (
        f"## {name}\n\n{about['title']}. Score: {about['score']}, "
        f"{'less' if about['lower'] else 'more'} is better. {about['rounds']} rounds; "
        f"{len(about['reported'])} reported seeds, {len(about['tuning'])} tuning seeds; "
        f"step sizes {grid}.\n\n<details><summary>settings</summary>\n\n{settings}\n\n</details>"
    )
    parts = [head]
    for network in about["networks"]:
        for budget in BUDGETS:
            own = [row for row in rows if place(row) == (name, network, budget)]
            if own:
                parts.append(f"### {name}: {network}, equal {budget}\n\n{scores_table(own)}")
    return "\n\n".join(parts)


def scores_table(rows: Sequence[Row]) -> str:
    """Return one line per method, and one of the start."""
    base = BASES[rows[0]["network"]]
    played = [row for row in rows if row["status"] == "played"]
    lines = [[cell.format(base=base) for cell in HEAD]]
    if played:
        start = number(played[0]["start"])
        mean = "" if played[0].get("mean") is None else start  # all agents start at one point
        lines.append(["(start)", "", "0", "0", start, mean, *[""] * 4])
    lines += [line(row) for row in sorted(rows, key=lambda row: rank(row["method"]))]
    return table(lines)


def line(row: Row) -> list[str]:
    """Return the cells of a method."""
    step = f"{row['lr']:g}{'*' if row.get('edge') else ''}" if row.get("lr") else ""
    rounds = f"{row['rounds']}{' (all)' if row.get('cut') else ''}"
    cells = [row["method"], step, rounds, bytes_text(row["bytes"])]
    if row["status"] == "diverged":
        return [*cells, "diverged", row["why"], "", "", "", row["verdict"]]
    scores = [number(row.get(name)) for name in ("own", "mean")]
    differences = [interval(row.get(name)) for name in ("own_from_base", "mean_from_base")]
    return [*cells, *scores, *differences, interval(row.get("own_from_best")), row["verdict"]]


def number(score: float | None) -> str:
    """Return a score."""
    return "" if score is None else f"{score:.3f}"


def interval(values: Sequence[float] | None) -> str:
    """Return a difference with its interval."""
    return "" if values is None else "{:+.3f} [{:+.3f}, {:+.3f}]".format(*values)


def refusals(rows: Sequence[Row]) -> str:
    """Return who was not played, and why."""
    found: dict[tuple[str, str], list[str]] = {}
    for row in rows:
        if row["status"] == "refused":
            found.setdefault((row["method"], row["why"]), []).append(row["task"])
    if not found:
        return ""
    lines = [f"- {method}: {why} ({', '.join(tasks)})" for (method, why), tasks in found.items()]
    return "\n".join(["## Not played", "", *lines])


def rank(method: str) -> tuple[int, str]:
    """Return a method's place in METHODS; one that has gone comes last."""
    return ORDER.get(method, len(ORDER)), method


def table(lines: Iterable[Sequence[str]]) -> str:
    """Return a Markdown table of cells."""
    head, *body = [f"| {' | '.join(cells)} |" for cells in lines]
    return "\n".join([head, "|" + "---|" * (head.count("|") - 1), *body])
