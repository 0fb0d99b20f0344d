"""peft itself reads what we write, and we read what it reads."""

import numpy as np
import pytest

pytest.importorskip("peft", reason="peft is not installed")

from decaf_theory import adapters
from decaf_theory.lowrank import product
from tests.adapter_files import PATTERNS, sites_of, write


@pytest.fixture
def rng():
    return np.random.default_rng(7)


@pytest.mark.parametrize(("patterns", "site", "value"), PATTERNS)
def test_patterns_match_by_pefts_own_function(patterns, site, value):
    from peft.utils.other import get_pattern_key

    patterns = patterns or {}
    assert patterns.get(get_pattern_key(patterns.keys(), site), 0) == value


@pytest.mark.slow
@pytest.mark.parametrize("config", [{}, {"use_rslora": True}, {"alpha_pattern": {"fc1": 1}}])
def test_peft_loads_the_same_weights(tmp_path, rng, config):
    import torch
    from peft import PeftModel
    from torch import nn

    shapes = {"fc1": (12, 20), "fc2": (9, 12)}
    common = {"target_modules": list(shapes), "modules_to_save": ["head"], **config}
    folders = [
        write(
            tmp_path / f"agent{i}",
            sites_of(rng, shapes=shapes),
            dtype=np.float32,
            others={
                "head.weight": rng.standard_normal((3, 9)).astype(np.float32),
                "head.bias": rng.standard_normal(3).astype(np.float32),
            },
            **common,
        )
        for i in range(3)
    ]
    agents = adapters.load_agents(folders)
    merged = adapters.merge(agents, rank=4)
    adapters.save(merged, tmp_path / "out")

    def loaded(folder):
        layers = {name: nn.Linear(k, d) for name, (d, k) in {**shapes, "head": (3, 9)}.items()}
        return PeftModel.from_pretrained(nn.ModuleDict(layers), folder).base_model.model

    for i, folder in enumerate(folders):
        model = loaded(folder)
        for site, factors in agents.factors.items():
            delta = model[site].get_delta_weight("default").double().numpy()
            W = product(factors)[i]
            # peft multiplies float32 factors of inner dimension 2 and scales: 4 roundings
            size = np.abs(factors.B[i]) @ np.abs(factors.A[i])
            assert np.all(np.abs(delta - W) <= 4 * 2**-24 * size * (1 + 1e-6))
    model = loaded(tmp_path / "out")
    for site, (B, A) in merged.sites.items():
        delta = model[site].get_delta_weight("default").double().numpy()
        # each factor rounded, and a float32 product of inner dimension 4
        size = np.abs(B) @ np.abs(A)
        assert np.all(np.abs(delta - B @ A) <= 8 * 2**-24 * size)
    head = model["head"].modules_to_save["default"]
    for name, X in merged.others.items():
        part = getattr(head, name.split(".")[1]).detach()
        assert torch.equal(part, torch.tensor(X, dtype=torch.float32))
