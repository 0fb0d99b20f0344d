import json
import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from verification.claim import (
    RESOLUTION,
    Claim,
    Context,
    Outcome,
    Row,
    collect,
    deciding_row,
    tightest_row,
)
from verification.evidence import at_least, at_most, same
from verification.judge import judge

NAN, INF = math.nan, math.inf


def le(measured, bound, *, rounding=0.0, **more):
    return at_most("case", measured, bound, rounding=rounding, **more)


def ge(measured, bound, *, rounding=0.0, **more):
    return at_least("case", measured, bound, rounding=rounding, **more)


def claim_of(*rows):
    return Claim("T0", "rates", "derived", lambda ctx: iter(rows))


@pytest.mark.parametrize(
    ("row", "outcome"),
    [
        (le(1, 1), "holds"),
        (le(1, 0.5), "violated"),
        (le(1 + 1e-12, 1, rounding=1e-12), "holds"),  # the limit itself passes
        (le(math.nextafter(1 + 1e-12, 2), 1, rounding=1e-12), "violated"),
        (le(0.9, 1, low=0.8, high=1.1), "inconclusive"),
        (le(1.2, 1, low=0.9, high=1.5), "inconclusive"),
        (le(1.2, 1, low=1.1, high=1.5), "violated"),
        (ge(1, 1), "holds"),
        (ge(0.5, 1), "violated"),
        (ge(1 - 1e-12, 1, rounding=1e-12), "holds"),
        (ge(math.nextafter(1 - 1e-12, 0), 1, rounding=1e-12), "violated"),
        (ge(1.1, 1, low=0.9, high=1.2), "inconclusive"),
        (ge(0.8, 1, low=0.7, high=0.9), "violated"),
        (same("case", 0.0, rounding=0.0), "holds"),
        (same("case", -1e-13, rounding=1e-12), "holds"),
        (same("case", -2.0, rounding=1e-12), "violated"),
        (le(NAN, 1), "inconclusive"),
        (le(1, NAN), "inconclusive"),
        (le(1, 2, rounding=NAN), "inconclusive"),
        (le(1, 2, high=NAN), "inconclusive"),
        (le(1, INF), "inconclusive"),
        (le(1, 2, rounding=INF), "inconclusive"),
        (le(1, 1.7e308, rounding=1.7e308), "inconclusive"),  # their sum is infinite
        (le(-INF, 1), "inconclusive"),
        (le(INF, 1), "inconclusive"),
        (ge(1, -INF), "inconclusive"),
        (ge(INF, 1), "inconclusive"),
        (same("case", NAN, rounding=1.0), "inconclusive"),
        (le(2, 1, held=False), "not_applicable"),
        (le(NAN, 1, held=False), "not_applicable"),
    ],
)
def test_a_row_is_judged_by_the_end_of_its_interval_and_nan_never_passes(row, outcome):
    assert row.outcome == outcome


@pytest.mark.parametrize(
    ("row", "tightness"),
    [
        (le(1, 2), 0.5),
        (le(0, 2), 0.0),
        (ge(2, 1), 0.5),
        (ge(1, 2), 2.0),
        (le(3, 2), 1.5),
        (le(1, 0), None),
        (le(-1, 2), None),
        (le(NAN, 2), None),
        (le(1, INF), None),
        (ge(INF, 1), None),
        (le(1, 2, held=False), None),
        (same("case", 1.0, rounding=0.0), None),
        (le(1e-16, 1e-16, rounding=1e-15), None),  # a ratio of rounding noise
        (le(1.0, 1.0, rounding=RESOLUTION), 1.0),
        (le(1.0, 1.0, rounding=2 * RESOLUTION), None),
    ],
)
def test_tightness_is_a_ratio_where_the_ratio_says_something(row, tightness):
    assert row.tightness == tightness


def test_slack_is_the_room_that_is_left():
    assert le(1, 2, rounding=0.5).slack == 1.5
    assert le(1, 2, rounding=0.5, high=1.25).slack == 1.25
    assert ge(3, 2, rounding=0.5, low=2.75).slack == 1.25
    assert same("case", 0.25, rounding=1.0).slack == 0.75
    assert le(3, 2).slack == -1


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: replace(le(1, 2), relation="<"), "relation must be one of"),
        (lambda: le(1, 2, rounding=-1e-12), "rounding must be >= 0, got -1e-12"),
        (lambda: le(1, 2, low=2, high=0), "between low and high, got 1.0 in \\[2.0, 0.0\\]"),
        (lambda: le(1, 2, low=1.5), "between low and high"),
        (lambda: le(1, 2, high=0.5), "between low and high"),
        (lambda: replace(le(-1, 0), relation="=="), "use evidence.same"),
        (lambda: replace(le(1, 1), relation="=="), "use evidence.same"),
        (lambda: le(1, 2, outcome="holds"), "params must not be named \\['outcome'\\]"),
        (lambda: le(1, 2, claim="T1"), "params must not be named \\['claim'\\]"),
        (lambda: le(1, 2, r=np.int64(3)), "got r=.* of type int64; convert it"),
        (lambda: le(1, 2, on=np.True_), "of type bool"),
        (lambda: le(1, 2, shape=[3, 2]), "of type list"),
    ],
)
def test_a_row_that_could_not_be_judged_or_stored_is_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_a_row_comes_back_from_json_as_it_was():
    row = le(
        np.float64(1.5), 2, rounding=1e-15, low=1.25, high=1.75, r=4, topology="ring", tie=True
    )
    stored = json.loads(json.dumps(row.as_json()))
    assert stored["assumptions_held"] is True
    assert stored["r"] == 4
    assert stored["outcome"] == "holds"
    assert Row.from_json({"claim": "T1", **stored}) == row


def test_a_stored_outcome_is_not_believed_but_judged_anew():
    stored = {**le(3, 2).as_json(), "outcome": "holds"}
    assert Row.from_json(stored).outcome == Outcome.VIOLATED


HOLDS, BEYOND, UNKNOWN = le(1, 2), le(3, 2), le(NAN, 2)
BROKEN = le(3, 2, held=False)


@pytest.mark.parametrize(
    ("rows", "outcome"),
    [
        ([HOLDS, BROKEN], "holds"),
        ([HOLDS, UNKNOWN], "inconclusive"),
        ([UNKNOWN, BEYOND, HOLDS], "violated"),
        ([BROKEN, BROKEN], "not_applicable"),
        ([], "not_applicable"),
    ],
)
def test_a_claim_is_judged_by_its_worst_row(rows, outcome):
    assert judge(claim_of(), rows).outcome == outcome


def test_a_verdict_takes_tightness_and_slack_from_the_rows_that_apply():
    rows = [le(1, 2), le(3, 4), UNKNOWN, le(1, INF), le(9, 2, held=False)]
    verdict = judge(claim_of(), rows, seconds=1.5)
    assert (verdict.tightness, verdict.slack) == (0.75, 1.0)
    assert (verdict.rows, verdict.seconds, verdict.claim, verdict.status) == (
        5,
        1.5,
        "T0",
        "derived",
    )
    assert judge(claim_of(), [BROKEN]).tightness is None
    assert judge(claim_of(), [BROKEN]).slack is None


def test_how_far_a_chosen_bound_is_exceeded_is_no_tightness():
    claim = replace(claim_of(), expected="violated")
    assert judge(claim, [BEYOND]).tightness == BEYOND.tightness
    verdict = judge(replace(claim, chosen_bound=True), [BEYOND])
    assert (verdict.outcome, verdict.tightness) == ("violated", None)
    assert [regime.tightness for regime in verdict.regimes] == [None]


def test_a_ratio_that_overflows_is_no_tightness():
    assert judge(claim_of(), [le(1e300, 1e-300), le(1, 2)]).tightness == 0.5


def test_the_deciding_row_is_of_the_worst_outcome_the_one_nearest_to_or_farthest_beyond():
    near, far = le(1.9, 2), le(1, 2)
    assert deciding_row([far, near]) == near
    assert deciding_row([near, BEYOND, UNKNOWN]) == BEYOND
    assert deciding_row([near, UNKNOWN]) == UNKNOWN
    assert deciding_row([BROKEN, near]) == near
    assert tightest_row([far, near, UNKNOWN]) == near
    assert tightest_row([same("case", 0.0, rounding=0.0)]) is None
    assert deciding_row([]) is None


def test_rows_of_unlike_sizes_are_ranked_in_proportion():
    # by absolute slack each would lose to the other row
    assert deciding_row([le(1e-9, 1e-6), le(0.99e6, 1e6)]) == le(0.99e6, 1e6)
    assert deciding_row([le(1e6 + 1, 1e6), le(2e-6, 1e-6)]) == le(2e-6, 1e-6)
    near = at_least("case", 1.01, 1, rounding=0.0)
    assert deciding_row([near, at_least("case", 2e-9, 1e-9, rounding=0.0)]) == near
    used = same("case", 0.9e-9, rounding=1e-9)
    assert deciding_row([same("case", 1e-16, rounding=1e-12), used]) == used


@pytest.mark.parametrize(
    ("row", "margin"),
    [
        (le(1, 4), 0.75),
        (le(4, 1), -0.75),
        (at_least("case", 4, 1, rounding=0.0), 0.75),
        (le(1, 4, low=0, high=2), 0.5),
        (same("case", 1, rounding=4), 0.75),
        (le(0, 0), 1.0),  # nothing is compared
        (le(NAN, 1), -INF),
        (le(1, INF), -INF),
    ],
)
def test_a_margin_is_the_slack_in_proportion(row, margin):
    assert row.margin == margin


def test_a_claim_without_rows_is_a_defect():
    with pytest.raises(RuntimeError, match="claim T0 yielded no rows"):
        list(collect(claim_of(), Context("T0")))


def test_the_text_of_a_claim_is_the_docstring_of_its_rows():
    def rows(ctx):
        """Say the statement.

        Proof: none.
        """

    claim = Claim("T0", "rates", "derived", rows)
    assert claim.statement == "Say the statement."
    assert claim.text.endswith("\nProof: none.")


def test_a_context_gives_size_streams_and_arrays():
    quick, full = Context("T0"), Context("T0", size="full")
    assert (quick.pick(3, 30), full.pick(3, 30)) == (3, 30)
    assert quick.rng("x").random() == full.rng("x").random() != quick.rng("y").random()
    assert quick.rng("x").random() != Context("T1").rng("x").random()
    assert quick.rng("x").random() != Context("T0", seed=1).rng("x").random()
    assert quick.array([1, 2]).dtype == np.float64


def test_a_context_gives_torch_tensors_where_asked():
    torch = pytest.importorskip("torch")
    x = Context("T0", device="torch").array([[1, 2]])
    assert isinstance(x, torch.Tensor)
    assert x.dtype == torch.float64


finite = st.floats(-1e6, 1e6, allow_subnormal=True)
positive = st.floats(0, 1e3)


@st.composite
def rows(draw):
    kind = draw(st.sampled_from(["exact", "tie", "interval", "not finite", "broken", "identity"]))
    measured, bound = draw(finite), draw(finite)
    rounding = draw(st.sampled_from([0.0, 1e-12, 1e-3]))
    if kind == "identity":
        return same("case", draw(positive), rounding=rounding)
    if kind == "tie":
        bound = measured
    low, high = measured, measured
    if kind == "interval":
        low, high = measured - draw(positive), measured + draw(positive)
    if kind == "not finite":
        bound = draw(st.sampled_from([NAN, INF, -INF]))
    relation = draw(st.sampled_from([le, ge]))
    more = {"low": low, "high": high, "held": kind != "broken"}
    return relation(measured, bound, rounding=rounding, **more)


@given(rows())
def test_a_row_and_its_mirror_image_are_judged_alike(row):
    if row.relation == "==":
        return
    mirror = replace(
        row,
        relation=">=" if row.relation == "<=" else "<=",
        measured=-row.measured,
        low=-row.high,
        high=-row.low,
        bound=-row.bound,
    )
    assert mirror.outcome == row.outcome
    assert mirror.slack == row.slack or math.isnan(row.slack)


@given(rows(), st.floats(0, 10))
def test_a_row_never_gets_better_when_what_is_measured_moves_away_from_the_bound(row, step):
    order = [Outcome.VIOLATED, Outcome.INCONCLUSIVE, Outcome.HOLDS]
    if row.outcome not in order:
        return
    away = -step if row.relation == ">=" else step
    moved = replace(row, measured=row.measured + away, low=row.low + away, high=row.high + away)
    assert order.index(moved.outcome) <= order.index(row.outcome)


@given(st.lists(rows(), min_size=1, max_size=6), st.randoms())
def test_a_verdict_is_the_worst_of_its_rows_in_any_order(found, random):
    verdict = judge(claim_of(), found)
    outcomes = [row.outcome for row in found]
    order = ["violated", "inconclusive", "holds", "not_applicable"]
    assert verdict.outcome == min(outcomes, key=order.index)
    random.shuffle(found)
    assert judge(claim_of(), found) == verdict


@given(rows())
def test_what_holds_has_no_finite_end_beyond_the_widened_bound(row):
    if row.outcome is Outcome.HOLDS:
        assert math.isfinite(row.bound)
        if row.relation == ">=":
            assert row.low >= row.bound - row.rounding
        else:
            assert row.high <= row.bound + row.rounding
            assert row.tightness is None or row.tightness <= 1 + RESOLUTION
