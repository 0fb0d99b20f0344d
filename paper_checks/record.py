"""The files of a run: rows.jsonl (flat, without times) and run.json (settings, seconds, sums).

{"claim": "training", "step": 60, "round": 20, "loss": ..., "score": ..., ...}   one per round
{"claim": "T17", "case": "|E| against |I| fro", "measured": ..., ...}            of each mix
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import os
import platform
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from decaf_theory.files import from_lines, to_json, write_atomically
from paper_checks.config import Config
from verification import store
from verification.adapter_evidence import EVIDENCE
from verification.claim import Claim, Row
from verification.judge import judge

if TYPE_CHECKING:  # torch: reading what is stored needs none
    from paper_checks.run import Run
    from paper_checks.stacked import Stacked

ROWS, RUN = "rows.jsonl", "run.json"
TRAINING = "training"
MORE_LIBRARIES = ("transformers", "peft", "scikit-learn")


class Stored(NamedTuple):
    """A run read back: its run.json, the records of training, the rows of the claims."""

    folder: Path
    run: dict[str, Any]
    records: list[dict[str, Any]]
    rows: list[dict[str, Any]]

    @property
    def finished(self) -> bool:
        """Whether it took all its steps."""
        return bool(self.run["step"] == self.run["settings"]["train.steps"])


def stamp(config: Config, adapters: Sequence[str | Path] = ()) -> dict[str, Any]:
    """Return what must agree for a run to resume or to count as done: settings, start, data."""
    where = None if config.data_dir is None else str(Path(config.data_dir).expanduser().resolve())
    started = [str(Path(path).expanduser().resolve()) for path in adapters]
    return {**config.settings(), "adapters": started, "data_dir": where}


def write(run: Run, folder: Path, settings: Mapping[str, Any]) -> None:
    """Write rows.jsonl and run.json, each atomically."""
    from paper_checks import mixing

    rule, first = run.config.mix.rule, mixing.clock_of(0, run.every)
    training = [{"claim": TRAINING, **record} for record in run.records]
    data = store.encode_rows(TRAINING, [*training, *run.rows])
    write_atomically(folder / ROWS, data)
    about = {
        **environment(run.device),
        "settings": dict(settings),
        "origin": dict(run.config.origin),
        "metric": run.task.metric,
        "step": run.step,
        "round_steps": run.every,
        "trained_parameters": trained_parameters(run.stacked),
        "message_bytes": mixing.message_bytes(run.stacked, rule, run.memory, first)
        + mixing.pooled_bytes(run.stacked, rule, first),
        "shards": [len(shard) for shard in run.shards],
        "seconds": {name: round(value, 3) for name, value in run.seconds.items()},
        "mixing_share": mixing_share(run.seconds),
        "verdicts": verdicts(run.rows),
        "files": {ROWS: hashlib.sha256(data).hexdigest()},
    }
    write_atomically(folder / RUN, to_json(about))


def read(folder: Path) -> Stored:
    """Return the run of a folder. StoreError: a file is missing, cut short or altered."""
    about = store.read_json(folder / RUN)
    try:
        data = (folder / ROWS).read_bytes()
    except OSError as error:
        raise store.StoreError(f"{folder / ROWS}: {error.strerror}; run it again") from None
    if hashlib.sha256(data).hexdigest() != about["files"][ROWS]:
        raise store.StoreError(
            f"{folder / ROWS} is cut short or altered: its checksum differs from run.json's; "
            f"run it again"
        )
    lines = from_lines(data)
    records = [line for line in lines if line["claim"] == TRAINING]
    return Stored(folder, about, records, [line for line in lines if line["claim"] != TRAINING])


@contextmanager
def clock(run: Run, what: str) -> Iterator[None]:
    """Add the seconds spent inside to the run's."""
    start = time.perf_counter()
    yield
    if run.device != "cpu":
        import torch

        torch.cuda.synchronize()
    run.seconds[what] = run.seconds.get(what, 0.0) + time.perf_counter() - start


def mixing_share(seconds: Mapping[str, float]) -> float:
    """Return the seconds of mixing over those of training (gradients and steps), 0 without any."""
    return seconds.get("mixing", 0.0) / seconds["training"] if seconds.get("training") else 0.0


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
    """Return what the numbers of a run depend on besides its settings."""
    import torch

    libraries = store.library_versions()
    for name in MORE_LIBRARIES:
        with suppress(importlib.metadata.PackageNotFoundError):
            libraries[name] = importlib.metadata.version(name)
    return {
        "commit": store.commit(),
        "code": store.code_sum(),
        "python": platform.python_version(),
        "libraries": libraries,
        "device": device,
        "threads": torch.get_num_threads(),
        "cores": os.cpu_count(),
    }
