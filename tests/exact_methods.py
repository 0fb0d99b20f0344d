"""Three rounds of each method in rational numbers, from its rule alone: lists, loops, `Fraction`.

Three agents on a path or with a server, f_i(W) = |W - T_i|^2 / 2, W = B A / 2, step size 1/4.
"""

from fractions import Fraction as Q
from math import ceil

N, S, LR = 3, Q(1, 2), Q(1, 4)
PATH = [[Q(2, 3), Q(1, 3), Q(0)], [Q(1, 3)] * 3, [Q(0), Q(1, 3), Q(2, 3)]]
SERVER = [[Q(1, 3)] * 3] * 3


def integers(rows, over=4):
    return [[Q(x, over) for x in row] for row in rows]


# d, k, r = 3, 2, 1: the agents' own B, one A for all, and targets
B_START = [integers([[b], [2 - b], [b + 3]]) for b in (1, -5, 7)]
A_START = [integers([[3, -5]])] * N
TARGETS = [integers([[3, 1], [t, -2], [1, 2 * t]]) for t in (2, -1, 5)]


def times(X, Y):
    return [
        [sum((x * y for x, y in zip(row, col, strict=True)), Q(0)) for col in turned(Y)]
        for row in X
    ]


def turned(X):
    return [list(column) for column in zip(*X, strict=True)]


def plus(X, Y, c=Q(1)):
    return [[x + c * y for x, y in zip(*rows, strict=True)] for rows in zip(X, Y, strict=True)]


def scaled(X, c):
    return [[c * x for x in row] for row in X]


def mix(Xs, weights):
    mixed = []
    for row in weights:
        total = scaled(Xs[0], Q(0))
        for w, X in zip(row, Xs, strict=True):
            total = plus(total, X, w)
        mixed.append(total)
    return mixed


def slopes(B, A, T):
    """Return the gradients of |B A / 2 - T|^2 / 2 in B and in A."""
    G = plus(scaled(times(B, A), S), T, Q(-1))
    return scaled(times(G, turned(A)), S), scaled(times(turned(B), G), S)


def averaging(trains, sends, weights, K=1):
    """Return B, A after a round for each letter of `trains`, "2" for both, as of `sends`."""
    B, A = list(B_START), list(A_START)
    for trained, sent in zip(trains, sends, strict=True):
        for _ in range(K):
            for i in range(N):
                grad_B, grad_A = slopes(B[i], A[i], TARGETS[i])
                if trained in "B2":
                    B[i] = plus(B[i], grad_B, -LR)
                if trained in "A2":
                    A[i] = plus(A[i], grad_A, -LR)
        B = mix(B, weights) if sent in "B2" else B
        A = mix(A, weights) if sent in "A2" else A
    return B, A


def soft(x, t):
    return max(x - t, Q(0)) if x > 0 else min(x + t, Q(0))


def gated(weights, lam, speed):
    """Return B, A and the gates, one number each, of SoRA whose factors and gates are averaged."""
    B, A, gates = list(B_START), list(A_START), [Q(1)] * N
    for _ in range(3):
        for i in range(N):
            slope_B, slope_A = slopes(scaled(B[i], gates[i]), A[i], TARGETS[i])
            slope = times(turned(B[i]), slope_B)[0][0]
            B[i], A[i] = plus(B[i], slope_B, -LR * gates[i]), plus(A[i], slope_A, -LR)
            gates[i] = soft(gates[i] - speed * LR * slope, speed * LR * lam)
        B, A = mix(B, weights), mix(A, weights)
        gates = [sum(w * g for w, g in zip(row, gates, strict=True)) for row in weights]
    return B, A, gates


def gated_numbers(weights, lam, speed, B, A, targets):
    """Return the products b g a of SoRA on numbers, whose mixes split them as (sign, size, 1)."""
    B, A, gates = list(B), list(A), [Q(1)] * N
    for _ in range(3):
        for i in range(N):
            G = S * B[i] * gates[i] * A[i] - targets[i]
            slope = S * G * B[i] * A[i]
            B[i], A[i] = (
                B[i] - LR * S * G * gates[i] * A[i],
                A[i] - LR * S * G * gates[i] * B[i],
            )
            gates[i] = soft(gates[i] - speed * LR * slope, speed * LR * lam)
        P = [b * g * a for b, g, a in zip(B, gates, A, strict=True)]
        P = [sum(w * p for w, p in zip(row, P, strict=True)) for row in weights]
        B, A, gates = [Q(1) if p > 0 else Q(-1) for p in P], [Q(1)] * N, [abs(p) for p in P]
    return P


def heavy_ball(beta):
    B, A = list(B_START), list(A_START)
    memory = [[scaled(B[i], Q(0)), scaled(A[i], Q(0))] for i in range(N)]
    for _ in range(3):
        for i in range(N):
            grads = slopes(B[i], A[i], TARGETS[i])
            memory[i] = [plus(g, m, beta) for g, m in zip(grads, memory[i], strict=True)]
            B[i], A[i] = plus(B[i], memory[i][0], -LR), plus(A[i], memory[i][1], -LR)
        B, A = mix(B, PATH), mix(A, PATH)
    return B, A


def tracking():
    X = [list(B_START), list(A_START)]
    Y = [[scaled(x, Q(0)) for x in part] for part in X]
    last = [[scaled(x, Q(0)) for x in part] for part in X]
    for _ in range(3):
        new = turned([slopes(X[0][i], X[1][i], TARGETS[i]) for i in range(N)])
        for part in range(2):
            for i in range(N):
                moved = plus(new[part][i], last[part][i], Q(-1))
                Y[part][i] = plus(Y[part][i], moved)
                X[part][i] = plus(X[part][i], Y[part][i], -LR)
            X[part], Y[part] = mix(X[part], PATH), mix(Y[part], PATH)
        last = new
    return X[0], X[1]


def largest(X, m):
    """Return X with zeros in place of all entries but the m largest in size."""
    sizes = sorted((abs(x) for row in X for x in row), reverse=True)
    assert len(sizes) == m or sizes[m - 1] > sizes[m]  # the choice is not a matter of rounding
    return [[x if abs(x) >= sizes[m - 1] else Q(0) for x in row] for row in X]


def choco(gamma, share):
    """Send this share of the entries; here all agents know all public copies."""
    B, A = list(B_START), list(A_START)
    public = [[scaled(x, Q(0)) for x in part] for part in (B, A)]
    for _ in range(3):
        for i in range(N):
            grad_B, grad_A = slopes(B[i], A[i], TARGETS[i])
            B[i], A[i] = plus(B[i], grad_B, -LR), plus(A[i], grad_A, -LR)
        for part, X, m in ((0, B, ceil(3 * share)), (1, A, ceil(2 * share))):
            for i in range(N):
                q = largest(plus(X[i], public[part][i], Q(-1)), m)
                public[part][i] = plus(public[part][i], q)
            means = mix(public[part], PATH)
            for i in range(N):
                X[i] = plus(X[i], plus(means[i], public[part][i], Q(-1)), gamma)
    return B, A


def noised(weights, draws):
    """Return B, A after three rounds whose means arrive with draws[t] = (z_B, z_A) of agents."""
    B, A = list(B_START), list(A_START)
    for z_B, z_A in draws:
        for i in range(N):
            grad_B, grad_A = slopes(B[i], A[i], TARGETS[i])
            B[i], A[i] = plus(B[i], grad_B, -LR), plus(A[i], grad_A, -LR)
        B = [plus(X, z) for X, z in zip(mix(B, weights), z_B, strict=True)]
        A = [plus(X, z) for X, z in zip(mix(A, weights), z_A, strict=True)]
    return B, A


def late(came, p_drop):
    """Return B, A after three rounds of which came[t] lists who reaches the server."""
    B, A = list(B_START), list(A_START)
    last_B, last_A = B_START, A_START
    for users in came:
        for i in range(N):
            grad_B, grad_A = slopes(B[i], A[i], TARGETS[i])
            B[i], A[i] = plus(B[i], grad_B, -LR), plus(A[i], grad_A, -LR)
        B = last_B = arrived(B, last_B, users, p_drop**N)
        A = last_A = arrived(A, last_A, users, p_drop**N)
        B, A = list(B), list(A)
    return B, A


def arrived(X, old, users, p):
    """Return (mean of X_u over the users - p old)/(1 - p) for each agent's old matrix."""
    if not users:
        return old
    mean = mix([X[u] for u in users], [[Q(1, len(users))] * len(users)])[0]
    return [scaled(plus(mean, each, -p), 1 / (1 - p)) for each in old]


def inner(pair, other):
    rows = zip([*pair[0], *pair[1]], [*other[0], *other[1]], strict=True)
    return sum((x * y for row, its in rows for x, y in zip(row, its, strict=True)), Q(0))


def mean_field(penalty, own, B, A, targets, K=1, rounds=3):
    """Return B, A after the rounds, and the sizes of the steps after the first round."""
    B, A, sizes = list(B), list(A), []
    phi = None
    for _ in range(rounds):
        moved = [[scaled(B[i], Q(0)), scaled(A[i], Q(0))] for i in range(N)]
        for h in range(K):
            for i in range(N):
                a = slopes(B[i], A[i], targets[i])
                if phi is not None:
                    a = [plus(scaled(f, 1 - own), g, own) for f, g in zip(phi, a, strict=True)]
                    ahead = [
                        plus(scaled(f, Q(h + 1)), D, Q(-1))
                        for f, D in zip(phi, moved[i], strict=True)
                    ]
                    size = (1 + penalty * inner(a, ahead) / inner(a, a)) / (1 + penalty)
                    sizes.append(size)
                    a = [scaled(X, max(size, Q(0))) for X in a]
                B[i], A[i] = plus(B[i], a[0], -LR), plus(A[i], a[1], -LR)
                moved[i] = [plus(D, X) for D, X in zip(moved[i], a, strict=True)]
        B, A = mix(B, SERVER), mix(A, SERVER)
        phi = [scaled(mix([D[part] for D in moved], SERVER)[0], Q(1, K)) for part in (0, 1)]
    return B, A, sizes


def solved(g, a):
    """Return the x with x - a Lap x = g on a circle of len(g), by elimination."""
    n = len(g)
    rows = [[Q(int(i == j)) * (1 + 2 * a) for j in range(n)] + [g[i]] for i in range(n)]
    for i in range(n):
        rows[i][(i + 1) % n] -= a
        rows[i][(i - 1) % n] -= a
    for i in range(n):  # diagonally dominant, so that no pivot is zero
        rows[i] = [x / rows[i][i] for x in rows[i]]
        for j in range(n):
            if j != i:
                rows[j] = [x - rows[j][i] * y for x, y in zip(rows[j], rows[i], strict=True)]
    return [row[n] for row in rows]


def by_steps(change, B, A, targets, K=2):
    """Return B, A after three rounds of K local steps, of A, of B at twice the rate, and so on."""
    B, A = list(B), list(A)
    for _ in range(3):
        for step in range(K):
            for i in range(N):
                grad_B, grad_A = slopes(B[i], A[i], targets[i])
                if step % 2:
                    B[i] = plus(B[i], change(grad_B), -2 * LR)
                else:
                    A[i] = plus(A[i], change(grad_A), -LR)
        B, A = mix(B, SERVER), mix(A, SERVER)
    return B, A


def smoothing(a):
    """Return three rounds of two local steps with gradients of one row or column, smoothed."""

    def change(g):
        return [solved(g[0], a)] if len(g) == 1 else turned([solved(turned(g)[0], a)])

    return by_steps(change, B_START, A_START, TARGETS)


NUMBERS_B, NUMBERS_A = [integers([[b]]) for b in (5, -2, 4)], [integers([[a]]) for a in (1, 2, -3)]


def clipping(limit):
    """Return three rounds of numbers B, A with gradients no longer than the limit, and how many."""
    clipped = []

    def change(g):
        clipped.append(abs(g[0][0]) > limit)
        return [[max(-limit, min(limit, g[0][0]))]]

    return *by_steps(change, NUMBERS_B, NUMBERS_A, SCALAR_TARGETS), sum(clipped)


def balanced_flow():
    """Return B, A of rank one after three Euler steps: H = (b'b + a a')/2, Z = b'g_B / 2 H."""
    B, A = list(B_START), list(A_START)
    for _ in range(3):
        for i in range(N):
            grad_B, grad_A = slopes(B[i], A[i], TARGETS[i])
            H = (times(turned(B[i]), B[i])[0][0] + times(A[i], turned(A[i]))[0][0]) / 2
            Z = times(turned(B[i]), grad_B)[0][0] / (2 * H)
            grad_B = scaled(plus(grad_B, B[i], -Z), 1 / H)
            grad_A = scaled(plus(grad_A, A[i], -Z), 1 / H)
            B[i], A[i] = plus(B[i], grad_B, -LR), plus(A[i], grad_A, -LR)
    return B, A


# ---------------------------------------------------------------- unequal ranks

RANKS = (1, 2, 2)
WIDE_B = [integers([[b, 1], [2 - b, b], [1, 3]]) for b in (1, -2, 3)]
WIDE_A = [integers([[3, a], [a - 4, 2]]) for a in (1, 2, -3)]
# HetLoRA's weights are norms: rational where B A is a number, so d = k = 1 with two directions
SCALAR_B = [integers([[b, 3 - b]]) for b in (5, -2, 4)]
SCALAR_A = [integers([[3], [a]]) for a in (1, 2, -3)]
SCALAR_TARGETS = [integers([[t]]) for t in (2, -1, 5)]


def padded(B, A, r):
    """Return the factors with zeros beyond direction r."""
    return (
        [[x if col < r else Q(0) for col, x in enumerate(row)] for row in B],
        [row if line < r else [Q(0)] * len(row) for line, row in enumerate(A)],
    )


def in_ranks(B, A):
    pairs = [padded(*each) for each in zip(B, A, RANKS, strict=True)]
    return [b for b, _ in pairs], [a for _, a in pairs]


def unequal(B, A, targets, weights_of):
    """Return B, A after three rounds by a server that weighs agent j by weights_of(B, A, l)[j]."""
    B, A = in_ranks(B, A)
    for _ in range(3):
        for i in range(N):
            grad_B, grad_A = slopes(B[i], A[i], targets[i])
            B[i], A[i] = plus(B[i], grad_B, -LR), plus(A[i], grad_A, -LR)
        new_B, new_A = scaled(B[0], Q(0)), scaled(A[0], Q(0))
        for line in range(2):
            w = weights_of(B, A, line)
            for row in range(len(new_B)):
                new_B[row][line] = sum(w[j] * B[j][row][line] for j in range(N))
            new_A[line] = [sum(w[j] * A[j][line][c] for j in range(N)) for c in range(len(A[0][0]))]
        B, A = in_ranks([new_B] * N, [new_A] * N)
    return B, A


def raflora():
    def weights(B, A, line):
        clients = [j for j in range(N) if RANKS[j] > line]
        return [Q(1, len(clients)) if j in clients else Q(0) for j in range(N)]

    return unequal(WIDE_B, WIDE_A, TARGETS, weights)


def hetlora():
    def weights(B, A, line):
        norms = [abs(times(B[j], A[j])[0][0]) for j in range(N)]
        return [norm / sum(norms) for norm in norms]

    return unequal(SCALAR_B, SCALAR_A, SCALAR_TARGETS, weights)


DIAGONAL = [[Q(9), Q(4)], [Q(9), Q(4)], [Q(9), Q(4)]]  # B = A = diag(3, 2) / 2 at the start
DIAGONAL_TARGETS = [[Q(2), Q(0)], [Q(3), Q(1)], [Q(1), Q(1, 2)]]


def flexlora():
    """Return the agents' products after three rounds, diagonal matrices as their diagonals.

    B = A = diag(sqrt(p)), so that a step makes of p = b a: p (1 - lr s (s p - t))^2.
    """
    P = [[p / 4 if at < RANKS[i] else Q(0) for at, p in enumerate(DIAGONAL[i])] for i in range(N)]
    for _ in range(3):
        for i in range(N):
            for at, t in enumerate(DIAGONAL_TARGETS[i]):
                P[i][at] *= (1 - LR * S * (S * P[i][at] - t)) ** 2
        mean = [sum(p[at] for p in P) / N for at in range(2)]
        assert mean[0] > mean[1]  # a client of rank 1 keeps the first
        P = [[mean[at] if at < RANKS[i] else Q(0) for at in range(2)] for i in range(N)]
    return P


# ---------------------------------------------------------------- gauges

HALVES = [
    integers([[4, -3], [3, 4]], 5),
    integers([[12, 5], [-5, 12]], 13),
    integers([[1, 0], [0, 1]], 1),
]
MOVES_B = [[integers([[b, t], [1, b - t], [t, 2]]) for b in (1, -2, 2)] for t in range(3)]
MOVES_A = [[integers([[a, 1], [t, a]]) for a in (2, 1, -2)] for t in range(3)]
FIRST_B, FIRST_A = integers([[9, 1], [2, 8], [1, -3]]), integers([[7, 2], [-1, 6]])


def fedrot(soft):
    """Yield for each of three rounds the agents' turned factors and what the server makes of them.

    Between rounds each agent moves the factor that is not looked at, and turns its gauge by the
    square of a rational rotation H: (B H H, H'H'A). All the way back, (B, A) is averaged; half of
    the way, (B H, H'A).
    """
    B, A = FIRST_B, FIRST_A
    for t in range(3):
        held, sent = [], []
        for H, move_B, move_A in zip(HALVES, MOVES_B[t], MOVES_A[t], strict=True):
            own_B = plus(B, move_B) if t % 2 == 0 else B  # rounds 0 and 2 look at A
            own_A = plus(A, move_A) if t % 2 == 1 else A
            half = times(own_B, H), times(turned(H), own_A)
            held.append((times(half[0], H), times(turned(H), half[1])))
            sent.append(half if soft else (own_B, own_A))
        B = mix([b for b, _ in sent], SERVER)[0]
        A = mix([a for _, a in sent], SERVER)[0]
        yield held, (B, A)


# ---------------------------------------------------------------- what is merged into W0

NOTHING = scaled(TARGETS[0], Q(0))


def stepped(base, B, A, trains):
    """Return B, A after a step on |(base + B A) / 2 - T|^2 / 2."""
    moved = []
    for b, a, T in zip(B, A, TARGETS, strict=True):
        grad_B, grad_A = slopes(b, a, plus(T, base, -S))
        moved.append((plus(b, grad_B, -LR), plus(a, grad_A, -LR) if "A" in trains else a))
    return [b for b, _ in moved], [a for _, a in moved]


def mean_product(B, A):
    return mix([times(b, a) for b, a in zip(B, A, strict=True)], SERVER)[0]


def flora(draws):
    """Return base + B A after three rounds, with the A drawn anew in each."""
    base, B, A = NOTHING, B_START, A_START
    for fresh in draws:
        B, A = stepped(base, B, A, "BA")
        base = plus(base, mean_product(B, A))
        B, A = [scaled(b, Q(0)) for b in B], [fresh] * N
    return base


def fedex():
    base, B, A = NOTHING, B_START, A_START
    for _ in range(3):
        B, A = stepped(base, B, A, "BA")
        W = plus(base, mean_product(B, A))
        B, A = mix(B, SERVER), mix(A, SERVER)
        base = plus(W, times(B[0], A[0]), Q(-1))
    return base, B, A


def rac(draws, period):
    base, B, A = NOTHING, B_START, A_START
    for t, fresh in enumerate(draws, 1):
        B, A = stepped(base, B, A, "B")
        B = mix(B, SERVER)
        if t % period == 0:
            base = plus(base, times(B[0], A[0]))
            B, A = [scaled(b, Q(0)) for b in B], [fresh] * N
    return plus(base, times(B[0], A[0]))


# orthonormal columns
FRAME = integers([[2, -2], [2, 1], [1, 2]], 3)
R_START = integers([[3, -1], [2, 5]])


def fed_sb():
    """Return the products B0 R A after three rounds of R alone."""
    A, R = WIDE_A[0], [R_START] * N
    for _ in range(3):
        for i in range(N):
            grad_B, _ = slopes(times(FRAME, R[i]), A, TARGETS[i])
            R[i] = plus(R[i], times(turned(FRAME), grad_B), -LR)
        R = mix(R, SERVER)
    return times(times(FRAME, R[0]), A)


def fedhl():
    """Return W and the clients' products after three rounds, as diagonals (see `flexlora`)."""

    def cut(diagonal):
        return [[p if at < r else Q(0) for at, p in enumerate(diagonal)] for r in RANKS]

    W, starts = [Q(0), Q(0)], [[Q(0), Q(0)]] * N
    P = cut([p / 4 for p in DIAGONAL[0]])
    for _ in range(3):
        for i in range(N):
            for at, t in enumerate(DIAGONAL_TARGETS[i]):
                P[i][at] *= (1 - LR * S * (S * P[i][at] - t)) ** 2
        dropped = [sum((w - p) ** 2 for w, p in zip(W, start, strict=True)) for start in starts]
        shares = [1 / (e + Q(1, 10**6)) for e in dropped]
        for at in range(2):
            moves = [h * (P[i][at] - starts[i][at]) for i, h in enumerate(shares)]
            W[at] += sum(moves) / sum(shares)
        assert W[0] > W[1] > 0
        starts, P = cut(W), cut(W)
    return W, P
