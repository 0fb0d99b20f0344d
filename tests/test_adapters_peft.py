"""peft itself reads what we write, and we read what it reads."""

import numpy as np
import pytest

pytest.importorskip("peft", reason="peft is not installed")

from decaf_theory import adapters
from decaf_theory.lowrank import pad_rank, product
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


def linears(shapes):
    """Return the linear layers that these sites adapt."""
    from torch import nn

    return nn.ModuleDict({name: nn.Linear(k, d) for name, (d, k) in shapes.items()})


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["cat", "svd", "auto", "bfloat16"])
def test_merges_are_those_of_peft(tmp_path, rng, kind):
    from peft import PeftModel

    shapes = {"fc1": (12, 20), "fc2": (9, 12)}
    common = {"target_modules": list(shapes), "dtype": np.float32}
    folders = [
        write(tmp_path / name, sites_of(rng, r=r, shapes=shapes), r=r, lora_alpha=r + 1, **common)
        for name, r in (("a", 2), ("b", 3))
    ]
    options = {
        "cat": {"exact": True},
        "svd": {"rank": 2},
        "auto": {"rank": "auto", "energy": 0.8},
        "bfloat16": {"dtype": "bfloat16"},
    }[kind]
    weights = [0.75, 0.25]
    opened = [adapters.opened(folder) for folder in folders]
    found = adapters.merge_to(tmp_path / "out", opened, weights=weights, **options)
    model = PeftModel.from_pretrained(linears(shapes), folders[0], adapter_name="a")
    model.load_adapter(folders[1], adapter_name="b")
    model.load_adapter(tmp_path / "out", adapter_name="ours")
    exact = kind == "cat"
    model.add_weighted_adapter(["a", "b"], weights, "theirs", "cat" if exact else "svd", svd_rank=2)
    for said in found["sites"]:
        layer = model.base_model.model[said["site"]]
        ours = layer.get_delta_weight("ours").double().numpy()
        pairs = [opened[j].sites[said["site"]].read() for j in range(2)]
        # peft reads each, scales, and multiplies in float32: for inner dimensions r <= 5 each
        # product is within (r + 6) 2^-24 |B||A|, entry by entry, and so is the stacked one
        size = sum(w * np.abs(B) @ np.abs(A) for w, (B, A) in zip(weights, pairs, strict=True))
        M = sum(w * B @ A for w, (B, A) in zip(weights, pairs, strict=True))
        room = 11 * 2**-24 * np.linalg.norm(size)
        U, S, Vh = np.linalg.svd(M)
        r = {"cat": 5, "svd": 2, "bfloat16": 3}.get(kind, said["rank"])
        W = (U[:, :r] * S[:r]) @ Vh[:r]
        gap = S[r - 1] - S[r] if S[r : r + 1].sum() > room else np.inf
        # a truncation moves by at most twice sigma_1 over the gap of what its matrix moves by
        slip = room * (1 + 2 * S[0] / gap)
        assert layer.lora_A["ours"].weight.shape[0] == layer.r["ours"] == said["rank"] == r
        assert np.linalg.norm(ours - W) <= slip + 1.01 * said["rounding"]
        if kind in ("cat", "svd"):
            theirs = layer.get_delta_weight("theirs").double().numpy()
            # their float32 SVD: backward error max(d, k) eps sigma_1, as of LAPACK
            svd = 20 * 2**-23 * S[0] * (1 + 2 * S[0] / gap)
            assert np.linalg.norm(ours - theirs) <= 2 * slip + svd


LAYERS = {"wte": 3, "lin": 2, "conv1": 2, "conv2": 4, "point": 2, "conv3": 2}


def several_kinds():
    """Return a model with an embedding, a linear layer and convolutions in one to three axes."""
    from torch import nn

    return nn.ModuleDict(
        {
            "wte": nn.Embedding(7, 5),
            "lin": nn.Linear(5, 6),
            "conv1": nn.Conv1d(3, 4, 3),
            "conv2": nn.Conv2d(3, 5, (3, 2)),
            "point": nn.Conv2d(3, 4, 1),
            "conv3": nn.Conv3d(2, 3, (2, 1, 2)),
        }
    )


def test_embeddings_and_convolutions_are_pefts_own(tmp_path):
    import json

    import torch
    from peft import LoraConfig, PeftModel, get_peft_model
    from safetensors.numpy import save_file

    torch.manual_seed(7)
    config = LoraConfig(r=2, lora_alpha=3, target_modules=list(LAYERS), rank_pattern=LAYERS)
    model = get_peft_model(several_kinds(), config)
    for parameter in model.parameters():
        parameter.data.normal_()
    model.save_pretrained(tmp_path / "a")
    found = adapters.opened(tmp_path / "a")
    tensors = {}
    for name, site in found.sites.items():
        B, A = site.read()
        layer = model.base_model.model[name]
        delta = layer.get_delta_weight("default").detach().double().numpy()
        W = (B @ A).reshape(site.weight)
        # float32 products of inner dimension r, scaled: r + 3 roundings, in any order
        room = (site.rank + 3) * 2**-24 * (1 + 1e-6) * (np.abs(B) @ np.abs(A)).reshape(W.shape)
        off = np.abs((delta.T if name == "wte" else delta) - W)
        assert site.rank == LAYERS[name]
        assert np.all(off <= room)
        tensors |= found.naming.tensors(site, pad_rank(site.read(), 4))
    (tmp_path / "b").mkdir()
    exact = {name: np.ascontiguousarray(X, dtype=np.float32) for name, X in tensors.items()}
    save_file(exact, tmp_path / "b" / found.naming.weights)
    settings = {**found.config, "r": 4, "lora_alpha": 4, "rank_pattern": {}, "alpha_pattern": {}}
    (tmp_path / "b" / "adapter_config.json").write_text(json.dumps(settings))
    again = PeftModel.from_pretrained(several_kinds(), tmp_path / "b")
    for name, site in found.sites.items():
        ours, theirs = (
            m.base_model.model[name].get_delta_weight("default") for m in (model, again)
        )
        size = np.abs(site.read().B) @ np.abs(site.read().A)
        room = (size.T if name == "wte" else size).reshape(ours.shape)
        # both products, and the scaled B rounded: 2 (r + 3) + 2 roundings
        off = np.abs((ours - theirs).detach().double().numpy())
        assert np.all(off <= (2 * (site.rank + 3) + 4) * 2**-24 * room)


@pytest.mark.slow
def test_merges_of_embeddings_and_convolutions_are_means_of_pefts_updates(tmp_path):
    import torch
    from peft import LoraConfig, PeftModel, get_peft_model

    torch.manual_seed(7)
    config = LoraConfig(r=2, lora_alpha=3, target_modules=list(LAYERS), rank_pattern=LAYERS)
    means = {}
    for folder in "ab":
        model = get_peft_model(several_kinds(), config)
        for parameter in model.parameters():
            parameter.data.normal_()
        model.save_pretrained(tmp_path / folder)
        for name in LAYERS:
            delta = model.base_model.model[name].get_delta_weight("default").detach().double() / 2
            means[name] = means.get(name, 0) + delta.numpy()
    opened = [adapters.opened(tmp_path / folder) for folder in "ab"]
    adapters.merge_to(tmp_path / "out", opened, exact=True)
    merged = PeftModel.from_pretrained(several_kinds(), tmp_path / "out").base_model.model
    for name, mean in means.items():
        ours = merged[name].get_delta_weight("default").detach().double().numpy()
        size = sum(np.abs(B) @ np.abs(A) for B, A in (a.sites[name].read() for a in opened)) / 2
        # float32 products of inner dimension up to 2 r <= 8, scaled, and two factors rounded
        room = 2 * (8 + 3) * 2**-24 * (1 + 1e-6) * size
        off = np.abs(ours - mean)
        assert np.all((off.T if name == "wte" else off).reshape(size.shape) <= room)
