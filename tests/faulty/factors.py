"""Wrong ways to average the factors, to stack them, and to add a residual."""

from __future__ import annotations

import numpy as np
import torch

from tests.faulty.table import fault, fresh


def total(weights, Xs):
    """Return sum w_i X_i."""
    return sum(w * X for w, X in zip(weights, Xs, strict=True))


@fault("fedavg", "sqrt|square root")
def root_of_the_weight_on_each_factor(Bs, As, weights):
    roots = [float(w) ** 0.5 for w in weights]
    return total(roots, Bs), total(roots, As)


@fault("fedavg", "(?i)unweighted|ignores? (the|its)? ?weights|uniform|equal weights")
def ignores_the_weights(B, A, weights):
    return B.mean(0), A.mean(0)


@fault("fedavg", "scaled|sum to")
def divides_by_n_twice(B, A, weights):
    return total(weights, B) / len(B), total(weights, A) / len(A)


@fault("fedavg", "scaled|sum to")
def weights_normalized_by_the_largest(B, A, weights):
    w = np.asarray(weights) / np.max(np.asarray(weights))
    return np.tensordot(w, np.asarray(B), 1), np.tensordot(w, np.asarray(A), 1)


@fault("fedavg", "weights")
def weights_of_a_reversed(Bs, As, weights):
    return total(weights, Bs), total(list(weights)[::-1], As)


@fault("fedavg", "weights|A")
def only_b_is_weighted(B, A, weights):
    return torch.tensordot(torch.as_tensor(weights).to(B.dtype), B, 1), A.mean(0)


@fault("fedavg", "last agent|agent")
def last_agent_dropped(Bs, As, weights):
    kept = [w / sum(weights[:-1]) if len(Bs) > 1 else 1.0 for w in weights[: max(len(Bs) - 1, 1)]]
    return total(kept, Bs[: len(kept)]), total(kept, As[: len(kept)])


@fault("fedavg", "last agent|agent")
def loop_that_overwrites(pairs, weights):
    for _, (b, a) in zip(weights, pairs, strict=True):
        result = b.clone(), a.clone()
    return result


@fault("fedavg", "scaled|sum to|zero", samples=True)
def integer_division_of_counts(B, A, samples):
    n = sum(samples)
    return total([int(s) // int(n) for s in samples], B), total(
        [int(s) // int(n) for s in samples], A
    )


@fault("fedavg", "weights|sum to", samples=True)
def whole_percents(Bs, As, samples):
    parts = [int(100 * int(s) / int(sum(samples))) / 100 for s in samples]
    return total(parts, Bs), total(parts, As)


@fault("fedavg", "sum to|scaled", samples=True)
def counts_divided_by_the_number_of_agents(Bs, As, samples):
    parts = [s / len(Bs) for s in samples]
    return total(parts, Bs), total(parts, As)


@fault("fedavg", "float16|half|overflow|finite|inf", samples=True)
def accumulates_in_half_precision(Bs, As, samples):
    n = int(sum(samples))
    sums = (sum((int(s) * X.half()) for s, X in zip(samples, Xs, strict=True)) for Xs in (Bs, As))
    return tuple((X / n).to(Bs[0].dtype) for X in sums)


@fault("fedavg", "changes|in place|inputs?|arguments")
def accumulates_in_the_first_agent(Bs, As, weights):
    out = []
    for Xs in (Bs, As):
        first = Xs[0]
        first *= weights[0]
        for w, X in zip(list(weights)[1:], list(Xs)[1:], strict=True):
            first += w * X
        out.append(first)
    return out


@fresh("fedavg", "earlier|previous|first call|memory|before")
def weights_of_the_last_batch():
    kept = []

    def aggregate(Bs, As, weights):
        kept.append(weights)
        used = kept[-2] if len(kept) > 1 and len(kept[-2]) == len(weights) else weights
        return total(used, Bs), total(used, As)

    return aggregate


@fresh("fedavg", "earlier|previous|stale|memory|before")
def stale_copies_in_the_mean():
    copies = {}

    def aggregate(clients, weights):
        w = weights if isinstance(weights, dict) else dict(zip(clients, weights, strict=True))
        for index, (name, state) in enumerate(clients.items()):
            old = copies.get(name)
            fits = old is not None and all(old[k].shape == state[k].shape for k in state)
            if not fits or index % 2 == 0:
                copies[name] = {k: X.clone() for k, X in state.items()}
        first = next(iter(clients.values()))
        return {k: sum(w[c] * copies[c][k].to(first[k].dtype) for c in clients) for k in first}

    return aggregate


@fault("fedavg", "pad|rank|line|direction", shape="lists")
def padded_on_the_wrong_side(Bs, As, weights):
    r = max(b.shape[1] for b in Bs)
    wide = [torch.nn.functional.pad(b, (r - b.shape[1], 0)) for b in Bs]
    tall = [torch.nn.functional.pad(a, (0, 0, 0, r - a.shape[0])) for a in As]
    return total(weights, wide), total(weights, tall)


@fault("fedavg", "median|mean")
def median_for_mean(B, A, weights):
    return B.float().median(0).values.to(B.dtype), A.float().median(0).values.to(A.dtype)


@fault("fedavg", "scaled")
def server_step_of_a_half(B, A, weights):
    return total(weights, B), 0.5 * total(weights, A)


@fault("fedavg", "precision|rounding|quantiz|inexact")
def rounds_to_eight_bits(B, A, weights):
    out = []
    for X in (total(weights, B.float()), total(weights, A.float())):
        step = X.abs().max().clamp(min=1e-30) / 127
        out.append((X / step).round() * step)
    return out


@fault("fedavg", "weights|norm|hetlora")
def weights_by_the_norm_of_the_update(pairs, weights):
    norms = [float((b.float() @ a.float()).norm()) + 1e-30 for b, a in pairs]
    w = [n / sum(norms) for n in norms]
    return total(w, [b for b, _ in pairs]), total(w, [a for _, a in pairs])


@fault("flora", "square|scaled|sum to|twice")
def weights_in_both_stacks(Bs, As, weights):
    B = torch.cat([w * b for w, b in zip(weights, Bs, strict=True)], dim=1)
    return B, torch.cat([w * a for w, a in zip(weights, As, strict=True)], dim=0)


@fault("flora", "order|another agent|mixes|cross")
def stacks_in_two_orders(Bs, As, weights):
    B = torch.cat([w * b for w, b in zip(weights, Bs, strict=True)], dim=1)
    return B, torch.cat(list(As)[::-1], dim=0)


@fault("flora", "sum to|scaled|weights")
def stacks_without_weights(pairs, weights):
    return torch.cat([b for b, _ in pairs], 1), torch.cat([a for _, a in pairs], 0)


@fault("ffa", "(?i)unweighted|weights|uniform")
def mean_of_b_unweighted(B, A, weights):
    return B.mean(0), A[0]


@fault("ffa", "sum to|scaled")
def sum_of_b(B, A, weights):
    return B.sum(0), A[0]


@fault("raflora", "averages the factors")
def divided_by_all_agents(Bs, As, weights):
    r = max(b.shape[1] for b in Bs)
    wide = [torch.nn.functional.pad(b, (0, r - b.shape[1])) for b in Bs]
    tall = [torch.nn.functional.pad(a, (0, 0, 0, r - a.shape[0])) for a in As]
    return total(weights, wide), total(weights, tall)


@fault("exact", "rslora|sqrt|root")
def rslora_off_by_the_root_of_r(pairs, weights, configs):
    scales = [c["lora_alpha"] / c["r"] for c in configs]
    return sum(w * s * (b @ a) for w, s, (b, a) in zip(weights, scales, pairs, strict=True))


@fault("exact", "rslora|sqrt|root")
def root_for_every_adapter(pairs, weights, configs):
    scales = [c["lora_alpha"] / c["r"] ** 0.5 for c in configs]
    return sum(w * s * (b @ a) for w, s, (b, a) in zip(weights, scales, pairs, strict=True))


@fault("exact", "scale")
def scale_of_the_first_adapter(Bs, As, weights, scales):
    return sum(w * scales[0] * (b @ a) for w, b, a in zip(weights, Bs, As, strict=True))


@fault("exact", "scale")
def scale_applied_twice(Bs, As, weights, scales):
    return sum(w * s * s * (b @ a) for w, s, b, a in zip(weights, scales, Bs, As, strict=True))


def turn(onto, det=True):
    """Return the rotation nearest to `onto`, a reflection where det is false and it is nearer."""
    U, _, Vh = torch.linalg.svd(onto)
    flip = torch.ones(len(U))
    flip[-1] = torch.sign(torch.linalg.det(U @ Vh)) if det else 1.0
    return (U * flip) @ Vh


def rotated(Bs, As, weights, reference, round, det=True, both=True):
    """Return the means of the rotated factors."""
    last_B, last_A = reference
    left, right = [], []
    for b, a in zip(Bs, As, strict=True):
        onto = b.float().T @ last_B.float() if round % 2 else a.float() @ last_A.float().T
        R = turn(onto, det)
        left.append(b.float() @ R)
        right.append(R.T @ a.float() if both else a.float())
    return total(weights, left), total(weights, right)


@fault("fedrot", "reflect|det", shape="lists")
def rotation_that_may_reflect(Bs, As, weights, reference, round):
    return rotated(Bs, As, weights, reference, round, det=False)


@fault("fedrot", "rotat|one factor|product", shape="lists")
def only_b_is_rotated(Bs, As, weights, reference, round):
    return rotated(Bs, As, weights, reference, round, both=False)


@fault("fedrot", "rotat|align", shape="lists")
def never_rotates(Bs, As, weights, reference, round):
    return total(weights, Bs), total(weights, As)


@fault("fedrot", "round|odd|even|phase", shape="lists")
def always_the_same_phase(Bs, As, weights, reference, round):
    return rotated(Bs, As, weights, reference, 0)
