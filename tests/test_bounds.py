"""Every bound against numbers worked by hand, one row a formula; domains are in their own file."""

from math import inf, log, sqrt

import pytest

from decaf_theory import bounds

EPS = 2.0**-52
# each value below takes at most 16 roundings, each of eps / 2
ROUNDING = 8 * EPS


def close(value, expected):
    return value == pytest.approx(expected, rel=ROUNDING, abs=0)


# name, letters, value; letters differ from each other, so that none can stand for another
WORKED = [
    # s c = 15; sqrt(2) 15 = sqrt(450)
    ("product_lipschitz", dict(s=3, c=5, norm="sum"), 15),
    ("product_lipschitz", dict(s=3, c=5, norm="euclid"), sqrt(450)),
    # 11 (2*2*3*sqrt(4)*5 + 7) = 11 * 127;  sqrt(9): 11 * 187;  without the root 11 * 67
    ("lemma1_smoothness", dict(L=2, C=3, c=5, G=7, s=11, r=4), 1397),
    ("lemma1_smoothness", dict(L=2, C=3, c=5, G=7, s=11, r=9), 2057),
    ("lemma1_without_rank", dict(L=2, C=3, c=5, G=7, s=11), 737),
    # 7 (2*7*2*9 + 5) = 7 * 257
    ("smoothness_sharp", dict(L=2, c=3, G=5, s=7), 1799),
    ("smoothness_mixed_norm", dict(L=2, c=3, G=5, s=7), sqrt(2 * 1799**2)),
    # K = 2*3*2*4/6 = 8: (8/2 + 1)/(8/4 + 1) = 5/3, (8/4 + 1)/(8/16 + 1) = 2
    ("lemma1_gap", dict(L=3, eta=2, c=2, G=6, r=4), 5 / 3),
    ("lemma1_gap", dict(L=3, eta=2, c=2, G=6, r=16), 2),
    # sqrt(2)*3*5*7
    ("factor_gradient", dict(s=3, c=5, g=7), sqrt(2 * 105**2)),
    ("factor_sigma", dict(s=3, c=5, sigma_W=7), sqrt(2 * 105**2)),
    ("factor_kappa", dict(s=3, c=5, kappa_W=7), sqrt(2 * 105**2)),
    # (2*3)^2 (13*7^2 + 11*5^2) = 36 * 912
    ("isotropic_factor_variance", dict(s=2, tau=3, A_norm=5, B_norm=7, d=11, k=13), 32832),
    ("frozen_smoothness", dict(s=2, L=3, sigma_max_A=5), 300),
    ("interference_nuclear", dict(V_A=9, V_B=4), 6),
    # min(1*5, 3*2) and min(2*3, 5*1)
    ("interference_frobenius", dict(X_op=1, X_fro=3, Y_op=2, Y_fro=5), 5),
    ("interference_frobenius", dict(X_op=2, X_fro=5, Y_op=1, Y_fro=3), 5),
    ("interference_operator", dict(X_op=3, Y_op=5), 15),
    ("interference_network", dict(spread_A=9, spread_B=16, N=4), 3),
    # (1 - .36) sqrt(36) = .64 * 6
    ("interference_consensus", dict(lam_min=0.6, Xi_A=4, Xi_B=9), 3.84),
    ("interference_half", dict(Xi_w=7), 3.5),
    ("mixed_deviation", dict(lam=0.5, t=3, deviation=8), 1),
    ("mixed_deviation", dict(lam=0, t=0, deviation=8), 8),
    ("interference_phase", dict(lam=0.5, t=3, N=4, deviation_A=8, deviation_B=6), 1.5),
    ("tau", dict(pi_max=0.25), 1),
    ("tau", dict(pi_max=0.496), 1),
    ("tau", dict(pi_max=0.5), 1),
    # 1 - (2 * .504 - 1)^2
    ("tau", dict(pi_max=0.504), 0.999936),
    ("tau", dict(pi_max=0.625), 4 * 0.625 * 0.375),
    ("tau", dict(pi_max=0.75), 0.75),
    ("tau", dict(pi_max=1), 0),
    # 9 * 3/4 times sqrt(4), 1, 4
    ("interference_worst_case", dict(c=3, q=4, pi_max=0.75, norm="fro"), 13.5),
    ("interference_worst_case", dict(c=3, q=4, pi_max=0.75, norm="op"), 6.75),
    ("interference_worst_case", dict(c=3, q=4, pi_max=0.75, norm="nuc"), 27),
    # 2*3*5*4*9 = 1080; |pi|_2^2 = 3/8, |pi|_3^3 = 5/32: 1080 (3/8 - 5/16 + 9/64) = 1080 * 13/64
    (
        "interference_mean_square",
        dict(d=2, k=3, r=5, tau_A=2, tau_B=3, pi=[1 / 2, 1 / 4, 1 / 4]),
        1080 * 13 / 64,
    ),
    ("mix_mean_square", dict(d=2, k=3, r=5, tau_A=2, tau_B=3, pi=[1 / 2, 1 / 4, 1 / 4]), 405),
    # .01*8*9 (5 sqrt(9/4) + 7*1.5)^2 / (1 - .1*2*1.5)^2 = .72 * 324/.49
    (
        "interference_trajectory",
        dict(lr=0.1, s=2, c=3, N=4, L_hat=2, sigma_W=5, kappa_W=7, q=1.5, S=9),
        23328 / 49,
    ),
    ("mix_rank", dict(m=3, r=2, d=7, k=8), 6),
    ("mix_rank", dict(m=3, r=2, d=5, k=8), 5),
    ("mix_rank", dict(m=3, r=2, d=7, k=4), 4),
    # c^2 = 9; r = 2: min(2/3, 1 - .5), min(2/3, 1 - .25)
    ("truncation_worst_case", dict(c=3, r=2, n=7, pi_max=0.5, norm="op"), 4.5),
    ("truncation_worst_case", dict(c=3, r=2, n=7, pi_max=0.25, norm="op"), 6),
    # n >= 2 r: 9 min(sqrt(4)/2, sqrt(4)(1 - pi_max)); n = 6 < 8: f = 4 sqrt(2)/6, p = 2
    ("truncation_worst_case", dict(c=3, r=4, n=8, pi_max=0.25, norm="fro"), 9),
    ("truncation_worst_case", dict(c=3, r=4, n=8, pi_max=0.75, norm="fro"), 4.5),
    ("truncation_worst_case", dict(c=3, r=4, n=6, pi_max=0.25, norm="fro"), sqrt(72)),
    ("truncation_worst_case", dict(c=3, r=4, n=6, pi_max=0.75, norm="fro"), sqrt(2) * 9 / 4),
    # n < 2 r and n = 2 r - 1, one below the change of form: f = 2 sqrt(1)/3
    ("truncation_worst_case", dict(c=3, r=2, n=3, pi_max=0.25, norm="fro"), 6),
    ("truncation_worst_case", dict(c=3, r=2, n=9, pi_max=0.25, norm="fro"), sqrt(162) / 2),
    # 9 min(4*2/6, 2*(1 - pi_max)), 9 min(4*5/9, 4*(1 - pi_max))
    ("truncation_worst_case", dict(c=3, r=4, n=6, pi_max=0.25, norm="nuc"), 12),
    ("truncation_worst_case", dict(c=3, r=4, n=6, pi_max=0.75, norm="nuc"), 4.5),
    ("truncation_worst_case", dict(c=3, r=4, n=9, pi_max=0.25, norm="nuc"), 20),
    ("truncation_worst_case", dict(c=3, r=4, n=9, pi_max=0.75, norm="nuc"), 9),
    ("truncation_worst_case", dict(c=3, r=4, n=4, pi_max=0.25, norm="fro"), 0),
    ("truncation_worst_case", dict(c=3, r=4, n=3, pi_max=0.25, norm="nuc"), 0),
    ("truncation_worst_case", dict(c=3, r=4, n=4, pi_max=0.25, norm="op"), 0),
    # one beyond and one before n = 2 r, where the two forms differ by 1e-4 of themselves
    ("truncation_worst_case", dict(c=1, r=30, n=61, pi_max=0.25, norm="fro"), sqrt(30) / 2),
    ("truncation_worst_case", dict(c=1, r=30, n=59, pi_max=0.25, norm="fro"), 30 * sqrt(29) / 59),
    ("decaf_dlora_difference", dict(interference=4, norm="fro"), 2 + sqrt(20)),
    ("decaf_dlora_difference", dict(interference=4, norm="op"), 8),
    ("decaf_dlora_difference", dict(interference=4, norm="nuc"), 8),
    # h = 1/2, u = 1; h = 2/3 where n cuts p to 2: u = (2/3 + sqrt(28)/3)/2; nothing truncated
    ("decaf_dlora_lower_rank", dict(K=1, r=2, n=9), sqrt(2)),
    ("decaf_dlora_lower_rank", dict(K=3, r=4, n=6), sqrt(4 / 3 + sqrt(7) / 3)),
    ("decaf_dlora_lower_rank", dict(K=3, r=3, n=4), (1 + sqrt(5)) / 2),
    ("decaf_dlora_lower_rank", dict(K=1, r=3, n=3), 1),
    ("decaf_dlora_worst_case", dict(c=3, r=4, norm="fro"), 18),
    ("decaf_dlora_worst_case", dict(c=3, r=4, norm="op"), 9),
    ("decaf_dlora_worst_case", dict(c=3, r=4, norm="nuc"), 36),
    # tau = 3/4 at 3/4: x = (sqrt(21/16) - 1)/4 and y = 1/8 for more than two agents
    ("decaf_dlora_heavy", dict(c=3, r=4, m=5, pi_max=0.75, norm="op"), 6.75),
    ("decaf_dlora_heavy", dict(c=3, r=4, m=2, pi_max=0.75, norm="fro"), 13.5),
    ("decaf_dlora_heavy", dict(c=3, r=4, m=3, pi_max=0.75, norm="fro"), 9 + 9 * sqrt(21) / 8),
    ("decaf_dlora_heavy", dict(c=3, r=4, m=2, pi_max=0.75, norm="nuc"), 27),
    ("decaf_dlora_heavy", dict(c=3, r=4, m=3, pi_max=0.75, norm="nuc"), 31.5),
    # x is negative below (sqrt 5 - 1)/2; tau + y = 1.0675 at 0.55 says less than 1
    ("decaf_dlora_heavy", dict(c=3, r=4, m=3, pi_max=0.6, norm="fro"), 17.28),
    ("decaf_dlora_heavy", dict(c=3, r=4, m=3, pi_max=0.55, norm="nuc"), 36),
    ("decaf_dlora_heavy", dict(c=3, r=4, m=3, pi_max=0.4, norm="nuc"), 36),
    ("decaf_dlora_heavy", dict(c=3, r=4, m=1, pi_max=1, norm="nuc"), 0),
    # 1.5 sqrt(1 + sqrt 2) + 5/sqrt(8 * 2); the larger sigma_r counts in the first term alone
    (
        "decaf_mixing_error",
        dict(product_distance=3, sigma_P=4, sigma_Q=2, imbalance=5),
        1.5 * sqrt(1 + sqrt(2)) + 1.25,
    ),
    ("decaf_mixing_error", dict(product_distance=0, sigma_P=1, sigma_Q=2, imbalance=4), 1),
    ("decaf_mixing_error", dict(product_distance=0, sigma_P=1, sigma_Q=0, imbalance=0), inf),
    # (5 + 3)/(2 (4 - 1.5))
    ("truncation_second_order", dict(mean_square=5, square_mean=3, sigma_r=4, delta=1.5), 1.6),
    ("truncation_second_order", dict(mean_square=5, square_mean=3, sigma_r=4, delta=4), inf),
    ("truncation_second_order", dict(mean_square=5, square_mean=3, sigma_r=4, delta=5), inf),
    # (5 + 2 * 3)/(2 * 4), by either of the two
    (
        "truncation_by_reference",
        dict(mean_square=5, misalignment=3, sigma_r=4, reference_r=1),
        11 / 8,
    ),
    (
        "truncation_by_reference",
        dict(mean_square=5, misalignment=3, sigma_r=1, reference_r=4),
        11 / 8,
    ),
    (
        "truncation_by_reference",
        dict(mean_square=5, misalignment=3, sigma_r=0, reference_r=0),
        0,
    ),
    # sqrt(9 + 16) - 4; the same next to a value as large as the level 5
    ("truncation_by_spread", dict(mean_square=9, kept=[4]), 1),
    ("truncation_by_spread", dict(mean_square=9, kept=[5, 4]), 1),
    # 2 sqrt((9 + 9 + 25/4)/2) - 11/2: both values join; 2 sqrt((6 + 2)/2) - 2; nothing kept
    ("truncation_by_spread", dict(mean_square=9, kept=[3, 2.5]), sqrt(48.5) - 5.5),
    ("truncation_by_spread", dict(mean_square=6, kept=[9, 1, 1]), 2),
    ("truncation_by_spread", dict(mean_square=6, kept=[1, 1]), 2),
    ("truncation_by_spread", dict(mean_square=8, kept=[0, 0]), 4),
    ("truncation_by_spread", dict(mean_square=0, kept=[0, 0]), 0),
    ("truncation_by_spread", dict(mean_square=inf, kept=[2, 1]), inf),
    ("decaf_dlora_by_norms", dict(mix=3, reflected=4), 3.5),
    ("tsvd_condition", dict(sigma_r=5, sigma_next=3), 2.5),
    ("tsvd_condition", dict(sigma_r=5, sigma_next=0), 1),
    ("tsvd_condition", dict(sigma_r=1, sigma_next=1 - 1 / 128), 128),
    ("tsvd_condition", dict(sigma_r=5, sigma_next=5), inf),
    ("tsvd_condition", dict(sigma_r=0, sigma_next=0), (1 + sqrt(5)) / 2),
    # (5 - .5)/(5 - 3 - 1)
    ("tsvd_perturbation", dict(sigma_r=5, sigma_next=3, e=0.5), 4.5),
    ("tsvd_perturbation", dict(sigma_r=5, sigma_next=3, e=0), 2.5),
    # just below half the gap: (4 + 1/128)/(1/64)
    ("tsvd_perturbation", dict(sigma_r=5, sigma_next=3, e=1 - 1 / 128), 256.5),
    ("tsvd_perturbation", dict(sigma_r=5, sigma_next=3, e=1), inf),
    ("tsvd_perturbation", dict(sigma_r=5, sigma_next=3, e=6), inf),
    # 1/2 + 8/(4 e) ln(2/(2 - 2 e)), e = 1/2: ln 2; the condition number at e = 0
    ("tsvd_perturbation_integrated", dict(sigma_r=5, sigma_next=3, e=0.5), 0.5 + 4 * log(2)),
    ("tsvd_perturbation_integrated", dict(sigma_r=5, sigma_next=3, e=0), 2.5),
    ("tsvd_perturbation_integrated", dict(sigma_r=5, sigma_next=3, e=1), inf),
    ("wedin", dict(e_fro=3, gap=4), sqrt(18) / 4),
    ("wedin", dict(e_fro=3, gap=1 / 128), sqrt(18) * 128),
    ("wedin", dict(e_fro=3, gap=0), inf),
    ("wedin", dict(e_fro=3, gap=-1), inf),
    ("factor_distance", dict(product_distance=3, sigma_r=4), 1.5 * sqrt(1 + sqrt(2))),
    ("factor_distance", dict(product_distance=3, sigma_r=1 / 256), 48 * sqrt(1 + sqrt(2))),
    ("factor_distance", dict(product_distance=3, sigma_r=0), inf),
    ("factor_distance", dict(product_distance=0, sigma_r=0), 0),
    ("aligned_interference", dict(spread=3, mean_square=4, sigma_r=0), 3 * sqrt(2)),
    ("aligned_interference", dict(spread=3, mean_square=8, sigma_r=2), 3 * sqrt(2)),
    ("aligned_interference", dict(spread=3, mean_square=4, sigma_r=2), 1 + sqrt(2)),
    # g = 1.5^2: .25 * 2 * 3/2 * 1.25/(1 - .5625); lam g >= 1
    ("local_drift", dict(lam=0.25, lr=0.25, L=2, kappa=3, N=4, K=2), 15 / 7),
    ("local_drift", dict(lam=0.5, lr=0.25, L=2, kappa=3, N=4, K=2), inf),
    # .25 * 2 * 3 * 2 * .25/.75
    ("local_drift", dict(lam=0.25, lr=0.25, L=0, kappa=3, N=4, K=2), 1),
    ("local_drift", dict(lam=0.5, lr=0.5, L=2, kappa=3, N=4, K=1), inf),
    # |.3 + .2 - .5|; 1/2 - 1/4 - 1/8; 1 agent
    ("sign_gap", dict(pi=[0.3, 0.2, 0.5]), 0),
    ("sign_gap", dict(pi=[1 / 2, 1 / 8, 1 / 4, 1 / 16, 1 / 16]), 0),
    ("sign_gap", dict(pi=[5 / 8, 1 / 4, 1 / 8]), 1 / 4),
    ("sign_gap", dict(pi=[1]), 1),
    # delta: rank one, a heavy weight, three agents at odd rank; nothing at even rank
    ("orthogonal_gap", dict(r=1, pi=[3 / 8, 3 / 8, 1 / 4]), 1 / 4),
    ("orthogonal_gap", dict(r=2, pi=[5 / 8, 1 / 4, 1 / 8]), 1 / 4),
    ("orthogonal_gap", dict(r=5, pi=[3 / 8, 3 / 8, 0, 1 / 4]), 1 / 4),
    ("orthogonal_gap", dict(r=2, pi=[3 / 8, 3 / 8, 1 / 4]), 0),
    # four agents: delta = 7/16 - 3/16 - 3/16 + ... = 1/8 over the rank
    ("orthogonal_gap", dict(r=3, pi=[7 / 16, 3 / 16, 3 / 16, 3 / 16]), 1 / 24),
    ("orthogonal_gap", dict(r=5, pi=[7 / 16, 3 / 16, 3 / 16, 3 / 16]), 1 / 40),
    # five, in 1/64: delta = 2, 4 max - 1 = 20, the last agent left out 64 - 42 - 4 * 5 = 2 ...
    ("orthogonal_gap", dict(r=3, pi=[21 / 64, 17 / 64, 12 / 64, 9 / 64, 5 / 64]), 2 / 192),
    # ... in 1/100: min(2, 20, 100 - 60 - 4 * 9.5 = 2, ...); 4 max - 1 = 4 first, then -4, then -8
    ("orthogonal_gap", dict(r=3, pi=[0.3, 0.26, 0.2, 0.15, 0.09]), 0),
    ("orthogonal_gap", dict(r=3, pi=[0.2, 0.2, 0.2, 0.2, 0.2]), 0),
    ("orthogonal_gap", dict(r=3, pi=[0.46, 0.45, 0.03, 0.03, 0.03]), 0),
    # delta = .04 and the heaviest left out 1 - .48 - 4 * .12 = .04, but no weight is above 1/4
    ("orthogonal_gap", dict(r=3, pi=[0.24, 0.24, 0.24, 0.16, 0.12]), 0),
    # 1 - 2 * .01 - 4 * .2455 < 0: without the lightest the others close
    ("orthogonal_gap", dict(r=3, pi=[0.253, 0.246, 0.2455, 0.2455, 0.01]), 0),
    ("orthogonal_gap", dict(r=5, pi=[21 / 64, 17 / 64, 12 / 64, 9 / 64, 5 / 64]), 0),
    # 4 sqrt(2 + (15/16)^2); 4 * 15/16 at rank one; 4 sqrt 2 (1 - 1/16) with a heavy weight
    ("interference_by_weights", dict(c=2, r=3, pi=[3 / 8, 3 / 8, 1 / 4]), sqrt(737) / 4),
    ("interference_by_weights", dict(c=2, r=1, pi=[3 / 8, 3 / 8, 1 / 4]), 15 / 4),
    ("interference_by_weights", dict(c=2, r=2, pi=[3 / 8, 3 / 8, 1 / 4]), 4 * sqrt(2)),
    ("interference_by_weights", dict(c=2, r=2, pi=[5 / 8, 1 / 4, 1 / 8]), sqrt(2) * 15 / 4),
    ("network_q", dict(lam=0.75, order="MS"), 3),
    ("network_q", dict(lam=0.75, order="CB"), 4),
    # 1/3 + 1/8; 4/3 + 9/8
    ("network_S", dict(eigenvalues=[1 / 2, -1 / 3], order="MS"), 11 / 24),
    ("network_S", dict(eigenvalues=[1 / 2, -1 / 3], order="CB"), 59 / 24),
    ("network_S", dict(eigenvalues=[], order="MS"), 0),
    # .01 (5 sqrt(9/4) + 7*1.5)^2 / (1 - .1*2*1.5)^2
    ("consensus_bound", dict(lr=0.1, L=2, sigma=5, kappa=7, N=4, q=1.5, S=9), 324 / 49),
    # ((1 - 1/128)/(1/128))^2, just before the feedback closes
    ("consensus_bound", dict(lr=1 - 1 / 128, L=1, sigma=0, kappa=1, N=4, q=1, S=9), 127**2),
    ("consensus_bound", dict(lr=0.25, L=2, sigma=5, kappa=7, N=4, q=2, S=9), inf),
    ("consensus_bound", dict(lr=0.25, L=2, sigma=5, kappa=7, N=4, q=3, S=9), inf),
    # 6/(.25*8) + .25*2*9/3 + 4*.5
    ("dsgd_rate", dict(F_gap=3, lr=0.25, T=8, L=2, sigma=3, N=3, Xi=0.5), 6.5),
    ("dsgd_rate", dict(F_gap=3, lr=0.5, T=8, L=2, sigma=3, N=3, Xi=0.5), 6.5),
    ("dsgd_rate", dict(F_gap=3, lr=0.25, T=8, L=2, sigma=3, N=3, Xi=inf), inf),
    # u = 1/2, D = 2*.25 + .5/.25 = 2.5, R = 3 + 1.5: ((1.25 + sqrt(6.25 + 6.75))/1.5)^2
    (
        "dsgd_sharp",
        dict(F_gap=3, lr=0.25, T=8, L=2, sigma=3, N=3, Xi=1 / 16, ebar=0.5, errors="predictable"),
        ((1.25 + sqrt(13)) / 1.5) ** 2,
    ),
    # dependent, N = 4: a = 1, s = 1.5, e = 2: R = 3 + 1.125 + 2 (sqrt(1 + 2.25) - 1), Z = 3
    (
        "dsgd_sharp",
        dict(F_gap=3, lr=0.25, T=8, L=2, sigma=3, N=4, Xi=1 / 4, ebar=0.5),
        ((1.5 + sqrt(9 + 1.5 * (2.125 + sqrt(13)))) / 1.5) ** 2,
    ),
    # and where they hold nothing of the noise it is the predictable form
    (
        "dsgd_sharp",
        dict(F_gap=3, lr=0.25, T=8, L=2, sigma=3, N=3, Xi=1 / 16),
        ((0.25 + sqrt(0.25 + 6.75)) / 1.5) ** 2,
    ),
    ("dsgd_sharp", dict(F_gap=3, lr=0.5, T=8, L=2, sigma=3, N=3, Xi=inf, ebar=1), inf),
    # u = 1.5 beyond 1: D = 1, R = 1 + 4.5: ((.5 + sqrt(1 + 2.75))/.5)^2; none at u = 2
    (
        "dsgd_sharp",
        dict(F_gap=3, lr=0.75, T=8, L=2, sigma=3, N=3, Xi=0.25),
        (1 + 2 * sqrt(3.75)) ** 2,
    ),
    ("dsgd_sharp", dict(F_gap=3, lr=1, T=8, L=2, sigma=3, N=3, Xi=0.25), inf),
    # (3/4)^2 3 + (1 - 9/16) (4/2 + 1/4 2 9/9)/2; none beyond lr = 1/L
    (
        "dsgd_gap",
        dict(F_gap=3, lr=0.25, T=2, L=2, mu=1, sigma=3, N=9, Xi=0.5),
        27 / 16 + 7 / 16 * 1.25,
    ),
    ("dsgd_gap", dict(F_gap=3, lr=0.75, T=2, L=2, mu=1, sigma=3, N=9, Xi=0.5), inf),
    # step 1/4, u = 1/4: 6/(.25*8) + .25*9/4 + Xi + 2 (1/8)^2 9/(4*3/4), at u + 2 u^2 = 3/8
    (
        "momentum_rate",
        dict(F_gap=3, lr=0.125, T=8, L=1, sigma=3, N=4, Xi=0.5, beta=0.5),
        3 + 0.5625 + 0.5 + 3 / 32,
    ),
    # u + 2 u^2 = 1 at u = 1/2; beyond, and at a smaller step for beta = 3/4
    (
        "momentum_rate",
        dict(F_gap=3, lr=0.25, T=8, L=1, sigma=0, N=4, Xi=0.5, beta=0.5),
        1.5 + 0.5,
    ),
    ("momentum_rate", dict(F_gap=3, lr=0.26, T=8, L=1, sigma=3, N=4, Xi=0.5, beta=0.5), inf),
    ("momentum_rate", dict(F_gap=3, lr=0.0625, T=8, L=1, sigma=3, N=4, Xi=0.5, beta=0.75), inf),
    ("momentum_rate", dict(F_gap=3, lr=0.25, T=8, L=2, sigma=3, N=3, Xi=0.5, beta=0), 6.5),
    # 6/(.125*8) + .125*2*9/3 + 8/16 (9*.5/3 + 4*4), at lr L q = 1/2
    (
        "dsgd_textbook",
        dict(F_gap=3, lr=0.125, T=8, L=2, sigma=3, kappa=2, N=3, q=2, S=0.5),
        6 + 0.75 + 8.75,
    ),
    # lr L = 1, the other limit: 6/4 + .5*2*9/3 + 8 (9*.5/3 + 4/4)
    (
        "dsgd_textbook",
        dict(F_gap=3, lr=0.5, T=8, L=2, sigma=3, kappa=2, N=3, q=0.5, S=0.5),
        1.5 + 3 + 20,
    ),
    # (6 + 18)/20 + 64/100 (3/2 + 1.5)^2
    ("dsgd_corollary", dict(F_gap=3, L=2, sigma=3, kappa=2, N=4, T=100, q=0.75, S=1), 1.2 + 5.76),
    # 4 max(4, 4*4*.5625 = 9); with q = .25 the first is larger
    ("corollary_horizon", dict(L=2, N=4, q=0.75), 36),
    ("corollary_horizon", dict(L=2, N=4, q=0.25), 16),
    ("safe_step", dict(L=4, q=0.25), 1 / 4),
    ("safe_step", dict(L=4, q=2), 1 / 16),
    # 3 + 2*2.25 + 2*9*.25 + 2 (.75/.25)^2;  3 + 2.25 + (3*.5 + 3)^2
    ("mixing_error_rate", dict(F_gap=3, lr=0.25, T=8, L=3, sigma=3, N=3, Xi=0.25, ebar=0.75), 30),
    (
        "mixing_error_rate",
        dict(F_gap=3, lr=0.25, T=8, L=3, sigma=3, N=3, Xi=0.25, ebar=0.75, errors="predictable"),
        25.5,
    ),
    # .1 * 18 + 1.6/(2 * .4) = 3.8, over .7
    (
        "mixing_error_consensus",
        dict(lr=0.1, L=2, sigma=5, kappa=7, N=4, q=1.5, S=9, lam=0.6, eps=1.6),
        38**2 / 49,
    ),
    ("convex_curvature", dict(L=3, m=1), 4),
    ("convex_curvature", dict(L=3, m=0), 2.25),
    ("convex_curvature", dict(L=3, m=3), 9),
    # 3 * .25/.75
    ("time_varying_S", dict(lam=0.5, N=4), 1),
    # (1 - 3/8)/3
    ("reversible_S", dict(lam=0.5, pi=[0.5, 0.25, 0.25]), 5 / 24),
    ("reversible_S", dict(lam=0.5, pi=[1.0, 0.0]), 0),
    ("sqrt_rho_complete", dict(N=7), 0),
    ("sqrt_rho_ring", dict(N=1), 0),
    ("sqrt_rho_ring", dict(N=2), 1 / 3),
    ("sqrt_rho_ring", dict(N=4), 1 / 3),
    ("sqrt_rho_ring", dict(N=5), (1 + sqrt(5)) / 6),  # 2 cos 72 = phi_g - 1
    ("sqrt_rho_ring", dict(N=6), 2 / 3),
    ("sqrt_rho_ring", dict(N=10), (3 + sqrt(5)) / 6),  # 2 cos 36 = phi_g
    ("sqrt_rho_path", dict(N=1), 0),
    ("sqrt_rho_path", dict(N=2), 0),
    ("sqrt_rho_path", dict(N=3), 2 / 3),
    ("sqrt_rho_path", dict(N=6), (1 + sqrt(3)) / 3),
    ("sqrt_rho_star", dict(N=1), 0),
    ("sqrt_rho_star", dict(N=2), 0),
    ("sqrt_rho_star", dict(N=3), 2 / 3),
    ("sqrt_rho_star", dict(N=10), 0.9),
    ("sqrt_rho_hypercube", dict(D=0), 0),
    ("sqrt_rho_hypercube", dict(D=1), 0),
    ("sqrt_rho_hypercube", dict(D=2), 1 / 3),
    ("sqrt_rho_hypercube", dict(D=4), 0.6),
    ("sqrt_rho_torus", dict(n=1), 0),
    ("sqrt_rho_torus", dict(n=2), 0.6),
    ("sqrt_rho_torus", dict(n=3), 0.4),
    ("sqrt_rho_torus", dict(n=4), 0.6),
    ("sqrt_rho_torus", dict(n=6), 0.8),
    ("sqrt_rho_bipartite", dict(n=1), 0),
    ("sqrt_rho_bipartite", dict(n=2), 1 / 3),
    ("sqrt_rho_bipartite", dict(n=5), 2 / 3),
    ("sqrt_rho_bipartite_optimal", dict(n=2), 1 / 3),
    ("sqrt_rho_bipartite_optimal", dict(n=5), 1 / 3),
]
PAIRS = [
    # K = 8: (1 + 3)^2 and (1 + 3)/2
    ("lemma1_gap_worst", dict(L=3, eta=2, c=2, G=6), (16, 2)),
    # 4*1 + 3; 4*11/24 + 3*2
    ("local_steps_q_S", dict(lam=0.5, eigenvalues=[1 / 2, -1 / 3], N=3, K=4), (7, 47 / 6)),
    # 1/(1 - 1/2); (1/4)(5/4)/(3/4)^3 = 20/27, and (1/4)(3/4)/((3/4)^2 (5/4)) = 4/15
    ("momentum_q_S", dict(lam=0.5, eigenvalues=[0.5, -0.5], beta=0.5), (2, 136 / 135)),
    # beta != mu, so that neither can stand for the other: (1/4)(9/8)/((3/4)(15/16)(7/8)) = 16/35
    ("momentum_q_S", dict(lam=0.5, eigenvalues=[0.5], beta=0.25), (4 / 3, 16 / 35)),
]


@pytest.mark.parametrize(("name", "letters", "expected"), WORKED)
def test_a_bound_has_its_worked_value(name, letters, expected):
    assert close(getattr(bounds, name)(**letters), expected)


@pytest.mark.parametrize(("name", "letters", "expected"), PAIRS)
def test_a_pair_has_its_worked_values(name, letters, expected):
    first, second = getattr(bounds, name)(**letters)
    assert close(first, expected[0])
    assert close(second, expected[1])


def test_every_bound_has_a_worked_value():
    worked = {name for name, *_ in WORKED + PAIRS}
    assert worked == set(bounds.__all__) - {"GOLDEN_RATIO"}


def test_the_golden_ratio_solves_its_equation():
    # x^2 = x + 1 from T18's nu^2 - 3 nu + 1 = 0, nu = x^2
    assert close(bounds.GOLDEN_RATIO**2, bounds.GOLDEN_RATIO + 1)
    assert bounds.GOLDEN_RATIO > 1


def test_the_ring_of_three_mixes_at_once():
    # 1 + 2 cos(120 degrees) = 0 up to the rounding of two numbers of size one
    assert bounds.sqrt_rho_ring(N=3) <= EPS


STEP = dict(F_gap=3, T=8, L=1, sigma=3, N=3)
NETWORK = dict(kappa=2, q=0.5, S=1)


@pytest.mark.parametrize(
    ("bound", "letters"),
    [
        (bounds.dsgd_rate, dict(STEP, Xi=0)),
        (bounds.dsgd_textbook, dict(STEP, **NETWORK)),
        (bounds.mixing_error_rate, dict(STEP, Xi=0, ebar=0)),
    ],
)
def test_a_step_of_one_over_L_is_inside_however_it_was_rounded(bound, letters):
    assert bound(lr=1 + 8 * EPS, **letters) < inf
    assert bound(lr=1 + 9 * EPS, **letters) == inf


def test_the_textbook_form_needs_lr_L_q_below_one_half():
    letters = dict(F_gap=3, T=8, L=2, sigma=3, kappa=2, N=3, q=2, S=0.5)
    assert bounds.dsgd_textbook(lr=0.125, **letters) < inf
    assert bounds.dsgd_textbook(lr=0.126, **letters) == inf
    # and lr L below one, which comes first for q < 1/2
    letters["q"] = 0.25
    assert bounds.dsgd_textbook(lr=0.5, **letters) < inf
    assert bounds.dsgd_textbook(lr=0.505, **letters) == inf


def test_the_sharp_rate_ends_where_lr_L_is_two():
    # ((1 - 1/128) + 1)/(1/128) = 255
    letters = dict(F_gap=0, T=8, L=1, sigma=0, N=3, Xi=1)
    assert close(bounds.dsgd_sharp(lr=2 - 1 / 128, **letters), 255**2)
    assert bounds.dsgd_sharp(lr=2, **letters) == inf


def test_the_corollary_starts_at_its_horizon():
    # N max(L^2, 4 L^2 q^2) = 4 * 9 = 36
    letters = dict(F_gap=3, L=2, sigma=3, kappa=2, N=4, q=0.75, S=1)
    assert bounds.dsgd_corollary(T=36, **letters) < inf
    assert bounds.dsgd_corollary(T=35, **letters) == inf
