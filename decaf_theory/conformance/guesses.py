"""What is wrong, in words: which other weights, rule or arithmetic would give what came back."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Iterator

import numpy as np

from decaf_theory.arrays import Array
from decaf_theory.conformance.asking import Asking, Candidate
from decaf_theory.conformance.cases import Case
from decaf_theory.conformance.judge import Matrix
from decaf_theory.conformance.mistakes import known, stale
from decaf_theory.conformance.rules import mean

IN_PART = ": in some of the results alone"
SCALED = "is scaled by a number that depends on the case"
DIGITS = 2.0**-5  # below this error an update is right to its first digits


def named(
    asking: Asking, matrices: list[Matrix], earlier: list[Case], said: Collection[str] = ()
) -> list[str]:
    """Return what explains all that came back wrong in a case, likely explanations first.

    earlier: cases of earlier calls with the same shapes, whose numbers may still be around. said:
    what was said of other cases; where that explains this one, nothing else is looked for.
    """
    wrong = [m for m in matrices if not m.right]
    if all(not np.any(m.expected) for m in wrong):
        return ["gives an update where the rule's is zero: something is added to zeros"]
    mistakes = list(known(asking))
    again = [(words, candidate) for words, candidate in mistakes if words in said]
    return (
        _that_explain(again, matrices)
        or [
            *_scaled(asking.case, wrong, all_wrong=len(wrong) == len(matrices)),
            *_that_explain(mistakes, matrices),
            *_other_values(asking, wrong),
        ]
        or _that_explain(stale(asking, earlier), matrices)
        or list(_other_weights(asking, matrices))
    )


def _that_explain(mistakes: Iterable[tuple[str, Candidate]], matrices: list[Matrix]) -> list[str]:
    """Return what explains every matrix, or else every one that is wrong."""
    wrong = [m for m in matrices if not m.right]
    found = [(words, candidate) for words, candidate in mistakes if _explains(candidate, wrong)]
    whole = [words for words, candidate in found if _explains(candidate, matrices)]
    return whole or [f"{words}{IN_PART}" for words, _ in found]


def _explains(candidate: Candidate, matrices: list[Matrix]) -> bool:
    """Return whether a candidate is what came back, in each matrix."""
    for matrix in matrices:
        try:
            updates = candidate(matrix.site)
            other = updates[min(matrix.agent, len(updates) - 1)]
        except (ValueError, IndexError, np.linalg.LinAlgError):
            return False
        if other.shape != matrix.update.shape:
            return False
        size = _norm(other) / max(_norm(matrix.expected), 1e-300)
        if _norm(matrix.update - other) > max(1.0, size) * matrix.room:
            return False
    return True


def _scaled(case: Case, matrices: list[Matrix], *, all_wrong: bool) -> Iterator[str]:
    """Yield "is scaled by x" where what came back is x times what is right."""
    size = sum(_norm(m.expected) ** 2 for m in matrices)
    x = sum(float(np.sum(m.update * m.expected)) for m in matrices) / size
    apart = [_norm(m.update - x * m.expected) / m.room for m in matrices]
    if max(apart) > max(1.0, abs(x)):
        return
    where = "" if all_wrong else IN_PART
    for name, value in _factors(case).items():
        if math.isclose(x, value, rel_tol=1e-2, abs_tol=1e-6):
            yield f"is scaled by {name}{where}"
    yield f"is scaled by {x:.4g}{where}"
    yield f"{SCALED}, as by weights that do not sum to one{where}"


def _factors(case: Case) -> dict[str, float]:
    """Return the factors that mistakes are known for, by name."""
    N, r = case.N, max(case.ranks)
    known = {"zero": 0.0, "-1": -1.0, "N": N, "1/N": 1 / N, "N^2": N**2, "1/N^2": N**-2}
    return {**known, "r": r, "1/r": 1 / r, "sqrt(r)": math.sqrt(r), "1/sqrt(r)": 1 / math.sqrt(r)}


def _other_values(asking: Asking, wrong: list[Matrix]) -> Iterator[str]:
    """Yield what is wrong with a truncation of the right mean, of a rule that truncates."""
    if not asking.rule.truncates:
        return
    means = {site: mean(asking.case, site) for site in asking.case.sites}
    pairs = [(m, means[m.site][min(m.agent, len(means[m.site]) - 1)]) for m in wrong]
    r = max(asking.case.ranks)
    if all(_other_singular_values(m, M, r, signs=True) for m, M in pairs):
        yield "has the right singular vectors with wrong signs: U's and V's do not belong together"
    if all(_other_singular_values(m, M, r) for m, M in pairs):
        yield "has the right singular vectors, but other singular values"
    for side, turned in (("columns", False), ("rows", True)):
        if all(_projects(m, M, turned=turned) for m, M in pairs):
            yield (
                f"projects the mean onto {side} that are not its leading singular vectors: "
                "an inexact truncation"
            )
            return


def _other_singular_values(matrix: Matrix, M: Array, r: int, *, signs: bool = False) -> bool:
    """Return whether the update is U D V', of M = U S V'; with signs, where |D| = S."""
    U, S, Vh = np.linalg.svd(M, full_matrices=False)
    alive = min(r, int(np.sum(S > 1e-9 * S[0])))
    U, S, Vh = U[:, :alive], S[:alive], Vh[:alive]
    D = np.diagonal(U.T @ matrix.update @ Vh.T)
    D = np.sign(D) * S if signs else D
    return _norm(matrix.update - (U * D) @ Vh) <= _allowed(matrix)


def _projects(matrix: Matrix, M: Array, *, turned: bool) -> bool:
    """Return whether the update is Q Q' M, Q a basis of its own columns; of its rows if turned."""
    X, M = (matrix.update.T, M.T) if turned else (matrix.update, M)
    U, S, _ = np.linalg.svd(X, full_matrices=False)
    Q = U[:, S > max(1e-9 * S[0], matrix.room)]
    return 0 < Q.shape[1] < min(M.shape) and _norm(X - Q @ (Q.T @ M)) <= _allowed(matrix)


def _allowed(matrix: Matrix) -> float:
    """Return how far rounding may lead an update of this size."""
    return max(1.0, _norm(matrix.update) / max(_norm(matrix.expected), 1e-300)) * matrix.room


def _other_weights(asking: Asking, matrices: list[Matrix]) -> Iterator[str]:
    """Yield that what came back is a mix with other weights, which least squares find."""
    case = asking.case
    if case.dtype != "float32":  # of half precision almost anything could be a mix
        return
    found = []
    for agent in sorted({m.agent for m in matrices}):
        row = _fitted(asking, [m for m in matrices if m.agent == agent])
        if row is None:
            return
        found.append(row)
    right = case.weights[: len(found)]
    off = np.abs(np.array(found) - right).max(axis=1)
    i = int(np.argmax(off))
    shown = ", ".join(f"{x:.3g}" for x in found[i])
    yield f"mixes with other weights than the rule's: {shown}, for {', '.join(_short(right[i]))}"


def _short(row: Array) -> list[str]:
    return [f"{x:.3g}" for x in row]


def _fitted(asking: Asking, matrices: list[Matrix]) -> Array | None:
    """Return the weights with which one result is a mix of the agents', or None if it is not."""
    columns, targets, room = [], [], 0.0
    for m in matrices:
        B, A = asking.case.scaled[m.site]
        if asking.rule.means and m.given.B is not None and m.given.A is not None:
            if m.given.B.shape != B.shape[1:] or m.given.A.shape != A.shape[1:]:
                return None
            parts = [(B, m.given.B), (A, m.given.A)]
        elif asking.blends and not asking.rule.truncates:
            parts = [(B @ A, m.update)]
        else:
            return None
        for each, given in parts:
            columns.append(each.reshape(len(each), -1).T)
            targets.append(given.ravel())
            room += m.room / max(_norm(m.expected), 1e-300) * _norm(each)
    X, y = np.concatenate(columns), np.concatenate(targets)
    row, _, rank, _ = np.linalg.lstsq(X, y, rcond=None)
    fits = rank == asking.case.N and _norm(X @ row - y) <= room
    return np.asarray(row) if fits else None


def _norm(X: Array) -> float:
    return float(np.linalg.norm(X))
