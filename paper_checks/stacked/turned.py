"""What the forms of tasks in turn compute in a stacked layer, besides its own B and A."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from decaf_theory.lowrank import Factors
from decaf_theory.methods.decoupled import OLD
from decaf_theory.methods.pool import ROUTER, USED, mask


def of_old_pairs(
    kept: Mapping[str, Any], magnitudes: Tensor, x: Tensor, agent: int | None
) -> Tensor:
    """Return sum_{t<T} a_t x A_t' B_t' of SD-LoRA's frozen pairs of unit norm, x [N, m, k]."""
    old = rows_of(kept[OLD], agent)
    weights = spread(magnitudes[:, :-1], old.rank)
    found: Tensor = ((x @ old.A.mT) * weights) @ old.B.mT
    return found


def spread(magnitudes: Tensor, rank: int) -> Tensor:
    """Return magnitudes [N, T, 1] once for each of `rank` columns in all, [N, 1, rank]."""
    each = rank // max(1, magnitudes.shape[1])
    return magnitudes.repeat_interleave(each, dim=1).mT


def rows_of(pair: Factors, agent: int | None) -> Factors:
    """Return the agents' pairs, or those of one agent as [1, ...]."""
    return pair if agent is None else pair.map(lambda X: X[agent : agent + 1])


@torch.no_grad()
def used_pairs(
    kept: Mapping[str, Any], active: int, x: Tensor, agents: int, agent: int | None, count: bool
) -> Tensor:
    """Return the mask [N, m, r] of the pairs that each row of x [N b, ..., k] uses, in its dtype.

    An input's first row, the class token of a vision transformer, chooses for all its rows; an
    input of one row for itself. count: the uses of the N agents, or of `agent`, are counted.
    """
    rows = x.reshape(len(x), -1, x.shape[-1])
    scores = kept[ROUTER][0] @ rows[:, 0].mT
    chosen = mask(scores, active).mT
    each = chosen.reshape(agents, -1, chosen.shape[-1])
    if count:
        place = slice(None) if agent is None else slice(agent, agent + 1)
        kept[USED][place] += each.sum(1)[..., None]
    found: Tensor = each.repeat_interleave(rows.shape[1], dim=1)
    return found
