"""Adapter folders that are wrong, or do not belong together, are named with the rule they break."""

import math

import numpy as np
import pytest

from decaf_theory import adapters
from decaf_theory.adapters.agents import natural
from decaf_theory.lowrank import product
from tests.adapter_files import EPS, STORED, gaussian, pair, sites_of, weights_of, write


@pytest.fixture
def rng():
    return np.random.default_rng(7)


def broken(tmp_path, rng, **config):
    return write(tmp_path / "bad", sites_of(rng), **config)


def missing_folder(tmp_path, rng):
    return tmp_path / "bad"


def no_config(tmp_path, rng):
    folder = broken(tmp_path, rng)
    (folder / "adapter_config.json").unlink()
    return folder


def no_weights(tmp_path, rng):
    folder = broken(tmp_path, rng)
    weights_of(folder).unlink()
    return folder


def pickle_only(tmp_path, rng):
    folder = no_weights(tmp_path, rng)
    (folder / "adapter_model.bin").write_bytes(b"\x80")
    return folder


def config_cut_short(tmp_path, rng):
    folder = broken(tmp_path, rng)
    (folder / "adapter_config.json").write_text('{"peft_type": "LO')
    return folder


def config_a_list(tmp_path, rng):
    folder = broken(tmp_path, rng)
    (folder / "adapter_config.json").write_text("[]")
    return folder


def truncated(tmp_path, rng):
    folder = broken(tmp_path, rng)
    weights_of(folder).write_bytes(weights_of(folder).read_bytes()[:-40])
    return folder


def empty(tmp_path, rng):
    folder = broken(tmp_path, rng)
    weights_of(folder).write_bytes(b"")
    return folder


def not_finite(name, value):
    def make(tmp_path, rng):
        sites = sites_of(rng)
        dict(sites["a.v"])[name][1, 2 if name == "A" else 1] = value
        return write(tmp_path / "bad", sites)

    return make


def with_tensor(name, X):
    return lambda tmp_path, rng: write(tmp_path / "bad", sites_of(rng), others={name: X})


def with_config(**config):
    return lambda tmp_path, rng: broken(tmp_path, rng, **config)


def half_a_site(tmp_path, rng):
    return write(tmp_path / "bad", {**sites_of(rng), "b": gaussian(rng, 3, 3, 2)[:1]})


def no_site(tmp_path, rng):
    return write(tmp_path / "bad", {}, others={"classifier.bias": np.ones(3)})


def convolution(tmp_path, rng):
    sites = {"conv": (("B", np.ones((4, 2, 3, 3))), ("A", np.ones((2, 3, 3, 3))))}
    return write(tmp_path / "bad", sites)


def unequal_inner(tmp_path, rng):
    sites = {"layer": pair(rng.standard_normal((7, 2)), rng.standard_normal((3, 5)))}
    return write(tmp_path / "bad", sites)


BAD = [
    (unequal_inner, "{bad}: site layer: adapter_config.json says r = 2, but lora_B is 7 x 2 and"),
    (missing_folder, "{bad}: no such folder; give one folder per trained adapter"),
    (no_config, "{bad}: not an adapter folder: adapter_config.json is missing"),
    (no_weights, "{bad}: not an adapter folder: adapter_model.safetensors is missing"),
    (pickle_only, "{bad}: adapter_model.bin is a pickle, which can run code and is not read; load"),
    (config_cut_short, "{bad}/adapter_config.json: not valid JSON: "),
    (config_a_list, "{bad}/adapter_config.json: peft_type must be 'LORA', got None"),
    (
        with_config(peft_type="IA3"),
        "{bad}/adapter_config.json: peft_type must be 'LORA', got 'IA3'",
    ),
    (truncated, "{bad}/adapter_model.safetensors: damaged or cut short: "),
    (empty, "{bad}/adapter_model.safetensors: damaged or cut short: "),
    (with_config(use_dora=True), "{bad}: DoRA adds a magnitude vector (use_dora), so its update"),
    (
        with_tensor("a.q.lora_magnitude_vector", np.ones(7)),
        "{bad}: tensor a.q.lora_magnitude_vector is DoRA's; its update is not s B A: unsupported",
    ),
    (
        with_tensor("emb.lora_embedding_A", np.ones((2, 9))),
        "{bad}: site emb: lora_embedding_A has no partner in the file",
    ),
    (with_config(use_qalora=True), "{bad}: QALoRA pools the input of A (use_qalora)"),
    (with_config(lora_bias=True), "{bad}: lora_bias adds a bias to B (lora_bias)"),
    (
        with_config(init_lora_weights="pissa_niter_4"),
        "{bad}: init_lora_weights = 'pissa_niter_4' changed the base weights",
    ),
    (not_finite("A", np.nan), "{bad}: site a.v: lora_A holds nan or inf"),
    (not_finite("B", np.inf), "{bad}: site a.v: lora_B holds nan or inf"),
    (
        with_tensor("score.weight", np.array([1.0, np.nan])),
        "{bad}: tensor score.weight holds nan or inf",
    ),
    (
        with_tensor("count", np.arange(3)),
        "{bad}/adapter_model.safetensors: tensor base_model.model.count: dtype must be in",
    ),
    (half_a_site, "{bad}: site b: lora_B has no partner in the file"),
    (no_site, "{bad}: adapter_model.safetensors holds no lora_A and lora_B tensors"),
    (
        convolution,
        "{bad}: site conv: lora_B and lora_A must be matrices d x r and r x k, or d x r",
    ),
    (
        with_config(r=4),
        "{bad}: site a.q: adapter_config.json says r = 4, but lora_B is 7 x 2 and lora_A 2 x 5",
    ),
    (with_config(r=0), "{bad}: site a.q: r must be a positive integer, got 0"),
    (with_config(r="2"), "{bad}: site a.q: r must be a number, got '2'"),
    (with_config(lora_alpha=None), "{bad}: site a.q: lora_alpha must be a number, got None"),
    (with_config(lora_alpha=math.inf), "{bad}: site a.q: lora_alpha must be a number, got inf"),
    (
        with_config(alpha_pattern={"(": 2}),
        "{bad}: alpha_pattern: not a regular expression: ",
    ),
    (
        with_config(rank_pattern=[2]),
        "{bad}/adapter_config.json: rank_pattern must be an object of numbers, got [2]",
    ),
]


@pytest.mark.parametrize(("make", "message"), BAD, ids=[text[6:46] for _, text in BAD])
def test_a_bad_folder_is_named_with_site_and_rule(tmp_path, rng, make, message):
    folder = make(tmp_path, rng)
    with pytest.raises(ValueError, match=r"\S") as error:
        adapters.load_agents([STORED[0], folder] if make is missing_folder else [folder])
    assert str(error.value).startswith(message.format(bad=folder))


def test_no_folder_at_all_is_an_error():
    with pytest.raises(ValueError, match="no adapter folder given; give one per agent"):
        adapters.load_agents([])


def test_a_site_that_one_agent_lacks_is_named(tmp_path, rng):
    sites = sites_of(rng)
    whole = [write(tmp_path / f"agent{i}", sites) for i in range(2)]
    lacking = write(tmp_path / "lacking", {k: v for k, v in sites.items() if k != "a.v"})
    message = rf"{lacking}: site a.v is missing, which {whole[0]} has; all agents must adapt"
    with pytest.raises(ValueError, match=message):
        adapters.load_agents([*whole, lacking])
    with pytest.raises(ValueError, match=rf"{lacking}: site a.v is missing, which {whole[1]} has"):
        adapters.load_agents([lacking, whole[1]])


def test_a_head_that_one_agent_lacks_is_named(tmp_path, rng):
    sites, head = sites_of(rng), {"score.weight": np.ones((2, 3)), "score.bias": np.ones(2)}
    with_head = write(tmp_path / "with", sites, others=head)
    without = write(tmp_path / "without", sites)
    message = rf"{without}: tensor score.bias \(and 1 more\) is missing, which {with_head} has"
    with pytest.raises(ValueError, match=message):
        adapters.load_agents([with_head, without])


def test_shapes_that_differ_are_named(tmp_path, rng):
    a = write(tmp_path / "a", {"layer": gaussian(rng, 6, 4, 2)})
    b = write(tmp_path / "b", {"layer": gaussian(rng, 4, 6, 2)})
    message = rf"{b}: site layer is 4 x 6, but 6 x 4 in {a}; agents must share one base model"
    with pytest.raises(ValueError, match=message):
        adapters.load_agents([a, b])
    a = write(tmp_path / "c", {"layer": gaussian(rng, 6, 4, 2)}, others={"bias": np.ones(3)})
    b = write(tmp_path / "d", {"layer": gaussian(rng, 6, 4, 2)}, others={"bias": np.ones(2)})
    with pytest.raises(ValueError, match=rf"{b}: tensor bias is 2, but 3 in {a}"):
        adapters.load_agents([a, b])


def test_agents_of_unequal_rank_and_scale_keep_their_products_exactly(tmp_path, rng):
    shapes, ranks, alphas = (6, 4), (1, 3, 2), (2.0, 3.0, 5.0)
    sites = [{"layer": gaussian(rng, *shapes, r)} for r in ranks]
    folders = [
        write(tmp_path / str(r), site, r=r, lora_alpha=alpha)
        for site, r, alpha in zip(sites, ranks, alphas, strict=True)
    ]
    agents = adapters.load_agents(folders)
    assert agents.scales["layer"] == (2.0, 1.0, 2.5)
    for i, site in enumerate(sites):
        (_, B), (_, A) = site["layer"]
        exact = agents.scales["layer"][i] * B @ A
        # zero columns add exact zeros; only the order of the scaling differs
        bound = (
            2
            * ranks[i]
            * EPS
            * np.abs(agents.factors["layer"].B[i])
            @ np.abs(agents.factors["layer"].A[i])
        )
        assert np.all(np.abs(product(agents.factors["layer"])[i] - exact) <= bound)


def test_layer_ten_comes_after_layer_nine(tmp_path, rng):
    shapes = {f"layer.{i}.q": (3, 4) for i in (10, 9, 1, 2)}
    folder = write(tmp_path / "x", sites_of(rng, shapes=shapes))
    assert list(adapters.load_agents([folder]).factors) == [
        "layer.1.q",
        "layer.2.q",
        "layer.9.q",
        "layer.10.q",
    ]
    assert sorted(["b2", "b", "10", "b10", ""], key=natural) == ["", "10", "b", "b2", "b10"]
