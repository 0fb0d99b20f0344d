"""Adapters that were trained apart on SST-2, merged in every way, and scored on all test sentences.

The merged update is that of all adapters' mean product, exactly (rank N r) or truncated to a rank,
or the product of the mean factors, which is plain averaging. Every merged model has the mean of the
adapters' heads, and so has the floor, which has no update at all.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from decaf_theory.arrays import Array
from decaf_theory.lowrank import Factors, subtract
from decaf_theory.measure import product_norm
from decaf_theory.tsvd import tsvd_of_mix
from paper_checks import calibration, config, endpoints, finetune, observe
from paper_checks.config import Config
from paper_checks.run import Run
from paper_checks.stacked import Stacked

RANKS = (1, 2, 4, 8, 16)
EXPERIMENT = "minilm-sst2"
SETTINGS: Mapping[str, Any] = {
    "mix.method": "local",
    "lora.dropout": 0.0,
    "data.partitions": {"iid": {"samples": 8}},  # nothing is trained
    "data.train_samples": 400,
    "data.test_samples": 10**6,  # all there are
    "data.max_length": 64,
}
Row = dict[str, Any]
Pairs = Mapping[str, Factors]


def config_of(agents: int, data_dir: str | None) -> Config:
    """Return the settings of the model and its data; adapters may have other ranks."""
    return config.read(EXPERIMENT, {**SETTINGS, "mix.agents": agents}, data_dir=data_dir)


def play(folders: Sequence[str], data_dir: str | None) -> list[Row]:
    """Return one row per model: the members, the merged ones, the floor."""
    torch.set_num_threads(1)  # scores must not depend on the number of processes
    run = finetune.prepare(config_of(len(folders), data_dir), device="cpu", adapters=folders)
    names = {"adapters": "adapters", "examples": "examples", "model_sum": "model"}
    sums = {field: run.stamp[f"sum.{name}"][:12] for field, name in names.items()}
    return [{**sums, **row} for row in [*members(run), *merged(run)]]


def members(run: Run) -> Iterator[Row]:
    """Yield the scores of every adapter with its own head."""
    for agent, scores in enumerate(scored(run, run.stacked)):
        yield {"model": f"member {agent}", **outcome(run, scores)}


def merged(run: Run) -> Iterator[Row]:
    """Yield the scores of all merged models, with what each keeps of the mean product."""
    factors = {name: pair.map(Tensor.double) for name, pair in run.stacked.factors().items()}
    exact = endpoints.mean_products(factors)
    models = {
        "head alone": {name: pair.map(torch.zeros_like) for name, pair in exact.items()},
        "plain average": endpoints.mean_factors(factors),
        **{f"rank {r}": {name: truncated(factors[name], r) for name in factors} for r in RANKS},
        "exact mean": exact,
    }
    for name, pairs in models.items():
        single = {site: pair.map(Tensor.float) for site, pair in pairs.items()}
        with endpoints.as_one(run.stacked, single) as one:
            scores = scored(run, one)[0]
        yield {"model": name, "kept": kept(pairs, exact), **outcome(run, scores)}


def truncated(pair: Factors, rank: int) -> Factors:
    """Return the mean product of agents [N, d, r] x [N, r, k] cut to a rank, as one agent's."""
    N = len(pair.B)
    return tsvd_of_mix(pair, np.full((1, N), 1 / N), rank).factors


def kept(pairs: Pairs, exact: Pairs) -> float:
    """Return 1 - |X - M|^2 / |M|^2, squares summed over all sites.

    It is the share of the energy of M that X keeps if X is a truncation of M.
    """
    lost = sum(squared(subtract(pairs[name], exact[name])) for name in exact)
    return 1 - lost / sum(squared(pair) for pair in exact.values())


def squared(pair: Factors) -> float:
    """Return |B A|^2 of one agent."""
    norm: Array = product_norm(pair)
    return float(norm[0]) ** 2


def scored(run: Run, stacked: Stacked) -> Tensor:
    """Return class scores [agents, sentences, classes]."""
    size = run.config.data.eval_batch or run.config.data.batch
    return observe.class_scores(stacked, run.task, size)


def outcome(run: Run, scores: Tensor) -> Row:
    """Return the mean negative log-likelihood, and a 1 for each sentence classified right."""
    labels = torch.as_tensor(run.task.test.labels)
    log_p = scores.double().log_softmax(-1)
    right = (scores.argmax(-1) == labels).int().tolist()
    return {"nll": calibration.nll(log_p, labels), "right": "".join(map(str, right))}
