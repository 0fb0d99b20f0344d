"""Measurements during training: scores on the test set, and the theory's quantities and bounds."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from decaf_theory.adapters import Agents, compress
from decaf_theory.arrays import Host
from decaf_theory.lowrank import Factors, product, spectrum
from decaf_theory.measure import consensus_distance, numerical_rank, product_norm
from paper_checks import calibration
from paper_checks.mixing import by_shape, together
from paper_checks.stacked import Layer, Stacked, StackedLinear
from paper_checks.tasks import Task
from verification.adapter_report import Report, report_of
from verification.claim import Row, deciding_row

# site -> its compressed factors, and (d, k)
Compressed: TypeAlias = dict[str, tuple[Factors, tuple[int, int]]]


class Seen(NamedTuple):
    """The theory's quantities just before a mix, and the rows of the bounds there."""

    numbers: dict[str, Any]
    rows: dict[str, list[Row]]


def theory(stacked: Stacked, Pi: Host, graph: str, **where: int) -> Seen:
    """Return what a mix by the rows of Pi would lose, measured on the updates s B A themselves.

    numbers: consensus_factors, consensus_products (squared, per agent, summed over sites),
    adapter_norm (the root mean square over agents of |s B A|_F over all sites), interference and
    truncation (root mean squares over agents) and both relative to the mix, sigma_max, imbalance,
    numerical_rank (the least of any agent's product at any site). What a method merged into W0 is
    the same for all agents and left out: these are of B A since. Gates are folded into B. rows: for
    each case of a claim the worst row over all sites, with `where` among its coordinates.
    """
    compressed = compressed_sites(stacked)
    found = report(stacked, compressed, Pi, graph)
    small = [factors for factors, _ in compressed.values()]
    squares = sum(float(np.sum(product_norm(f) ** 2)) for f in small) / stacked.agents
    numbers = {
        "consensus_factors": found.total["Xi_A"] + found.total["Xi_B"],
        "consensus_products": sum(float(consensus_distance(product(f))) for f in small),
        "adapter_norm": squares**0.5,
        **{name: found.total[name] for name in ("interference", "truncation")},
        **{name: found.total[name] for name in ("relative_interference", "relative_truncation")},
        **{name: found.total[name] for name in ("sigma_max", "imbalance")},
        "numerical_rank": least_rank(stacked),
    }
    return Seen(numbers, worst_over_sites(found, where))


def report(stacked: Stacked, compressed: Compressed, Pi: Host, graph: str) -> Report:
    """Return the report of `verification` on all agents' adapters, from `compressed_sites`."""
    names = tuple(f"agent {i}" for i in range(stacked.agents))
    agents = Agents(names, {}, {}, {}, ("",) * stacked.agents, {})
    return report_of(agents, compressed, Pi, graph)


def compressed_sites(stacked: Stacked) -> Compressed:
    """Return all agents' updates in the form of `compress`, float64, scale in B, and their shapes.

    The tall factors [N, d, r] stay on their device: what crosses over has at most N r rows.
    """
    found: Compressed = {}
    factors = stacked.pairs()
    for names in by_shape(factors):
        pair = together(factors[name] for name in names)
        if pair.B.device.type == "mps":  # it has no float64
            pair = pair.map(Tensor.cpu)
        small = compress(pair.map(Tensor.double)).map(lambda X: X.cpu().numpy())
        for layer, name in enumerate(names):
            B = stacked.sites[name].scale * small.B[layer]
            found[name] = Factors(B, small.A[layer]), pair.shape
    return {name: found[name] for name in factors}


def least_rank(stacked: Stacked) -> int:
    """Return the least numerical rank of any agent's product, by the eps of the trained dtype."""
    factors = stacked.pairs()
    ranks = []
    for names in by_shape(factors):
        pair = together(factors[name] for name in names)
        d, k = pair.shape
        ranks.append(int(numerical_rank(spectrum(pair), d=d, k=k).min()))
    return min(ranks)


def worst_over_sites(found: Report, where: dict[str, int]) -> dict[str, list[Row]]:
    """Return, claim by claim and case by case, the row that decides over all sites.

    A row that applies comes before one that does not; `instances` counts sites and agents.
    """
    chosen: dict[str, list[Row]] = {}
    for claim, rows in found.rows.items():
        cases: dict[str, list[Row]] = {}
        for row in rows:
            cases.setdefault(row.case, []).append(row)
        chosen[claim] = [_worst(alike, where) for alike in cases.values()]
    return chosen


def _worst(alike: list[Row], where: dict[str, int]) -> Row:
    applicable = [row for row in alike if row.assumptions_held] or alike
    row = deciding_row(applicable)
    assert row is not None
    counts = {
        "instances": sum(int(r.params["instances"]) for r in alike),
        "sites": len(alike),
        "sites_that_apply": sum(r.assumptions_held for r in alike),
    }
    return Row(**{**vars(row), "params": {**row.params, **counts, **where}})


# ---------------------------------------------------------------- scores


def evaluate(
    stacked: Stacked, task: Task, batch: int, *, sequential: bool = False
) -> dict[str, Any]:
    """Return how all agents score on the whole test set, `batch` examples per pass and agent.

    See `summary`; agents that are equal in every number are run once.
    """
    return summary(class_scores(stacked, task, batch, sequential=sequential), task)


def summary(scores: Tensor, task: Task) -> dict[str, Any]:
    """Return what class scores [agent, example, class] of the test set amount to.

    score, score_least and score_most: mean, least and largest of the agents' metrics; test_loss:
    their mean cross-entropy; ece: their mean calibration error (see `calibration`); accuracy: the
    mean of theirs, of tasks with another metric. ensemble_score, ensemble_loss, ensemble_ece: of
    the mean of their probabilities.
    """
    labels = task.test.labels
    loss = functional.cross_entropy(scores.flatten(0, 1), labels.repeat(len(scores)))
    values = [METRICS[task.metric](row.argmax(-1), labels) for row in scores]
    together = calibration.mean_of_softmaxes(scores)
    found = {
        "score": float(np.mean(values)),
        "score_least": min(values),
        "score_most": max(values),
        "test_loss": float(loss),
        "ece": float(np.mean([calibration.ece(row.log_softmax(-1), labels) for row in scores])),
        "ensemble_score": METRICS[task.metric](together.argmax(-1), labels),
        "ensemble_loss": calibration.nll(together, labels),
        "ensemble_ece": calibration.ece(together, labels),
    }
    if task.metric != "accuracy":
        found["accuracy"] = float(np.mean([accuracy(row.argmax(-1), labels) for row in scores]))
    return found


@torch.no_grad()
def class_scores(
    stacked: Stacked,
    task: Task,
    batch: int,
    agents: Sequence[int] | None = None,
    *,
    sequential: bool = False,
) -> Tensor:
    """Return class scores [agent, example, class] of the test set in float32, on the CPU.

    agents: one of them, or all; None: all, or one for all if they are equal.
    """
    if agents is None:
        agents = [0] if equal(stacked) else list(range(stacked.agents))
    one_by_one = sequential or len(agents) == 1
    groups = [[agent] for agent in agents] if one_by_one else [list(agents)]
    order = task.test.passes(batch)
    ordered = _scores(stacked, task, order, groups).cpu()
    scores = torch.empty_like(ordered)
    scores[:, torch.cat(order)] = ordered
    return scores


def equal(stacked: Stacked) -> bool:
    """Whether all agents hold the same numbers."""
    tensors = [X for layer in stacked.layers for X in trained(layer)]
    return bool(torch.stack([(X == X[:1]).all() for X in tensors]).all())


def trained(layer: Layer) -> list[Tensor]:
    """Return the tensors [N, ...] that agents hold at one stacked layer, with frozen factors."""
    if not isinstance(layer, StackedLinear):
        return list(layer.parameters())
    return [layer.B, layer.A, *layer.variables]


def accuracy(found: Tensor, labels: Tensor) -> float:
    """Return the fraction of labels that are predicted correctly."""
    return float((found == labels).double().mean())


def f1(found: Tensor, labels: Tensor) -> float:
    """Return 2 TP / (2 TP + FP + FN) of class 1, 0 if it neither occurs nor is predicted."""
    hits = int(((found == 1) & (labels == 1)).sum())
    both = int((found == 1).sum() + (labels == 1).sum())
    return 2 * hits / both if both else 0.0


METRICS = {"accuracy": accuracy, "f1": f1}


def _scores(stacked: Stacked, task: Task, parts: list[Tensor], groups: list[list[int]]) -> Tensor:
    """Return class scores [agent, example, class] in float32, examples in the order of `parts`.

    groups: the agents of each forward pass. A part's inputs are read once for all of them, and what
    no example changes is computed once for all parts.
    """
    common = []
    for group in groups:
        with stacked.only(_alone(group)):
            common.append(task.common(stacked.model, len(group)))
    columns = []
    for part in parts:
        inputs = task.test.take(part).inputs
        rows = []
        for group, shared in zip(groups, common, strict=True):
            own = {n: x.repeat(len(group), *[1] * (x.dim() - 1)) for n, x in inputs.items()}
            with stacked.only(_alone(group)):
                scores = task.scores(stacked.model, own | shared, len(group))
            rows.append(scores.float().reshape(len(group), len(part), -1))
        columns.append(torch.cat(rows))
    return torch.cat(columns, dim=1)


def _alone(group: list[int]) -> int | None:
    return group[0] if len(group) == 1 else None
