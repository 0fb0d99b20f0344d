"""What a simulation records: the trace, the quantities in it, and the error that carries one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeAlias

import numpy as np

from decaf_theory import measure
from decaf_theory.arrays import Array, host, namespace
from decaf_theory.lowrank import Factors, product, spectrum
from decaf_theory.problems.base import Problem

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
    numerical_rank = the least of any agent; comm_bytes = bytes sent by all agents so far.

    status: "finished"; "diverged" where a loss exceeded 1e5 times its scale at the start;
    "nonfinite" in the trace that a `SimulationError` carries. `note` says where. Either way the
    recorded steps are those before, all finite, and `final` the last state [runs, N, ...].
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
    sigma_max: Recorded
    imbalance: Recorded
    numerical_rank: Recorded
    comm_bytes: Recorded
    final: Factors
    note: str = ""

    def require_finished(self) -> Trace:
        """Return the trace; ValueError where the run did not reach its last step."""
        if self.status != "finished":
            raise ValueError(f"the run ended {self.status} and is no data: {self.note}")
        return self


class SimulationError(ValueError):
    """A loss, gradient or factor that is not finite, with the trace up to it."""

    def __init__(self, what: str, *, run: int, agent: int, step: int) -> None:
        """Name what is not finite, and where."""
        super().__init__(f"{what} of agent {agent} in run {run} not finite at step {step}")
        self.run, self.agent, self.step = run, agent, step
        self.trace: Trace | None = None


class Visit(NamedTuple):
    """The state at one step, and what led to it."""

    step: int
    state: Factors  # [runs, N, ...]
    W: Array  # the agents' points, [runs, N, d, k]
    agent_loss: Array  # [runs, N]
    before: Factors | None  # the factors that entered the last mix
    truncation: Array | None  # |E_i|_F of that mix, [runs, N]
    comm_bytes: int


def quantities(problem: Problem, s: float, mixes: Array, visit: Visit) -> dict[str, Array]:
    """Return the columns of a `Trace` at this step; mixes [N, N] are the weights of the mixes."""
    xp = namespace(visit.W)
    Wbar = xp.mean(visit.W, axis=-3, keepdims=True)
    losses, gradients = problem.loss(Wbar), problem.grad(Wbar)
    require_finite("loss at the mean point", losses[..., None, None], visit.step)
    require_finite("gradient at the mean point", gradients, visit.step)
    singular_values = spectrum(visit.state)
    d, k = visit.state.shape
    zero = xp.zeros_like(visit.agent_loss)
    interference = zero if visit.before is None else measure.interference_norm(visit.before, mixes)
    truncation = zero if visit.truncation is None else visit.truncation
    return {
        "step": visit.step,
        "loss": xp.mean(losses, axis=-1),
        "agent_loss": xp.mean(visit.agent_loss, axis=-1),
        "gradient": xp.sum(xp.mean(gradients, axis=-3) ** 2, axis=(-2, -1)),
        "consensus_factors": measure.consensus_distance(visit.state),
        "consensus_products": measure.consensus_distance(product(visit.state)),
        "interference": xp.mean(interference, axis=-1),
        "truncation": xp.mean(truncation, axis=-1),
        "adapter_norm": s * xp.mean(measure.schatten(singular_values), axis=-1),
        "sigma_max": xp.max(measure.sigma_max(visit.state), axis=-1),
        "imbalance": xp.max(measure.imbalance(visit.state), axis=-1),
        "numerical_rank": xp.min(measure.numerical_rank(singular_values, d=d, k=k), axis=-1),
        "comm_bytes": visit.comm_bytes,
    }


def require_finite(what: str, x: Array, step: int) -> None:
    """Raise SimulationError unless each |x|_F^2 is finite, x [runs, N, ., .].

    Squares, so that finite factors also have finite products.
    """
    xp = namespace(x)
    finite = xp.isfinite(xp.sum(x * x, axis=(-2, -1)))
    if not bool(xp.all(finite)):
        run, agent = (int(i) for i in np.argwhere(~host(finite))[0])
        raise SimulationError(what, run=run, agent=agent, step=step)


def assemble(
    status: str, note: str, records: Sequence[Mapping[str, Array]], final: Factors
) -> Trace:
    """Return the trace of the recorded steps."""
    runs = final.B.shape[0]
    columns = {name: np.stack([host(row[name]) for row in records], axis=-1) for name in records[0]}
    columns["comm_bytes"] = np.repeat(columns["comm_bytes"][None], runs, axis=0)
    return Trace(status, **columns, final=final, note=note)
