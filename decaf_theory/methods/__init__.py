"""Every method by name, and every form of W - W0. A new one is a file and a line in its table.

from decaf_theory.methods import METHODS, check_method, sora, with_form
mixed = METHODS["decaf"].mix(factors, Pi)       # one round of mixing, nothing else
gated = with_form(METHODS["decaf"], sora(lam=0.1))
print(check_method(method))                     # one of your own, against what it declares
"""

from __future__ import annotations

from decaf_theory.methods.aligned import FEDROT, fedrot
from decaf_theory.methods.base import Direction, Method, Mixed, Origin
from decaf_theory.methods.channel import (
    AIR_FEDAVG,
    SALF,
    air_fedavg,
    differences,
    noisy,
    salf,
    stragglers,
)
from decaf_theory.methods.checking import check_method
from decaf_theory.methods.compressed import CHOCO, choco
from decaf_theory.methods.confined import FED_SB, fed_sb
from decaf_theory.methods.decoupled import sd_lora
from decaf_theory.methods.factor import (
    CENTRALIZED,
    DLORA,
    DLORA_FA,
    DSGD,
    FEDAVG,
    FEDSA_LORA,
    FFA_LORA,
    LOCAL,
)
from decaf_theory.methods.feedback import DECAF_EF, error_feedback
from decaf_theory.methods.field import FEDAGG, fedagg
from decaf_theory.methods.flow import ODELORA, odelora
from decaf_theory.methods.form import LORA, Form
from decaf_theory.methods.formed import with_form
from decaf_theory.methods.gates import sora
from decaf_theory.methods.memory import GRADIENT_TRACKING, HEAVY_BALL, heavy_ball, tracking
from decaf_theory.methods.merged import FEDEX_LORA, FLORA, RAC_LORA, flora, rac_lora
from decaf_theory.methods.pool import rank1_pool
from decaf_theory.methods.private import LA_LORA, la_lora, private, smoothed
from decaf_theory.methods.product import DECAF, FLEXLORA, keeping_directions
from decaf_theory.methods.ranks import limiting_ranks, within_ranks
from decaf_theory.methods.state import Clock, State, for_agents
from decaf_theory.methods.turns import ADF_LORA, ROLORA, TAD_LORA, adf_lora, tad_lora
from decaf_theory.methods.unequal import HETLORA, RAFLORA
from decaf_theory.methods.whole import FEDHL
from decaf_theory.names import Table

__all__ = [
    "FORMS",
    "METHODS",
    "Clock",
    "Direction",
    "Form",
    "Method",
    "Mixed",
    "Origin",
    "State",
    "adf_lora",
    "air_fedavg",
    "check_method",
    "choco",
    "differences",
    "error_feedback",
    "fed_sb",
    "fedagg",
    "fedrot",
    "flora",
    "for_agents",
    "heavy_ball",
    "keeping_directions",
    "la_lora",
    "limiting_ranks",
    "noisy",
    "odelora",
    "private",
    "rac_lora",
    "rank1_pool",
    "salf",
    "sd_lora",
    "smoothed",
    "sora",
    "stragglers",
    "tad_lora",
    "tracking",
    "with_form",
    "within_ranks",
]

METHODS: Table[Method] = Table(
    {
        method.name: method
        for method in (
            *(DSGD, LOCAL, CENTRALIZED, FEDAVG, DLORA, DLORA_FA, DECAF),
            *(FFA_LORA, FEDSA_LORA, FLEXLORA),
            *(ROLORA, ADF_LORA, TAD_LORA),
            *(GRADIENT_TRACKING, HEAVY_BALL),
            *(CHOCO, FEDROT, HETLORA, RAFLORA, DECAF_EF),
            *(FLORA, FEDEX_LORA, RAC_LORA, FEDHL, FED_SB),
            *(AIR_FEDAVG, SALF, LA_LORA, ODELORA, FEDAGG),
        )
    }
)

FORMS: Table[Form] = Table(
    {
        form.label: form
        for form in (
            LORA,
            sora(),
            sd_lora(),
            rank1_pool(),
        )
    }
)
