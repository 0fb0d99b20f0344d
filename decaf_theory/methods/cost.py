"""What a round of a method costs: bytes and flops of all agents, from what its record says."""

from __future__ import annotations

import numpy as np
from numpy.typing import DTypeLike

from decaf_theory.arrays import Array
from decaf_theory.lowrank import Factors
from decaf_theory.methods.base import Method
from decaf_theory.methods.feedback import with_own
from decaf_theory.methods.form import FULL_MATRIX, LORA, MERGED
from decaf_theory.methods.meeting import messages_of, weights_of
from decaf_theory.methods.state import Clock, Message, State, message_bytes
from decaf_theory.tsvd.flops import mix_flops, svd_flops
from decaf_theory.tsvd.mixing import entries


def round_bytes(method: Method, Pi: Array, *, d: int, k: int, r: int) -> tuple[int, int]:
    """Return the bytes that all agents send in the first and in the second round, in float32."""
    state = begun(method, d, k, r)
    first, second = (_sent(method, state, Pi, Clock(t)) for t in (0, 1))
    return first, second


def round_flops(method: Method, Pi: Array, *, d: int, k: int, r: int) -> tuple[float, float] | None:
    """Return the flops of all agents in the first and in the second round, a multiply-add is two.

    For one local step on one d x k matrix in float32, given the gradient of W, to leading order:

        local step    2 d k r for B A, 2 d k r for the gradient of each factor that trains, and
                      2 for each number that trains
        means         2 for each weight (an agent's own, too) and each number of a message; so for
                      gradients that are pooled
        truncations   of methods that mix products: `tsvd.flops.mix_flops`, with the residual of
                      one that keeps some; of FedHL an SVD of the server's W, d x k
        merges        of methods that merge into W0: 2 d k r for each pair that the server sends

    What else an agent does with its own factors, O((d + k) r^2) or a sort, is left out. None, not
    counted: a form of W other than s B A, with or without a base, and the full matrix.
    """
    if method.form not in (LORA, MERGED, FULL_MATRIX):
        return None
    state = begun(method, d, k, r)
    first, second = (_in_round(method, state, Pi, Clock(t)) for t in (0, 1))
    return first, second


def mixing_flops(method: Method, Pi: Array, *, d: int, k: int, r: int) -> float | None:
    """Return the flops of a mix alone, as `round_flops` counts them in the second round."""
    if method.form not in (LORA, MERGED, FULL_MATRIX):
        return None
    return _of_mix(method, begun(method, d, k, r), Pi, Clock(1))


def begun(
    method: Method, d: int, k: int, r: int, n: int = 1, dtype: DTypeLike = np.float32
) -> State:
    """Return the state of n agents at the start, all factors zero."""
    zero = Factors(np.zeros((n, d, r), dtype), np.zeros((n, r, k), dtype))
    return method.begin(method.form.begin(zero, 1.0))


def _sent(method: Method, state: State, Pi: Array, clock: Clock) -> int:
    """Return the bytes of the mix that ends the round, and of the gradients that are pooled."""
    N = int(Pi.shape[0])
    mixed = method.messages(Pi, N) if method.mixes(clock) else 0
    pooled = messages_of(method.pools, Pi, N) * message_bytes(method.trained(state, clock))
    return mixed * message_bytes(method.send(state, clock)) + pooled


def _in_round(method: Method, state: State, Pi: Array, clock: Clock) -> float:
    N = int(Pi.shape[0])
    trained = method.trained(state, clock)
    d, k = state.factors.shape
    product = 0 if method.form is FULL_MATRIX else d * k * state.factors.rank
    products = (1 + len(trained)) * product
    flops = 2.0 * N * (products + _numbers(trained))
    flops += _of_means(weights_of(method.pools, Pi, N), trained, N)
    return flops + _of_mix(method, state, Pi, clock)


def _of_mix(method: Method, state: State, Pi: Array, clock: Clock) -> float:
    N, (d, k) = int(Pi.shape[0]), state.factors.shape
    product = 0 if method.form is FULL_MATRIX else d * k * state.factors.rank
    weights = method.weights(Pi, N, clock)
    if method.space == "factors" or weights is None:
        pairs = (N if method.answer == "all" else 1) if "base" in state.memory else 0
        return _of_means(weights, method.send(state, clock), N) + 2.0 * pairs * product
    return _of_truncations(state, weights, N)


def _of_means(weights: Array | None, message: Message, N: int) -> float:
    """Return the flops of the weighted sums of messages of N agents."""
    used = 0 if weights is None else int(entries(weights, N).counts.sum())
    return 2.0 * used * _numbers(message)


def _of_truncations(state: State, weights: Array, N: int) -> float:
    """Return the flops of truncated mixes, in which a residual is one more product of an agent."""
    if "server" in state.memory:
        return _of_whole(state.factors, int(weights.shape[1]))
    residual = state.memory.get("residual")
    if not isinstance(residual, Factors):
        return mix_flops(state.factors, weights, state.factors.rank)
    longer = max(state.factors, residual, key=lambda pair: pair.rank)
    return mix_flops(longer, with_own(weights, N, N), state.factors.rank + residual.rank)


def _of_whole(factors: Factors, N: int) -> float:
    """Return the flops of FedHL's server: N moves, two products of its start, an SVD of W."""
    (d, k), r = factors.shape, factors.rank
    return 2.0 * d * k * r * (N + 2) + svd_flops(d, k)


def _numbers(message: Message) -> int:
    """Return how many floating-point numbers a message holds for each agent."""
    return sum(int(X.shape[-2]) * int(X.shape[-1]) for X in message.values() if X.dtype.kind == "f")
