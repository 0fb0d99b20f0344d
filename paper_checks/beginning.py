"""Where training starts: what a method keeps of each site, and which starts it takes."""

from __future__ import annotations

import warnings
from typing import TypeAlias

import torch
from torch import Tensor

from decaf_theory.lowrank import Factors
from decaf_theory.methods import FORMS, Method
from decaf_theory.methods.form import LORA, MERGED
from decaf_theory.simulate import DeadStartWarning
from paper_checks.stacked import Stacked, StackedLinear

# site -> what its method keeps, by name; an array that is the same for all agents as one row of it
Memory: TypeAlias = dict[str, dict[str, Factors | Tensor]]

COMPUTED = (LORA, MERGED, FORMS["sora"], FORMS["sd_lora"])  # what a stacked layer knows, and pools


def begin(stacked: Stacked, rule: Method) -> Memory:
    """Return the method's state of each site at the start; bind what it merges, or trains besides
    B and A, to the sites.

    ValueError: a method whose W the model does not compute.
    """
    known = any((rule.form.name, rule.form.update) == (f.name, f.update) for f in COMPUTED)
    if not known and rule.form.active is None:
        raise ValueError(
            f"training knows W - W0 = {', '.join(form.name for form in COMPUTED)}, not "
            f"{rule.form.name!r}, that of {rule.name}; it runs in simulations only"
        )
    memory: Memory = {}
    for name, factors in stacked.factors().items():
        state = rule.begin(factors.map(torch.Tensor.detach))
        # of the values, not the parameters themselves, which training changes in place
        memory[name] = {kept: _copied(X) for kept, X in state.memory.items()}
        site, base = stacked.sites[name], memory[name].get("base")
        assert not isinstance(base, Factors)  # as the form has it
        site.merged, site.kept, site.active = base, memory[name], rule.form.active
        for variable in rule.form.variables:
            kept = memory[name][variable.name]
            memory[name][variable.name] = bound(site, variable.name, kept)
    return memory


def bound(site: StackedLinear, name: str, kept: Factors | Tensor) -> Tensor:
    """Return the numbers of the site's variable, which start as what the method keeps."""
    assert isinstance(kept, Tensor)  # as a form's variables are
    if getattr(site, name) is None:
        setattr(site, name, torch.nn.Parameter(kept))
    found: Tensor = getattr(site, name).data
    return found


def check_start(stacked: Stacked, rule: Method, order: str, zero_directions: str) -> None:
    """Check the start.

    ValueError: a frozen A or head, or a start of pooled gradients, heads too, that differs between
    agents.
    DeadStartWarning: the first mix makes all factors zero, so that only heads could ever train.
    """
    one_model = rule.pools == "server" and rule.meets == "none"
    for name, factors in stacked.factors().items():
        alike = {part: bool((X == X[:1]).all()) for part, X in factors._asdict().items()}
        for part in sorted(rule.fixed):
            if not alike[part]:
                raise ValueError(
                    f"{part} must be equal at all agents for {rule.name}, which {rule.why(part)}; "
                    f"site {name} differs: start from equal adapters, or choose another method"
                )
        if one_model and not all(alike.values()):
            raise ValueError(
                f"adapters must be equal at all agents for {rule.name}, which is one model; site "
                f"{name} differs: set lora.equal_start, or start from equal adapters"
            )
    for name, head in stacked.heads.items():
        equal = all(bool((X == X[:1]).all()) for X in head.parameters())
        if not equal and one_model:
            raise ValueError(
                f"heads must be equal at all agents for {rule.name}, which is one model; head "
                f"{name} differs: start from adapters with equal heads"
            )
        if not equal and not all(X.requires_grad for X in head.parameters()):
            raise ValueError(
                f"head {name} must be equal at all agents while lora.train_heads is false; the "
                f"adapters given bring their own: set lora.train_heads, or start without them"
            )
    literal = rule.space == "products" and order == "mix_first" and zero_directions == "drop"
    zero = stacked.sites and not any(bool(site.B.any()) for site in stacked.sites.values())
    if literal and zero:
        warnings.warn(
            "train.order = 'mix_first' with mix.zero_directions = 'drop' from B = 0: the first mix "
            "makes both factors zero forever; use order 'step_first' or zero_directions 'keep'",
            DeadStartWarning,
            stacklevel=3,
        )


def _copied(kept: Factors | Tensor) -> Factors | Tensor:
    """Return a copy of what a method keeps at one site, of equal rows one."""
    return kept.map(torch.clone) if isinstance(kept, Factors) else one_row(kept).clone()


def one_row(X: Tensor) -> Tensor:
    """Return one row of X [N, a, b] if its rows are views of one, as methods make them, else X."""
    return X[:1] if X.stride(0) == 0 else X
