"""One linear layer of N agents over one shared, frozen base: all their batches in one product.

Batches are agent-major: x [N b, ..., k] holds agent 0's b examples, then agent 1's, and so on.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from decaf_theory.lowrank import Factors
from decaf_theory.methods.decoupled import OLD
from paper_checks.stacked.turned import of_old_pairs, spread, used_pairs


class StackedLinear(nn.Module):
    """y_i = x_i W0' + b0 + s x_i A_i' B_i': a frozen nn.Linear and the LoRA factors of N agents.

    B [N, d, r] and A [N, r, k] are the parameters, in float32 or the base's dtype, whichever is
    wider; s is `scale`. The low-rank branch and its sum with the base's output are computed in that
    dtype, autocast or not, and returned in the dtype of the base's output. Dropout acts on the
    branch's input, one draw for the whole batch. With `agent` set the batch is that agent's alone.
    merged [1, d, k] or [N, d, k], None for most methods: what was merged into W0, in units of B A,
    the same for all agents or of each; s x_i merged_i' is added without dropout.
    gate [N, 1, r], None for most forms, trains, too: then y_i has s x_i A_i' diag(g_i) B_i'.
    magnitudes [N, T, 1], of SD-LoRA, train, too: those of the old pairs and, last, of B A. active,
    of a pool: how many pairs an input uses. kept: what such a form holds in the method's memory.
    """

    def __init__(self, base: nn.Linear, A: Tensor, scale: float, dropout: float = 0.0) -> None:
        """Start at B = 0."""
        super().__init__()
        self.base = base
        self.B = nn.Parameter(A.new_zeros(A.shape[0], base.out_features, A.shape[1]))
        self.A = nn.Parameter(A)
        self.scale = scale
        self.dropout = nn.Dropout(dropout) if dropout else nn.Identity()
        self.agent: int | None = None
        self.merged: Tensor | None
        self.register_buffer("merged", None, persistent=False)
        self.gate: nn.Parameter | None
        self.register_parameter("gate", None)
        self.magnitudes: nn.Parameter | None
        self.register_parameter("magnitudes", None)
        self.active: int | None = None
        self.kept: dict[str, Any] = {}

    @property
    def pair(self) -> Factors:
        """One pair, detached, of which W - W0 is the product times the scale.

        That is (B diag(g), A), with SD-LoRA's old pairs next to them; of a pool it is all of (B, A)
        and what was merged is left out.
        """
        B: Tensor = self.B
        A: Tensor = self.A
        if self.gate is not None:
            B = B * self.gate
        if self.magnitudes is not None:
            old = self.kept[OLD]
            weights = spread(self.magnitudes[:, :-1], old.rank)
            B = torch.cat([B * self.magnitudes[:, -1:], old.B * weights], dim=-1)
            A = torch.cat([A, old.A], dim=-2)
        return Factors(B.detach(), A.detach())

    @property
    def variables(self) -> list[nn.Parameter]:
        """What trains besides B and A."""
        return [X for X in (self.gate, self.magnitudes) if X is not None]

    @property
    def weight(self) -> Tensor:
        """The base's frozen weight; some models read a layer's dtype from it."""
        return self.base.weight

    def forward(self, x: Tensor) -> Tensor:
        """Return y [N b, ..., d] for x [N b, ..., k]; ValueError where N divides no batch."""
        A, B = chosen(self.A, self.agent), chosen(self.B, self.agent)
        y = self.base(x)
        with without_autocast(x.device):
            wide, frozen = x.to(A.dtype), y.to(A.dtype)
            if self.merged is not None and len(self.merged) == 1:
                frozen = frozen + self.scale * nn.functional.linear(wide, self.merged[0])
            frozen, own = by_agent(frozen, len(A)), by_agent(self.dropout(wide), len(A))
            if self.merged is not None and len(self.merged) > 1:
                merged = chosen(self.merged, self.agent)
                frozen = frozen + self.scale * (by_agent(wide, len(A)) @ merged.mT)
            low = own @ A.mT
            if self.gate is not None:
                low = low * chosen(self.gate, self.agent)
            if self.active is not None:
                low = low * used_pairs(
                    self.kept, self.active, wide, len(A), self.agent, self.training
                )
            if self.magnitudes is not None:
                a = chosen(self.magnitudes, self.agent)
                low = low * a[:, -1:]
                frozen = frozen + self.scale * of_old_pairs(self.kept, a, own, self.agent)
            total = torch.baddbmm(frozen, low, B.mT, alpha=self.scale)
        return total.reshape(y.shape).to(y.dtype)


class StackedHead(nn.Module):
    """y_i = x_i W_i' + b_i: a dense nn.Linear that every agent trains, started from the base's.

    weight [N, d, k] and bias [N, d] or None, in float32 or the base's dtype, whichever is wider.
    Computed in that dtype, returned in x's. With `agent` set the batch is that agent's alone.
    """

    def __init__(self, base: nn.Linear, agents: int) -> None:
        """Give every agent its own copy of the base."""
        super().__init__()
        self.weight = nn.Parameter(copies(base.weight, agents))
        self.bias: nn.Parameter | None = None
        if base.bias is not None:
            self.bias = nn.Parameter(copies(base.bias, agents))
        self.agent: int | None = None

    def forward(self, x: Tensor) -> Tensor:
        """Return y [N b, ..., d] for x [N b, ..., k]; ValueError where N divides no batch."""
        W = chosen(self.weight, self.agent)
        with without_autocast(x.device):
            y = by_agent(x.to(W.dtype), len(W)) @ W.mT
            if self.bias is not None:
                y = y + chosen(self.bias, self.agent)[:, None, :]
        return y.reshape(*x.shape[:-1], W.shape[-2]).to(x.dtype)


Layer = StackedLinear | StackedHead


def at_least_float32(dtype: torch.dtype) -> torch.dtype:
    """Return the dtype of trained tensors on a base of `dtype`."""
    return torch.promote_types(dtype, torch.float32)


def copies(X: Tensor, agents: int) -> Tensor:
    """Return N copies of X, [N, ...], in a dtype that trains."""
    X = X.detach().to(at_least_float32(X.dtype))
    return X.expand(agents, *X.shape).clone()


def chosen(X: Tensor, agent: int | None) -> Tensor:
    """Return X [N, ...], or one agent's slice [1, ...] of it: gradients land in that slice."""
    return X if agent is None else X[agent : agent + 1]


def by_agent(x: Tensor, N: int) -> Tensor:
    """Return x [N b, ..., k] as [N, b ..., k]; ValueError unless N divides the batch."""
    if x.shape[0] % N:
        raise ValueError(
            f"a batch of {x.shape[0]} does not divide among {N} agents; stack batches of one size, "
            f"agent after agent, or give one agent's batch inside only(agent)"
        )
    return x.reshape(N, -1, x.shape[-1])


def without_autocast(device: torch.device) -> AbstractContextManager[object]:
    """Return a context in which products keep the dtype of their factors."""
    if torch.amp.is_autocast_available(device.type):
        return torch.autocast(device.type, enabled=False)
    return nullcontext()  # the meta device knows no autocast
