"""How the domain of each true bound is searched: ATTACKS[claim][variant], and what is not."""

from __future__ import annotations

from decaf_theory.adversary import Attack
from verification.attacks import mixes, rates, rounds, smoothness, truncation

ATTACKS: dict[str, dict[str, Attack]] = {
    **smoothness.ATTACKS,
    **mixes.ATTACKS,
    **truncation.ATTACKS,
    **rates.ATTACKS,
    **rounds.ATTACKS,
}

NOT_ATTACKED = {
    "T3": "says that a bound is attained; the attack on T2-sharp finds such slopes",
    "T3-gap": "a closed form in the rank alone, evaluated at every rank",
    "T8": "an identity",
    "T12": "an exact expectation",
    "T14-law": "an asymptotic law",
    "T15": "identities, and Eckart-Young's inequality, which defines the truncation",
    "T20": "identities; its inequality is T20-distance",
    "T22": "the exact path of one instance",
    "T23": "exact zeros and ranks",
    "T24": "identities",
    "T26-1": "says that a bound is attained; the attack on T25 finds such problems",
    "T26-2": "says that a bound is attained; the attack on T25 finds such problems",
    "T26-3": "says that a bound is attained; the attack on T34 finds such problems",
    "T27": "exact moments",
    "T30-order": "an asymptotic law",
    "T30-certificate": "T29 along runs of DeCAF; T29 is attacked",
    "T31": "closed forms",
    "T32": "an asymptotic law",
    "T33": "an asymptotic law",
    "P1": "exact paths of given instances",
    "P6": "exact paths of given instances",
    "R2": "identities",
    "R3": "identities",
    "R4": "an exact expectation",
    "R7": "an exact expectation",
    "R8": "T11 and T12 at one scale; T11 is attacked",
    "W1": "a worked example in exact numbers",
    "W2": "a worked example in exact numbers",
    "W3": "a worked example in exact numbers",
}
