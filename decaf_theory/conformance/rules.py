"""What a rule makes of a case: the exact update of each agent, by the methods' own records."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from decaf_theory.arrays import Array
from decaf_theory.conformance.cases import Case
from decaf_theory.lowrank import Factors, mix_products
from decaf_theory.methods import METHODS, Clock, Method, fedrot, limiting_ranks
from decaf_theory.names import Table


@dataclass(frozen=True)
class Rule:
    """A rule by which adapters are aggregated.

    unequal: whether agents' ranks may differ; means of factors take smaller ones zero-padded.
    balanced: whether its split is B'B = AA'. means: whether it leaves the means of the factors.
    referred: whether it needs the last mixed factors.
    """

    name: str
    method: Method
    unequal: bool = False
    balanced: bool = False
    means: bool = False
    referred: bool = False

    @property
    def shared(self) -> bool:
        """Whether agents must have one A."""
        return "A" in self.method.fixed

    @property
    def truncates(self) -> bool:
        """Whether the mix is cut back to a rank."""
        return self.method.space == "products"


RULES: Table[Rule] = Table(
    (rule.name, rule)
    for rule in (
        Rule("decaf", METHODS["decaf"], unequal=True, balanced=True),
        Rule("dlora", METHODS["dlora"], unequal=True, means=True),
        Rule("dlora_fa", METHODS["dlora_fa"], means=True),
        Rule("fedavg", METHODS["fedavg"], unequal=True, means=True),
        Rule("ffa", METHODS["ffa_lora"], means=True),
        Rule("fedsa", METHODS["fedsa_lora"]),
        Rule("flexlora", METHODS["flexlora"], unequal=True),
        Rule("flora", METHODS["flora"], unequal=True),
        Rule("fedex", METHODS["fedex_lora"]),
        Rule("exact", METHODS["flora"], unequal=True),
        Rule("hetlora", METHODS["hetlora"], unequal=True),
        Rule("raflora", METHODS["raflora"], unequal=True),
        Rule("fedrot", METHODS["fedrot"], referred=True),
    )
)
REFLECTING = replace(RULES["fedrot"], method=fedrot(reflections=True))


def mixed(rule: Rule, case: Case, site: str, *, own_rank: bool) -> tuple[Array, Factors]:
    """Return W - W0 [N, d, k] of the agents after the mix, and the factors that they hold.

    own_rank: whether each agent of a truncating rule keeps its own rank, or all have the largest.
    """
    method = limiting_ranks(rule.method, case.ranks) if own_rank else rule.method
    state = method.begin(case.scaled[site])
    if rule.referred:
        N = case.N
        reference = case.reference[site].map(lambda X: np.repeat(X[None], N, axis=0))
        state = state._replace(memory={**state.memory, "reference": reference})
    after = method.exchange(state, case.weights, Clock(case.round)).state
    return np.asarray(method.form.update(after, 1.0)), after.factors


def mean(case: Case, site: str) -> Array:
    """Return the exact means of the products, [n, d, k]."""
    return np.asarray(mix_products(case.scaled[site], case.weights))
