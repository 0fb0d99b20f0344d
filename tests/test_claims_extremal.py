"""Every row of an extremal family reaches its bound: in each shape, norm and weight, not in one."""

import pytest

from verification.claim import RESOLUTION


def case(text):
    """Say whether a row's case holds this text."""
    return lambda row: text in row.case


def family(*names):
    """Say whether a row is of one of these families."""
    return lambda row: row.params.get("family") in names


def of_eigenvectors(row):
    """The spreads against the consensus distances, on an eigenvector of the least eigenvalue."""
    of_spreads = "spreads <= consensus" in row.case and row.params["N"] > 1
    return of_spreads and row.params["family"] == "eigenvector"


def of_rank_one(row):
    """Lemma 1 where its sqrt(r) and its C are least."""
    return "extremal" in row.case and row.params["r"] == 1 and row.params["C"] == "s c"


def in_both_norms(row):
    """The coordinates of T16; its planar frame is that of the Frobenius norm."""
    names = ("cyclic coordinates", "one coordinate omitted", "heavy", "heavy, n < 2r")
    return family(*names)(row) or (family("planar")(row) and row.params["norm"] == "fro")


def stored_alone(row):
    """A stored case in which one term alone counts."""
    return row.params.get("topology") == "stored" and "reached" not in row.case


EXTREMAL = {
    "T1": case("extremal"),
    "T2": of_rank_one,
    "T2-sharp": case("extremal"),
    "T4-mixed": case("extremal"),
    "T5": family("aligned, |A| = 1.0 c"),
    "T6": case("extremal"),
    "T7": case("extremal"),
    "T9": case("extremal"),
    "T10": of_eigenvectors,
    "T11": case("extremal"),
    "T13": family("sign pair", "fitted target"),
    "T14": case("extremal"),
    "T16": in_both_norms,
    "T18": family("sign flip", "stored"),
    "T18-rank": case("near the extremal one"),
    "T19": family("worst direction", "extremal"),
    "T25": stored_alone,
    "T25-sharp": lambda row: "u" in row.params and row.relation == "<=",
    "T29": stored_alone,
    "T30": family("stored"),
    "T34": stored_alone,
    "T35": stored_alone,
    "T36": stored_alone,
    "T37": stored_alone,
    "R6": stored_alone,
    "R8": case("<= eta c^2"),
}


@pytest.mark.parametrize("name", EXTREMAL)
def test_every_extremal_row_reaches_its_bound(stored, name):
    rows = [row for row in stored(name) if row.assumptions_held and EXTREMAL[name](row)]
    assert rows
    least = min(rows, key=lambda row: row.tightness or 0.0)
    assert least.tightness is not None, least
    assert least.tightness >= 1 - RESOLUTION, least
