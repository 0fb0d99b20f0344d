"""Merges on disk, against dense mixes: every option, method, type and naming, and what is kept."""

import json
import math
import subprocess
import sys
from fractions import Fraction

import numpy as np
import pytest
from safetensors.numpy import save_file

from decaf_theory import adapters
from decaf_theory.adapters import merging
from decaf_theory.adapters.combining import Rule
from decaf_theory.adapters.parts import alone
from decaf_theory.adapters.rounding import TYPES, in_bytes, rounded, widest
from decaf_theory.bench.memory import STATUS
from tests.adapter_files import EPS, STORED, gaussian, pair, sites_of, weights_of, write
from tests.dense import truncated

SHAPES = {"a.q": (7, 5), "b.a.q": (4, 9)}
RANKS = (2, 1, 3)
WEIGHTS = (0.5, 0.2, 0.3)
UNITS = {"float32": 2.0**-24, "float16": 2.0**-11, "bfloat16": 2.0**-8}
LEAST = {"float32": 0.0, "float16": 2.0**-25, "bfloat16": 0.0}  # half of the smallest number


@pytest.fixture
def rng():
    return np.random.default_rng(7)


def dense_agents(tmp_path, rng, **config):
    """Write three agents of unequal rank and scale; return folders, and products by site."""
    folders, products = [], {site: [] for site in SHAPES}
    for i, r in enumerate(RANKS):
        sites = {site: gaussian(rng, d, k, r) for site, (d, k) in SHAPES.items()}
        for site, ((_, B), (_, A)) in sites.items():
            products[site].append((i + 1) / r * B @ A)
        name, own = tmp_path / f"agent{i}", {"r": r, "lora_alpha": i + 1, **config}
        folders.append(write(name, sites, others={"bias": np.full(3, float(i))}, **own))
    return folders, products


def least_rank(S, energy):
    """Return the smallest rank that keeps this share of the squares."""
    return next(r for r in range(1, len(S) + 1) if sum(S[:r] ** 2) >= energy * sum(S**2))


def kept_rank(options, S):
    """Return the rank that a merge keeps, and that it writes at a site."""
    if options.get("exact"):
        return len(S), sum(RANKS)
    if options.get("rank") == "auto":
        return (least_rank(S, options.get("energy", 0.99)),) * 2
    return (options.get("rank", max(RANKS)),) * 2


OPTIONS = [
    {},
    {"weights": WEIGHTS, "rank": 1},
    {"rank": "auto"},
    {"rank": "auto", "energy": 0.6},
    {"exact": True, "weights": WEIGHTS},
    {"topology": "complete"},
    {"topology": "complete", "rank": "auto"},
    {"dtype": "float16", "exact": True},
    {"dtype": "float16"},
    {"dtype": "bfloat16", "rank": "auto"},
]


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_every_option_is_the_dense_mix_and_says_what_it_lost(tmp_path, rng, options):
    folders, products = dense_agents(tmp_path, rng)
    opened = [adapters.opened(folder) for folder in folders]
    found = adapters.merge_to(tmp_path / "out", opened, **options)
    several = "topology" in options
    row = options.get("weights", np.full(3, 1 / 3))
    dtype = options.get("dtype", "float32")
    places = [tmp_path / "out" / f"agent{i}" for i in range(3)] if several else [tmp_path / "out"]
    assert found["adapters"] == [place.name for place in places] if several else [""]
    assert found["dtype"] == dtype
    numbers = iter(found["sites"])
    for place in places:
        read = adapters.opened(place)
        for site, (d, k) in SHAPES.items():
            M = np.tensordot(row, products[site], 1)
            S = np.linalg.svd(M, compute_uv=False)
            kept, written = kept_rank(options, S)
            W, _ = truncated(M, kept)
            B, A = read.sites[site].read()
            said = next(numbers)
            assert (said["site"], said["d"], said["k"]) == (site, d, k)
            assert said["rank"] == read.sites[site].rank == B.shape[1] == written
            size = np.linalg.norm(B) * np.linalg.norm(A)
            u, least = UNITS[dtype], LEAST[dtype] * math.sqrt(written * (d + k))
            slip = (2 * u + u * u) * size * (1 + 4 * u)
            slip += least * (np.linalg.norm(B) + np.linalg.norm(A))
            gap = S[kept - 1] - S[kept] if kept < len(S) and S[kept] > 0 else S[0]
            exact = 100 * max(d, k) * EPS * S[0] * S[0] / gap
            off = np.linalg.norm(B @ A - W)
            assert off <= slip + exact
            assert abs(said["rounding"] - off) <= exact
            assert said["rounding"] > 0
            assert abs(said["mix"] - np.linalg.norm(M)) <= exact
            assert abs(said["dropped"] - np.linalg.norm(S[kept:])) <= exact
            assert said["relative_dropped"] == said["dropped"] / said["mix"]
        bias = np.dot(row, range(3))
        assert np.all(np.abs(read.others["bias"].read() - bias) <= 2 * UNITS[dtype] * bias)
    total = math.sqrt(sum(each["mix"] ** 2 for each in found["sites"]))
    assert found["total"]["mix"] == pytest.approx(total, rel=100 * EPS)


def test_a_graph_mixes_with_its_neighbours_and_each_keeps_its_own_settings(tmp_path, rng):
    folders = [
        write(tmp_path / f"client{i}", sites_of(rng), target_modules=[f"m{i}"]) for i in range(4)
    ]
    opened = [adapters.opened(folder) for folder in folders]
    factors, Pi = [a.sites["a.q"].read() for a in opened], adapters.mixing_matrix("ring", 4)
    adapters.merge_to(tmp_path / "out", opened, topology="ring", exact=True)
    for i in range(4):
        read = adapters.load(tmp_path / "out" / f"client{i}")
        M = sum(w * B @ A for w, (B, A) in zip(Pi[i], factors, strict=True))
        B, A = read.sites["a.q"]
        assert B.shape[1] == 6  # of the agent and two neighbours
        assert np.linalg.norm(B @ A - M) <= 2**-22 * np.linalg.norm(B) * np.linalg.norm(A)
        assert read.config["target_modules"] == [f"m{i}"]
    same = [folders[0], tmp_path / "x" / "client0"]
    assert adapters.names_of(same) == ["agent0", "agent1"]


def hetlora(B, A, w):
    h = w * np.linalg.norm(B @ A, axis=(-2, -1))
    return np.tensordot(h, B, 1) / h.sum() @ (np.tensordot(h, A, 1) / h.sum())


def raflora(B, A, w):
    h = w[:, None] * (np.abs(B).max(1) > 0)
    return (
        np.einsum("jl,jdl->dl", h, B)
        / h.sum(0)
        @ (np.einsum("jl,jlk->lk", h, A) / h.sum(0)[:, None])
    )


def means(B, A, w):
    return np.tensordot(w, B, 1) @ np.tensordot(w, A, 1)


def cut(B, A, w):
    return truncated(np.tensordot(w, B @ A, 1), B.shape[2])[0]


FORMULAS = {
    **dict.fromkeys(("dlora", "fedavg", "adf_lora", "dlora_fa", "ffa_lora", "rolora"), means),
    **{"decaf": cut, "flexlora": cut, "hetlora": hetlora, "raflora": raflora},
}
SHARED = ("dlora_fa", "ffa_lora", "rolora")


@pytest.mark.parametrize("method", adapters.MERGES)
def test_every_method_that_merges_is_its_formula(tmp_path, rng, method):
    w = np.array(WEIGHTS)
    B, A = rng.standard_normal((3, 7, 3)), rng.standard_normal((3, 3, 5))
    A = np.repeat(A[:1], 3, axis=0) if method in SHARED else A
    if method == "raflora":  # of rank two, as zero-padding leaves it
        B[1, :, 2], A[1, 2] = 0, 0
    folders = [
        write(tmp_path / str(i), {"q": pair(B[i], A[i])}, r=3, lora_alpha=3) for i in range(3)
    ]
    opened = [adapters.opened(folder) for folder in folders]
    found = adapters.merge_to(tmp_path / "out", opened, weights=WEIGHTS, method=method)
    W = FORMULAS[method](B, A, w)
    C, D = adapters.load(tmp_path / "out").sites["q"]
    size = np.linalg.norm(C) * np.linalg.norm(D)
    assert np.linalg.norm(C @ D - W) <= (2**-22 + 1000 * EPS) * size
    lost = np.linalg.norm(np.tensordot(w, B @ A, 1) - W)
    assert found["sites"][0]["dropped"] == pytest.approx(lost, abs=1000 * EPS * size)
    agents = adapters.load_agents(folders)
    merged = adapters.merge(agents, weights=WEIGHTS, method=method).sites["q"]
    assert np.linalg.norm(merged.B @ merged.A - W) <= 1000 * EPS * size


def test_matrices_of_unequal_rank_are_padded_to_one_rank(tmp_path, rng):
    sites = {"q": gaussian(rng, 6, 5, 4), "v": gaussian(rng, 6, 2, 1)}
    folder = write(tmp_path / "in", sites, r=4, lora_alpha=4, rank_pattern={"v": 1})
    adapters.merge_to(tmp_path / "out", [adapters.opened(folder)])
    read = adapters.opened(tmp_path / "out")
    assert {name: site.rank for name, site in read.sites.items()} == {"q": 4, "v": 4}
    assert read.config["rank_pattern"] == {}


def test_a_method_that_shares_a_factor_refuses_adapters_that_do_not(tmp_path, rng):
    folders, _ = dense_agents(tmp_path, rng)
    agents = adapters.load_agents(folders)
    with pytest.raises(ValueError, match=r"site a\.q: ffa_lora mixes one factor and needs A to be"):
        adapters.merge(agents, method="ffa_lora")


def test_a_missing_site_is_zero_when_asked_and_is_then_adapted(tmp_path, rng):
    both, one = sites_of(rng), sites_of(rng)
    del one["a.v"]
    folders = [
        write(tmp_path / "a", one, target_modules=["q", "dense"], layers_to_transform=[1]),
        write(tmp_path / "b", both, target_modules=["q", "v", "dense"]),
    ]
    opened = [adapters.opened(folder) for folder in folders]
    with pytest.raises(ValueError, match=r"a: site a\.v is missing, which .*b has"):
        adapters.merge_to(tmp_path / "out", opened)
    adapters.merge_to(tmp_path / "out", opened, missing="zero")
    read = adapters.load(tmp_path / "out")
    (_, B), (_, A) = both["a.v"]
    M = 4.0 * B @ A / 2
    C, D = read.sites["a.v"]
    assert np.linalg.norm(C @ D - M) <= 2**-22 * np.linalg.norm(M, "nuc")
    assert read.config["target_modules"] == ["a.q", "a.v", "head.dense"]
    assert read.config["layers_to_transform"] is None


@pytest.mark.parametrize("naming", ["kohya", "diffusers", "diffusers with settings"])
def test_a_merge_is_written_in_the_naming_that_was_read(tmp_path, rng, naming):
    up, down = (".lora_up", ".lora_down") if naming == "kohya" else (".lora_B", ".lora_A")
    files, products = [], {"unet.q": [], "unet.conv": []}
    for i in range(2):
        tensors = {}
        for site, kernel in (("unet.q", ()), ("unet.conv", (3, 3))):
            B = rng.standard_normal((6, 2)).astype(np.float32)
            A = rng.standard_normal((2, 4, *kernel)).astype(np.float32)
            tensors[f"{site}{up}.weight"] = B.reshape(6, 2, *(1 for _ in kernel))
            tensors[f"{site}{down}.weight"] = A
            if naming == "kohya":
                tensors[f"{site}.alpha"] = np.array(3.0, dtype=np.float32)
            scale = 1.0 if naming == "diffusers" else 1.5
            products[site].append(scale * B.astype(float) @ A.reshape(2, -1))
        settings = {"unet.r": 2, "unet.lora_alpha": 3, "unet.target_modules": ["q", "conv"]}
        about = {"lora_adapter_metadata": json.dumps(settings)} if "settings" in naming else None
        files.append(tmp_path / f"{i}.safetensors")
        save_file(tensors, files[-1], about)
    opened = [adapters.opened(file) for file in files]
    found = adapters.merge_to(tmp_path / "out", opened, rank="auto", energy=0.9)
    again = adapters.opened(tmp_path / "out")
    assert again.naming == opened[0].naming
    for said in found["sites"]:
        site = again.sites[said["site"]]
        M = sum(products[site.name]) / 2
        r = least_rank(np.linalg.svd(M, compute_uv=False), 0.9)
        B, A = site.read()
        assert (site.scale, site.weight) == (1.0, opened[0].sites[site.name].weight)
        assert B.shape[1] == r
        size = np.linalg.norm(B) * np.linalg.norm(A)
        assert np.linalg.norm(B @ A - truncated(M, r)[0]) <= 2**-22 * size


def test_ranks_that_differ_are_stored_by_patterns_of_one_site_alone(tmp_path, rng):
    tall = {"q": gaussian(rng, 9, 9, 2), "x.q": gaussian(rng, 9, 9, 2)}
    flat = {**tall, "x.q": tall["q"], "q": pair(np.ones((9, 2)), np.ones((2, 9)))}
    for name, sites in (("a", tall), ("b", flat)):
        write(tmp_path / name, sites, r=2)
    opened = [adapters.opened(tmp_path / name) for name in "ab"]
    found = adapters.merge_to(tmp_path / "out", opened, rank="auto", energy=1.0)
    config = json.loads((tmp_path / "out" / "adapter_config.json").read_text())
    ranks = {each["site"]: each["rank"] for each in found["sites"]}
    assert ranks == {"q": 3, "x.q": 4}
    assert config["r"] == 4
    assert config["rank_pattern"] == config["alpha_pattern"] == {"^q": 3}
    assert {s.name: s.rank for s in adapters.opened(tmp_path / "out").sites.values()} == ranks


# ---------------------------------------------------------------- types


def nearest(x, digits, least):
    """Return the number of so many significant bits, at least 2^least apart, nearest to x."""
    if x == 0:
        return Fraction(0)
    exponent = max(math.frexp(abs(x))[1] - digits, least)
    unit = Fraction(2) ** exponent
    return round(Fraction(x) / unit) * unit  # of Fractions: ties to even


def test_rounding_is_to_the_nearest_number_of_the_type(rng):
    drawn = np.ldexp(rng.standard_normal(300), rng.integers(-150, 15, 300))
    ties = np.array(
        [1 + 2.0**-8, 1 + 3 * 2.0**-8, 1 + 2.0**-8 + 2.0**-40, 2.0**-134, 3 * 2.0**-134]
    )
    X = np.concatenate([drawn, ties, -ties, [0.0]])
    for dtype, digits, least in (
        ("float32", 24, -149),
        ("float16", 11, -24),
        ("bfloat16", 8, -133),
    ):
        found = rounded("x", X, dtype)
        assert [Fraction(float(x)) for x in found] == [nearest(float(x), digits, least) for x in X]
        size = 4 if dtype == "float32" else 2
        assert len(in_bytes(found, dtype)) == size * len(X)
    assert in_bytes(np.array([1.0, -2.0]), "bfloat16") == b"\x80\x3f\x00\xc0"


@pytest.mark.parametrize(
    ("dtype", "top"), [("float16", 65504.0), ("bfloat16", 3.3895313892515355e38)]
)
def test_numbers_beyond_a_type_or_lost_in_it_are_refused(dtype, top):
    assert rounded("x", np.array([top]), dtype) == top
    with pytest.raises(ValueError, match=rf"tensor x holds numbers beyond {dtype}; scale"):
        rounded("x", np.array([1.0, top * (1 + 2.0**-7)]), dtype)
    with pytest.raises(ValueError, match=rf"tensor x is zero in {dtype}; scale the adapters up"):
        rounded("x", np.array([2.0**-140, 0.0]), dtype)
    assert not rounded("x", np.zeros(2), dtype).any()


@pytest.mark.parametrize(
    ("stored", "name"),
    [
        ({"F16"}, "float16"),
        ({"BF16"}, "bfloat16"),
        ({"F16", "BF16"}, "float32"),
        ({"F16", "F32"}, "float32"),
        ({"F64"}, "float32"),
    ],
)
def test_the_type_of_a_merge_is_the_widest_of_the_inputs(tmp_path, rng, stored, name):
    assert widest(stored) == name
    if stored == {"F16"}:
        folder = write(tmp_path / "a", sites_of(rng), dtype=np.float16)
        adapters.merge_to(tmp_path / "out", [adapters.opened(folder)])
        kinds = {s.A.dtype for s in adapters.opened(tmp_path / "out").sites.values()}
        assert kinds == {TYPES[name]}


# ---------------------------------------------------------------- parts


def test_a_merge_that_is_stopped_goes_on_where_it_was(tmp_path, monkeypatch):
    opened = [adapters.opened(folder) for folder in STORED]
    adapters.merge_to(tmp_path / "whole", opened)
    mix, mixed = Rule.mix, []

    def counted(self, site, agents):
        if stop and len(mixed) == 2:
            raise MemoryError
        mixed.append(site)
        return mix(self, site, agents)

    monkeypatch.setattr(Rule, "mix", counted)
    stop, out, kept = True, tmp_path / "out", tmp_path / ".out.resume"
    with pytest.raises(MemoryError):
        adapters.merge_to(out, opened)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["whole"]
    mixed.clear()
    with pytest.raises(MemoryError):
        adapters.merge_to(out, opened, resume=True)
    assert (not out.exists(), mixed) == (True, ["fc1", "fc2"])
    for other in ({"rank": 2}, {"weights": [1, 0, 0, 0]}, {"dtype": "float16"}):
        with pytest.raises(ValueError, match=r"\.out\.resume: holds parts of another merge"):
            adapters.merge_to(out, opened, resume=True, **other)
    with pytest.raises(ValueError, match="holds parts of another merge"):
        adapters.merge_to(out, opened[::-1], resume=True)
    with monkeypatch.context() as patch:
        patch.setattr(merging, "version", lambda name: "other")  # of the code, or a library
        with pytest.raises(ValueError, match="holds parts of another merge"):
            adapters.merge_to(out, opened, resume=True)
    with alone(kept), pytest.raises(ValueError, match="another merge with --resume is at work"):
        adapters.merge_to(out, opened, resume=True)
    first = kept / "0" / "0.safetensors"
    data = first.read_bytes()
    first.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    stop = False
    mixed.clear()
    adapters.merge_to(out, opened, resume=True)
    assert mixed == ["fc1", "fc3"]  # the one that was damaged, and the last
    assert weights_of(out).read_bytes() == weights_of(tmp_path / "whole").read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "whole"]


MEASURE = """
import sys
from decaf_theory import adapters
from decaf_theory.bench.memory import resident
import decaf_theory.methods
before = resident("VmRSS")
opened = [adapters.opened(folder) for folder in sys.argv[2:]]
adapters.merge_to(sys.argv[1], opened)
print(resident("VmHWM") - before)
"""


@pytest.mark.night
@pytest.mark.skipif(not STATUS.exists(), reason="needs /proc/self/status")
def test_no_more_than_one_site_is_in_memory(tmp_path, rng):
    T, sites, d, r = 6, 32, 4096, 16
    for j in range(T):
        many = {f"layers.{i}.q": gaussian(rng, d, d, r) for i in range(sites)}
        write(tmp_path / f"agent{j}", many, dtype=np.float32, r=r)
    folders = [str(tmp_path / f"agent{j}") for j in range(T)]
    command = [sys.executable, "-c", MEASURE, str(tmp_path / "out"), *folders]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    print(f"{int(done.stdout) / 1e6:.0f} MB")
    assert int(done.stdout) <= (64 << 20) + 8 * (T + 1) * 2 * d * r
