"""`check_problem` names what is wrong, and passes what is right."""

import re
from dataclasses import replace

import numpy as np
import pytest

from decaf_theory.problems import Problem, check_problem, entry_noise, quadratic
from decaf_theory.problems.base import Constants

RNG = np.random.default_rng(0)
TARGETS = RNG.standard_normal((3, 4, 5))
RIGHT = quadratic(RNG.random((3, 5)) + 0.5, TARGETS, radius=2.0, tau=0.2)
COSH = Problem(
    "log cosh",
    *(3, 4, 5),
    loss=lambda W: np.log(np.cosh(W - TARGETS)).sum(axis=(-2, -1)),
    grad=lambda W: np.tanh(W - TARGETS),
    constants=Constants(L=1.0, m=0.0),
)


def declared(**constants):
    return replace(RIGHT, constants=replace(RIGHT.constants, **constants))


def wrong(change):
    """RIGHT with another gradient."""
    return replace(RIGHT, grad=lambda W: change(RIGHT.grad(W)))


def third_entry(g):
    g = g.copy()
    g[..., 1, 2, 3] += 1e-3
    return g


WRONG = {
    "a sign": (wrong(lambda g: -g), "the gradient is -1 times that of the loss everywhere"),
    "a factor": (wrong(lambda g: 2 * g), "the gradient is 2 times that of the loss everywhere"),
    "an entry": (wrong(third_entry), "entry [2, 3] of agent 1 is"),
    "an L": (
        declared(L=0.99 * RIGHT.constants.L),
        f"L is declared {0.99 * RIGHT.constants.L:.6g} and must be at least "
        f"{RIGHT.constants.L:.6g}, the largest curvature of agent",
    ),
    "an L of a curved loss": (
        replace(COSH, constants=Constants(L=0.9)),
        "L is declared 0.9 and must be at least",
    ),
    "an m": (declared(m=-0.6), "m is declared -0.6 and must be at least -0.5"),
    "a sigma": (
        declared(sigma=0.95 * RIGHT.constants.sigma),
        f"sigma is declared {0.95 * RIGHT.constants.sigma:.6g} and must be at least",
    ),
    "a kappa": (
        declared(kappa=0.5 * RIGHT.constants.kappa),
        "the root mean square of grad f_i - grad F at W = [[",
    ),
    "a minimum": (
        declared(F_star=RIGHT.constants.F_star + 1e-6),
        f"and must be at most {RIGHT.constants.F_star:.6g}, the mean loss at W = [[",
    ),
    "a mu": (declared(mu=1.5), "mu is declared 1.5 and must be at most"),
    "a G": (
        declared(G=lambda s, c: 0.5 * RIGHT.constants.G(s, c)),
        f"G(1, 1) is declared {0.5 * RIGHT.constants.G(1, 1):.6g} and must be at least",
    ),
    "a mean of the noise": (
        replace(RIGHT, noise=lambda rng, shape: 0.1 + 0.1 * rng.standard_normal(shape)),
        "noise must have mean zero, got 0.",
    ),
    "noise that grows with W": (
        replace(RIGHT, noise_at=lambda drawn, W: drawn * (1 + np.abs(W))),
        "sigma is declared",
    ),
    "a noisy gradient": (
        replace(RIGHT, grad=lambda W: RIGHT.grad(W) + RNG.standard_normal(W.shape)),
        "grad must be a function of W, got other numbers in a second call; noise of the gradient",
    ),
    "a mean over agents": (
        replace(RIGHT, loss=lambda W: 0 * RIGHT.loss(W) + RIGHT.loss(W).mean(axis=-1)[..., None]),
        "loss of each agent must depend on its own point alone",
    ),
    "one loss": (
        replace(RIGHT, loss=lambda W: RIGHT.loss(W).mean(axis=-1)),
        "loss must return shape (24, 3) = [n, N] at W (24, 3, 4, 5), got (24,)",
    ),
    "a transposed gradient": (
        replace(RIGHT, grad=lambda W: RIGHT.grad(W).mT),
        "grad must return shape (24, 3, 4, 5) = [n, N, d, k] at W (24, 3, 4, 5), got (24, 3, 5, 4)",
    ),
    "a loss that is not finite": (
        replace(RIGHT, loss=lambda W: np.where(RIGHT.loss(W) > 9, np.inf, RIGHT.loss(W))),
        "loss must be finite, got NaN or inf at points of size (0.1, 1.0, 10.0)",
    ),
    "noise of another shape": (
        replace(RIGHT, noise=lambda rng, shape: rng.standard_normal(shape[1:])),
        "noise must return the shape asked for, got",
    ),
}


@pytest.mark.parametrize("what", WRONG)
def test_what_is_wrong_is_named_with_point_and_values(what):
    problem, message = WRONG[what]
    with pytest.raises(ValueError, match=re.escape(message)) as caught:
        check_problem(problem)
    if "declared" in message:
        assert " at W = [[" in str(caught.value)


def test_a_wrong_gradient_is_named_with_both_values():
    with pytest.raises(ValueError, match="grad is not the gradient of loss") as caught:
        check_problem(WRONG["an entry"][0])
    found = re.search(r"agent 1 is (\S+), by differences of the loss (\S+), at", str(caught.value))
    by_grad, by_loss = map(float, found.groups())
    assert by_grad - by_loss == pytest.approx(1e-3, rel=0.1)  # of the printed digits


def test_what_is_right_passes_and_prints_each_constant():
    found = check_problem(RIGHT)
    text = str(found)
    for name in ("L", "m", "G(2, 0.1)", "kappa", "sigma", "F_star", "mu"):
        assert name in text
        assert found[name].held
    assert f"{RIGHT.constants.L:.6g}" in text


def test_what_is_not_declared_is_found_as_a_hint():
    bare = replace(COSH, constants=Constants())
    found = check_problem(bare)
    assert found["L"].declared is None
    # the curvature 1 - tanh^2 is one at a target alone: the search comes as near as this
    assert 0.9 < found["L"].measured <= 1 + found["L"].found.rounding
    assert "-" in str(found)
    of_G = {"G(1, 1)", "G(0.25, 3)", "G(2, 0.1)"}
    assert found.keys() == {"L", "m", "kappa", "F_star"} | of_G
    assert all(found[name].declared is None and found[name].measured > 0 for name in of_G)


def test_losses_in_float32_are_held_to_their_own_precision():
    narrow = replace(
        RIGHT,
        loss=lambda W: RIGHT.loss(W).astype(np.float32),
        grad=lambda W: RIGHT.grad(W).astype(np.float32),
    )
    check_problem(narrow)
    with pytest.raises(ValueError, match="L is declared"):
        check_problem(replace(narrow, constants=replace(RIGHT.constants, L=1.0)))


def test_a_large_problem_is_checked_by_directions():
    targets = RNG.standard_normal((2, 40, 30))
    curvatures = np.linspace(1, 3, 60).reshape(2, 30)
    problem = quadratic(curvatures, targets, radius=1.0, tau=0.01)
    check_problem(problem)
    with pytest.raises(ValueError, match=r"L is declared 2\.8"):
        check_problem(replace(problem, constants=replace(problem.constants, L=2.8)))


def test_the_prescribed_noise_is_that_of_entries():
    noisy = replace(RIGHT, noise=entry_noise(0.2, "rademacher"))
    assert check_problem(noisy)["sigma"].measured == pytest.approx(RIGHT.constants.sigma, rel=1e-12)


def test_a_gradient_in_float32_of_a_loss_in_float64_is_held_to_its_own_precision():
    narrow = replace(RIGHT, grad=lambda W: RIGHT.grad(W).astype(np.float32))
    check_problem(narrow)
    with pytest.raises(ValueError, match="grad is not the gradient of loss"):
        check_problem(replace(narrow, grad=lambda W: (2 * RIGHT.grad(W)).astype(np.float32)))


def test_an_error_of_a_loss_of_ones_own_says_at_what_it_was_called():
    one_point = replace(
        RIGHT, loss=lambda W: np.tensordot(W, np.ones((3, 4, 5)), 3)[:, None] * TARGETS
    )
    with pytest.raises(ValueError, match="broadcast") as caught:
        check_problem(one_point)
    assert (
        "loss was called with W of shape (24, 3, 4, 5) = [n, N, d, k]" in caught.value.__notes__[0]
    )


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (lambda: Constants(L="1"), "L must be a number >= 0, or None where it is unknown, got '1'"),
        (
            lambda: Constants(L=-1.0),
            "L must be a number >= 0, or None where it is unknown, got -1.0",
        ),
        (lambda: Constants(kappa=[1.0]), "kappa must be a number >= 0, or None"),
        (lambda: Constants(sigma=np.nan), "sigma must be a number >= 0, or None"),
        (lambda: Constants(mu=np.inf), "mu must be a number >= 0, or None"),
        (lambda: Constants(F_star=-np.inf), "F_star must be a number that is finite"),
        (lambda: Constants(within=0.0), "within must be a number > 0"),
        (
            lambda: Constants(G=5.0),
            "G must be a function of (s, c), got 5.0; one number that bounds",
        ),
        (lambda: Constants(upper=("g",)), 'upper must name some of "G" and "kappa", got (\'g\',)'),
        (
            lambda: replace(RIGHT, constants={"L": 1.0}),
            "constants must be Constants, got {'L': 1.0}",
        ),
        (
            lambda: replace(RIGHT, W0=np.zeros((5, 4))),
            "W0 must be an array [d, k] of shape (4, 5), got",
        ),
        (
            lambda: replace(RIGHT, stiffest=[[0.0]]),
            "stiffest must be an array [d, k] of shape (4, 5)",
        ),
        (lambda: check_problem("P3"), "problem must be a Problem, got str"),
    ],
)
def test_a_bad_constant_or_point_is_named(bad, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        bad()
