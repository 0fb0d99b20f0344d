"""Wrong ways to average state dicts, clients and results of a round."""

from __future__ import annotations

import numpy as np
import torch

from tests.faulty.table import fault


def averaged(states, weights, keys=None):
    """Return sum w_i state_i over `keys`."""
    keys = states[0] if keys is None else keys
    return {k: sum(w * s[k] for w, s in zip(weights, states, strict=True)) for k in keys}


def residuals(states, weights, mean):
    """Return sum w_i B_i A_i - B A of each site."""
    out = {}
    for key in [k for k in states[0] if "lora_A" in k]:
        other = key.replace("lora_A", "lora_B")
        exact = sum(w * (s[other] @ s[key]) for w, s in zip(weights, states, strict=True))
        name = key.split(".lora_A")[0].removeprefix("base_model.model.")
        out[name] = exact - mean[other] @ mean[key]
    return out


@fault("fedex", "residual.*transposed|transposed.*residual")
def residual_transposed(states, weights):
    mean = averaged(states, weights)
    return mean, {k: R.T for k, R in residuals(states, weights, mean).items()}


@fault("fedex", "residual.*(missing|not applied|never)|without.*residual|no residual")
def residual_never_applied(states, weights):
    mean = averaged(states, weights)
    residuals(states, weights, mean)
    return mean


@fault("fedex", "residual.*(zero|missing|not applied|never)")
def residual_of_zeros(states, weights):
    mean = averaged(states, weights)
    return mean, {k: torch.zeros_like(R) for k, R in residuals(states, weights, mean).items()}


@fault("fedex", "residual.*sign|sign.*residual|subtract")
def residual_subtracted(states, weights):
    mean = averaged(states, weights)
    return mean, {k: -R for k, R in residuals(states, weights, mean).items()}


@fault("fedex", "residual.*(twice|scaled)|(twice|scaled).*residual")
def residual_added_twice(states, weights):
    mean = averaged(states, weights)
    return mean, {k: 2 * R for k, R in residuals(states, weights, mean).items()}


@fault("fedex", "residual.*(scaled|weight)|scaled.*residual|weight")
def residual_of_the_unweighted_mean(states, weights):
    even = [1 / len(states)] * len(states)
    mean = averaged(states, weights)
    return mean, residuals(states, even, mean)


@fault("fedavg", "head")
def heads_left_out(states, weights):
    return averaged(states, weights, [k for k in states[0] if "lora_" in k])


@fault("fedavg", "head")
def head_of_the_first_agent(states, weights):
    rest = {k: X for k, X in states[0].items() if "lora_" not in k}
    return averaged(states, weights, [k for k in states[0] if "lora_" in k]) | rest


@fault("fedavg", "head")
def heads_summed(states, weights):
    mean = averaged(states, weights)
    return mean | {k: sum(s[k] for s in states) for k in mean if "lora_" not in k}


@fault("fedavg", "ignores the weights in the mean of the heads")
def unweighted_heads(states, weights):
    mean = averaged(states, weights)
    even = [1 / len(states)] * len(states)
    return mean | averaged(states, even, [k for k in mean if "lora_" not in k])


@fault("fedavg", "B")
def b_is_left_out(states, weights):
    mean = averaged(states, weights)
    return mean | {k: X for k, X in states[0].items() if "lora_B" in k}


@fault("fedsa", "A|kept|not averaged")
def fedsa_with_the_wrong_factor(states, weights):
    return {k: X for k, X in averaged(states, weights).items() if "lora_A" not in k}


@fault("fedavg", "lora_A|key|missing|B")
def returns_half_the_keys(states, weights):
    return averaged(states, weights, [k for k in states[0] if "lora_A" in k])


@fault("fedavg", "sum to|scaled")
def sum_of_states(states, weights):
    return averaged(states, [1.0] * len(states))


@fault("fedavg", "(?i)unweighted|weights|samples|uniform", samples=True)
def clients_unweighted(clients, num_samples):
    states = list(clients.values())
    return averaged(states, [1 / len(states)] * len(states))


@fault("fedavg", "scaled|sum to", shape="results")
def divided_by_the_number_of_results(results):
    columns = zip(*(arrays for arrays, _ in results), strict=True)
    counts = [n for _, n in results]
    return [sum(n * X for n, X in zip(counts, c, strict=True)) / len(results) for c in columns]


@fault("fedavg", "scaled|sum to|weights", shape="results")
def divided_by_the_largest_count(results):
    top = max(n for _, n in results)
    columns = zip(*(arrays for arrays, _ in results), strict=True)
    return [sum(n / top * X for X, (_, n) in zip(c, results, strict=True)) for c in columns]


@fault("fedavg", "weights|sum to|scaled|samples", shape="results")
def counts_as_eight_bit_numbers(results):
    counts = np.array([n for _, n in results]).astype(np.uint8)
    parts = counts / max(int(counts.astype(np.uint8).sum(dtype=np.uint8)), 1)
    columns = zip(*(arrays for arrays, _ in results), strict=True)
    return [sum(p * X for p, X in zip(parts, c, strict=True)) for c in columns]


@fault("decaf", "factors|products|gauge", shape="results")
def plain_averages_of_arrays(results):
    n = sum(count for _, count in results)
    columns = zip(*(arrays for arrays, _ in results), strict=True)
    return [sum(c / n * X for X, (_, c) in zip(column, results, strict=True)) for column in columns]


@fault("exact", "factors|products|residual|mean", shape="results")
def mean_of_factors_called_exact(results):
    return plain_averages_of_arrays(results)
