"""The memory that a round needs in addition to its factors and results.

Measured in a process of its own, so that nothing else has raised the peak before.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np

from decaf_theory.bench.cases import mixing
from decaf_theory.lowrank import Factors
from decaf_theory.rng import generator
from decaf_theory.tsvd import tsvd_of_mix

STATUS = Path("/proc/self/status")
PEAK = Path("/proc/self/clear_refs")


def added_bytes(layers: int, N: int, d: int, k: int, r: int) -> dict[str, int]:
    """Return the bytes of the factors and of the results, and those that the peak adds to both.

    The peak is that of resident memory over the round, less what was resident before it with the
    factors in place. ValueError if the system does not report it.
    """
    code = f"from decaf_theory.bench.memory import tell; tell({layers}, {N}, {d}, {k}, {r})"
    return told_by(code)


def told_by(code: str) -> dict[str, int]:
    """Return the JSON that a program prints in a process of its own, which measures its memory.

    ValueError: the system does not report a process's peak, or the program failed.
    """
    if not STATUS.exists():
        raise ValueError(f"the peak of resident memory is read from {STATUS}, which is missing")
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    if done.returncode:
        raise ValueError(f"the round that measures memory failed: {done.stderr.strip()[-300:]}")
    found: dict[str, int] = json.loads(done.stdout)
    return found


def tell(layers: int, N: int, d: int, k: int, r: int) -> None:
    """Do one round in float32 and print the bytes; for a process of its own."""
    factors = Factors(*(np.empty((layers, N, *s), np.float32) for s in ((d, r), (r, k))))
    for name, X in zip("BA", factors, strict=True):
        generator(0, "bench", name).standard_normal(out=X, dtype=np.float32)
    Pi = mixing("ring", N)
    small = Factors(factors.B[:1, :, :8], factors.A[:1, ..., :8])
    tsvd_of_mix(small, Pi, min(r, 8), method="panel")  # so that the libraries are loaded
    before = resident("VmRSS")
    found = tsvd_of_mix(factors, Pi, r)
    results = sum(X.nbytes for X in (*found.factors, found.singular_values, found.tail))
    added = resident("VmHWM") - before - results
    sizes = {"factors": sum(X.nbytes for X in factors), "results": results, "added": added}
    print(json.dumps(sizes))


def added_on_cuda(layers: int, N: int, d: int, k: int, r: int) -> dict[str, int]:
    """Return the same from torch's own count of the device's memory."""
    import torch

    B, A = (torch.randn(layers, N, *s, device="cuda") for s in ((d, r), (r, k)))
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    found = tsvd_of_mix(Factors(B, A), mixing("ring", N), r)
    arrays = (*found.factors, found.singular_values, found.tail)
    results = sum(X.numel() * X.element_size() for X in arrays)
    added = torch.cuda.max_memory_allocated() - before - results
    return {"factors": 4 * (B.numel() + A.numel()), "results": results, "added": added}


def reset_peak() -> None:
    """Let VmHWM begin anew from what is resident now. OSError: the system does not allow it."""
    PEAK.write_text("5", encoding="utf-8")


def resident(name: str) -> int:
    """Return VmRSS (now), RssAnon (of it, not of files) or VmHWM (the peak), of this process."""
    for entry in STATUS.read_text(encoding="utf-8").splitlines():
        if entry.startswith(f"{name}:"):
            return int(entry.split()[1]) * 1024
    raise ValueError(f"{STATUS} has no line {name}")
