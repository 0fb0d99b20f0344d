"""What a run is scored by: the agents' own models, their ensemble, averaged models, floors."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from decaf_theory.lowrank import Factors
from decaf_theory.methods import Method
from decaf_theory.methods.decoupled import OLD
from paper_checks import observe
from paper_checks.stacked import Stacked, StackedLinear
from paper_checks.tasks import Task


def scored(stacked: Stacked, task: Task, batch: int, *, sequential: bool = False) -> dict[str, Any]:
    """Return the scores of the agents' own models on the test set, see `observe.evaluate`.

    And validation_score and validation_loss, means over the agents, if the task has examples for
    them.
    """
    found = observe.evaluate(stacked, task, batch, sequential=sequential)
    if task.validation is not None:
        there = task._replace(test=task.validation)
        apart = observe.evaluate(stacked, there, batch, sequential=sequential)
        found |= {"validation_score": apart["score"], "validation_loss": apart["test_loss"]}
    return found


def averaged(stacked: Stacked, task: Task, rule: Method, batch: int) -> dict[str, float]:
    """Return the test scores of the models that agents average to, one for all of them.

    averaged_score, _loss, _ece: W - W0 = mean_i s B_i A_i, with what was merged into W0, and the
    mean of the heads. averaged_factors_score, _loss, _ece, of methods that average factors, which
    deploy this one: W - W0 = s (mean_i B_i) (mean_i A_i), and the mean of the heads. With gates
    B_i A_i stands for B_i diag(g_i) A_i, and the gates are averaged apart where factors are.
    """
    models = {"averaged": mean_products(stacked.pairs())}
    if stacked.sites and rule.space == "factors" and rule.meets != "none":
        models["averaged_factors"] = mean_apart(stacked)
    found: dict[str, float] = {}
    for name, pairs in models.items():
        with as_one(stacked, pairs) as one:
            scores = observe.evaluate(one, task, batch)
        found |= {
            f"{name}_score": float(scores["score"]),
            f"{name}_loss": scores["test_loss"],
            f"{name}_ece": scores["ece"],
        }
    return found


def mean_products(factors: Mapping[str, Factors]) -> dict[str, Factors]:
    """Return by site B [1, d, N r] and A [1, N r, k] with B A = mean_i B_i A_i."""
    return {
        name: Factors(torch.cat(tuple(B), dim=-1)[None] / len(B), torch.cat(tuple(A), dim=-2)[None])
        for name, (B, A) in factors.items()
    }


def mean_factors(factors: Mapping[str, Factors]) -> dict[str, Factors]:
    """Return by site the means of the agents' B and A, [1, d, r] and [1, r, k]."""
    return {name: pair.map(lambda X: X.mean(0, keepdim=True)) for name, pair in factors.items()}


def mean_apart(stacked: Stacked) -> dict[str, Factors]:
    """Return by site the means of B, gates and A, each averaged apart, as one pair of factors."""
    means = mean_factors(stacked.factors())
    for name, site in stacked.sites.items():
        if site.gate is not None:
            gate = site.gate.detach().mean(0, keepdim=True)
            means[name] = means[name]._replace(B=means[name].B * gate)
        if site.magnitudes is not None:
            means[name] = _with_old(site, means[name], site.magnitudes.detach())
    return means


def _with_old(site: StackedLinear, own: Factors, magnitudes: Tensor) -> Factors:
    """Return a mean pair times the mean of its magnitudes, and the means of the old pairs."""
    one = StackedLinear(site.base, own.A, site.scale)
    one.B = nn.Parameter(own.B)
    one.magnitudes = nn.Parameter(magnitudes.mean(0, keepdim=True))
    one.kept = {OLD: site.kept[OLD].map(lambda X: X.mean(0, keepdim=True))}
    return one.pair


def of_all(merged: Tensor | None) -> Tensor | None:
    """Return the mean over agents of what each has merged, [1, d, k]."""
    return None if merged is None else merged.mean(0, keepdim=True)


@contextmanager
def as_one(stacked: Stacked, pairs: Mapping[str, Factors]) -> Iterator[Stacked]:
    """Let the model inside be that of one agent, with these factors and the mean of the heads."""
    before = [(layer, dict(layer.named_parameters(recurse=False))) for layer in stacked.layers]
    forms = {site: (site.active, site.merged) for site in stacked.sites.values()}
    try:
        for name, site in stacked.sites.items():
            site.B, site.A = (nn.Parameter(X, requires_grad=False) for X in pairs[name])
            site.gate = site.magnitudes = None  # which the pairs hold
            if site.active is not None:
                site.active, site.merged = None, of_all(site.merged)
        for head in stacked.heads.values():
            for name, X in list(head.named_parameters(recurse=False)):
                mean = X.detach().mean(0, keepdim=True)
                setattr(head, name, nn.Parameter(mean, requires_grad=False))
        yield replace(stacked, agents=1)
    finally:
        for site in stacked.sites.values():
            site.active, site.merged = forms[site]
        for layer, own in before:
            for name, X in own.items():
                setattr(layer, name, X)


def floors(task: Task) -> dict[str, dict[str, float]]:
    """Return the test scores of constant answers: {name: {metric: score}}.

    majority: the most frequent class of the training examples; always_yes: class 1 of two. Of F1
    their accuracy, too.
    """
    labels = torch.as_tensor(task.test.labels)
    counts = torch.as_tensor(task.train.labels).bincount(minlength=task.classes)
    answers = {"majority": int(counts.argmax())}
    if task.metric == "f1":
        answers["always_yes"] = 1
    return {
        name: {
            metric: observe.METRICS[metric](torch.full_like(labels, answer), labels)
            for metric in dict.fromkeys((task.metric, "accuracy"))
        }
        for name, answer in answers.items()
    }
