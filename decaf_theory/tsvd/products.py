"""Products with a stack of all agents that leave out what no row of the mix asks for; compiled.

A BLAS needs a copy in float64 for a Gram matrix and forms all of it, and on a ring of ten, agents
meet in some row in half of its entries. For the outputs it multiplies with coefficients of which
seven in ten are zero. Here eight sums at a time stay in registers: tiles of two rows times four of
a Gram matrix, and two outputs in four vectors of columns.
"""
# mypy: disable-error-code="import-not-found,import-untyped,unused-ignore"
# mypy: allow-untyped-defs, allow-incomplete-defs, allow-untyped-calls, allow-untyped-decorators

from __future__ import annotations

import numpy as np

from decaf_theory.tsvd.grouping import TILE
from decaf_theory.tsvd.simd import LANES, compiled, full, loaded, narrow, store, total, widened

COLUMNS = TILE[1]


@compiled
def gram(X, places, G):
    """Put XX' of X [c, n, d] into G [c, n, n], in tiles of `grouping.tiles`, and mirrored."""
    c, n, d = X.shape
    whole = d // LANES * LANES
    for layer in range(c):
        rows, to = X[layer], G[layer]
        for at in range(len(places)):
            i, j = places[at]
            k, columns = min(i + 1, n - 1), min(COLUMNS, n - j)
            j1, j2, j3 = min(j + 1, n - 1), min(j + 2, n - 1), min(j + 3, n - 1)
            p0 = p1 = p2 = p3 = q0 = q1 = q2 = q3 = full(0.0)
            for t in range(0, whole, LANES):
                x, y = widened(loaded(rows, i, t)), widened(loaded(rows, k, t))
                z = widened(loaded(rows, j, t))
                p0, q0 = p0 + x * z, q0 + y * z
                z = widened(loaded(rows, j1, t))
                p1, q1 = p1 + x * z, q1 + y * z
                z = widened(loaded(rows, j2, t))
                p2, q2 = p2 + x * z, q2 + y * z
                z = widened(loaded(rows, j3, t))
                p3, q3 = p3 + x * z, q3 + y * z
            sums = ((p0, q0), (p1, q1), (p2, q2), (p3, q3))
            for s in range(columns):
                p, q = total(sums[s][0]), total(sums[s][1])
                for t in range(whole, d):
                    z = np.float64(rows[j + s, t])
                    p += rows[i, t] * z
                    q += rows[k, t] * z
                to[i, j + s], to[k, j + s] = p, q
                to[j + s, i], to[j + s, k] = p, q


@compiled
def combine(X, stack, places, out):
    """Put sum_j X[c, i, j] stack[c, places[i, j]] into out [c, rows, r, d], for all rows i.

    X [c, rows, n, r] of float64, stack [c, N, d] of float32, places [rows, n].
    """
    c, rows, _, r = X.shape
    for layer in range(c):
        for row in range(rows):
            for p in range(0, r, 2):
                q = min(p + 1, r - 1)
                _pair(X[layer, row], stack[layer], places[row], p, q, out[layer, row])


@compiled
def _pair(X, S, places, p, q, to):
    """Put combinations p and q into `to`, by four vectors of columns, by one, and by one number."""
    (n, _), d, t = X.shape, S.shape[1], 0
    while t + 4 * LANES <= d:
        a = b = c = e = f = g = h = k = narrow(0.0)
        for j in range(n):
            i, x, y = places[j], narrow(X[j, p]), narrow(X[j, q])
            z = loaded(S, i, t)
            a, f = a + x * z, f + y * z
            z = loaded(S, i, t + LANES)
            b, g = b + x * z, g + y * z
            z = loaded(S, i, t + 2 * LANES)
            c, h = c + x * z, h + y * z
            z = loaded(S, i, t + 3 * LANES)
            e, k = e + x * z, k + y * z
        for s, (u, v) in enumerate(((a, f), (b, g), (c, h), (e, k))):
            store(u, to, p, t + s * LANES)
            store(v, to, q, t + s * LANES)
        t += 4 * LANES
    while t + LANES <= d:
        a = f = narrow(0.0)
        for j in range(n):
            z = loaded(S, places[j], t)
            a, f = a + narrow(X[j, p]) * z, f + narrow(X[j, q]) * z
        store(a, to, p, t)
        store(f, to, q, t)
        t += LANES
    for column in range(t, d):
        u = v = np.float32(0.0)
        for j in range(n):
            u += np.float32(X[j, p]) * S[places[j], column]
            v += np.float32(X[j, q]) * S[places[j], column]
        to[p, column], to[q, column] = u, v
