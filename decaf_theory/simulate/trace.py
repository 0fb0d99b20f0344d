"""What a simulation records: the quantities by name, and the trace of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np

from decaf_theory import measure
from decaf_theory.arrays import Array, host, namespace
from decaf_theory.lowrank import Factors, spectrum
from decaf_theory.methods.form import interference_of
from decaf_theory.methods.state import State
from decaf_theory.simulate.visit import Visit, mean_of_agents, square_sum

Recorded: TypeAlias = Any  # a NumPy array on the host, None where it was not asked for


@dataclass(frozen=True, eq=False, kw_only=True)
class Trace:
    """Arrays [runs, S] over the recorded steps `step` [S], as NumPy arrays on the host.

    Step t is the point at which the gradients of step t are taken (in "combine", of the state
    before mixing); W_i = W0 + s B_i A_i are the agents' points and Wbar is their mean. Means over
    agents are weighted by `Config.target` where it is given.

    loss = F(Wbar); agent_loss = mean of f_i(W_i); gradient = |grad F(Wbar)|_F^2;
    consensus_factors = Xi of (B, A); consensus_products = Xi of B A; consensus_aligned = Xi of
    (B, A) with the agents turned onto a common frame (`measure.aligned_consensus`);
    interference, truncation = mean over agents of |I_i|_F and |E_i|_F in the mix that led to this
    step, both in units of B A (times s for weights), 0 where there was no mix;
    adapter_norm = mean of |W_i - W0|_F; sigma_max = the largest sigma_1 of any factor (the c of
    Assumption 2); imbalance = the largest |B'B - AA'|_F / |BA|_F (inf where only BA is zero);
    numerical_rank = the least of any agent; comm_bytes = bytes sent by all agents so far, of
    unequal ranks those of the largest, to which factors are padded.
    Which Xi a bound means: of methods that mix factors (DLoRA, DLoRA-FA) and of the full matrix the
    bounds of T25, T35 and T37 are on consensus_factors, in whose frame agents average. A product
    method (DeCAF) leaves each agent's frame to its SVD, so that its consensus_factors are of no
    meaning: products that agree may have factors that are far apart. Its agreement is
    consensus_products (T20-distance bounds consensus_aligned by it); the Xi of T29 and
    T30-certificate is that in T30's frame, which `compare` follows along the run.
    Of a form that `with_form` gives, interference is what averaging B, A and its variables apart
    would lose of W - W0, and consensus_factors, sigma_max and imbalance are of B and A alone.
    Quantities that `Config.record` leaves out are None. Of methods that merge into W0, W_i holds
    what was merged, as do consensus_products, adapter_norm and numerical_rank.

    status: "finished"; "stopped" by the caller's watch; "diverged" where a loss exceeded 1e5 times
    its scale at the start; "nonfinite" in the trace that a `SimulationError` carries. `note` says
    where. The recorded steps are all finite. `final` are the last factors [runs, N, ...], `memory`
    what the method keeps with them.
    """

    status: str
    step: Recorded
    final: Factors
    memory: Mapping[str, Factors | Array]
    comm_bytes: Recorded
    loss: Recorded = None
    agent_loss: Recorded = None
    gradient: Recorded = None
    consensus_factors: Recorded = None
    consensus_products: Recorded = None
    consensus_aligned: Recorded = None
    interference: Recorded = None
    truncation: Recorded = None
    adapter_norm: Recorded = None
    sigma_max: Recorded = None
    imbalance: Recorded = None
    numerical_rank: Recorded = None
    note: str = ""

    def __repr__(self) -> str:
        """Return in a line how the runs ended and what was recorded, without the numbers."""
        known = [name for name in QUANTITIES if getattr(self, name) is not None]
        runs = len(self.comm_bytes)
        of = f"{runs} run{'s' * (runs != 1)}, steps {self.step[0]} to {self.step[-1]}"
        return f"<Trace: {self.status}, {of}, {', '.join(['comm_bytes', *known])}>"

    def require_finished(self) -> Trace:
        """Return the trace; ValueError where the run did not reach its last step."""
        if self.status != "finished":
            raise ValueError(f"the run ended {self.status} and is no data: {self.note}")
        return self


def _loss(visit: Visit) -> Array:
    return mean_of_agents(visit.loss_at_mean, visit.config.shares, -1)


def _agent_loss(visit: Visit) -> Array:
    return mean_of_agents(visit.agent_loss, visit.config.shares, -1)


def _gradient(visit: Visit) -> Array:
    return square_sum(visit.gradient_at_mean, (-2, -1))


def _interference(visit: Visit) -> Array:
    before, weights, form = visit.mix.before, visit.mix.weights, visit.config.named.form
    # with A = I at all agents there is no interference to look for
    if before is None or weights is None or not form.low_rank:
        return np.zeros(visit.config.runs)
    if form.given:
        lost = interference_of(form, State(before, visit.mix.memory), weights)
        norms = square_sum(lost, (-2, -1)) ** 0.5
    else:
        norms = measure.interference_norm(before, weights)
    return mean_of_agents(norms, visit.config.shares, -1)


def _truncation(visit: Visit) -> Array:
    truncated = visit.mix.truncated
    if truncated is None:
        return np.zeros(visit.config.runs)
    errors = measure.truncation_error(truncated)
    return mean_of_agents(errors, visit.config.shares, -1)


def _update(visit: Visit) -> Array:
    """Return the agents' W - W0 in units of B A, dense [runs, N, d, k]."""
    return visit.config.named.form.update(visit.state, 1.0)


def _consensus_aligned(visit: Visit) -> Array:
    # the full matrix has A = I at all agents, and no frame
    low_rank = visit.config.named.form.low_rank
    measured = measure.aligned_consensus if low_rank else measure.consensus_distance
    return measured(visit.factors, visit.config.shares)


def _adapter_norm(visit: Visit) -> Array:
    if visit.config.named.form.factored:
        norms = measure.product_norm(visit.factors)
    else:
        norms = square_sum(_update(visit), (-2, -1)) ** 0.5
    return visit.config.scale * mean_of_agents(norms, visit.config.shares, -1)


def _sigma_max(visit: Visit) -> Array:
    largest = measure.sigma_max(visit.factors)
    return namespace(largest).max(largest, axis=-1)


def _imbalance(visit: Visit) -> Array:
    ratios = measure.imbalance(visit.factors)
    return namespace(ratios).max(ratios, axis=-1)


def _numerical_rank(visit: Visit) -> Array:
    d, k = visit.factors.shape
    if visit.config.named.form.factored:
        S = spectrum(visit.factors)
    else:
        dense = _update(visit)
        S = namespace(dense).linalg.svdvals(dense)
    ranks = measure.numerical_rank(S, d=d, k=k)
    return namespace(ranks).min(ranks, axis=-1)


# name -> its value at a step, [runs]; the last five take a decomposition of every agent's factors
QUANTITIES: dict[str, Callable[[Visit], Array]] = {
    "loss": _loss,
    "agent_loss": _agent_loss,
    "gradient": _gradient,
    "consensus_factors": lambda visit: measure.consensus_distance(
        visit.factors, visit.config.shares
    ),
    "consensus_products": lambda visit: measure.consensus_distance(
        _update(visit), visit.config.shares
    ),
    "truncation": _truncation,
    "interference": _interference,
    "consensus_aligned": _consensus_aligned,
    "adapter_norm": _adapter_norm,
    "sigma_max": _sigma_max,
    "imbalance": _imbalance,
    "numerical_rank": _numerical_rank,
}


def quantities(visit: Visit) -> dict[str, Array]:
    """Return what is to be recorded of this step. SimulationError: a number that is not finite."""
    asked = visit.config.record or QUANTITIES
    row = {"step": visit.step, "comm_bytes": visit.comm_bytes}
    return row | {name: host(QUANTITIES[name](visit)) for name in asked}


def assemble(status: str, note: str, records: Sequence[Mapping[str, Array]], final: State) -> Trace:
    """Return the trace of the recorded steps."""
    runs = final.factors.B.shape[0]
    columns = {name: np.stack([row[name] for row in records], axis=-1) for name in records[0]}
    columns["comm_bytes"] = np.repeat(columns["comm_bytes"][None], runs, axis=0)
    return Trace(status=status, note=note, final=final.factors, memory=final.memory, **columns)
