"""The files of a run: rows.jsonl (flat, without times) and run.json (stamp, seconds, sums).

{"claim": "training", "step": 60, "round": 20, "loss": ..., "score": ..., ...}   one per round
{"claim": "T17", "case": "|E| against |I| fro", "measured": ..., ...}            of each mix
"""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from decaf_theory.files import to_json, write_atomically
from decaf_theory.sums import sealed
from paper_checks import devices, follow, shards, stamp
from verification.adapter_evidence import EVIDENCE
from verification.claim import Claim, Row
from verification.harness import TRAINING, Stored, read
from verification.judge import judge
from verification.provenance import commit
from verification.store import ROWS, RUN, StoreError, encode_rows

if TYPE_CHECKING:  # torch: reading what is stored needs none
    from paper_checks.run import Run
    from paper_checks.stacked import Stacked

__all__ = ["ROWS", "RUN", "TRAINING", "Stored", "read"]


def write(run: Run, folder: Path) -> None:
    """Write rows.jsonl and run.json, each atomically."""
    from paper_checks import endpoints, mixing

    rule, first = run.config.mix.rule, run.rounds.clock(0)
    training = [{"claim": TRAINING, **record} for record in run.records]
    data = encode_rows(TRAINING, [*training, *run.rows])
    write_atomically(folder / ROWS, data)
    about = {
        **environment(run.device),
        "settings": run.stamp,
        "accepted": run.accepted,
        "origin": dict(run.config.origin),
        "metric": run.task.metric,
        "floors": endpoints.floors(run.task),
        **at_ranks(run),
        "step": run.step,
        "stopped_early": run.early,
        "best": run.best,
        "round_steps": run.every,
        "trained_parameters": trained_parameters(run.stacked),
        "message_bytes": mixing.message_bytes(run.stacked, rule, run.memory, first)
        + mixing.pooled_bytes(run.stacked, rule, run.memory, first),
        "shards": [len(shard) for shard in run.shards],
        "partition": partition_of(run),
        "seconds": {name: round(value, 3) for name, value in run.seconds.items()},
        "mixing_share": share(run.seconds, "mixing"),
        "verdicts": verdicts(run.rows),
        "files": {ROWS: hashlib.sha256(data).hexdigest()},
    }
    write_atomically(folder / RUN, to_json(sealed(about)))


def at_ranks(run: Run) -> dict[str, Any]:
    """Return who held which agents, and what ranks have sent each other; {} for one process."""
    if run.ranks is None:
        return {}
    sent = {"agents": run.ranks.neighbourhood.blocks, "sent_bytes": run.ranks.sent_bytes}
    return {"ranks": sent}


def partition_of(run: Run) -> dict[str, Any]:
    """Return who holds what: the counts of classes [N, classes], and what is unusual about them."""
    held = shards.counts(run.task.train.labels, run.shards, run.task.classes)
    return {"counts": held, "notes": shards.notes(held, run.config.mix.weighing)}


def require_same(run: Run, folder: Path, *, accept_code: bool = False) -> None:
    """Raise OtherStampError if a folder holds the record of a run with another stamp."""
    try:
        old = read(folder).settings
    except StoreError:  # none, or damaged: it will be written again
        return
    stamp.require(old, run.stamp, folder / RUN, accept_code=accept_code)


def remove(folder: Path) -> None:
    """Remove the record and the checkpoints of a run."""
    held = (f"{place}/step-*" for place in ("checkpoint", "checkpoint/best"))
    files = (path for pattern in held for path in folder.glob(pattern))
    for path in (folder / RUN, folder / ROWS, folder / follow.ROUNDS, *files):
        path.unlink(missing_ok=True)


@contextmanager
def clock(run: Run, what: str) -> Iterator[None]:
    """Add the seconds spent inside to the run's."""
    start = time.perf_counter()
    yield
    devices.synchronize(run.device)
    run.seconds[what] = run.seconds.get(what, 0.0) + time.perf_counter() - start


def share(seconds: Mapping[str, float], what: str) -> float:
    """Return the seconds of a part over those of training (gradients and steps), 0 without any."""
    return seconds.get(what, 0.0) / seconds["training"] if seconds.get("training") else 0.0


def verdicts(rows: Iterable[Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """Return outcome, tightness and number of rows of every claim that has rows."""
    found = {}
    for name in EVIDENCE:
        own = [Row.from_json(row) for row in rows if row["claim"] == name]
        if own:
            verdict = judge(Claim(name, "training", "derived", lambda _: iter(())), own)
            found[name] = {
                "outcome": verdict.outcome.value,
                "tightness": verdict.tightness,
                "rows": verdict.rows,
            }
    return found


def trained_parameters(stacked: Stacked) -> int:
    """Return the parameters that one agent trains."""
    from paper_checks.observe import trained

    return sum(X[0].numel() for layer in stacked.layers for X in trained(layer) if X.requires_grad)


def environment(device: str) -> dict[str, Any]:
    """Return where a run was made, besides its stamp."""
    import torch

    return {
        "commit": commit(),
        "device": device,
        "threads": torch.get_num_threads(),
        "cores": os.cpu_count(),
    }
