"""All agents in one forward pass: against a loop over the agents, in every dtype and mode."""

import json
import math

import pytest
import torch
from torch import nn
from torch.utils.checkpoint import CheckpointError, checkpoint

from decaf_theory.adapters import load
from paper_checks.stacked import Stacked, StackedHead, StackedLinear, export, load_into, stack

EPS = torch.finfo(torch.float64).eps


class Small(nn.Module):
    """Two sites with d != k (one without bias), a frozen norm between them, and a dense head."""

    def __init__(self):
        super().__init__()
        self.up = nn.Linear(6, 9, bias=False)
        self.norm = nn.LayerNorm(9)
        self.down = nn.Linear(9, 5)
        self.head = nn.Linear(5, 3)

    def hidden(self, x):
        return self.down(torch.tanh(self.norm(self.up(x))))

    def forward(self, x):
        return self.head(torch.tanh(self.hidden(x)))


def small(dtype=torch.float64):
    torch.manual_seed(1)
    return Small().to(dtype)


def stacked(agents=3, rank=2, scale=0.7, dtype=torch.float64, start=True, **settings) -> Stacked:
    """Return the small model of N agents whose factors and heads are in general position."""
    names = {"targets": ["up", "down"], "heads": ["head"], **settings}
    found = stack(small(dtype), agents=agents, rank=rank, scale=scale, **names)
    if start:
        torch.manual_seed(2)
        for X in found.parameters():
            X.data += torch.randn_like(X)
    return found


def inputs(found, examples=4, dtype=torch.float64):
    torch.manual_seed(3)
    return torch.randn(found.agents * examples, 2, 6, dtype=dtype)


def dense(found, agent):
    """Return the plain model whose weights are W0 + s B_i A_i and agent i's head."""
    model = small()
    with torch.no_grad():
        for name, site in found.sites.items():
            model.get_submodule(name).weight += site.scale * site.B[agent] @ site.A[agent]
        for name, head in found.heads.items():
            model.get_submodule(name).weight.copy_(head.weight[agent])
            model.get_submodule(name).bias.copy_(head.bias[agent])
    return model


def gradients(found, loss):
    return torch.autograd.grad(loss, found.parameters())


def rounding(model, X):
    """Products of inner dimension <= 9 and six of them in a row, each stretching by its norm."""
    stretch = math.prod(1 + float(p.detach().norm()) for p in model.parameters() if p.ndim > 1)
    return 6 * 9 * EPS * stretch * (1 + float(X.detach().abs().max()))


@pytest.mark.parametrize(("agents", "rank"), [(1, 1), (3, 2), (4, 5)])
def test_every_agent_sees_its_own_weights(agents, rank):
    found = stacked(agents, rank)
    x = inputs(found)
    y = found.model(x).reshape(agents, -1, 2, 3)
    for i, batch in enumerate(x.reshape(agents, -1, 2, 6)):
        model = dense(found, i)
        assert float((y[i] - model(batch)).detach().abs().max()) <= rounding(model, batch)


def test_one_agent_at_a_time_gives_the_same_outputs_and_gradients():
    found = stacked()
    x = inputs(found)
    y = found.model(x)
    together = gradients(found, y.square().sum())
    parts, outputs = [], []
    for i, batch in enumerate(x.chunk(found.agents)):
        with found.only(i):
            outputs.append(found.model(batch))
            parts.append(gradients(found, outputs[-1].square().sum()))
    bound = rounding(dense(found, 0), x)
    assert float((torch.cat(outputs) - y).detach().abs().max()) <= bound
    for i, own in enumerate(parts):
        for X, whole in zip(own, together, strict=True):
            others = [j for j in range(found.agents) if j != i]
            assert not X[others].any()
            # a gradient sums squares of outputs: one more factor of the network's size
            assert float((X[i] - whole[i]).abs().max()) <= bound * (1 + float(whole.abs().max()))
            assert whole[i].any()


def test_an_agents_gradient_knows_nothing_of_the_others_batches():
    found = stacked()
    x = inputs(found)
    own = gradients(found, found.model(x).chunk(3)[1].square().sum())
    for X in own:
        assert X[1].any()
        assert not X[[0, 2]].any()


def test_only_ends_with_its_block_even_by_an_error():
    found = stacked()
    x = inputs(found)
    y = found.model(x)
    with pytest.raises(RuntimeError, match="stop"), found.only(2):
        raise RuntimeError("stop")
    with found.only(1):
        own = found.model(x[:4])
        with found.only(None):
            assert torch.equal(found.model(x), y)
        assert torch.equal(found.model(x[:4]), own)
    assert torch.equal(found.model(x), y)


def test_nothing_but_factors_and_heads_trains():
    found = stacked()
    trained = {id(X) for X in found.parameters()}
    assert {id(X) for X in found.model.parameters() if X.requires_grad} == trained
    assert len(trained) == 2 * 2 + 2
    numbers = sum(X.numel() for X in found.parameters())
    assert numbers == 3 * (2 * (6 + 9) + 2 * (9 + 5) + 5 * 3 + 3)


def test_factors_are_views_without_the_scale():
    found = stacked()
    for name, (B, A) in found.factors().items():
        assert B.data_ptr() == found.sites[name].B.data_ptr()
        assert A.data_ptr() == found.sites[name].A.data_ptr()
        assert not B.requires_grad
        assert not A.requires_grad
    B, A = found.factors()["up"]
    assert (B.shape, A.shape) == ((3, 9, 2), (3, 2, 6))


def test_the_start_changes_no_output():
    found = stacked(start=False)
    x = inputs(found)
    # adding zeros is exact; the head multiplies agent by agent, in another order of sums
    model = small()
    assert torch.equal(found.model.hidden(x), model.hidden(x))
    assert float((found.model(x) - model(x)).detach().abs().max()) <= rounding(model, x)


def test_agents_share_one_start_of_A_unless_asked_otherwise():
    equal, unequal = stacked(start=False), stacked(start=False, equal_start=False)
    for name in ("up", "down"):
        B, A = equal.factors()[name]
        assert not B.any()
        assert torch.equal(A, A[:1].expand_as(A))
        assert A[0].unique().numel() == A[0].numel()
        B, A = unequal.factors()[name]
        assert not B.any()
        assert A.unique().numel() == A.numel()  # no two agents have one number in common


def test_A_starts_as_pefts_does():
    """kaiming_uniform_(a=sqrt(5)) is uniform in +-1/sqrt(k)."""
    model = nn.Sequential(nn.Linear(100, 60))
    A = stack(model, targets=["0"], agents=1, rank=50, scale=1.0).factors()["0"].A
    reference = nn.init.kaiming_uniform_(torch.empty(50, 100), a=math.sqrt(5))
    assert A.abs().max() <= 0.1
    # the mean square of 5,000 draws: relative standard deviation sqrt(4/5 / 5000) = 0.0126
    for X in (A, reference):
        assert abs(float(X.square().mean()) / (0.01 / 3) - 1) < 5 * 0.0126


def test_a_start_depends_on_seed_and_site_alone():
    one, two = stacked(start=False), stacked(start=False, targets=["down"], heads=())
    assert torch.equal(one.factors()["down"].A, two.factors()["down"].A)
    other = stacked(start=False, seed=1)
    assert not torch.equal(one.factors()["down"].A, other.factors()["down"].A)
    more = stacked(agents=5, start=False)
    assert torch.equal(more.factors()["up"].A[0], one.factors()["up"].A[0])


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_a_half_precision_base_keeps_float32_factors_and_its_own_output(dtype):
    found = stacked(dtype=dtype)
    assert {X.dtype for X in found.parameters()} == {torch.float32}
    y = found.model(inputs(found, dtype=dtype))
    assert y.dtype == dtype
    assert y.isfinite().all()
    for X in gradients(found, y.float().square().sum()):
        assert X.dtype == torch.float32
        assert X.isfinite().all()
        assert X.any()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("autocast", [False, True])
def test_trained_tensors_multiply_in_float32(dtype, autocast):
    """1 + 2^-12 is 1 and 2^18 is infinite in float16; all numbers here are exact in float32."""
    base = nn.Linear(4, 3, bias=False).to(torch.float32 if autocast else dtype)
    nn.init.zeros_(base.weight)
    A = torch.tensor([1 + 2**-12, -1, 0, 0])
    site, head = StackedLinear(base, 2**18 * A.expand(2, 1, 4).clone(), 2**-6), StackedHead(base, 2)
    with torch.no_grad():
        site.B.fill_(1)
        head.weight.copy_(A.expand(2, 3, 4))
    x = torch.ones(2, 4, dtype=dtype)
    with torch.autocast("cpu", dtype=dtype, enabled=autocast):
        assert torch.equal(site(x), torch.ones(2, 3, dtype=dtype))
        assert torch.equal(head(x), torch.full((2, 3), 2**-12, dtype=dtype))


def test_dropout_masks_the_branch_and_differs_between_agents():
    base = nn.Linear(50, 50)
    site = StackedLinear(base, torch.eye(50).expand(2, 50, 50).clone(), scale=0.5, dropout=0.25)
    with torch.no_grad():
        site.B.copy_(site.A)
    x = torch.ones(2, 8, 50)
    torch.manual_seed(5)
    branch = (site(x) - base(x)).detach()
    kept = 0.5 / 0.75
    assert set((branch / kept).round(decimals=4).unique().tolist()) <= {0.0, 1.0}
    assert not torch.equal(branch[0], branch[1])
    # 800 draws of probability 1/4: standard deviation 0.0153
    assert abs(float((branch < kept / 2).float().mean()) - 0.25) < 5 * 0.0153
    site.eval()
    assert float((site(x) - base(x) - 0.5).detach().abs().max()) <= 4 * 2**-24 * 4


def test_a_checkpointed_backward_outside_its_block_is_an_error_and_not_a_wrong_gradient():
    found = stacked()
    with found.only(1):
        y = checkpoint(found.model, inputs(found)[:6], use_reentrant=False)
    with pytest.raises(CheckpointError):
        y.square().sum().backward()


def test_other_models_of_layers_may_be_heads():
    torch.manual_seed(0)
    model = nn.ModuleDict(
        {
            "body": nn.Linear(4, 6),
            "head": nn.Sequential(nn.Linear(6, 6), nn.Tanh(), nn.Linear(6, 2)),
        }
    )
    found = stack(model, targets=["body"], heads=["head"], agents=2, rank=1, scale=1.0)
    assert list(found.heads) == ["head.0", "head.2"]
    assert found.saved == ("head",)


def conv(name):
    return nn.ModuleDict({name: nn.Conv2d(3, 4, 1), "linear": nn.Linear(3, 3)})


def shared():
    layer = nn.Linear(3, 3)
    return nn.ModuleDict({"a": layer, "b": layer})


class Quantized(nn.Linear):
    """Quantized layers derive from nn.Linear and keep their weights otherwise."""


GOOD = {"targets": ["up"], "agents": 2, "rank": 2, "scale": 1.0}
REFUSED = [
    (small, {"targets": ["upp"]}, r"target 'upp' matches no module.*near: up"),
    (small, {"targets": ["q_proj"]}, r"target 'q_proj' matches no module.*linear: down, head, up"),
    (small, {"targets": ["p"]}, r"target 'p' matches no module"),
    (small, {"targets": []}, r"targets must be a list of one or more names, got \[\]"),
    (small, {"targets": "up"}, r"targets must be a list of one or more names, got 'up'"),
    (small, {"heads": "head"}, r"heads must be a list of names, got 'head'"),
    (small, {"heads": ["haed"]}, r"head 'haed' matches no module.*near: head"),
    (small, {"heads": ["up"]}, r"site up is both a target and part of a head"),
    (small, {"heads": ["norm"]}, r"head norm is a torch.nn.*LayerNorm; only nn.Linear"),
    (small, {"targets": ["norm"]}, r"site norm is a torch.nn.*LayerNorm; targets must be plain"),
    (lambda: conv("q"), {"targets": ["q"]}, r"site q is a torch.nn.*Conv2d; targets must be plain"),
    (lambda: nn.ModuleDict({"q": Quantized(3, 3)}), {"targets": ["q"]}, r"site q is a .*Quantized"),
    (shared, {"targets": ["a"]}, r"site a is also b; a shared layer"),
    (small, {"rank": 7}, r"rank 7 is above min\(d, k\) at site up, 9 x 6; lower it"),
    (small, {"rank": 0}, r"rank must be at least 1, got 0"),
    (small, {"agents": 0}, r"agents must be at least 1, got 0"),
    (small, {"scale": math.nan}, r"scale must be finite and not 0, got nan"),
    (small, {"scale": 0.0}, r"scale must be finite and not 0, got 0"),
    (small, {"dropout": 1.0}, r"dropout must be in \[0, 1\), got 1.0"),
]


@pytest.mark.parametrize(("model", "settings", "message"), REFUSED)
def test_what_cannot_be_stacked_is_named_and_left_as_it_was(model, settings, message):
    model = model()
    before = [(name, type(module)) for name, module in model.named_modules()]
    with pytest.raises(ValueError, match=message):
        stack(model, **{**GOOD, **settings})
    assert [(name, type(module)) for name, module in model.named_modules()] == before
    assert all(X.requires_grad for X in model.parameters())


def test_a_model_is_stacked_once():
    found = stacked()
    with pytest.raises(ValueError, match="already stacked"):
        stack(found.model, **GOOD)


def test_a_batch_that_does_not_divide_is_refused():
    found = stacked()
    message = r"a batch of 4 does not divide among 3 agents"
    for layer in (found.sites["up"], found.heads["head"]):
        with pytest.raises(ValueError, match=message):
            layer(torch.zeros(4, 2, 6 if layer is found.sites["up"] else 5, dtype=torch.float64))


@pytest.mark.parametrize("agent", [-1, 3])
def test_an_agent_that_is_not_there_is_refused(agent, tmp_path):
    found = stacked()
    with pytest.raises(ValueError, match=r"agent must be in 0 \.\. 2"), found.only(agent):
        pass
    with pytest.raises(ValueError, match=r"agent must be in 0 \.\. 2"):
        export(found, agent, tmp_path / "a", base="org/base")


def exported(found, folder):
    folders = [folder / f"agent{i}" for i in range(found.agents)]
    for i, path in enumerate(folders):
        export(found, i, path, base="/home/me/models/base")
    return folders


def test_an_export_is_read_back(tmp_path):
    found = stacked(dtype=torch.float32)
    folders = exported(found, tmp_path)
    again = stacked(dtype=torch.float32, start=False, scale=2.0)
    load_into(again, folders)
    for name, (B, A) in found.factors().items():
        assert torch.equal(again.factors()[name].A, A)
        # s B is rounded once to float32 and, divided by a power of two, read exactly
        error = (2.0 * again.factors()[name].B.double() - 0.7 * B.double()).abs()
        assert bool((error <= 2**-24 * 0.7 * B.double().abs() * (1 + EPS)).all())
    for name, head in found.heads.items():
        assert torch.equal(again.heads[name].weight, head.weight)
        assert torch.equal(again.heads[name].bias, head.bias)


def test_an_export_names_its_base_and_no_path(tmp_path):
    folder = exported(stacked(), tmp_path)[0]
    text = (folder / "adapter_config.json").read_text()
    config = json.loads(text)
    assert config["base_model_name_or_path"] == "base"
    assert "/home" not in text
    assert (config["r"], config["lora_alpha"], config["modules_to_save"]) == (2, 2, ["head"])
    with pytest.raises(ValueError, match="exists already"):
        export(stacked(), 0, folder, base="org/base")
    export(stacked(), 1, folder, base="org/base", overwrite=True)
    assert load(folder).config["base_model_name_or_path"] == "org/base"


def test_smaller_adapters_keep_a_direction_to_train(tmp_path):
    folders = exported(stacked(rank=1, dtype=torch.float32), tmp_path)
    one, found = (
        stacked(rank=1, dtype=torch.float32),
        stacked(rank=3, start=False, dtype=torch.float32),
    )
    start = {name: A.clone() for name, (_, A) in found.factors().items()}
    load_into(found, folders)
    for name, (B, A) in found.factors().items():
        reference = one.factors()[name]
        assert torch.equal(A[:, :1], reference.A)
        assert torch.equal(A[:, 1:], start[name][:, 1:])
        assert not B[:, :, 1:].any()
        assert A[:, 1:].any()


def without_head(tmp_path):
    return exported(stacked(heads=()), tmp_path)


UNFIT = [
    (lambda p: exported(stacked(), p)[:2], {}, "need 3 adapter folders, one per agent, got 2"),
    (
        lambda p: exported(stacked(rank=3), p),
        {},
        "adapters of rank 3 do not fit in rank 2",
    ),
    (without_head, {}, "tensor head.bias is missing"),
    (lambda p: exported(stacked(), p), {"heads": []}, "tensor head.bias has no place in the model"),
    (lambda p: exported(stacked(), p), {"targets": ["up"]}, "site down has no place in the model"),
    (lambda p: exported(stacked(targets=["up"]), p), {}, "site down is missing"),
]


@pytest.mark.parametrize(("write", "settings", "message"), UNFIT)
def test_adapters_that_do_not_fit_change_nothing(tmp_path, write, settings, message):
    folders = write(tmp_path)
    found = stacked(**settings)
    before = [X.detach().clone() for X in found.parameters()]
    with pytest.raises(ValueError, match=message):
        load_into(found, folders)
    assert all(torch.equal(X, old) for X, old in zip(found.parameters(), before, strict=True))


def test_adapters_of_other_shapes_are_refused(tmp_path):
    folders = exported(stacked(), tmp_path)
    found = stacked()
    found.sites["up"].A = nn.Parameter(torch.zeros(3, 2, 8))
    with pytest.raises(ValueError, match=r"site up is \(9, 6\) in the adapters and \(9, 8\)"):
        load_into(found, folders)
    found = stacked()
    found.heads["head"].bias = nn.Parameter(torch.zeros(3, 4))
    with pytest.raises(ValueError, match=r"tensor head.bias is \(3,\) in the adapters and \(4,\)"):
        load_into(found, folders)
