"""Forgetting on vit-digits: ten classes in five tasks, three forms, three ways to mix on a ring."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from paper_checks import config as configs
from paper_checks.turns import AVERAGE, FORGOTTEN, name_of

EXPERIMENT = "vit-digits-in-turn"
SEEDS = tuple(range(5))
WAYS = ("local", "dlora", "decaf")
FORMS: dict[str, dict[str, Any]] = {
    "lora": {},
    "sd_lora": {"mix.form": "sd_lora"},
    "rank1_pool": {"mix.form": "rank1_pool", "mix.active": 4, "mix.merged": 2},
}
Row = dict[str, Any]


def rows(form: str, seed: int, more: Mapping[str, Any] | None = None) -> list[Row]:
    """Return the rows of a form and seed, one for each way to mix.

    Scores of the agents' own models, in percent: average and forgetting of each task among its own
    classes, learned, the mean right after each task, and seen, among all classes at the end.
    """
    return [_row(form, way, seed, more or {}) for way in WAYS]


def _row(form: str, way: str, seed: int, more: Mapping[str, Any]) -> Row:
    import torch

    from paper_checks import finetune

    torch.set_num_threads(1)
    settings = {"mix.method": way, "train.seed": seed, **FORMS[form], **more}
    if form == "rank1_pool":
        settings["mix.router_seed"] = seed
    run = finetune.prepare(configs.read(EXPERIMENT, settings), device="cpu")
    while not run.finished:
        finetune.advance(run)
    last = run.records[-1]
    after = [record for record in run.records if name_of(0) in record]
    learned = [record[name_of(t)] for t, record in enumerate(after)]
    values = {
        "average": last[AVERAGE],
        "forgetting": last[FORGOTTEN],
        "learned": sum(learned) / len(learned),
        "seen": last["score_seen"],
    }
    about = {"what": "pictures", "form": form, "way": way, "seed": seed}
    return about | {name: 100 * x for name, x in values.items()}
