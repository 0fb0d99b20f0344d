"""How a file names the factors of a site, and which tensors are written for factors."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from decaf_theory.adapters.stored import Tensor, require_finite
from decaf_theory.arrays import Array
from decaf_theory.lowrank import Factors

PREFIX = "base_model.model."


@dataclass(frozen=True)
class Site:
    """An adapted matrix that is not yet read: scale B A is added to d x k weights.

    name: of the module. shape: (d, k). scale: alpha / r, or alpha / sqrt(r). B, A: as stored.
    """

    name: str
    shape: tuple[int, int]
    rank: int
    scale: float
    B: Tensor
    A: Tensor

    def read(self) -> Factors:
        """Return B [d, r], A [r, k] in float64, the scale folded into B; ValueError: not finite."""
        with np.errstate(over="ignore"):  # found next
            B = self.B.read() * self.scale
        require_finite(self.B.name, B)
        return Factors(B, self.A.read())


@dataclass(frozen=True)
class Naming:
    """A naming of tensors. name: of the naming. prefix: begins every name in a file."""

    name: str
    prefix: str = ""

    def tensors(self, site: Site, factors: Factors) -> dict[str, Array]:
        """Return the tensors that stand for factors B [d, r], A [r, k] of a site, scale one."""
        return {
            f"{self.prefix}{site.name}.lora_B.weight": factors.B,
            f"{self.prefix}{site.name}.lora_A.weight": factors.A,
        }

    def other(self, name: str) -> str:
        """Return the name in a file of a tensor that is not a factor."""
        return f"{self.prefix}{name}"


PEFT = Naming("peft", PREFIX)


def renamed(tensor: Tensor, name: str) -> Tensor:
    """Return the tensor under another name in errors."""
    return replace(tensor, name=name)
