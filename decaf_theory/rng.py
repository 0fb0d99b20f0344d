"""Random streams addressed by name: the same name gives the same draws, whatever ran before."""

from __future__ import annotations

import hashlib

import numpy as np

from decaf_theory.arrays import integer


def generator(seed: int, *name: str | int) -> np.random.Generator:
    """Return the random generator of the stream `name` under `seed`.

    Streams of different names are independent (their seeds are a 256-bit hash of seed and name).
    Put the purpose in the name ("noise", "targets"), not the method or the rank, so that methods
    meet the same noise and comparisons are paired. ValueError: seed is not an integer >= 0.
    """
    seed = integer("seed", seed, 0)
    text = "\x1f".join([str(seed), *(f"{type(part).__name__}:{part}" for part in name)])
    digest = hashlib.sha256(text.encode()).digest()
    return np.random.default_rng(np.frombuffer(digest, dtype=np.uint32))
