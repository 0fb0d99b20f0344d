"""The adapted matrices of known models: how many of which shape, from the sizes of their towers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from decaf_theory.names import Table


class Site(NamedTuple):
    """Adapted matrices of one shape: W is d x k, with factors of this rank, in so many copies."""

    d: int
    k: int
    rank: int
    copies: int


class Tower(NamedTuple):
    """A stack of equal layers: width of the stream, of the inner layer, of keys and values."""

    layers: int
    width: int
    inner: int
    keys: int


class Model(NamedTuple):
    """A model: its towers, and the matrices of every layer that are adapted by default."""

    towers: tuple[Tower, ...]
    targets: tuple[str, ...]


LLAMA2_7B = Tower(32, 4096, 11008, 4096)
CLIP_TEXT = Tower(12, 512, 2048, 512)
CLIP_VISION = Tower(12, 768, 3072, 768)
VIT_DIGITS = Tower(2, 48, 96, 48)
MODELS: Table[Model] = Table(
    {
        "llama2-7b": Model((LLAMA2_7B,), ("q_proj", "v_proj")),
        "clip-vit-b16": Model((CLIP_TEXT, CLIP_VISION), ("q_proj", "k_proj", "v_proj")),
        "smollm2-135m": Model((Tower(30, 576, 1536, 192),), ("q_proj", "v_proj")),
        "minilm-l6": Model((Tower(6, 384, 1536, 384),), ("query", "value")),
        "vit-digits": Model((VIT_DIGITS,), ("q_proj", "v_proj", "fc1")),
    }
)


def sites_of(model: str, rank: int) -> list[Site]:
    """Return the adapted matrices of a model of `MODELS`, one entry for each shape.

    ValueError: an unknown name, with the nearest; a rank that the smallest of them does not have.
    """
    try:
        towers, targets = MODELS[model]
    except KeyError as error:
        raise ValueError(f"model: {error.args[0]}") from None
    counts: dict[tuple[int, int], int] = {}
    for tower in towers:
        for target in targets:
            shape = _shape(tower, target)
            counts[shape] = counts.get(shape, 0) + tower.layers
    return checked([Site(d, k, rank, count) for (d, k), count in counts.items()])


def parse_sites(texts: Sequence[str]) -> list[Site]:
    """Return the matrices written as D,K,R,COUNT each; ValueError names what is malformed."""
    return checked([_parse(text) for text in texts])


def checked(sites: Sequence[Site]) -> list[Site]:
    """Return sites whose numbers are at least one and whose rank fits; else ValueError."""
    if not sites:
        raise ValueError("sites must hold at least one matrix D,K,R,COUNT, got none")
    for d, k, rank, copies in sites:
        if min(d, k, copies) < 1:
            raise ValueError(f"sites must have D, K and COUNT >= 1, got {d},{k},{rank},{copies}")
        if not 1 <= rank <= min(d, k):
            raise ValueError(
                f"rank must be in 1 ... min(D, K) = {min(d, k)} for {d} x {k} matrices, got {rank}"
            )
    return list(sites)


def _parse(text: str) -> Site:
    parts = text.split(",")
    try:
        d, k, rank, copies = (int(part) for part in parts)
    except ValueError:
        raise ValueError(
            f"sites must be four whole numbers D,K,R,COUNT (rows, columns, rank, how many), "
            f"got {text!r}; e.g. 4096,4096,8,64"
        ) from None
    return Site(d, k, rank, copies)


def _shape(tower: Tower, target: str) -> tuple[int, int]:
    """Return d and k of a matrix by the name that its model gives it."""
    rows = {"fc1": tower.inner, "k_proj": tower.keys, "v_proj": tower.keys, "value": tower.keys}
    return rows.get(target, tower.width), tower.width
