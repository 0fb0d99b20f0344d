"""The stamp of a run: what must agree for it to resume, to count as done, to share a table.

`of` is known before anything is loaded: settings, code, libraries, device, the sums of the files
that are read. `of_loaded` is known after: the sums of the examples and of the pretrained weights.
"""

from __future__ import annotations

import platform
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from decaf_theory.sums import sum_of, sum_of_arrays, sum_of_files
from paper_checks import devices
from paper_checks.config import Config
from verification import harness
from verification.provenance import differences, library_versions
from verification.store import StoreError

if TYPE_CHECKING:  # a sweep that skips finished runs needs no torch
    from torch import Tensor

    from paper_checks.tasks import Task

STEPS = "train.steps"
LIBRARIES = ("transformers", "peft", "scikit-learn")
sum_of_data = cache(sum_of_files)  # once per process: data sets can be large


class OtherStampError(StoreError):
    """Stored state that must not be used; the message says what differs and what to do."""


def of(config: Config, adapters: Sequence[str | Path] = (), device: str = "cpu") -> dict[str, Any]:
    """Return the flat stamp of a run, as far as it is known before anything is loaded."""
    starts = tuple(Path(path).expanduser() for path in adapters)
    data = config.data_dir and (Path(config.data_dir).expanduser() / config.data_folder,)
    return {
        **config.settings(),
        "code": harness.code(),
        "python": platform.python_version(),
        **{f"libraries.{name}": x for name, x in library_versions(*LIBRARIES).items()},
        "device": devices.model_name(device),
        "sum.adapters": sum_of_files(starts) if starts else None,
        "sum.data": sum_of_data(data) if data else None,
    }


def of_loaded(task: Task) -> dict[str, Any]:
    """Return the rest of the stamp: sums of the examples and the weights, and their type.

    Of images that are opened when they are needed the sum of their files counts.
    """
    parts = {"train": task.train, "test": task.test}
    if task.validation is not None:
        parts["validation"] = task.validation
    inputs = {f"{p} {n}": x for p, part in parts.items() for n, x in part.inputs.items()}
    labels = {f"{p} labels": part.labels for p, part in parts.items()}
    opened = {name: x.content for name, x in inputs.items() if not _held(x)}
    weights = task.model.state_dict()
    dtypes = sorted({str(x.dtype).removeprefix("torch.") for x in weights.values()})
    return {
        "dtype": ", ".join(dtypes),
        "sum.examples": sum_of_tensors({n: x for n, x in (inputs | labels).items() if _held(x)}),
        "sum.pictures": sum_of(opened) if opened else None,
        "sum.model": sum_of_tensors(weights),
    }


def sum_of_tensors(tensors: Mapping[str, Tensor]) -> str:
    """Return the checksum of tensors with their names, types and shapes."""
    import torch

    bytes_of = {  # NumPy has no bfloat16
        f"{name} {x.dtype} {tuple(x.shape)}": x.detach().cpu().contiguous().reshape(-1)
        for name, x in tensors.items()
    }
    return sum_of_arrays({name: x.view(torch.uint8).numpy() for name, x in bytes_of.items()})


def _held(x: Any) -> bool:
    return hasattr(x, "detach")


def lengthened(
    old: Mapping[str, Any], new: Mapping[str, Any], where: Path, *, accept_code: bool = False
) -> Mapping[str, Any]:
    """Return the stamp with the steps of `new`, if that is the same run with more of them.

    OtherStampError: its step sizes depend on how many there are.
    """
    longer = {**old, STEPS: new.get(STEPS)}
    more = old.get(STEPS, 0) < new.get(STEPS, 0)
    in_turn = new.get("task.sequence") is not None  # whose tasks would have more steps each
    if in_turn or not more or differences(longer, new, accept_code=accept_code):
        return old
    if (new["train.schedule"], new["train.period"]) == ("cosine", "run"):
        raise OtherStampError(
            f"{where} cannot be extended from train.steps = {old[STEPS]} to {new[STEPS]}: its step "
            f"sizes fall as a cosine over the whole run, so that a longer run has others from the "
            f"first step on; choose another folder with --out, or pass --restart to train anew "
            f"(train.schedule 'constant' or train.period 'round' can be extended)"
        )
    return longer


def require(
    old: Mapping[str, Any], new: Mapping[str, Any], where: Path, *, accept_code: bool = False
) -> list[str]:
    """Return how the software of two stamps differs, if that is accepted.

    OtherStampError: they differ, other than by more steps of the same run; the message names the
    entries and the ways on.
    """
    old = lengthened(old, new, where, accept_code=accept_code)
    changed, asked = differences(old, new), differences(old, new, accept_code=True)
    if asked or (changed and not accept_code):
        ways = "choose another folder with --out, or pass --restart to drop it and train anew"
        raise OtherStampError(
            f"{where} was made with other settings, code or data ({'; '.join(changed)}): {ways}"
            + ("" if asked else ", or --accept-code to go on with it all the same")
        )
    return changed
