"""The checksum that a written adapter carries in the metadata of its weights."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from decaf_theory.adapters.stored import Tensor
from decaf_theory.arrays import Array
from decaf_theory.sums import SUM, sum_of, sum_of_arrays

FREE = ("base_model_name_or_path", "inference_mode")  # settings that one edits on another machine


def sum_of_stream(tensors: Iterable[tuple[str, Array]], config: Mapping[str, Any]) -> str:
    """Return the checksum of an adapter's numbers, whatever their type, and of its settings.

    Tensors come one at a time, in the order of their names.
    """
    numbers = ((name, X.astype(np.float64, copy=False)) for name, X in tensors)
    kept = {name: value for name, value in config.items() if name not in FREE}
    return sum_of([sum_of_arrays(numbers), kept])


def require_sum(
    weights: Path,
    metadata: Mapping[str, str],
    tensors: Mapping[str, Tensor],
    config: Mapping[str, Any],
) -> None:
    """Raise ValueError if an adapter carries a checksum, and its numbers or settings another."""
    if SUM not in metadata:
        return
    numbers = ((name, tensor.numbers()) for name, tensor in sorted(tensors.items()))
    if metadata[SUM] != sum_of_stream(numbers, config):
        raise ValueError(
            f"{weights.parent}: damaged: the checksum in {weights.name} is not that of its numbers "
            f"and settings; export or merge it again"
        )
