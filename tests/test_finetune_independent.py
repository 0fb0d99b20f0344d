"""The harness against a second trainer (tests/trainer.py), every method, round after round."""

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="the harness trains with torch")
pytest.importorskip("peft", reason="the second trainer has peft's models")

from decaf_theory.methods import METHODS  # noqa: E402
from paper_checks import checkpoint, finetune  # noqa: E402
from paper_checks.config import ADAPTER_METHODS  # noqa: E402
from tests import paper_runs, trainer  # noqa: E402

RANK, ETA, BATCH, SEED, K, ROUNDS = 2, 4.0, 4, 3, 2, 6  # adf_lora turns after five rounds
LR, LR_MIN, DECAY = 0.02, 1e-4, 0.1
RING = sum(np.roll(np.eye(4), by, axis=1) for by in (-1, 0, 1)) / 3
# AdamW divides by sqrt(v) + 1e-8, so that a gradient's rounding, of at most 100 sums and products
# of numbers of size one, moves a step by up to this, where the gradient is zero; and so each time
SLIP = K * ROUNDS * LR * 100 * 2.0**-52 / trainer.EPS


def task(config=None):
    return paper_runs.task(dtype=torch.float64)


def net():
    return task().model


def prepared(method, first=K):
    confined = METHODS[method].confined
    settings = {"train__schedule": "cosine", "train__lr": LR, "train__lr_min": LR_MIN}
    settings |= {
        "train__steps": first + K * (ROUNDS - 1),
        "train__seed": SEED,
        "train__weight_decay": DECAY,
    }
    settings |= {"train__optimizer": "sgd" if confined else "adamw", "mix__every": K}
    settings |= {"observe__every": 99, "observe__eval_every": 99, "data__batch": BATCH}
    settings |= {} if first == K else {"mix__after": first}
    config = paper_runs.config(mix__method=method, mix__agents=4, **settings)
    run = finetune.prepare(config, device="cpu")
    assert (config.lora.rank, config.lora.eta) == (RANK, ETA)
    return run


def arrays(run):
    """What the agents of the harness hold, in the form of the second trainer, as copies."""
    held = {name: X.detach().numpy().copy() for name, X in checkpoint.named(run.stacked).items()}
    sites = {name: {"B": held[f"{name}.0"], "A": held[f"{name}.1"]} for name in ("fc1", "fc2")}
    for name, site in sites.items():
        if (merged := run.stacked.sites[name].merged) is not None:
            site["base"] = merged[0].numpy().copy()
    head = {"weight": held["classifier.0"], "bias": held["classifier.1"]}
    return sites, head


def second(method, start, shards, **changed):
    plan = {"rank": RANK, "eta": ETA, "batch": BATCH, "seed": SEED}
    plan |= {"first": K, "K": K, "rounds": ROUNDS}
    plan |= {"lr": LR, "lr_min": LR_MIN, "decay": DECAY, "shards": shards}
    plan |= {"moments": not METHODS[method].confined, "make": net, **changed}
    sites, head = start
    return trainer.train(task(), {**sites, "head": head}, method, RING, plan)


def distance(method, found, expected):
    """The largest difference of what does not depend on a gauge, of one round."""
    (sites, head), (others, other_head) = found, expected
    gaps = [np.abs(head[part] - other_head[part]).max() for part in head]
    for name, site in sites.items():
        other = others[name]
        gaps.append(np.abs(site["B"] @ site["A"] - other["B"] @ other["A"]).max())
        gaps.append(np.abs(site.get("base", 0) - other.get("base", np.zeros(1))).max())
        if METHODS[method].space == "factors":
            gaps += [np.abs(site[part] - other[part]).max() for part in "BA"]
    return max(map(float, gaps))


# agents train apart first: a method whose mix knows the length of a round, and one of every kind
APART = ["dlora", "decaf", "centralized", "fedagg", "rolora", "la_lora"]


@pytest.mark.parametrize(
    ("method", "first"), [*((m, K) for m in ADAPTER_METHODS), *((m, 5) for m in APART)]
)
def test_every_round_of_a_method_is_that_of_the_second_trainer(method, first, monkeypatch):
    monkeypatch.setattr(finetune, "load_task", task)
    run = prepared(method, first)
    start, found = arrays(run), []
    for length in [first, *[K] * (ROUNDS - 1)]:
        for _ in range(length):
            finetune.advance(run)
        found.append(arrays(run))
    expected = second(method, start, run.shards, first=first)
    for mine, other in zip(found, expected, strict=True):
        assert distance(method, mine, other) <= SLIP
    moved = max(distance(method, mine, start) for mine in found)
    assert moved >= 1000 * SLIP


@pytest.mark.parametrize(
    ("method", "changed"),
    [
        ("dlora", {"lr": LR * 1.001}),
        ("dlora", {"decay": 0.0}),
        ("dlora", {"eta": ETA * 1.001}),
        ("dlora", {"seed": SEED + 1}),
        ("decaf", {"lr_min": 0.0}),
    ],
)
def test_a_small_error_of_a_trainer_is_beyond_the_slip(method, changed, monkeypatch):
    monkeypatch.setattr(finetune, "load_task", task)
    run = prepared(method)
    right, wrong = (second(method, arrays(run), run.shards, **how) for how in ({}, changed))
    assert distance(method, right[-1], wrong[-1]) > SLIP
