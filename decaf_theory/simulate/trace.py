"""What a simulation records: the trace, the quantities in it, and the error that carries one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np

from decaf_theory import measure
from decaf_theory.arrays import Array, host, namespace
from decaf_theory.lowrank import Factors, product, spectrum
from decaf_theory.simulate.visit import Visit, require_finite

Recorded: TypeAlias = np.ndarray[Any, Any]


@dataclass(frozen=True, eq=False)
class Trace:
    """Arrays [runs, S] over the recorded steps `step` [S], as NumPy arrays on the host.

    Step t is the point at which the gradients of step t are taken (in "combine", of the state
    before mixing); W_i = W0 + s B_i A_i are the agents' points and Wbar is their mean.

    loss = F(Wbar); agent_loss = mean of f_i(W_i); gradient = |grad F(Wbar)|_F^2;
    consensus_factors = Xi of (B, A); consensus_products = Xi of B A;
    interference, truncation = mean over agents of |I_i|_F and |E_i|_F in the mix that led to this
    step, both in units of B A (times s for weights), 0 where there was no mix yet;
    adapter_norm = mean of |s B_i A_i|_F; sigma_max = the largest sigma_1 of any factor (the c of
    Assumption 2); imbalance = the largest |B'B - AA'|_F / |BA|_F (inf where only BA is zero);
    numerical_rank = the least of any agent; these three are None without `spectra`. comm_bytes =
    bytes sent by all agents so far.

    status: "finished"; "stopped" by the caller's watch; "diverged" where a loss exceeded 1e5 times
    its scale at the start; "nonfinite" in the trace that a `SimulationError` carries. `note` says
    where. The recorded steps are all finite, and `final` is the last state [runs, N, ...].
    """

    status: str
    step: Recorded
    loss: Recorded
    agent_loss: Recorded
    gradient: Recorded
    consensus_factors: Recorded
    consensus_products: Recorded
    interference: Recorded
    truncation: Recorded
    adapter_norm: Recorded
    comm_bytes: Recorded
    final: Factors
    note: str = ""
    sigma_max: Recorded | None = None
    imbalance: Recorded | None = None
    numerical_rank: Recorded | None = None

    def require_finished(self) -> Trace:
        """Return the trace; ValueError where the run did not reach its last step."""
        if self.status != "finished":
            raise ValueError(f"the run ended {self.status} and is no data: {self.note}")
        return self


def quantities(visit: Visit) -> dict[str, Array]:
    """Return the columns of a `Trace` at this step."""
    config, factors = visit.config, visit.factors
    xp = namespace(visit.W)
    losses, gradients = _at_the_mean(visit)
    columns = {
        "step": visit.step,
        "loss": xp.mean(losses, axis=-1),
        "agent_loss": xp.mean(visit.agent_loss, axis=-1),
        "gradient": xp.sum(xp.mean(gradients, axis=-3) ** 2, axis=(-2, -1)),
        "consensus_factors": measure.consensus_distance(factors),
        "consensus_products": measure.consensus_distance(product(factors)),
        "interference": _interference(visit),
        "truncation": _truncation(visit),
        "adapter_norm": config.scale * xp.mean(measure.product_norm(factors), axis=-1),
        "comm_bytes": visit.comm_bytes,
    }
    return columns | (_spectra(factors) if config.spectra else {})


def _at_the_mean(visit: Visit) -> tuple[Array, Array]:
    """Return the agents' losses [runs, N] and gradients [runs, N, d, k] at the mean of the W_i."""
    problem = visit.config.problem
    Wbar = namespace(visit.W).mean(visit.W, axis=-3, keepdims=True)
    losses, gradients = problem.loss(Wbar), problem.grad(Wbar)
    require_finite("loss at the mean point", losses[..., None, None], visit.step)
    require_finite("gradient at the mean point", gradients, visit.step)
    return losses, gradients


def _interference(visit: Visit) -> Array:
    """Return the mean of |I_i|_F in the mix that led here, [runs]; 0 without one."""
    before, weights = visit.mix.before, visit.mix.weights
    # with A = I at all agents there is no interference to look for
    if before is None or weights is None or not visit.config.named.form.low_rank:
        return namespace(visit.W).zeros_like(visit.agent_loss[..., 0])
    return namespace(visit.W).mean(measure.interference_norm(before, weights), axis=-1)


def _truncation(visit: Visit) -> Array:
    """Return the mean of |E_i|_F in the mix that led here, [runs]; 0 where nothing is truncated."""
    xp, truncated = namespace(visit.W), visit.mix.truncated
    if truncated is None:
        return xp.zeros_like(visit.agent_loss[..., 0])
    return xp.mean(measure.truncation_error(truncated), axis=-1)


def _spectra(factors: Factors) -> dict[str, Array]:
    """Return the columns that take a singular value decomposition of every agent."""
    xp = namespace(factors.B)
    d, k = factors.shape
    return {
        "sigma_max": xp.max(measure.sigma_max(factors), axis=-1),
        "imbalance": xp.max(measure.imbalance(factors), axis=-1),
        "numerical_rank": xp.min(measure.numerical_rank(spectrum(factors), d=d, k=k), axis=-1),
    }


def assemble(
    status: str, note: str, records: Sequence[Mapping[str, Array]], final: Factors
) -> Trace:
    """Return the trace of the recorded steps."""
    runs = final.B.shape[0]
    columns = {name: np.stack([host(row[name]) for row in records], axis=-1) for name in records[0]}
    columns["comm_bytes"] = np.repeat(columns["comm_bytes"][None], runs, axis=0)
    return Trace(status, **columns, final=final, note=note)
