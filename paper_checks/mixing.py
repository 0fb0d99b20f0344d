"""One round of mixing on a stacked model: factors by METHODS, heads by the same rows, moments.

Sites of one shape d x k are stacked to [layer, agent, ., .], so that one call mixes them all.
All agents share one LoRA scale, so that it can stay out of the products that are mixed.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from decaf_theory.arrays import eps
from decaf_theory.lowrank import Factors, mean_over_agents
from decaf_theory.methods import Method
from decaf_theory.methods.product import keep_directions
from decaf_theory.simulate import DeadStartWarning
from decaf_theory.topology import TOPOLOGIES

FIRST, SECOND = ("exp_avg", "momentum_buffer"), ("exp_avg_sq",)


def rows_of(rule: Method, graph: str, agents: int) -> np.ndarray[Any, Any]:
    """Return the weights [N, N] with which agents average: the graph's, 1/N by a server, or I."""
    if rule.meets == "none":
        return np.eye(agents)
    Pi = TOPOLOGIES["complete" if rule.meets == "server" else graph](agents)
    return np.asarray(Pi)


def begin(stacked: Any, rule: Method, order: str, zero_directions: str) -> None:
    """Let the method's factors train, after a look at the start.

    ValueError: a frozen A, or a start of pooled gradients, that differs between agents.
    DeadStartWarning: the first mix makes all factors zero, so that only heads could ever train.
    """
    for name, site in stacked.sites.items():
        if "A" not in rule.trains and not bool((site.A == site.A[:1]).all()):
            raise ValueError(
                f"A must be equal at all agents for {rule.name}, which freezes and never mixes it; "
                f"site {name} differs: start from equal adapters, or choose another method"
            )
        alike = all(bool((X == X[:1]).all()) for X in (site.B, site.A))
        if rule.pools_gradients and not alike:
            raise ValueError(
                f"adapters must be equal at all agents for {rule.name}, which is one model; site "
                f"{name} differs: set lora.equal_start, or start from equal adapters"
            )
        site.A.requires_grad_("A" in rule.trains)
        site.B.requires_grad_("B" in rule.trains)
    literal = rule.product and order == "mix_first" and zero_directions == "drop"
    if literal and not any(bool(site.B.any()) for site in stacked.sites.values()):
        warnings.warn(
            "train.order = 'mix_first' with mix.zero_directions = 'drop' from B = 0: the first mix "
            "makes both factors zero forever; use order 'step_first' or zero_directions 'keep'",
            DeadStartWarning,
            stacklevel=3,
        )


def by_shape(factors: Mapping[str, Factors]) -> list[list[str]]:
    """Return the names of the sites, those of one shape (d, k) together."""
    groups: dict[tuple[int, int], list[str]] = {}
    for name, pair in factors.items():
        groups.setdefault(pair.shape, []).append(name)
    return list(groups.values())


def together(factors: Iterable[Factors]) -> Factors:
    """Return sites of one shape as B [layer, agent, d, r] and A [layer, agent, r, k]."""
    pairs = list(factors)
    return Factors(torch.stack([pair.B for pair in pairs]), torch.stack([p.A for p in pairs]))


def mixed(
    rule: Method, old: Factors, Pi: np.ndarray[Any, Any], t: int, zero_directions: str = "keep"
) -> Factors:
    """Return the factors after one mix by the method's rule, [layer, agent, ., .].

    zero_directions, for methods that mix products: "drop" is the truncation itself, which leaves
    dead directions zero in both factors forever; "keep" gives them the agent's old row of A again
    (`keep_directions`), the product unchanged.
    """
    if rule.truncate is None or zero_directions == "drop":
        return rule.mix(old, Pi, t)
    return keep_directions(rule.truncate(old, Pi, t), old)


@torch.no_grad()
def mix(
    stacked: Any,
    rule: Method,
    Pi: np.ndarray[Any, Any],
    t: int,
    *,
    zero_directions: str = "keep",
    moments: str = "reset",
    optimizer: torch.optim.Optimizer | None = None,
) -> None:
    """Mix all adapters and heads of a stacked model in place, and settle the optimizer's moments.

    moments: "reset" forgets them, as does an optimizer that is made anew every round; "keep" leaves
    them, which is the wrong basis after a truncation; "rotate" moves those of methods that mix
    products by `rotated`, and keeps the others', whose coordinates mean the same before and after.
    The policy is that of every round's end whatever the method, also where nothing is mixed, so
    that methods differ in the mix alone.
    """
    factors = stacked.factors()
    for names in by_shape(factors) if rule.meets != "none" else ():
        old = together(factors[name] for name in names)
        new = mixed(rule, old, Pi, t, zero_directions)
        if moments == "rotate" and rule.product and optimizer is not None:
            _rotate_all(optimizer, [stacked.sites[name] for name in names], old, new)
        for layer, name in enumerate(names):
            factors[name].B.copy_(new.B[layer])
            factors[name].A.copy_(new.A[layer])
    if rule.meets != "none":
        for head in stacked.heads.values():
            for X in head.parameters():
                X.copy_(_mean(X, Pi))
    if moments == "reset" and optimizer is not None:
        optimizer.state.clear()


def _mean(X: Tensor, Pi: np.ndarray[Any, Any]) -> Tensor:
    """Return sum_j pi_ij X_j for X [N, ...]."""
    mean: Tensor = mean_over_agents(X.reshape(len(X), 1, -1), Pi)
    return mean.reshape(X.shape)


def basis_maps(old: Factors, new: Factors) -> tuple[Tensor, Tensor]:
    """Return R = A' A^+ and S = B^+ B', the least-squares maps from old to new factors, float64.

    A' is nearest to R A and B' to B S. For a change of gauge, A' = R A and B' = B R^-1 with factors
    of full rank, R is that matrix and S its inverse. Singular values below max(d, k) eps sigma_1 of
    the factors' dtype are no directions.
    """
    rtol = max(old.shape) * eps(old.B)
    (B, A), (new_B, new_A) = (tuple(X.double() for X in pair) for pair in (old, new))
    return new_A @ torch.linalg.pinv(A, rtol=rtol), torch.linalg.pinv(B, rtol=rtol) @ new_B


def rotated(moments: Factors, old: Factors, new: Factors, *, squares: bool = False) -> Factors:
    """Return moments of the gradients at `old` as moments of those at `new`, of the same shapes.

        grad_B = s G A'  ->  s G (R A)' = grad_B R',     grad_A = s B' G  ->  S' grad_A

    with R, S of `basis_maps`: exact for first moments under a change of gauge, and under a
    truncation the least-squares image. Second moments (squares=True) are elementwise and have no
    exact image; they are moved by the squared maps, v_B (R * R)' and (S * S)' v_A, which is exact
    where the rank directions of a gradient are uncorrelated, and keeps them nonnegative.
    """
    R, S = basis_maps(old, new)
    if squares:
        R, S = R * R, S * S
    B, A = moments
    return Factors((B.double() @ R.mT).to(B.dtype), (S.mT @ A.double()).to(A.dtype))


def _rotate_all(
    optimizer: torch.optim.Optimizer, sites: list[Any], old: Factors, new: Factors
) -> None:
    """Move the moments of these sites in place; one that does not train has none."""
    for name in FIRST + SECOND:
        held = [[optimizer.state.get(X, {}).get(name) for X in (s.B, s.A)] for s in sites]
        if any(X is None for pair in held for X in pair):
            continue  # no step was taken since a reset
        pairs = [Factors(*pair) for pair in held]
        moved = rotated(together(pairs), old, new, squares=name in SECOND)
        for layer, pair in enumerate(pairs):
            pair.B.copy_(moved.B[layer])
            pair.A.copy_(moved.A[layer])


def message_bytes(stacked: Any, rule: Method) -> int:
    """Return the bytes of one message: what one agent sends to one other in a mix, heads too."""
    sites = sum(rule.outgoing_bytes(pair) for pair in stacked.factors().values())
    heads = [X for head in stacked.heads.values() for X in head.parameters()]
    return sites + sum(X[0].numel() * X.element_size() for X in heads)


def bytes_a_round(stacked: Any, rule: Method, Pi: np.ndarray[Any, Any], steps: int) -> int:
    """Return the bytes that all agents send in a round of `steps` steps.

    A graph has a message for each directed link, a server one to and one from each agent, and
    pooled gradients go to and from a server at every step.
    """
    links = {
        "graph": int(np.count_nonzero(Pi - np.diag(np.diag(Pi)))),
        "server": 2 * stacked.agents,
        "none": 2 * stacked.agents * steps if rule.pools_gradients else 0,
    }
    return links[rule.meets] * message_bytes(stacked, rule) if links[rule.meets] else 0
