"""Three tasks of SD-LoRA and of the pool of pairs, in rational numbers."""

from dataclasses import replace
from fractions import Fraction as Q

import numpy as np

from decaf_theory.lowrank import Factors
from decaf_theory.methods import METHODS, State, rank1_pool, sd_lora, with_form
from decaf_theory.problems import Problem
from decaf_theory.simulate import Config, simulate

EPS = np.finfo(np.float64).eps
Pi = [[Q(2, 3), Q(1, 3)], [Q(1, 3), Q(2, 3)]]
S, LR, ROUNDS = Q(1, 2), Q(1, 4), 2
# three tasks of two rounds of fewer than 50 roundings each, of numbers below 4
ROUNDING = 3 * 100 * EPS * 4


def floats(X):
    return np.array(X, dtype=float)


def mixed(X):
    """The means of two agents' lists of numbers, or of lists of these."""
    if isinstance(X[0], list):
        of_each = [mixed([x, y]) for x, y in zip(*X, strict=True)]
        return [list(rows) for rows in zip(*of_each, strict=True)]
    return [sum(w * x for w, x in zip(row, X, strict=True)) for row in Pi]


def trained(form, state, targets):
    """The state after ROUNDS rounds of dlora for |W_i - T_i|^2 / 2, targets [N][d][k]."""
    T = floats(targets)
    problem = Problem(
        "numbers", *T.shape, lambda W: ((W - T) ** 2).sum((-2, -1)) / 2, lambda W: W - T
    )
    holding = replace(form, start=lambda factors: state.memory)
    numbers = {"Pi": floats(Pi), "s": float(S), "lr": float(LR), "steps": ROUNDS}
    config = Config(problem=problem, method="dlora", form=holding, start=state.factors, **numbers)
    trace = simulate(config)
    return State(trace.final, trace.memory)


# ---------------------------------------------------------------- SD-LoRA, all matrices numbers

B_OF, A_OF, START = [Q(1), Q(-2)], [Q(3, 2), Q(1)], Q(4, 5)
TARGETS = [[Q(2), Q(1)], [Q(-1), Q(3)], [Q(1, 2), Q(-3)]]


def exact_sd_lora():
    """W of both agents after each task; of an old number over its size the sign is left."""
    old, path = [[], []], []
    for targets in TARGETS:
        B, A = list(B_OF), list(A_OF)
        a = [[START] * (len(signs) + 1) for signs in old]
        for _ in range(ROUNDS):
            for i in range(2):
                held = [*old[i], B[i] * A[i]]
                G = S * (S * sum(x * y for x, y in zip(a[i], held, strict=True)) - targets[i])
                steps = G * a[i][-1] * A[i], G * a[i][-1] * B[i]
                a[i] = [x - LR * G * y for x, y in zip(a[i], held, strict=True)]
                B[i], A[i] = B[i] - LR * steps[0], A[i] - LR * steps[1]
            B, A, a = mixed(B), mixed(A), mixed(a)
        held = [[*old[i], B[i] * A[i]] for i in range(2)]
        path.append([S * sum(x * y for x, y in zip(a[i], held[i], strict=True)) for i in range(2)])
        for signs, b, c in zip(old, B, A, strict=True):
            signs.append(Q(1) if b * c > 0 else Q(-1))
    assert old[0] != old[1]  # so that magnitudes at their own places matter
    return path


def test_three_tasks_of_sd_lora_in_rational_numbers():
    form = sd_lora(3)
    fresh = Factors(*(floats(x).reshape(1, 2, 1, 1) for x in (B_OF, A_OF)))
    state = with_form(METHODS["dlora"], form).begin(fresh)
    for t, (targets, exact) in enumerate(zip(TARGETS, exact_sd_lora(), strict=True)):
        state = form.begins(state, t, fresh, None)
        state = trained(form, state, [[[x]] for x in targets])
        W = form.update(state, float(S))[0, :, 0, 0]
        assert np.abs(W - floats(exact)).max() <= ROUNDING


# ---------------------------------------------------------------- the pool: d = 1, k = 2, r = 3

POOL_B = [[Q(1), Q(-1), Q(1, 2)], [Q(3, 2), Q(1, 2), Q(-1)]]  # [agent][pair]
POOL_A = [[[Q(1), Q(1, 2)], [Q(1), Q(1)], [Q(2), Q(-1)]], [[Q(1), Q(-1)], [Q(0), Q(2)], [Q(1)] * 2]]
CHOSEN = [[{0, 1}, {1, 2}], [{2, 0}, {2, 1}], [{0, 1}, {0, 2}]]  # [task][column]
MOST = [1, 2, 0]  # the pair that both columns of a task use
POOL_TARGETS = [[[Q(2), Q(1)], [Q(1), Q(0)]], [[Q(-1), Q(1)], [Q(0), Q(2)]], [[Q(1), Q(1)]] * 2]
OVERLAP = Q(1, 8)


def exact_pool():
    """W of both agents after each task and its merge, and the columns that were merged."""
    base, earlier, path = [[Q(0)] * 2, [Q(0)] * 2], [[], []], []
    for sets, most, targets in zip(CHOSEN, MOST, POOL_TARGETS, strict=True):
        B, A = [list(x) for x in POOL_B], [[list(row) for row in x] for x in POOL_A]
        for _ in range(ROUNDS):
            for i in range(2):
                G = [
                    S * (base[i][c] + sum(B[i][j] * A[i][j][c] for j in sets[c])) - targets[i][c]
                    for c in range(2)
                ]
                slope = [
                    S * sum(G[c] * A[i][j][c] for c in range(2) if j in sets[c]) for j in range(3)
                ]
                slope[most] += OVERLAP * sum(e if e * B[i][most] > 0 else -e for e in earlier[i])
                A[i] = [
                    [x - LR * S * B[i][j] * G[c] * (j in sets[c]) for c, x in enumerate(A[i][j])]
                    for j in range(3)
                ]
                B[i] = [b - LR * x for b, x in zip(B[i], slope, strict=True)]
            B, A = mixed(B), mixed(A)
        for i in range(2):
            base[i] = [w + B[i][most] * A[i][most][c] for c, w in enumerate(base[i])]
            earlier[i].append(B[i][most])
        path.append([[S * x for x in row] for row in base])
    return path, earlier


def test_three_tasks_of_a_pool_in_rational_numbers():
    form = rank1_pool(3, active=2, merged=1, overlap=float(OVERLAP))
    fresh = Factors(floats(POOL_B).reshape(1, 2, 1, 3), floats(POOL_A)[None])
    state = with_form(METHODS["dlora"], form).begin(fresh)
    path, earlier = exact_pool()
    for t, (sets, targets, exact) in enumerate(zip(CHOSEN, POOL_TARGETS, path, strict=True)):
        state = form.begins(state, t, fresh, None)
        of_pairs = floats([[j in each for each in sets] for j in range(3)])  # the largest scores
        chosen = {"router": of_pairs, "used": of_pairs.sum(axis=1, keepdims=True)}
        own = {name: np.broadcast_to(x, (1, 2, *x.shape)) for name, x in chosen.items()}
        state = state._replace(memory={**state.memory, **own})
        state = form.ends(trained(form, state, [[row] for row in targets]))
        W = form.update(state, float(S))[0, :, 0]
        assert np.abs(W - floats(exact)).max() <= ROUNDING
    kept = state.memory["earlier"][0, :, 0]
    assert np.abs(kept - floats(earlier)[:, -kept.shape[-1] :]).max() <= ROUNDING
