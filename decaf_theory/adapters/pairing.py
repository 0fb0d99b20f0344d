"""Stored tensors -> the pairs of factors among them, and the sites that they make."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple, TypeAlias

from decaf_theory.adapters import namings
from decaf_theory.adapters.namings import Form, Site
from decaf_theory.adapters.stored import Tensor


@dataclass(frozen=True)
class Pair:
    """The tensors of one site, and how they are named."""

    form: Form
    B: Tensor
    A: Tensor

    @property
    def r(self) -> int:
        """The rank by the shape of A; a number has none."""
        return (*self.A.shape, 0)[0]


Pairs: TypeAlias = dict[str, Pair]


class Stated(NamedTuple):
    """What is said of a site: its rank and scale, where that stands, whether alpha is a tensor."""

    r: int
    scale: float
    source: str
    alpha: bool = False


def plain_names(path: Path, tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """Return tensors by name without the prefix, and without the adapter's name inside.

    ValueError: two names that become one, or two adapters in one file.
    """
    shorter = {key: namings.unnamed(key.removeprefix(prefix)) for key in tensors}
    adapters = sorted({adapter for _, adapter in shorter.values() if adapter is not None})
    if len(adapters) > 1:
        raise ValueError(
            f"{path}: holds the adapters {adapters[0]!r} and {adapters[1]!r}; save one in a file"
        )
    found: dict[str, Tensor] = {}
    origin: dict[str, str] = {}
    for key, (name, _) in shorter.items():
        for adapter in adapters:
            name = name.replace(f".modules_to_save.{adapter}.", ".")
        if name in found:
            raise ValueError(f"{path}: tensors {origin[name]} and {key} are one; keep one of them")
        found[name] = tensors[key]
        origin[name] = key
    return found


def split(
    place: Path, tensors: Mapping[str, Tensor], forms: Iterable[Form]
) -> tuple[Pairs, dict[str, Tensor]]:
    """Return the factors by site, and all other tensors; ValueError: an update of another kind."""
    held: dict[str, dict[tuple[Form, str], Tensor]] = {}
    others = {}
    for name, tensor in tensors.items():
        if kind := namings.foreign(name):
            raise ValueError(
                f"{place}: tensor {name} is {kind}; its update is not s B A: unsupported"
            )
        if factor := namings.split(name, forms):
            site, form, letter = factor
            named = replace(tensor, name=f"{place}: site {site}: {form.label(letter)}")
            held.setdefault(site, {})[form, letter] = named
        elif ".lora_" in name:
            raise ValueError(
                f"{place}: tensor {name} is neither lora_A nor lora_B: "
                f"only products of two factors are supported"
            )
        else:
            others[name] = replace(tensor, name=f"{place}: tensor {name}")
    return {site: _pair(place, site, factors) for site, factors in held.items()}, others


def _pair(place: Path, site: str, factors: Mapping[tuple[Form, str], Tensor]) -> Pair:
    """Return the pair of one site; ValueError: a factor without partner, or two namings."""
    labels = sorted(form.label(letter) for form, letter in factors)
    if len(factors) == 1:
        raise ValueError(f"{place}: site {site}: {labels[0]} has no partner in the file")
    forms = {form for form, _ in factors}
    if len(forms) > 1:
        raise ValueError(
            f"{place}: site {site}: is named twice, {', '.join(labels)}; keep one pair"
        )
    (form,) = forms
    return Pair(form, factors[form, "B"], factors[form, "A"])


def site(place: Path, name: str, pair: Pair, stated: Stated) -> Site:
    """Return one site; ValueError unless its shapes are those of the rank that is stated.

    Of a convolution B is d x r x 1 x 1 and A r x in x height x width.
    """
    B, A = pair.B.shape, pair.A.shape
    labels = pair.form.label("B"), pair.form.label("A")
    kernel = A[2:]
    matrices = min(len(A), len(B)) >= 2 and B[2:] == (1,) * len(kernel)
    if not matrices or len(kernel) > 3 or 0 in (*B, *A) or (kernel and pair.form.embedding):
        raise ValueError(
            f"{place}: site {name}: {labels[0]} and {labels[1]} must be matrices d x r and r x k, "
            f"or d x r x 1 x 1 and r x in x height x width, got shapes {B} and {A}"
        )
    r = stated.r
    if kernel and A[0] == r and B[1] < r and r % B[1] == 0:
        raise ValueError(
            f"{place}: site {name}: is a convolution in {r // B[1]} groups, each with a part of "
            f"the rank; its update is not one product: unsupported"
        )
    if (B[1], A[0]) != (r, r):
        raise ValueError(
            f"{place}: site {name}: {stated.source} says r = {r}, "
            f"but {labels[0]} is {_times(B)} and {labels[1]} {_times(A)}"
        )
    shape = B[0], math.prod(A[1:])
    return Site(name, shape, r, stated.scale, pair.B, pair.A, pair.form, stated.alpha)


def _times(shape: tuple[int, ...]) -> str:
    return " x ".join(map(str, shape))
