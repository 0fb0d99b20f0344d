"""What passes between a device and the host: a mode of torch that notes it, on any device.

On the CPU nothing waits, but the same lines ask: factors that are treated as if on CUDA show how
often a round would wait for a GPU, and for how many numbers.
"""

import traceback
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch.overrides import TorchFunctionMode

# each reads numbers of its first argument on the host; np.asarray refuses what is on a device
READS = {"__bool__", "__int__", "__float__", "__index__", "item", "tolist", "cpu", "numpy"}
READS |= {"nonzero", "argwhere", "masked_select"}  # the size of what they return
CHECKED = {"linalg_cholesky", "linalg_eigh", "linalg_svd"}  # whether they succeeded
UPLOADS = {"asarray", "as_tensor", "tensor", "from_numpy"}


class Crossing(NamedTuple):
    """Numbers that cross, and the line of this project that asks for it."""

    how: str
    numbers: int
    where: str


class Watched(TorchFunctionMode):
    """Collects reads and uploads while it is entered."""

    def __init__(self):
        super().__init__()
        self.reads, self.uploads = [], []

    def __torch_function__(self, func, types, args=(), kwargs=None):
        name = getattr(func, "__name__", "")
        first = args[0] if args else None
        if name in READS or name in CHECKED:
            self.reads.append(Crossing(name, _read(name, first), where()))
        elif name in ("__getitem__", "__setitem__") and _by_mask(args[1]):
            self.reads.append(Crossing("mask", 1, where()))
        elif name in UPLOADS and not isinstance(first, torch.Tensor):
            self.uploads.append(Crossing(name, int(np.size(first)), where()))
        return func(*args, **(kwargs or {}))


def _read(name, x):
    return x.numel() if name in ("cpu", "numpy", "tolist") else 1


def _by_mask(index):
    parts = index if isinstance(index, tuple) else (index,)
    return any(isinstance(x, torch.Tensor) and x.dtype == torch.bool for x in parts)


def where():
    """The innermost line of the library."""
    frames = [f for f in traceback.extract_stack() if "decaf_theory" in f.filename]
    return f"{Path(frames[-1].filename).name}: {frames[-1].line}" if frames else "?"
