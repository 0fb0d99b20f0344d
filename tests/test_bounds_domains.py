"""Every letter of every bound: its edge is let in, what lies beyond is a ValueError naming it."""

import inspect
from math import nan

import numpy as np
import pytest

from decaf_theory import bounds, moments

PI = [1 / 2, 1 / 4, 1 / 4]
STEP = dict(lr=0.1, L=2.0, sigma=1.0, N=3)
NETWORK = dict(kappa=1.0, q=1.0, S=1.0)
RATE = dict(STEP, F_gap=1.0, T=8)
WEIGHT = dict(pi_max=0.5, norm="op")
ENTRIES = dict(d=2, k=3, r=2, tau_A=1.0, tau_B=1.0, pi=PI)
VALID = {
    "product_lipschitz": dict(s=1.0, c=1.0, norm="sum"),
    "lemma1_smoothness": dict(L=1.0, C=1.0, c=1.0, G=1.0, s=1.0, r=2),
    "lemma1_without_rank": dict(L=1.0, C=1.0, c=1.0, G=1.0, s=1.0),
    "smoothness_sharp": dict(L=1.0, c=1.0, G=1.0, s=1.0),
    "smoothness_mixed_norm": dict(L=1.0, c=1.0, G=1.0, s=1.0),
    "lemma1_gap": dict(L=1.0, eta=1.0, c=1.0, G=1.0, r=1.5),
    "lemma1_gap_worst": dict(L=1.0, eta=1.0, c=1.0, G=1.0),
    "factor_gradient": dict(s=1.0, c=1.0, g=1.0),
    "factor_sigma": dict(s=1.0, c=1.0, sigma_W=1.0),
    "factor_kappa": dict(s=1.0, c=1.0, kappa_W=1.0),
    "isotropic_factor_variance": dict(s=1.0, tau=1.0, A_norm=1.0, B_norm=1.0, d=2, k=3),
    "frozen_smoothness": dict(s=1.0, L=1.0, sigma_max_A=1.0),
    "interference_nuclear": dict(V_A=1.0, V_B=1.0),
    "interference_frobenius": dict(X_op=1.0, X_fro=1.0, Y_op=1.0, Y_fro=1.0),
    "interference_operator": dict(X_op=1.0, Y_op=1.0),
    "interference_network": dict(spread_A=1.0, spread_B=1.0, N=2),
    "interference_consensus": dict(lam_min=0.5, Xi_A=1.0, Xi_B=1.0),
    "interference_half": dict(Xi_w=1.0),
    "mixed_deviation": dict(lam=0.5, t=2, deviation=1.0),
    "interference_phase": dict(lam=0.5, t=2, N=3, deviation_A=1.0, deviation_B=1.0),
    "tau": dict(pi_max=0.5),
    "interference_worst_case": dict(WEIGHT, c=1.0, q=2),
    "sign_gap": dict(pi=PI),
    "orthogonal_gap": dict(r=3, pi=PI),
    "interference_by_weights": dict(c=1.0, r=3, pi=PI),
    "interference_mean_square": ENTRIES,
    "mix_mean_square": ENTRIES,
    "interference_trajectory": dict(
        lr=0.1, s=1.0, c=1.0, N=2, L_hat=1.0, sigma_W=1.0, kappa_W=1.0, q=1.0, S=1.0
    ),
    "mix_rank": dict(m=2, r=1, d=3, k=4),
    "truncation_worst_case": dict(WEIGHT, c=1.0, r=2, n=3),
    "decaf_dlora_difference": dict(interference=1.0, norm="op"),
    "decaf_dlora_lower_rank": dict(K=1, r=3, n=5),
    "decaf_dlora_worst_case": dict(c=1.0, r=2, norm="op"),
    "decaf_dlora_heavy": dict(WEIGHT, c=1.0, r=2, m=3),
    "truncation_second_order": dict(mean_square=1.0, square_mean=1.0, sigma_r=1.0, delta=0.5),
    "truncation_by_reference": dict(
        mean_square=1.0, misalignment=1.0, sigma_r=1.0, reference_r=1.0
    ),
    "truncation_by_spread": dict(mean_square=1.0, kept=[2.0, 1.0]),
    "decaf_dlora_by_norms": dict(mix=1.0, reflected=1.0),
    "tsvd_condition": dict(sigma_r=1.0, sigma_next=0.0),
    "tsvd_perturbation": dict(sigma_r=1.0, sigma_next=0.0, e=0.1),
    "tsvd_perturbation_integrated": dict(sigma_r=1.0, sigma_next=0.0, e=0.1),
    "wedin": dict(e_fro=1.0, gap=1.0),
    "aligned_interference": dict(spread=1.0, mean_square=1.0, sigma_r=1.0),
    "factor_distance": dict(product_distance=1.0, sigma_r=1.0),
    "decaf_mixing_error": dict(product_distance=1.0, sigma_P=1.0, sigma_Q=1.0, imbalance=1.0),
    "network_q": dict(lam=0.5, order="MS"),
    "network_S": dict(eigenvalues=[0.5, -0.5], order="CB"),
    "consensus_bound": dict(STEP, **NETWORK),
    "dsgd_rate": dict(RATE, Xi=1.0),
    "dsgd_sharp": dict(RATE, Xi=1.0, ebar=1.0, errors="predictable"),
    "dsgd_textbook": dict(RATE, **NETWORK),
    "dsgd_gap": dict(RATE, mu=0.5, Xi=1.0),
    "dsgd_corollary": dict(NETWORK, F_gap=1.0, L=1.0, sigma=1.0, N=3, T=50),
    "corollary_horizon": dict(L=1.0, N=2, q=1.0),
    "safe_step": dict(L=1.0, q=1.0),
    "mixing_error_rate": dict(RATE, Xi=1.0, ebar=1.0, errors="dependent"),
    "mixing_error_consensus": dict(STEP, **NETWORK, lam=0.5, eps=1.0),
    "convex_curvature": dict(L=1.0, m=0.5),
    "local_drift": dict(lam=0.5, lr=0.1, L=2.0, kappa=1.0, N=3, K=2),
    "local_steps_q_S": dict(lam=0.5, eigenvalues=[0.5, -0.5], N=3, K=2),
    "momentum_q_S": dict(lam=0.5, eigenvalues=[0.5, -0.5], beta=0.5),
    "momentum_rate": dict(RATE, Xi=1.0, beta=0.5),
    "time_varying_S": dict(lam=0.5, N=2),
    "reversible_S": dict(lam=0.5, pi=[0.5, 0.25, 0.25]),
    "sqrt_rho_complete": dict(N=3),
    "sqrt_rho_ring": dict(N=3),
    "sqrt_rho_path": dict(N=3),
    "sqrt_rho_star": dict(N=3),
    "sqrt_rho_hypercube": dict(D=3),
    "sqrt_rho_torus": dict(n=3),
    "sqrt_rho_bipartite": dict(n=3),
    "sqrt_rho_bipartite_optimal": dict(n=3),
}

# rule: (what the message says, values let in, values refused)
RULES = {
    "nonnegative": (">= 0", [0, 0.01], [-1e-9, nan]),
    "positive": ("> 0", [1e-3], [0, -1.0, nan]),
    "real from one": (">= 1", [1, 1.01], [0.999, nan]),
    "count": ("an integer >= 1", [1, 2, 3.0], [0, 1.5, -1, nan, True]),
    "count from zero": ("an integer >= 0", [0, 2], [-1, 0.5, True]),
    "count from two": ("an integer >= 2", [2, 3], [1, 2.5, True]),
    "below one": (r"lie in \[0, 1\)", [0, 0.999], [1, -0.01, nan]),
    "at most one": (r"lie in \[0, 1\]", [0, 1], [1.001, -0.01, nan]),
    "largest weight": (r"lie in \(0, 1\]", [1, 1e-9], [0, 1.001, nan]),
    "wedin's gap": None,  # any number: a gap that is not there gives inf
    "sequence": None,
    "choice": None,
}
RULE = dict.fromkeys("N T K d k r q m n".split(), "count")
RULE |= dict(pi_max="largest weight", lam="below one", beta="below one", lam_min="at most one")
RULE |= dict(D="count from zero", t="count from zero", gap="wedin's gap", lr="nonnegative")
RULE |= dict.fromkeys(["eigenvalues", "pi", "kept"], "sequence")
RULE |= dict.fromkeys(["order", "norm", "errors"], "choice")
SPECIAL = {
    ("lemma1_gap", "r"): "real from one",
    ("lemma1_gap", "G"): "positive",
    ("lemma1_gap_worst", "G"): "positive",
    ("safe_step", "L"): "positive",
    ("dsgd_rate", "lr"): "positive",
    ("dsgd_sharp", "lr"): "positive",
    ("dsgd_gap", "lr"): "positive",
    ("dsgd_gap", "mu"): "positive",
    ("dsgd_textbook", "lr"): "positive",
    ("mixing_error_rate", "lr"): "positive",
    ("momentum_rate", "lr"): "positive",
    ("sqrt_rho_bipartite_optimal", "n"): "count from two",
    ("convex_curvature", "m"): "nonnegative",
}
# elsewhere q is an amplification, a real number
SPECIAL |= {(name, "q"): "nonnegative" for name in VALID if name != "interference_worst_case"}
# one of these fixes a number that another letter must agree with
TIED = {
    ("local_steps_q_S", "N"): 3,
    ("convex_curvature", "L"): 0.5,
    ("dsgd_gap", "L"): 0.5,
    ("tsvd_condition", "sigma_next"): 1,
    ("tsvd_perturbation", "sigma_next"): 1,
    ("tsvd_perturbation_integrated", "sigma_next"): 1,
}


def cases(which):
    rows = []
    for name, letters in VALID.items():
        for letter in letters:
            rule = RULES[SPECIAL.get((name, letter)) or RULE.get(letter, "nonnegative")]
            rows += [(name, letter, value, rule[0]) for value in rule[which]] if rule else []
    return rows


def test_the_table_knows_every_bound_and_every_letter():
    assert set(VALID) == set(bounds.__all__) - {"GOLDEN_RATIO"}
    for name, letters in VALID.items():
        parameters = inspect.signature(getattr(bounds, name)).parameters
        assert set(letters) == set(parameters), name
        assert all(p.kind is p.KEYWORD_ONLY for p in parameters.values()), name


@pytest.mark.parametrize(("name", "letter", "value", "rule"), cases(2))
def test_beyond_the_edge_the_error_names_letter_rule_and_value(name, letter, value, rule):
    with pytest.raises(ValueError, match=rf"^{letter} must (be )?{rule}.*, got {value}"):
        getattr(bounds, name)(**{**VALID[name], letter: value})


@pytest.mark.parametrize(("name", "letter", "value", "rule"), cases(1))
def test_the_edge_itself_is_let_in(name, letter, value, rule):
    if (name, letter) in TIED:
        value = TIED[name, letter]
    result = getattr(bounds, name)(**{**VALID[name], letter: value})
    assert all(part >= 0 for part in (result if isinstance(result, tuple) else (result,)))


NUMBERS = [
    (name, letter)
    for name, letters in VALID.items()
    for letter, value in letters.items()
    if isinstance(value, int | float)
]


@pytest.mark.parametrize(("name", "letter"), NUMBERS)
@pytest.mark.parametrize("value", [[0.5, 0.5], np.array([0.5, 0.5]), "0.5"], ids=str)
def test_several_numbers_or_a_text_for_a_letter_are_refused_by_name(name, letter, value):
    with pytest.raises(ValueError, match=rf"^{letter} must be one number, got ") as caught:
        getattr(bounds, name)(**{**VALID[name], letter: value})
    assert str(caught.value).endswith("; call once for each")


CHOICES = [
    (name, a)
    for name, letters in VALID.items()
    for a in letters
    if a in ("order", "norm", "errors")
]


@pytest.mark.parametrize(("name", "letter"), CHOICES)
def test_an_unknown_choice_is_refused_with_the_known_ones(name, letter):
    with pytest.raises(ValueError, match=rf"^{letter} must be one of \('\w+', '\w+'.*, got 'MC'"):
        getattr(bounds, name)(**{**VALID[name], letter: "MC"})


@pytest.mark.parametrize("order", ["step_first", "mix_first", "combine"])
def test_an_order_of_a_simulation_is_answered_by_its_constants(order):
    letters = dict(problem=None, Pi=None, lr=0.1, order=order)
    calls = [lambda: bounds.network_q(lam=0.5, order=order)]
    calls += [lambda: moments.decentralized_sgd(**letters)]
    for call in calls:
        with pytest.raises(
            ValueError, match=rf"'{order}'.*(and 'mix_first' are 'MS', 'combine' is 'CB')$"
        ):
            call()


@pytest.mark.parametrize("name", ["network_S", "local_steps_q_S", "momentum_q_S"])
@pytest.mark.parametrize("value", [1, 1.5, -1, nan])
def test_eigenvalues_of_size_one_are_refused(name, value):
    letters = {**VALID[name], "eigenvalues": [0.5, value]}
    with pytest.raises(
        ValueError, match=rf"^eigenvalues must lie in \(-1, 1\), got {value}; leave"
    ):
        getattr(bounds, name)(**letters)


@pytest.mark.parametrize("name", ["network_S", "momentum_q_S"])
def test_eigenvalues_close_to_one_are_let_in(name):
    found = getattr(bounds, name)(**{**VALID[name], "eigenvalues": [0.999, -0.999]})
    assert np.isfinite(found).all()


def test_local_steps_want_all_the_other_eigenvalues():
    with pytest.raises(ValueError, match="eigenvalues must be the N - 1 = 2 others, got 3"):
        bounds.local_steps_q_S(lam=0.5, eigenvalues=[0.5, 0.5, 0.5], N=3, K=2)


@pytest.mark.parametrize("name", [name for name, letters in VALID.items() if "pi" in letters])
def test_weights_are_nonnegative_and_sum_to_one(name):
    bound = getattr(bounds, name)
    with pytest.raises(ValueError, match=r"^pi must be >= 0, got -0\.5"):
        bound(**{**VALID[name], "pi": [1.5, -0.5]})
    # sqrt(eps) = 1.49e-8
    for off in (1.6e-8, -1.6e-8):
        with pytest.raises(ValueError, match=r"^pi must sum to one, got (1\.00000001|0\.99999998)"):
            bound(**{**VALID[name], "pi": [0.5, 0.5 + off]})
    for off in (1.4e-8, -1.4e-8):
        assert bound(**{**VALID[name], "pi": [0.5, 0.5 + off]}) > 0
    assert bound(**{**VALID[name], "pi": [1.0, 0.0]}) >= 0


def test_singular_values_must_decrease():
    by_size = bounds.tsvd_perturbation, bounds.tsvd_perturbation_integrated
    for bound in (bounds.tsvd_condition, *by_size):
        letters = {} if bound is bounds.tsvd_condition else {"e": 0.1}
        with pytest.raises(ValueError, match=r"^sigma_next must be <= sigma_r = 1, got 1\.5"):
            bound(sigma_r=1, sigma_next=1.5, **letters)


def test_the_singular_values_kept_are_at_least_one_and_decrease():
    bound = bounds.truncation_by_spread
    with pytest.raises(ValueError, match=r"^kept must hold .*, got none"):
        bound(mean_square=1, kept=[])
    with pytest.raises(ValueError, match=r"^kept must not increase, got \[1, 2\]; sort it"):
        bound(mean_square=1, kept=[1, 2])
    for value in (-1e-9, nan):
        with pytest.raises(ValueError, match=rf"^kept must be >= 0, got {value}"):
            bound(mean_square=1, kept=[1, value])
    assert bound(mean_square=1, kept=[0, 0]) > 0


def test_the_rank_of_what_is_compared_is_at_most_the_rank_kept():
    with pytest.raises(ValueError, match=r"^K must be <= r = 2 .*, got 3"):
        bounds.decaf_dlora_lower_rank(K=3, r=2, n=5)


def test_curvature_below_minus_L_contradicts_smoothness():
    with pytest.raises(ValueError, match=r"^m must be <= L = 1 .*, got 1\.5"):
        bounds.convex_curvature(L=1, m=1.5)


def test_a_constant_of_pl_beyond_L_contradicts_smoothness():
    with pytest.raises(ValueError, match=r"^mu must be <= L = 2\.0 .*, got 2\.5"):
        bounds.dsgd_gap(**{**VALID["dsgd_gap"], "mu": 2.5})
