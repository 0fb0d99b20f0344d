"""The end of a round: its record, its scores, and what a run of more steps would hold instead."""

from __future__ import annotations

from typing import Any

import numpy as np

from paper_checks import endpoints, observe, turns
from paper_checks.ranks import agreed, mean_losses, observed
from paper_checks.record import clock
from paper_checks.run import Run


def close_round(run: Run, round_: int, closes: bool, last: bool) -> None:
    """Record the round: loss on its batches, measurements at its mix, scores.

    closes: whether it is whole. At the last step `run.longer` is what a longer run would hold.
    """
    record = {
        "step": run.step,
        "round": round_,
        "loss": float(np.mean(mean_losses(run))),
        "comm_bytes": run.sent,
    }
    if run.scaler is not None:
        record["skipped_steps"] = run.skipped
    planned = closes and round_ % run.config.observe.eval_every == 0
    scores = evaluated(run, planned) if last or planned else {}
    final = averaged(run) if last else {}
    if run.turns.ends(run.step):
        scores |= scored_in_turn(run)
    if last:
        whole = {"record": record | run.seen | (scores if planned else {})}
        run.longer = whole if closes else {"losses": run.losses, "seen": run.seen}
    run.records.append(record | run.seen | scores | final)
    if last and len(run.turns.classes) > 1:
        run.records[-1] |= turns.summary(run.records)
    run.losses, run.seen = [], {}


def evaluated(run: Run, planned: bool) -> dict[str, Any]:
    """Return how all agents score; remember the best planned score on validation examples, if any.

    One that is there only as the run ends would be none of a longer run.
    """
    apart = run.config.train.sequential
    with clock(run, "evaluating"):
        scores = observed(
            run,
            lambda: endpoints.scored(run.stacked, run.task, batch_of(run), sequential=apart),
        )
    score = scores.get("validation_score") if planned else None
    if score is not None and not (run.best and score <= run.best["score"]):
        run.best, run.waited = {"score": score, "step": run.step}, 0
    elif score is not None:
        run.waited += 1
    return scores


def scored_in_turn(run: Run) -> dict[str, float]:
    """Return the accuracies on each task so far, when one of several has been learned."""
    with clock(run, "evaluating"):
        apart, labels = run.config.train.sequential, run.task.test.labels
        scores = observe.class_scores(run.stacked, run.task, batch_of(run), sequential=apart)
        return turns.scored(scores, labels, run.turns.classes[: run.step // run.turns.steps])


def averaged(run: Run) -> dict[str, Any]:
    """Return how the averaged models score."""
    with clock(run, "evaluating"):
        rule = run.config.mix.rule
        return observed(run, lambda: endpoints.averaged(run.stacked, run.task, rule, batch_of(run)))


def batch_of(run: Run) -> int:
    """Return the examples of one agent in one forward pass of an evaluation."""
    return run.config.data.eval_batch or run.config.data.batch


def worth_observing(run: Run, round_: int) -> bool:
    """Whether a mix is measured that is not the last: one of every so many, if time allows.

    Another measurement is expected to take as long as those before it did on average.
    """
    choice, spent = run.config.observe, run.seconds.get("observing", 0.0)
    if round_ % choice.every:
        return False
    times = len({row["step"] for row in run.rows})
    if choice.share is None or times == 0:
        return True
    worth = spent * (times + 1) / times <= choice.share * run.seconds.get("training", 0.0)
    return agreed(run, worth)


def last_mixed(run: Run) -> int:
    """Return the round of the run's last mix."""
    train = run.config.train
    return run.rounds.whole(train.steps - (train.order == "mix_first"))
