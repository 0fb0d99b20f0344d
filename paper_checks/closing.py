"""The end of a round: its record, its scores, and what a run of more steps would hold instead."""

from __future__ import annotations

from typing import Any

import numpy as np

from paper_checks import observe
from paper_checks.record import clock
from paper_checks.run import Run


def close_round(run: Run, round_: int, closes: bool, last: bool) -> None:
    """Record the round: loss on its batches, measurements at its mix, scores.

    closes: whether it is whole. At the last step `run.longer` is what a longer run would hold.
    """
    record = {
        "step": run.step,
        "round": round_,
        "loss": float(np.mean(run.losses)),
        "comm_bytes": run.sent,
    }
    if run.scaler is not None:
        record["skipped_steps"] = run.skipped
    planned = closes and round_ % run.config.observe.eval_every == 0
    scores = evaluated(run, planned) if last or planned else {}
    if last:
        whole = {"record": record | run.seen | (scores if planned else {})}
        run.longer = whole if closes else {"losses": run.losses, "seen": run.seen}
    run.records.append(record | run.seen | scores)
    run.losses, run.seen = [], {}


def evaluated(run: Run, planned: bool) -> dict[str, Any]:
    """Return how all agents score; remember the best planned score on validation examples, if any.

    One that is there only as the run ends would be none of a longer run.
    """
    data, sequential = run.config.data, run.config.train.sequential
    with clock(run, "evaluating"):
        size = data.eval_batch or data.batch
        scores = observe.evaluate(run.stacked, run.task, size, sequential=sequential)
    score = scores.get("validation_score") if planned else None
    if score is not None and not (run.best and score <= run.best["score"]):
        run.best, run.waited = {"score": score, "step": run.step}, 0
    elif score is not None:
        run.waited += 1
    return scores


def last_mixed(run: Run) -> int:
    """Return the round of the run's last mix."""
    train = run.config.train
    return run.rounds.whole(train.steps - (train.order == "mix_first"))
