"""The loop: rounds of local steps and mixing, watched for divergence and non-finite numbers."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from decaf_theory.arrays import Array, convert, host, namespace
from decaf_theory.lowrank import Factors, product
from decaf_theory.measure import factor_gradients, sigma_max, truncation_error
from decaf_theory.methods.product import keep_directions
from decaf_theory.rng import generator
from decaf_theory.simulate.config import Config, start_factors
from decaf_theory.simulate.trace import (
    SimulationError,
    Trace,
    Visit,
    assemble,
    quantities,
    require_finite,
)

DIVERGED = 1e5  # a loss this many times its scale at the start ends the run


def simulate(config: Config) -> Trace:
    """Run the method; return what it did.

    The batch of runs ends where one of them diverges. SimulationError: a loss, gradient or factor
    that is not finite; its `trace` holds the finite steps before (None where there are none).
    """
    mixes = _who_mixed(config)
    records: list[dict[str, Array]] = []
    status, note, state, scale = "finished", "", None, None
    with np.errstate(over="ignore", invalid="ignore"):  # overflow is looked for, by name
        try:
            for visit in visits(config):
                scale = _loss_scale(config, visit, scale)
                note = _divergence(visit, scale)
                if note:
                    status, note = "diverged", note + _advice(config)
                    break
                state = visit.state
                if visit.step % config.record_every == 0 or visit.step == config.steps:
                    records.append(quantities(config.problem, config.scale, mixes, visit))
        except SimulationError as error:
            error.args = (f"{error}{_advice(config)}",)
            if records and state is not None:
                error.trace = assemble("nonfinite", str(error), records, state)
            raise
    assert state is not None  # the loss at the start cannot exceed its own scale
    return assemble(status, note, records, state)


def visits(config: Config) -> Iterator[Visit]:
    """Yield the state at steps 0 ... steps; SimulationError where it stops being finite."""
    problem, order = config.problem, config.order
    streams = [generator(config.seed, "noise", run) for run in range(config.runs)]
    state, sent = start_factors(config), 0
    bytes_mix, bytes_pool = _bytes_a_round(config, state)
    before = truncation = None
    if order == "mix_first":
        before, sent = state, bytes_mix
        state, truncation = _mix(config, before, 0)
    for t in range(config.steps + 1):
        W = _points(config, state)
        loss, g = problem.loss(W), problem.grad(W)
        require_finite("loss", loss[..., None, None], t)
        require_finite("gradient", g, t)
        # with A = I at all agents there is no interference to look for
        mixed_from = None if config.rule.full_matrix else before
        yield Visit(t, state, W, loss, mixed_from, truncation, sent)
        if t == config.steps:
            return
        if order == "combine":
            before = state
            mixed, truncation = _mix(config, state, t)
            state = _step(config, mixed, _factor_gradients(config, state, g, streams))
        else:
            before = _descend(config, state, g, streams, t)
            state, truncation = _mix(config, before, t)
        require_finite("B", state.B, t)
        require_finite("A", state.A, t)
        sent += bytes_mix + bytes_pool


def _points(config: Config, state: Factors) -> Array:
    """Return the agents' W_i = W0 + s B_i A_i."""
    W0 = convert(config.problem.W0, state.B)
    # a full matrix is B itself, A = I
    return W0 + state.B if config.rule.full_matrix else W0 + config.scale * product(state)


def _descend(
    config: Config, state: Factors, g: Array, streams: list[np.random.Generator], t: int
) -> Factors:
    """Return the state after the local steps, the first of them along g."""
    for local in range(config.local_steps):
        if local:
            g = config.problem.grad(_points(config, state))
            require_finite("gradient", g, t)
        state = _step(config, state, _factor_gradients(config, state, g, streams))
        require_finite("B", state.B, t)
        require_finite("A", state.A, t)
    return state


def _factor_gradients(
    config: Config, state: Factors, g: Array, streams: list[np.random.Generator]
) -> Factors:
    """Return the stochastic gradients in (B, A) at `state`, where the weight gradient is g."""
    xp = namespace(g)
    if config.noise and config.problem.noise is not None:
        drawn = [config.problem.noise(stream, tuple(g.shape[1:])) for stream in streams]
        g = g + convert(np.stack(drawn), g)
    if config.rule.pools_gradients:
        g = xp.broadcast_to(xp.mean(g, axis=-3, keepdims=True), g.shape)
    # a full matrix is B itself; its A = I does not train
    return Factors(g, state.A) if config.rule.full_matrix else factor_gradients(g, state, config.s)


def _step(config: Config, at: Factors, gradients: Factors) -> Factors:
    """Return at - lr gradients in the factors that train."""
    return Factors(
        *(
            x - config.lr * g if name in config.rule.trains else x
            for name, x, g in zip(Factors._fields, at, gradients, strict=True)
        )
    )


def _mix(config: Config, state: Factors, t: int) -> tuple[Factors, Array | None]:
    """Return the mixed state and |E_i|_F, None for methods that do not truncate."""
    rule = config.rule
    if rule.truncate is None:
        return rule.mix(state, config.mixing, t), None
    truncated = rule.truncate(state, config.mixing, t)
    keep = config.zero_directions == "keep"
    mixed = keep_directions(truncated, state) if keep else truncated.factors
    return mixed, truncation_error(truncated)


def _loss_scale(config: Config, visit: Visit, known: Array | None) -> Array:
    """Return the size of an ordinary loss, [runs]: what divergence is judged against.

    The larger of the agents' mean losses at the start and at W0, plus sigma^2 / (2 L), what noise
    sustains on a quadratic at lr = 1/L. Where all are zero, the first loss that is not.
    """
    xp = namespace(visit.agent_loss)
    loss = xp.abs(xp.mean(visit.agent_loss, axis=-1))
    if known is not None:
        return xp.where(known > 0, known, loss)
    problem, constants = config.problem, config.problem.constants
    W0 = convert(problem.W0, visit.W)[None, ...]
    at_W0 = xp.abs(xp.mean(problem.loss(W0), axis=-1))
    return xp.where(loss > at_W0, loss, at_W0) + constants.sigma**2 / (2 * constants.L)


def _divergence(visit: Visit, scale: Array) -> str:
    """Return which run left its scale, in words; an empty string where none did."""
    loss = host(namespace(scale).mean(visit.agent_loss, axis=-1))
    limit = DIVERGED * host(scale)
    over = np.flatnonzero(np.abs(loss) > limit)
    if over.size == 0:
        return ""
    run = int(over[0])
    return (
        f"run {run} diverged at step {visit.step}: the agents' mean loss is {loss[run]:.3g}, "
        f"beyond {DIVERGED:g} times its scale at the start"
    )


def _advice(config: Config) -> str:
    """Return what to do about a step size beyond 1/L* of the start; "" where it is within.

    L* is the smoothness of the losses in what is trained, on Omega_c with the start's c (T2).
    """
    start, constants = start_factors(config), config.problem.constants
    L_star, letters = constants.L, "L* = L"
    if not config.rule.full_matrix:
        s, c = config.s, float(host(sigma_max(start)).max())
        L_star = s * (2 * s * constants.L * c**2 + constants.G(s, c))
        letters = f"L* = s (2 s L c^2 + G), with c = {c:.3g} of the start"
    # written as a product: L* may be zero
    if not config.lr * L_star > 1:
        return ""
    limit = f"lr = {config.lr:.3g} is above 1/L* = {1 / L_star:.3g}, {letters}"
    return f"; {limit}; try a smaller lr (bounds.safe_step)"


def _who_mixed(config: Config) -> np.ndarray[Any, Any]:
    """Return the dense weights with which the method averages, [N, N]."""
    N = config.problem.N
    if config.rule.meets == "graph":
        Pi = config.mixing
        return np.asarray(Pi.toarray()) if hasattr(Pi, "toarray") else host(Pi)
    return np.eye(N) if config.rule.meets == "none" else np.full((N, N), 1 / N)


def _bytes_a_round(config: Config, state: Factors) -> tuple[int, int]:
    """Return the bytes that all agents send for one mix, and for the pooled gradients.

    A graph has a message for each directed link, a server one to and one from each agent.
    """
    N, rule = config.problem.N, config.rule
    weights = _who_mixed(config)
    links = {"graph": int(np.count_nonzero(weights - np.diag(np.diag(weights)))), "server": 2 * N}
    message = rule.outgoing_bytes(state)
    pooled = 2 * N * config.local_steps * message if rule.pools_gradients else 0
    return links.get(rule.meets, 0) * message, pooled
