"""Resuming a run after its process ends: atomic, checksummed checkpoints, of which two are kept.

A checkpoint holds the step, every trained tensor, the optimizer's moments, the records so far and
the run's stamp. Random draws and the order of the data are streams named by seed and step, so the
step is all of their state. File: MAGIC, the SHA-256 sum of the rest, then safetensors with JSON
inside.
"""

from __future__ import annotations

import json
import struct
import sys
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import torch as safetensors
from torch import Tensor

from decaf_theory.distributed.collective import of_everyone
from decaf_theory.distributed.restart import last_common
from decaf_theory.files import write_atomically
from decaf_theory.lowrank import Factors
from decaf_theory.sums import seal_bytes, unseal_bytes
from paper_checks import stamp
from paper_checks.observe import trained
from paper_checks.run import Run
from paper_checks.stacked import Layer, Stacked

MAGIC = b"decaf checkpoint 5\n"
KEPT = 2
LATEST, BEST = "checkpoint", "checkpoint/best"
KEPT_OF = "|"  # in the names of what a method keeps; no site's name holds it


class Checkpoint(NamedTuple):
    """The saved state: trained and optimizer tensors by name, and `meta`, plain JSON."""

    step: int
    tensors: dict[str, Tensor]
    meta: dict[str, Any]


def write(
    folder: Path, checkpoint: Checkpoint, stamped: Mapping[str, Any], kept: int | None = KEPT
) -> Path:
    """Write a checkpoint atomically, then remove all but the last `kept`; return its path.

    None: nothing is removed.
    """
    notes = {"step": checkpoint.step, "stamp": dict(stamped), "meta": checkpoint.meta}
    tensors = {name: X.detach().cpu().contiguous() for name, X in checkpoint.tensors.items()}
    payload = safetensors.save(tensors, metadata={"notes": json.dumps(notes)})
    path = folder / f"step-{checkpoint.step:09d}.ckpt"
    write_atomically(path, MAGIC + seal_bytes(payload))
    if kept is not None:
        prune(folder, kept)
    for torn in folder.glob(".step-*"):  # left by a process that was killed while it wrote
        torn.unlink(missing_ok=True)
    return path


def prune(folder: Path, kept: int = KEPT) -> None:
    """Remove all checkpoints but the last `kept`."""
    for old in _paths(folder)[kept:]:
        old.unlink(missing_ok=True)


def read(
    folder: Path, stamped: Mapping[str, Any], *, accept_code: bool = False, last: int | None = None
) -> tuple[Checkpoint | None, list[str]]:
    """Return the latest intact checkpoint (None if there is none), and what is to be said of it:
    files that were damaged, other code that is accepted.

    last: the step after which none counts.
    OtherStampError: it has another stamp; the message names the entries that differ.
    """
    notes = []
    for path in _paths(folder):
        if last is not None and step_of(path) > last:
            continue
        try:
            checkpoint, old = decode(path.read_bytes())
        except ValueError as error:
            aside = path.with_suffix(".damaged")  # or it would count as one of the last two
            path.replace(aside)
            notes.append(f"{path} is damaged ({error}), not used, and now named {aside.name}")
            continue
        if changed := stamp.require(old, stamped, path, accept_code=accept_code):
            notes.append(f"{path} is of other code and accepted ({'; '.join(changed)})")
        return checkpoint, notes
    return None, notes


def steps(folder: Path) -> list[int]:
    """Return the steps of the intact checkpoints, the latest first."""
    found = []
    for path in _paths(folder):
        with suppress(ValueError):
            decode(path.read_bytes())
            found.append(step_of(path))
    return found


def step_of(path: Path) -> int:
    """Return the step of a checkpoint by its name."""
    return int(path.stem.removeprefix("step-"))


def _paths(folder: Path) -> list[Path]:
    return sorted(folder.glob("step-*.ckpt"), reverse=True)


def decode(data: bytes) -> tuple[Checkpoint, dict[str, Any]]:
    """Return the checkpoint and its stamp; ValueError if the bytes are not those written."""
    if data[: len(MAGIC)] != MAGIC:
        raise ValueError("not a checkpoint, or from another version")
    payload = unseal_bytes(data[len(MAGIC) :])
    (length,) = struct.unpack("<Q", payload[:8])
    notes = json.loads(json.loads(payload[8 : 8 + length])["__metadata__"]["notes"])
    return Checkpoint(notes["step"], safetensors.load(payload), notes["meta"]), notes["stamp"]


def optimizer_tensors(
    optimizer: torch.optim.Optimizer, parameters: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    """Return the optimizer's state as tensors named "<what>/<parameter>"."""
    return {
        f"{what}/{name}": torch.as_tensor(value)
        for name, X in parameters.items()
        for what, value in optimizer.state.get(X, {}).items()
        if value is not None  # SGD without momentum keeps an empty buffer
    }


def restore(
    checkpoint: Checkpoint, optimizer: torch.optim.Optimizer, parameters: Mapping[str, Tensor]
) -> None:
    """Put trained tensors and moments back, bit for bit."""
    optimizer.state.clear()
    with torch.no_grad():
        for name, X in parameters.items():
            X.copy_(checkpoint.tensors[name])
    for key, value in checkpoint.tensors.items():
        what, found, name = key.partition("/")
        if found:
            X = parameters[name]
            # AdamW's step count lives on the CPU, the moments on their parameter's device
            device = value.device if value.ndim == 0 else X.device
            optimizer.state[X][what] = value.to(device)


# ---------------------------------------------------------------- of a run

# what changes besides tensors and step
CHANGES = (
    *("losses", "seen", "records", "rows", "seconds", "sent", "skipped", "accepted"),
    *("unplanned", "longer", "best", "waited"),
)


def save(run: Run, folder: Path, *, best: bool = False, apart: bool = False) -> Path:
    """Write a checkpoint of all that changes in a `Run`; return its path.

    best: as that of the best round, of which one is kept, in a folder of its own. At ranks all
    write at the same step, and older ones stay until all have; apart: unless this rank is alone.
    """
    trained_by_name = named(run.stacked)
    moments = optimizer_tensors(run.optimizer, trained_by_name)
    tensors = trained_by_name | moments | memory_tensors(run)
    meta = {name: getattr(run, name) for name in CHANGES}
    meta["scaler"] = run.scaler.state_dict() if run.scaler is not None else None
    meta["steps"] = run.config.train.steps
    if best or run.ranks is None:
        place, kept = (BEST, 1) if best else (LATEST, KEPT)
        return write(folder / place, Checkpoint(run.step, tensors, meta), run.stamp, kept)
    meta["sent_bytes"] = run.ranks.neighbourhood.sent_bytes
    path = write(folder / LATEST, Checkpoint(run.step, tensors, meta), run.stamp, None)
    if not apart:
        of_everyone(None, f"at the checkpoint of step {run.step}")
        prune(folder / LATEST)
    return path


def resume(
    run: Run, folder: Path, *, accept_code: bool = False, best: bool = False
) -> dict[str, Any]:
    """Resume a run from the latest intact checkpoint, if any; print what `read` has to say.

    best: from that of the best round. Return what it says of itself, empty if there is none.
    """
    place = folder / (BEST if best else LATEST)
    last = None if run.ranks is None else last_common(steps(place), run.ranks.rank, "step")
    found, notes = read(place, run.stamp, accept_code=accept_code, last=last)
    for note in notes:
        print(note, file=sys.stderr)
    if found is not None:
        remember(found, run)
        restore(found, run.optimizer, named(run.stacked))
        run.step = found.step
        for name in CHANGES:
            setattr(run, name, found.meta[name])
        if run.ranks is not None:
            run.ranks.neighbourhood.sent_bytes = found.meta["sent_bytes"]
        if run.scaler is not None:
            run.scaler.load_state_dict(found.meta["scaler"])
        run.accepted += [note for note in notes if "accepted" in note]
    return {} if found is None else found.meta


def memory_tensors(run: Run) -> dict[str, Tensor]:
    """Return the method's state at each site, as tensors named "<what>|<site>|<factor>".

    An array that is not a pair of factors has an empty third part. What a form trains is left out,
    as the sites have it.
    """
    trained = {variable.name for variable in run.config.mix.rule.form.variables}
    return {
        name: X
        for site, kept in run.memory.items()
        for what, held in kept.items()
        if what not in trained
        for name, X in zip(
            names_of(what, site, held), held if isinstance(held, Factors) else [held], strict=True
        )
    }


def names_of(what: str, site: str, held: Factors | Tensor) -> list[str]:
    """Return the names of the tensors of what a method keeps at a site."""
    parts = held._fields if isinstance(held, Factors) else ("",)
    return [f"{what}{KEPT_OF}{site}{KEPT_OF}{part}" for part in parts]


def remember(found: Checkpoint, run: Run) -> None:
    """Restore the method's state."""
    for name, X in found.tensors.items():
        if KEPT_OF in name:
            what, site, part = name.split(KEPT_OF)
            held = run.memory[site][what]
            if isinstance(held, Factors):
                run.memory[site][what] = held._replace(**{part: X.to(run.device)})
            else:
                held.copy_(X)  # in place, as the site may be bound to it


def named(stacked: Stacked) -> dict[str, Tensor]:
    """Return all tensors [N, ...] of the agents by name, including frozen factors."""
    layers: dict[str, Layer] = {**stacked.sites, **stacked.heads}
    return {
        f"{name}.{i}": X for name, layer in layers.items() for i, X in enumerate(trained(layer))
    }
