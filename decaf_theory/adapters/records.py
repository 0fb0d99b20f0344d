"""An adapter, its numbers read or not yet."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from decaf_theory.adapters.namings import PEFT, Naming, Site
from decaf_theory.adapters.stored import Tensor
from decaf_theory.arrays import Array
from decaf_theory.lowrank import Factors


@dataclass(frozen=True)
class Adapter:
    """A LoRA adapter: W = W0 + B A at every site, and what was trained along with it.

    name: where it comes from. config: peft's settings. sites: float64 factors B [d, r], A [r, k] by
    module name, the LoRA scale folded into B. scales: that scale. others: the tensors that are not
    factors (heads of `modules_to_save`, biases), by name. other_kind: what of it is not a linear
    layer in peft's naming, in words; such an adapter is written by `merge_to` alone.
    """

    name: str
    config: Mapping[str, Any]
    sites: dict[str, Factors]
    scales: dict[str, float]
    others: dict[str, Array]
    other_kind: str = ""


@dataclass(frozen=True)
class Opened:
    """An adapter whose header and settings are read and checked, and its numbers are not.

    naming: how its file names the factors. remarks: what a reader must know of how it was read.
    Otherwise as `Adapter`, each part with `read()`.
    """

    name: str
    config: Mapping[str, Any]
    naming: Naming
    sites: dict[str, Site]
    others: dict[str, Tensor]
    remarks: tuple[str, ...] = ()

    def read(self) -> Adapter:
        """Return the adapter with its numbers; ValueError names what is not finite."""
        return Adapter(
            self.name,
            self.config,
            {name: site.read() for name, site in self.sites.items()},
            {name: site.scale for name, site in self.sites.items()},
            {name: tensor.read() for name, tensor in self.others.items()},
            self.other_kind(),
        )

    def other_kind(self) -> str:
        """Return what is not a linear layer in peft's naming, in words; empty if all is."""
        if self.naming != PEFT:
            return f"the naming of {self.naming.name}"
        for name, site in self.sites.items():
            if site.form.embedding or len(site.weight) > 2:
                return f"site {name}, {'an embedding' if site.form.embedding else 'a convolution'}"
        return ""
