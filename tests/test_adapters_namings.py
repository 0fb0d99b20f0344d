"""Every naming of the files of adapters is read right, or refused by name; and written back."""

import json
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import save

from decaf_theory import adapters
from decaf_theory.adapters import namings
from decaf_theory.adapters.sealing import sum_of_stream
from decaf_theory.lowrank import pad_rank
from decaf_theory.sums import SUM
from tests.adapter_files import CONFIG, EPS, PREFIX

R = 2
UNET = "unet.down.attn1"
TEXT = "text_encoder.layers.0.mlp.fc1"


def numbers(*shape):
    """Return numbers that differ by shape."""
    return np.random.default_rng(shape).standard_normal(shape)


def matrices(d=4, k=3, r=R):
    return numbers(d, r), numbers(r, k)


def convolution(*kernel, d=4, channels=3, r=R):
    return numbers(d, r, *(1 for _ in kernel)), numbers(r, channels, *kernel)


def dense(pair, scale=1.0):
    """Return the update scale B A in the shape of the weights, entry by entry of the rank."""
    B, A = pair
    flat = B.reshape(len(B), -1)
    return scale * sum(np.multiply.outer(flat[:, q], A[q]) for q in range(flat.shape[1]))


def named(site, pair, forms=(".lora_B.weight", ".lora_A.weight")):
    return {site + form: X for form, X in zip(forms, pair, strict=True)}


EMBEDDING = (".lora_embedding_B", ".lora_embedding_A")
KOHYA = (".lora_up.weight", ".lora_down.weight")
DOWN = (".lora.up.weight", ".lora.down.weight")
PROCESSOR = ("_lora.up.weight", "_lora.down.weight")
TEXTUAL = (".lora_linear_layer.up.weight", ".lora_linear_layer.down.weight")


def write_file(path, tensors, metadata=None):
    """Write tensors as a file of safetensors; return its path."""
    path.parent.mkdir(parents=True, exist_ok=True)
    arrays = {name: np.ascontiguousarray(X).reshape(np.shape(X)) for name, X in tensors.items()}
    path.write_bytes(save(arrays, metadata=metadata))
    return path


def folder(tensors, config=None, encoding="utf-8", shards=1):
    """Return a maker of a folder with peft's settings."""

    def make(tmp_path):
        at = tmp_path / "adapter"
        full = {PREFIX + name: X for name, X in tensors.items()}
        if shards == 1:
            write_file(at / "adapter_model.safetensors", full)
        else:
            write_shards(at / "adapter_model.safetensors.index.json", full, shards)
        text = json.dumps({**CONFIG, "r": R, "lora_alpha": 6, **(config or {})})
        (at / "adapter_config.json").write_text(text, encoding=encoding)
        return at

    return make


def write_shards(index, tensors, shards, **changed):
    names = {name: f"part-{i % shards}.safetensors" for i, name in enumerate(sorted(tensors))}
    for part in sorted(set(names.values())):
        own = {name: X for name, X in tensors.items() if names[name] == part}
        write_file(index.parent / part, own)
    index.write_text(json.dumps({"metadata": {}, "weight_map": {**names, **changed}}))
    return index


def lone(tensors, metadata=None, name="style.safetensors"):
    """Return a maker of a file without peft's settings."""
    return lambda tmp_path: write_file(tmp_path / name, tensors, metadata)


def in_metadata(**values):
    return {"lora_adapter_metadata": json.dumps(values)}


def with_alpha(site, pair, alpha, forms=KOHYA):
    return {**named(site, pair, forms), f"{site}.alpha": alpha}


def of_unet(alpha=6, **more):
    return in_metadata(**{"unet.r": R, "unet.lora_alpha": alpha}, **more)


PLAIN = matrices()
WIDE = matrices(4, 3, 5)
CONV = convolution(3, 3)
KERNELS = [(3,), (3, 2), (1, 1), (2, 1, 2)]

# a maker of the adapter; the stored factors and the scale of each site
READ = {
    "peft": (folder(named("q", PLAIN)), {"q": (PLAIN, 3)}),
    "peft, rsLoRA": (
        folder(named("q", PLAIN), {"use_rslora": True}),
        {"q": (PLAIN, 6 / np.sqrt(2))},
    ),
    "peft, patterns": (
        folder(
            named("a.q", PLAIN) | named("a.v", WIDE),
            {"rank_pattern": {"v": 5}, "alpha_pattern": {"a.v": 1}},
        ),
        {"a.q": (PLAIN, 3), "a.v": (WIDE, 1 / 5)},
    ),
    "peft, embedding": (folder(named("wte", PLAIN, EMBEDDING)), {"wte": (PLAIN, 3)}),
    **{
        f"peft, convolution {kernel}": (
            folder(named("conv", convolution(*kernel))),
            {"conv": (convolution(*kernel), 3)},
        )
        for kernel in KERNELS
    },
    "peft, adapter's name inside": (
        folder(
            named("q", PLAIN, (".lora_B.mine.weight", ".lora_A.mine.weight"))
            | named("wte", WIDE, (".lora_embedding_B.mine", ".lora_embedding_A.mine")),
            {"rank_pattern": {"wte": 5}},
        ),
        {"q": (PLAIN, 3), "wte": (WIDE, 6 / 5)},
    ),
    "peft, byte-order mark": (
        folder(named("q", PLAIN), encoding="utf-8-sig"),
        {"q": (PLAIN, 3)},
    ),
    "peft, in three files": (
        folder(named("q", PLAIN) | named("conv", CONV), shards=3),
        {"q": (PLAIN, 3), "conv": (CONV, 3)},
    ),
    "peft, the file named": (
        lambda tmp_path: folder(named("q", PLAIN))(tmp_path) / "adapter_model.safetensors",
        {"q": (PLAIN, 3)},
    ),
    "diffusers": (
        lone(named(f"{UNET}.to_k", PLAIN) | named(f"{UNET}.conv", CONV)),
        {f"{UNET}.to_k": (PLAIN, 1), f"{UNET}.conv": (CONV, 1)},
    ),
    "diffusers, in a folder": (
        lambda tmp_path: (
            lone(named(UNET, PLAIN), name="x/pytorch_lora_weights.safetensors")(tmp_path).parent
        ),
        {UNET: (PLAIN, 1)},
    ),
    "diffusers, down and up": (lone(named(UNET, PLAIN, DOWN)), {UNET: (PLAIN, 1)}),
    "diffusers, of a processor": (
        lone(named(f"{UNET}.processor.to_q", PLAIN, PROCESSOR)),
        {f"{UNET}.processor.to_q": (PLAIN, 1)},
    ),
    "diffusers, of two parts, unlike ranks": (
        lone(named(UNET, PLAIN, DOWN) | named(TEXT, WIDE, TEXTUAL)),
        {UNET: (PLAIN, 1), TEXT: (WIDE, 1)},
    ),
    "diffusers, settings": (
        lone(
            named(f"{UNET}.to_q", PLAIN) | named(f"{UNET}.to_v", WIDE) | named(TEXT, WIDE),
            of_unet(
                **{
                    "unet.rank_pattern": {"down.attn1.to_v": 5},
                    "unet.alpha_pattern": {"^down.attn1.to_v": 2},
                    **{"text_encoder.r": 5, "text_encoder.lora_alpha": 10},
                    "text_encoder.use_rslora": True,
                },
            ),
        ),
        {
            f"{UNET}.to_q": (PLAIN, 3),
            f"{UNET}.to_v": (WIDE, 2 / 5),
            TEXT: (WIDE, 10 / np.sqrt(5)),
        },
    ),
    "diffusers, settings of a part within a model": (
        lone(named(UNET, PLAIN) | named("down.q", PLAIN), of_unet(r=R, lora_alpha=1)),
        {UNET: (PLAIN, 3), "down.q": (PLAIN, 1 / 2)},
    ),
    "diffusers, settings of one model": (
        lone(named("down.to_q", PLAIN), in_metadata(r=R, lora_alpha=5)),
        {"down.to_q": (PLAIN, 5 / 2)},
    ),
    "diffusers, alpha": (
        lone(with_alpha(UNET, PLAIN, np.array(5.0), DOWN)),
        {UNET: (PLAIN, 2.5)},
    ),
    "kohya": (
        lone(with_alpha("lora_unet_q", PLAIN, np.array(3.0, np.float32))),
        {"lora_unet_q": (PLAIN, 1.5)},
    ),
    "kohya, alpha an integer": (
        lone(with_alpha("lora_te1_q", PLAIN, np.array(3))),
        {"lora_te1_q": (PLAIN, 1.5)},
    ),
    "kohya, alpha a vector of one": (
        lone(with_alpha("lora_te2_q", PLAIN, np.array([3], np.float16))),
        {"lora_te2_q": (PLAIN, 1.5)},
    ),
    "kohya, convolution": (
        lone(with_alpha("lora_unet_c", CONV, np.array(1.0))),
        {"lora_unet_c": (CONV, 0.5)},
    ),
    "kohya, no alpha": (
        lone(named("lora_unet_q", PLAIN, KOHYA) | named("lora_unet_v", WIDE, KOHYA)),
        {"lora_unet_q": (PLAIN, 1), "lora_unet_v": (WIDE, 1)},
    ),
    "kohya, metadata that say nothing else": (
        lone(named("lora_unet_q", PLAIN, KOHYA), {"lora_alpha": "2.0", "ss_network_alpha": "1"}),
        {"lora_unet_q": (PLAIN, 1)},
    ),
    "kohya, unlike ranks": (
        lone(with_alpha("q", PLAIN, np.array(3.0)) | with_alpha("v", WIDE, np.array(3.0))),
        {"q": (PLAIN, 1.5), "v": (WIDE, 0.6)},
    ),
    "kohya, in two files": (
        lambda tmp_path: write_shards(
            tmp_path / "lora.safetensors.index.json", with_alpha("q", PLAIN, np.array(3.0)), 2
        ),
        {"q": (PLAIN, 1.5)},
    ),
}


@pytest.mark.parametrize(("make", "expected"), READ.values(), ids=READ)
def test_a_kind_of_file_is_read_right(tmp_path, make, expected):
    found = adapters.opened(make(tmp_path))
    assert found.sites.keys() == expected.keys()
    for name, (pair, scale) in expected.items():
        B, A = found.sites[name].read()
        W = (B @ A).reshape(found.sites[name].weight)
        # r products and sums, the scale and its product, in either order: 2 (r + 3) roundings
        room = (B.shape[1] + 3) * EPS * dense([np.abs(X) for X in pair], scale)
        assert W.shape == room.shape
        assert np.all(np.abs(W - dense(pair, scale)) <= room)


def write_again(found, at):
    """Write what was read in the naming that was read, of one rank, sealed; return its place."""
    r = max(site.rank for site in found.sites.values())
    tensors = {
        name: X
        for site in found.sites.values()
        for name, X in found.naming.tensors(site, pad_rank(site.read(), r)).items()
    }
    config = namings.scale_one(dict.fromkeys(found.sites, r)) | {"peft_type": "LORA"}
    metadata = {"format": "pt"}
    if not found.naming.has_config:
        metadata = found.naming.metadata(found.config, dict.fromkeys(found.sites, r))
        config = namings.config_of(at, metadata)
    plain = {name.removeprefix(found.naming.prefix): X for name, X in tensors.items()}
    metadata[SUM] = sum_of_stream(sorted(plain.items()), config)
    write_file(at / found.naming.weights, tensors, metadata)
    if found.naming.has_config:
        (at / "adapter_config.json").write_text(json.dumps(config))
    return at


@pytest.mark.parametrize("make", [make for make, _ in READ.values()], ids=READ)
def test_what_is_written_back_is_the_same_update_in_the_same_naming(tmp_path, make):
    first = adapters.opened(make(tmp_path / "a"))
    again = adapters.opened(write_again(first, tmp_path / "b"))
    assert again.naming == first.naming
    forms = [{name: site.form for name, site in each.sites.items()} for each in (first, again)]
    assert forms[0] == forms[1]
    for name, site in again.sites.items():
        assert (site.scale, site.weight) == (1.0, first.sites[name].weight)
        given = pad_rank(first.sites[name].read(), site.rank)
        for X, Y in zip(site.read(), given, strict=True):
            assert np.array_equal(X, Y)


@pytest.mark.parametrize("make", [make for make, _ in READ.values()], ids=READ)
def test_what_is_read_is_saved_in_peft_s_naming_or_refused(tmp_path, make):
    found = adapters.opened(make(tmp_path / "a"))
    plain = all(len(s.weight) == 2 and not s.form.embedding for s in found.sites.values())
    if plain and found.naming == namings.PEFT:
        adapters.save(found.read(), tmp_path / "b")
        assert adapters.load(tmp_path / "b").sites.keys() == found.sites.keys()
        return
    for each in (found.read(), adapters.merge(adapters.load_agents([found.name]))):
        with pytest.raises(ValueError, match="; merge_to writes it as it was read"):
            adapters.save(each, tmp_path / "b")
    assert not (tmp_path / "b").exists()


def test_alpha_and_the_shapes_of_a_convolution_are_written_as_they_were_read(tmp_path):
    found = adapters.opened(lone(with_alpha("c", CONV, np.array(1.0)))(tmp_path))
    written = found.naming.tensors(found.sites["c"], pad_rank(found.sites["c"].read(), 3))
    assert {name: X.shape for name, X in written.items()} == {
        "c.lora_up.weight": (4, 3, 1, 1),
        "c.lora_down.weight": (3, 3, 3, 3),
        "c.alpha": (),
    }
    assert written["c.alpha"] == 3


def index_with(**changed):
    def make(tmp_path):
        tensors = with_alpha("q", PLAIN, np.array(3.0))
        return write_shards(tmp_path / "x.safetensors.index.json", tensors, 2, **changed)

    return make


def unlisted(tmp_path):
    index = index_with()(tmp_path)
    listed = with_alpha("q", PLAIN, np.array(3.0))
    write_file(tmp_path / "part-1.safetensors", {name: listed[name] for name in sorted(listed)[1:]})
    return index


def two_files(tmp_path):
    for name in "ab":
        lone(named("q", PLAIN), name=f"{name}.safetensors")(tmp_path)
    return tmp_path


def plain_file(name, text=""):
    def make(tmp_path):
        (tmp_path / name).write_text(text)
        return tmp_path / name

    return make


Q = named("q", PLAIN, KOHYA)
REFUSED = {
    "DoRA": (folder(named("q", PLAIN), {"use_dora": True}), "DoRA adds a magnitude vector"),
    "DoRA's vector": (
        folder(named("q", PLAIN) | {"q.lora_magnitude_vector.weight": numbers(4)}),
        "tensor q.lora_magnitude_vector.weight is DoRA's; its update is not s B A",
    ),
    "DoRA of kohya": (lone(Q | {"q.dora_scale": numbers(4, 1)}), "tensor q.dora_scale is DoRA's"),
    "LoHa": (lone({"q.hada_w1_a": numbers(4, 2)}), "tensor q.hada_w1_a is LoHa's"),
    "LoKr": (lone({"q.lokr_w1": numbers(2, 2)}), "tensor q.lokr_w1 is LoKr's"),
    "OFT": (lone({"q.oft_blocks": numbers(2, 2, 2)}), "tensor q.oft_blocks is OFT's"),
    "a middle factor": (
        lone(Q | {"q.lora_mid.weight": numbers(2, 2, 3, 3)}),
        "tensor q.lora_mid.weight is LoCon's middle factor",
    ),
    "a bias of B": (
        folder(named("q", PLAIN) | {"q.lora_B.bias": numbers(4)}),
        "tensor q.lora_B.bias is a bias of B",
    ),
    "a full difference": (
        lone(Q | {"v.diff": numbers(4)}),
        "tensor v.diff is neither a factor nor an alpha",
    ),
    "a convolution in groups": (
        folder(named("c", (numbers(4, 2, 1, 1), numbers(4, 3, 3, 3))), {"r": 4}),
        "site c: is a convolution in 2 groups",
    ),
    "a kernel in B": (
        folder(named("c", (numbers(4, 2, 3, 3), numbers(2, 3, 3, 3)))),
        "site c: lora_B and lora_A must be matrices d x r and r x k, or d x r x 1 x 1",
    ),
    "a convolution and a matrix": (
        lone(named("c", (numbers(4, 2), numbers(2, 3, 3, 3)), KOHYA)),
        "site c: lora_up and lora_down must be matrices",
    ),
    "an embedding of images": (
        folder(named("wte", CONV, EMBEDDING)),
        "site wte: lora_embedding_B and lora_embedding_A must be matrices",
    ),
    "ranks that differ": (
        lone(named("q", (numbers(4, 2), numbers(5, 3)), KOHYA)),
        "site q: lora_down says r = 5, but lora_up is 4 x 2 and lora_down 5 x 3",
    ),
    "a number for a factor": (
        lone(named("q", (numbers(4, 2), np.array(1.0)), KOHYA)),
        "site q: lora_up and lora_down must be matrices",
    ),
    "alpha 0": (
        lone(with_alpha("q", PLAIN, np.array(0.0))),
        "site q: alpha is 0, which sd-scripts",
    ),
    "alpha a vector": (
        lone(with_alpha("q", PLAIN, np.ones(2))),
        "site q: alpha must be one number, got shape (2,)",
    ),
    "alpha nan": (
        lone(with_alpha("q", PLAIN, np.array(np.nan))),
        "tensor q.alpha holds nan or inf",
    ),
    "alpha for some": (
        lone(with_alpha("q", PLAIN, np.array(1.0)) | named("v", PLAIN, KOHYA)),
        "site v: has no tensor alpha, which other sites have",
    ),
    "alpha of no site": (
        lone(Q | {"q.alpha": np.array(1.0), "v.alpha": np.array(1.0)}),
        "tensor v.alpha belongs to no site",
    ),
    "alpha twice": (
        lone(with_alpha(UNET, PLAIN, np.array(1.0)), of_unet()),
        f"alpha is stated twice, by {UNET}.alpha and by lora_adapter_metadata",
    ),
    "alpha in metadata alone": (
        lone(Q, {"alpha": "8"}),
        "its metadata say alpha = '8', which few loaders read, and no tensor does",
    ),
    "settings of another part": (
        lone(named(TEXT, PLAIN), of_unet()),
        f"site {TEXT}: lora_adapter_metadata holds no r for this part of the model",
    ),
    "settings of another rank": (
        lone(named(UNET, WIDE), of_unet()),
        f"site {UNET}: lora_adapter_metadata says r = 2, but lora_B is 4 x 5",
    ),
    "settings of DoRA": (
        lone(named(UNET, PLAIN), of_unet(**{"unet.use_dora": True})),
        "DoRA adds a magnitude vector (use_dora)",
    ),
    "settings cut short": (
        lone(named(UNET, PLAIN), {"lora_adapter_metadata": "{"}),
        "lora_adapter_metadata: not valid JSON",
    ),
    "settings a list": (
        lone(named(UNET, PLAIN), {"lora_adapter_metadata": "[]"}),
        "lora_adapter_metadata: must be an object, got []",
    ),
    "two adapters": (
        folder(
            named("q", PLAIN, (".lora_B.a.weight", ".lora_A.a.weight"))
            | named("v", PLAIN, (".lora_B.b.weight", ".lora_A.b.weight"))
        ),
        "holds the adapters 'a' and 'b'; save one in a file",
    ),
    "a name twice": (
        folder(named("q", PLAIN) | named("q", PLAIN, (".lora_B.a.weight", ".lora_A.a.weight"))),
        "are one; keep one of them",
    ),
    "a site in two namings": (
        lone(named("q", PLAIN) | Q),
        "site q: is named twice, lora_A, lora_B, lora_down, lora_up; keep one pair",
    ),
    "peft without settings": (
        lone(named(f"{PREFIX}q", PLAIN)),
        "its names are peft's, and adapter_config.json, which states the scale, is not next to it",
    ),
    "kohya with peft's settings": (folder(Q), "tensor q.lora_down.weight is neither lora_A nor"),
    "no factors": (lone({"q.alpha": np.array(1.0)}), "holds no factors by the names of"),
    "two files": (two_files, "holds a.safetensors and b.safetensors, and no adapter_config.json"),
    "a text": (plain_file("a.txt"), "must be a folder or a file of safetensors"),
    "a pickle": (plain_file("a.ckpt"), "a.ckpt is a pickle, which can run code and is not read"),
    "an index of a missing file": (
        index_with(x="part-7.safetensors"),
        "names part-7.safetensors, which is missing",
    ),
    "an index of a missing tensor": (
        index_with(x="part-0.safetensors"),
        "names a tensor that is not in part-0.safetensors: x",
    ),
    "an index that is not whole": (
        unlisted,
        "does not name a tensor of part-1.safetensors: q.lora_up",
    ),
    "an index of another folder": (
        index_with(x="../part-0.safetensors"),
        "weight_map must hold names of files in its own folder",
    ),
    "an index that is none": (
        plain_file("x.safetensors.index.json", "[]"),
        "weight_map must hold names of files in its own folder",
    ),
    "an index cut short": (plain_file("x.safetensors.index.json", "{"), "not valid JSON"),
    "integers for factors": (
        lone(named("q", (np.ones((4, 2), int), np.ones((2, 3))), KOHYA)),
        "tensor q.lora_up.weight: dtype must be in ('F64', 'F32', 'F16', 'BF16'), got I64",
    ),
}


@pytest.mark.parametrize(("make", "message"), REFUSED.values(), ids=REFUSED)
def test_another_kind_of_file_is_refused_by_name(tmp_path, make, message):
    place = make(tmp_path)
    with pytest.raises(ValueError, match=r"\S") as error:
        adapters.opened(place)
    assert message in str(error.value)
    assert str(error.value).startswith(str(tmp_path))


def test_a_scale_that_no_file_states_is_said(tmp_path):
    silent = lone(named(UNET, PLAIN))(tmp_path)
    assert adapters.opened(silent).remarks == (
        f"{silent} states no alpha: the scale of its matrices is taken as one.",
    )
    for i, (tensors, metadata) in enumerate(
        [(with_alpha(UNET, PLAIN, np.array(1.0)), None), (named(UNET, PLAIN), of_unet())]
    ):
        assert adapters.opened(lone(tensors, metadata, f"{i}.safetensors")(tmp_path)).remarks == ()


def test_heads_keep_their_names_without_the_adapters_name(tmp_path):
    inside = {"head.modules_to_save.mine.weight": numbers(3, 2)}
    pair = named("q", PLAIN, (".lora_B.mine.weight", ".lora_A.mine.weight"))
    found = adapters.load(folder(pair | inside)(tmp_path))
    assert list(found.others) == ["head.weight"]


def agents_of(tmp_path, *makers):
    return [make(tmp_path / str(i)) for i, make in enumerate(makers)]


def test_a_site_that_an_agent_lacks_counts_as_zero_if_asked(tmp_path):
    both = named("q", PLAIN) | named("v", WIDE)
    config = {"rank_pattern": {"v": 5}}
    places = agents_of(tmp_path, folder(named("q", PLAIN)), folder(both, config))
    with pytest.raises(ValueError, match=r"site v is missing.*\(--missing zero; missing="):
        adapters.load_agents(places)
    with pytest.raises(ValueError, match="missing must be one of"):
        adapters.load_agents(places, missing="skip")
    agents = adapters.load_agents(places, missing="zero")
    assert agents.scales == {"q": (3.0, 3.0), "v": (0.0, 6 / 5)}
    assert agents.factors["v"].B.shape == (2, 4, 5)
    assert not np.any(agents.factors["v"].B[0])
    assert not np.any(agents.factors["v"].A[0])
    assert np.array_equal(agents.factors["v"].A[1], WIDE[1])
    assert agents.said == (f"{places[0]} lacks v: counted as an update of zero.",)


@pytest.mark.parametrize("count", [1, 3])
def test_the_order_of_agents_does_not_matter_for_what_is_missing(tmp_path, count):
    many = {f"v{i}": PLAIN for i in range(count)}
    more = {name: X for site, pair in many.items() for name, X in named(site, pair).items()}
    places = agents_of(tmp_path, folder(named("q", PLAIN) | more), folder(named("q", PLAIN)))
    for order in (places, places[::-1]):
        agents = adapters.load_agents(order, missing="zero")
        assert list(agents.factors) == ["q", *many]
        others = f" and {count - 1} more" if count > 1 else ""
        assert agents.said == (f"{places[1]} lacks v0{others}: counted as an update of zero.",)


def test_a_head_that_an_agent_lacks_is_never_zero(tmp_path):
    head = {"head.weight": numbers(3, 2)}
    places = agents_of(tmp_path, folder(named("q", PLAIN)), folder(named("q", PLAIN) | head))
    with pytest.raises(ValueError, match=r"tensor head.weight is missing.*the same modules$"):
        adapters.load_agents(places, missing="zero")


@pytest.mark.parametrize(
    ("makers", "message"),
    [
        (
            (lone(with_alpha("q", PLAIN, np.array(1.0))), folder(named("q", PLAIN))),
            "its names are those of peft, but of kohya in .*save all in one naming",
        ),
        (
            (folder(named("q", CONV)), folder(named("q", (numbers(4, 2), numbers(2, 27))))),
            "site q is 4 x 27, but 4 x 3 x 3 x 3 in",
        ),
        (
            (folder(named("q", PLAIN)), folder(named("q", PLAIN, EMBEDDING))),
            "site q is 4 x 3 of an embedding, but 4 x 3 in",
        ),
    ],
)
def test_agents_of_unlike_files_are_refused(tmp_path, makers, message):
    with pytest.raises(ValueError, match=message):
        adapters.load_agents(agents_of(tmp_path, *makers))


def test_settings_that_speak_of_different_tasks_are_said(tmp_path):
    makers = [
        folder(named("q", PLAIN), config)
        for config in (
            {"task_type": "CAUSAL_LM", "revision": "a1"},
            {"task_type": "SEQ_CLS", "revision": None},
        )
    ]
    assert adapters.load_agents(agents_of(tmp_path, *makers)).said == (
        "The agents name different tasks (task_type: CAUSAL_LM, SEQ_CLS).",
        "The agents name different revisions of the base model (revision: a1, none).",
    )
    assert adapters.load_agents(agents_of(tmp_path / "x", makers[0], makers[0])).said == ()


def test_the_base_model_is_found_in_every_naming(tmp_path):
    metadata = of_unet(**{"unet.base_model_name_or_path": "org/base"})
    makers = [
        lone(named(UNET, PLAIN), metadata),
        lone(with_alpha("q", PLAIN, np.array(1.0)), {"ss_sd_model_name": "sd15.safetensors"}),
        lone(named("q", PLAIN, KOHYA), {"ss_base_model_version": "sdxl_base_v1-0"}),
        lone(named("q", PLAIN, KOHYA)),
    ]
    bases = [adapters.load_agents([place]).bases for place in agents_of(tmp_path, *makers)]
    assert bases == [("org/base",), ("sd15.safetensors",), ("sdxl_base_v1-0",), ("",)]


def test_metadata_state_rank_and_scale_as_each_naming_has_them():
    given = {"unet.r": 4, "unet.lora_alpha": 9, "unet.task_type": None, "r": 2}
    found = json.loads(namings.DIFFUSERS.metadata(given, {"unet.q": 3})[namings.SETTINGS])
    assert (found["unet.r"], found["unet.lora_alpha"], found["r"], found["lora_alpha"]) == (3,) * 4
    assert found["unet.use_rslora"] is False
    assert found["unet.task_type"] is None
    assert namings.DIFFUSERS.metadata({}, {"q": 3}) == {"format": "pt"}
    assert namings.KOHYA.metadata({"ss_sd_model_name": "x"}, {"q": 3, "v": 2}) == {
        "format": "pt",
        "ss_network_module": "networks.lora",
        "ss_network_dim": "3",
        "ss_network_alpha": "3.0",
        "ss_sd_model_name": "x",
    }


NAMES = st.text("abc._019", min_size=1, max_size=12)
FORMS = st.sampled_from([*namings.PEFT_FORMS, *namings.LONE_FORMS])


@given(site=NAMES, form=FORMS, letter=st.sampled_from("BA"))
def test_a_site_is_found_again_in_the_names_of_its_tensors(site, form, letter):
    key = site + (form.B if letter == "B" else form.A)
    assert namings.split(key, [*namings.PEFT_FORMS, *namings.LONE_FORMS]) == (site, form, letter)
    assert namings.unnamed(key) == (key, None)


@given(site=NAMES, name=st.text("ab_09-", min_size=1), embedding=st.booleans())
def test_an_adapters_name_is_found_inside_of_a_name(site, name, embedding):
    form = namings.EMBEDDING if embedding else namings.LINEAR
    stem, weight = form.A.removesuffix(".weight"), ".weight" * (not embedding)
    assert namings.unnamed(f"{site}{stem}.{name}{weight}") == (site + form.A, name)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=4,
)
KEYS = "r lora_alpha rank_pattern alpha_pattern use_rslora init_lora_weights task_type".split()


@settings(max_examples=60, deadline=None)
@given(
    st.dictionaries(
        st.sampled_from([f"{part}{key}" for part in ("unet.", "") for key in KEYS]), JSON
    )
)
def test_any_settings_in_metadata_are_read_or_refused(about):
    with TemporaryDirectory() as folder:
        path = lone(named(UNET, PLAIN), in_metadata(**about))(Path(folder))
        said = ""
        try:
            (site,) = adapters.opened(path).sites.values()
        except ValueError as error:
            said = str(error)
        assert said.startswith(folder) if said else site.rank == R and np.isfinite(site.scale)
