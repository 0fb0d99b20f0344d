"""`check_method` names the promise that a method breaks, and passes what keeps its own."""

import re
from dataclasses import replace

import numpy as np
import pytest

from decaf_theory.lowrank import Factors
from decaf_theory.methods import (
    FORMS,
    METHODS,
    Direction,
    Mixed,
    check_method,
    keeping_directions,
    noisy,
    with_form,
)
from decaf_theory.methods.checking import PROMISES, fitting
from decaf_theory.methods.gaps import Round, rounding
from decaf_theory.topology import TOPOLOGIES

DLORA, DECAF = METHODS["dlora"], METHODS["decaf"]


def changed(change, **declared):
    """DLoRA, whose factors are changed after each mix by change(mixed, own, clock)."""

    def receive(own, sent, weights, clock):
        state = DLORA.receive(own, sent, weights, clock).state
        return Mixed(state._replace(factors=change(state.factors, own.factors, clock)))

    return replace(DLORA, name="wrong", receive=receive, **{"keeps": (), **declared})


def larger_in_round_9(mixed, own, clock):
    return mixed._replace(A=(1.5 if clock.round == 9 else 1.0) * mixed.A)


def in_place(mixed, own, clock):
    own.B[...] *= 0.5
    return mixed


def normed(mixed, own, clock):
    with np.errstate(invalid="ignore"):
        return mixed._replace(B=mixed.B / (mixed.B**2).sum() * (mixed.B**2).sum())


def first_keeps_its_own(mixed, own, clock):
    mixed.B[..., 0, :, :] = own.B[..., 0, :, :]
    return mixed


def moved_by_the_largest_run(mixed, own, clock):
    each = own.B.max((-3, -2, -1), keepdims=True)
    return mixed._replace(B=mixed.B + (own.B.max() - each))


def in_float64(mixed, own, clock):
    return mixed.map(lambda X: X.astype(np.float64) if isinstance(X, np.ndarray) else X)


def in_arrays(mixed, own, clock):
    return mixed.map(np.asarray)


def means_of_own(own, sent, weights, clock):
    """Average A, too, which nobody sent."""
    mixed = METHODS["fedavg"].receive(own, sent, weights, clock).state.factors
    A = 0 * own.factors.A + own.factors.A.mean(-3, keepdims=True)
    return Mixed(own._replace(factors=mixed._replace(A=A)))


def three_times(state, clock):
    return {name: X[None] + np.zeros((3, 1, 1, 1)) for name, X in state.factors._asdict().items()}


def first_of_three(own, sent, weights, clock):
    return DLORA.receive(own, {name: X[0] for name, X in sent.items()}, weights, clock)


def by_the_mean(state, gradients, clock):
    return Direction(gradients.map(lambda X: 0 * X + X.mean(-3, keepdims=True)), state)


DRAWS = np.random.default_rng(0)
WRONG = {
    "inputs": changed(in_place),
    "finite": changed(normed),
    "again": changed(lambda mixed, own, clock: mixed.map(lambda X: X + 1e-9 * DRAWS.random())),
    "equal agents": changed(lambda mixed, own, clock: mixed.map(lambda X: 1.5 * X)),
    "numbering": changed(first_keeps_its_own, merges=False),
    "one agent": replace(
        METHODS["fedavg"], send=METHODS["dlora_fa"].send, receive=means_of_own, merges=False
    ),
    "one step": replace(DLORA, step=by_the_mean),
    "bytes": replace(DLORA, send=three_times, receive=first_of_three),
    "keeps B": replace(DECAF, keeps=("B",)),
    "keeps A": changed(larger_in_round_9, keeps=("A",)),
    "keeps product": replace(DLORA, keeps=("B", "A", "product")),
    "keeps product up to E": replace(DLORA, keeps=("product up to E",)),
    "gauge": replace(DLORA, space="products", keeps=()),
    "rows": changed(lambda mixed, own, clock: mixed.map(lambda X, Y: (X + Y) / 2, own)),
    "batch": changed(moved_by_the_largest_run),
}
# which break another promise, too: an agent that is treated apart, or all in round 9
BOTH = {"numbering": "one agent", "keeps A": "equal agents"}


@pytest.mark.parametrize("promise", WRONG)
def test_what_is_broken_is_named_with_what_was_found_what_is_allowed_and_where(promise):
    method = WRONG[promise]
    with pytest.raises(ValueError, match=rf"^method {method.name}: ") as caught:
        check_method(method, without=[BOTH[promise]] if promise in BOTH else [])
    what = re.escape(PROMISES[promise].what)
    complaint = rf"{promise}: {what}, found (\S+), allowed (\S+), .* factors, N = \d, .* round \d"
    found = re.fullmatch(rf"method {method.name}: {complaint}", str(caught.value))
    assert found, caught.value
    assert float(found[1]) > float(found[2])


def test_every_promise_that_is_a_number_is_broken_here():
    assert PROMISES.keys() - WRONG.keys() == {"sparse", "float32", "tensors"}


@pytest.mark.parametrize(
    ("change", "promise", "got"),
    [
        (in_float64, "float32", "ndarray of float32, as their factors are, got ndarray of float64"),
        (in_arrays, "tensors", "Tensor of torch.float64, as their factors are, got ndarray of"),
    ],
)
def test_arrays_that_become_of_another_kind_are_named(change, promise, got):
    with pytest.raises(ValueError, match=f"what agents hold and send must be {got}") as caught:
        check_method(changed(change))
    assert f"while check_method tried '{promise}' of wrong: " in caught.value.__notes__[0]
    check_method(changed(change), without=[promise, "tensors"])


def test_an_error_of_a_method_of_ones_own_says_on_what_it_was_tried():
    def receive(own, sent, weights, clock):
        means = {name: np.einsum("ij,...jab->...iab", weights, X) for name, X in sent.items()}
        return Mixed(own._replace(factors=own.factors._replace(**means)))

    by_hand = replace(DLORA, receive=receive)
    with pytest.raises(ValueError, match="einstein sum") as caught:
        check_method(by_hand)
    assert "'sparse' of dlora: generic factors, N = 5, 4 x 3 of rank 2, path, round 0" in str(
        caught.value.__notes__
    )
    check_method(by_hand, without=["sparse", "float32", "tensors"])


def test_a_round_in_which_a_mean_is_lost_is_named():
    with pytest.raises(ValueError, match=r"keeps A: .*, path, round 9$"):
        check_method(WRONG["keeps A"], without=["equal agents"])


def test_an_error_as_small_as_rounding_is_all_that_the_best_approximation_is_allowed():
    at = fitting(DECAF, np.random.default_rng(0), 5, 4, 3, 2, Pi=TOPOLOGIES["path"](5))
    found, allowed = PROMISES["keeps product up to E"].gap(DECAF, at)
    assert np.all(found > 0.01)
    # above the best one by the rounding of d k entries, below it by no more
    assert np.all(np.abs(allowed - found) <= 2 * 4 * 3 * rounding(at.Pi, at.factors))


def near_tie(gap):
    """Return a round of two agents of rank 1 whose mean product has singular values 1, 1 - gap."""
    rng = np.random.default_rng(0)
    U, V = (np.linalg.qr(rng.standard_normal((n, 2)))[0] for n in (4, 3))
    R = rng.standard_normal((2, 2))
    B, A = U @ R, np.linalg.inv(R) @ np.diag([2.0, 2.0 - 2 * gap]) @ V.T
    return Round(Factors(B.T[:, :, None].copy(), A[:, None].copy()), np.full((2, 2), 0.5))


@pytest.mark.parametrize("space", ["products", "factors"])
def test_whatever_truncates_is_allowed_the_condition_of_its_truncation(space):
    method, ratios = replace(DECAF, space=space), []
    for at in map(near_tie, (1e-6, 1e-7, 1e-8)):
        found, allowed = PROMISES["numbering"].gap(method, at)
        assert np.all(found <= allowed)
        ratios.append(found.max() / rounding(at.Pi, at.factors))
    assert max(ratios) > 10  # which a mean of factors would not be allowed


def test_draws_break_three_promises_that_can_be_left_out():
    drawing = noisy(DLORA, 0.1)
    for promise in ("equal agents", "numbering", "batch"):
        others = {"equal agents", "numbering", "batch"} - {promise}
        with pytest.raises(ValueError, match=f"^method noisy dlora: {promise}: [^;]*$"):
            check_method(drawing, without=others)
    check_method(drawing, without=("equal agents", "numbering", "batch"))


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("method", [DLORA, DECAF], ids=lambda method: method.name)
def test_methods_of_other_forms_keep_their_promises(form, method):
    found = check_method(with_form(method, FORMS[form]))
    assert ("gauge" in found) == (form == "lora" and method is DECAF)


def test_a_wrapped_method_keeps_its_promises():
    check_method(keeping_directions(DECAF))


def test_the_report_is_a_table_of_what_is_promised():
    found = check_method(DECAF)
    heading, *lines = str(found).splitlines()
    assert heading.split() == ["found", "allowed", "what", "was", "found"]
    assert [line[:22].rstrip() for line in lines] == [*found]
    assert "keeps product up to E" in found
    assert not {"keeps B", "keeps A", "keeps product"} & {*found}
    assert found["bytes"].found == found["bytes"].allowed == 8 * (4 + 3) * 2
    assert all(finding.held for finding in found.values())


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: check_method("decaf"), "method must be a Method, got str; "),
        (
            lambda: check_method(DLORA, without=["byte"]),
            "without must be one of inputs, finite, .*, got 'byte'; the nearest name is bytes",
        ),
    ],
)
def test_a_bad_argument_is_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()
