"""Merging adapters, and writing them so that nothing is lost."""

import json
import math
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from decaf_theory import adapters
from decaf_theory.adapters.agents import base_name
from decaf_theory.files import temporary
from decaf_theory.lowrank import Factors, product
from tests.adapter_files import (
    EPS,
    STORED,
    folders_of,
    gaussian,
    sites_of,
    weights_of,
    write,
)


@pytest.fixture
def rng():
    return np.random.default_rng(7)


def test_decaf_merges_the_products_at_the_rank_wanted(tmp_path, rng):
    folders = [
        write(tmp_path / str(i), sites_of(rng), others={"bias": rng.standard_normal(3)})
        for i in range(3)
    ]
    agents = adapters.load_agents(folders)
    weights = (0.5, 0.2, 0.3)
    for rank in (None, 1, 3):
        merged = adapters.merge(agents, weights=weights, rank=rank)
        for site, factors in merged.sites.items():
            M = sum(w * W for w, W in zip(weights, product(agents.factors[site]), strict=True))
            U, S, Vh = np.linalg.svd(M)
            r = rank or 2
            # the TSVD's condition number S_r / (S_r - S_{r+1}) times the rounding of the mix
            gap = S[r - 1] - S[r] if r < len(S) else S[0]
            slip = 10 * 9 * EPS * S[0] * S[0] / gap
            assert np.max(np.abs(product(factors) - (U[:, :r] * S[:r]) @ Vh[:r])) <= slip
            assert factors.B.shape[1] == r
            balance = np.abs(factors.B.T @ factors.B - factors.A @ factors.A.T)
            assert np.max(balance) <= 10 * 9 * EPS * S[0]
    assert np.allclose(merged.others["bias"], weights @ agents.others["bias"], rtol=4 * EPS)


def test_dlora_averages_the_factors(tmp_path, rng):
    agents = adapters.load_agents(folders_of(tmp_path, rng))
    merged = adapters.merge(agents, method="dlora")
    for site, (B, A) in agents.factors.items():
        mean = B.mean(0) @ A.mean(0)
        found = merged.sites[site]
        slip = 10 * 9 * EPS * np.linalg.norm(B) * np.linalg.norm(A)
        assert np.max(np.abs(product(found) - mean)) <= slip
        assert np.max(np.abs(found.B.T @ found.B - found.A @ found.A.T)) <= slip


def test_a_merge_of_one_agent_is_that_agent(tmp_path, rng):
    agents = adapters.load_agents(folders_of(tmp_path, rng, N=1))
    for method in adapters.MERGES:
        merged = adapters.merge(agents, method=method)
        for site, factors in agents.factors.items():
            W = product(factors)[0]
            assert np.max(np.abs(product(merged.sites[site]) - W)) <= 90 * EPS * np.linalg.norm(W)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            {"method": "dsgd"},
            "method dsgd cannot merge adapters: it trains W itself",
        ),
        ({"method": "x"}, "method must be one of fedavg, dlora, .*, got 'x'"),
        ({"method": "dlora", "rank": 2}, "rank belongs to methods that mix products, such as dec"),
        ({"rank": 0}, r"site head.dense, the smallest: rank must be in .* 3 x 3 matrices, got 0"),
        ({"rank": 9}, r"site head.dense, the smallest: rank must be in .* = 3 .*, got 9; take 3"),
        ({"weights": [0.5, 0.5]}, "weights must be 3 numbers, one per agent, got 2"),
        ({"weights": [1.5, 0.5, -1]}, r"weights must be nonnegative numbers, got \[1.5, 0.5, -1.0"),
        ({"weights": [1, 0, math.nan]}, "weights must be nonnegative numbers, got "),
        ({"weights": [0.5, 0.25, 0.251]}, "weights must sum to one, got sum 1.001; divide by it"),
    ],
)
def test_a_wrong_argument_of_a_merge_is_named(tmp_path, rng, arguments, message):
    agents = adapters.load_agents(folders_of(tmp_path, rng))
    with pytest.raises(ValueError, match=message):
        adapters.merge(agents, **arguments)


def test_weights_typed_with_ten_digits_are_enough():
    assert adapters.check_weights([0.3333333333] * 3, 3).sum() == pytest.approx(1, abs=1e-9)


def test_a_written_adapter_has_the_same_products_to_float32_rounding(tmp_path, rng):
    agents = adapters.load_agents(folders_of(tmp_path, rng, use_rslora=True, lora_alpha=3))
    merged = adapters.merge(agents, rank=3)
    adapters.save(merged, tmp_path / "deep" / "out")
    read = adapters.load(tmp_path / "deep" / "out")
    assert set(read.scales.values()) == {1.0}
    for site, (B, A) in merged.sites.items():
        slip = np.linalg.norm(product(read.sites[site]) - B @ A)
        # each factor is off by a relative 2^-24; the second-order term is below 2^-47
        assert slip <= 2**-23 * (1 + 2**-20) * np.linalg.norm(B) * np.linalg.norm(A)
        assert slip > 0


def test_a_written_config_says_scale_one_and_a_portable_base(tmp_path, rng):
    config = {
        "base_model_name_or_path": "/home/someone/models/base-v2",
        "use_rslora": True,
        "alpha_pattern": {"q": 3},
        "rank_pattern": {"v": 2},
        "init_lora_weights": "gaussian",
        "target_modules": ["q", "v", "dense"],
        "task_type": "SEQ_CLS",
    }
    folder = write(tmp_path / "in", sites_of(rng), others={"bias": np.ones(3)}, **config)
    adapters.save(adapters.merge(adapters.load_agents([folder])), tmp_path / "out")
    names = {path.name for path in (tmp_path / "out").iterdir()}
    assert names == {"adapter_config.json", "adapter_model.safetensors"}
    assert {path.name for path in tmp_path.iterdir()} == {"in", "out"}
    written = json.loads((tmp_path / "out" / "adapter_config.json").read_text())
    assert written == {
        **config,
        "peft_type": "LORA",
        "r": 2,
        "lora_alpha": 2,
        "rank_pattern": {},
        "alpha_pattern": {},
        "use_rslora": False,
        "init_lora_weights": True,
        "base_model_name_or_path": "base-v2",
    }


def test_sites_of_unequal_rank_are_padded_to_one_rank(tmp_path, rng):
    sites = {"q": gaussian(rng, 6, 5, 4), "v": gaussian(rng, 6, 2, 1)}
    folder = write(tmp_path / "in", sites, r=4, lora_alpha=8, rank_pattern={"v": 1})
    adapters.save(adapters.merge(adapters.load_agents([folder])), tmp_path / "out")
    read = adapters.load(tmp_path / "out")
    assert {site: f.rank for site, f in read.sites.items()} == {"q": 4, "v": 4}
    (_, B), (_, A) = sites["v"]
    W = 8.0 * B @ A
    assert np.linalg.norm(product(read.sites["v"]) - W) <= 2**-22 * np.linalg.norm(W)


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("sentence-transformers/all-MiniLM-L6-v2", "sentence-transformers/all-MiniLM-L6-v2"),
        ("gpt2", "gpt2"),
        ("/data/models/llama-2-7b", "llama-2-7b"),
        ("/data/models/llama-2-7b/", "llama-2-7b"),
        ("./out/base", "base"),
        ("~/base", "base"),
        (r"C:\models\base", "base"),
        ("C:/models/base", "base"),
        (r"models\base", "base"),
        ("a/b/c", "c"),
        ("/home/user/.cache/hub/models--org--base-7b/snapshots/0a1b", "org/base-7b"),
        (None, ""),
    ],
)
def test_the_base_model_is_named_as_on_any_machine(path, name):
    assert base_name(path) == name


@pytest.fixture
def merged():
    return adapters.merge(adapters.load_agents(STORED))


def test_an_adapter_that_is_there_is_replaced_only_when_asked(tmp_path, merged):
    out = tmp_path / "out"
    out.mkdir()  # an empty folder is no adapter
    adapters.save(merged, out)
    before = weights_of(out).read_bytes()
    half = adapters.Adapter(
        "", merged.config, {"fc1": merged.sites["fc1"]}, {"fc1": 1.0}, merged.others
    )
    with pytest.raises(ValueError, match=rf"{out}: exists already; overwrite it \(--force\) or"):
        adapters.save(half, out)
    assert weights_of(out).read_bytes() == before
    adapters.save(half, out, overwrite=True)
    assert list(adapters.load(out).sites) == ["fc1"]
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_a_folder_with_other_files_is_never_replaced(tmp_path, merged):
    adapters.save(merged, tmp_path / "out")
    (tmp_path / "out" / "notes.txt").write_text("mine")
    with pytest.raises(ValueError, match=r"holds 'notes\.txt', which is not part of an adapter"):
        adapters.save(merged, tmp_path / "out", overwrite=True)


def test_a_file_or_a_place_below_a_file_is_no_target(tmp_path, merged):
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match=r"file: is a file; name a folder"):
        adapters.save(merged, tmp_path / "file")
    with pytest.raises(
        NotADirectoryError, match=r"out: cannot be written: Not a directory; name another"
    ):
        adapters.save(merged, tmp_path / "file" / "out")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_read_only_place_is_named_before_anything_is_written(tmp_path, merged):
    (tmp_path / "locked").mkdir(mode=0o500)
    with pytest.raises(PermissionError, match=r"out: cannot be written: Permission denied; name"):
        adapters.check_target(tmp_path / "locked" / "out")


def test_a_place_where_no_folder_can_be_made_is_named_even_for_root(merged):
    if not Path("/proc/self").exists():
        pytest.skip("no /proc here")
    for call in (adapters.check_target, lambda out: adapters.save(merged, out)):
        with pytest.raises(OSError, match=r"^/proc/x/out: cannot be written: .*; name another"):
            call("/proc/x/out")


def test_a_write_that_fails_leaves_nothing_and_keeps_the_old(tmp_path, merged, monkeypatch):
    out = tmp_path / "out"
    adapters.save(merged, out)
    before = weights_of(out).read_bytes()

    def full(self, *arguments, **options):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("pathlib.Path.write_text", full)
    with pytest.raises(OSError, match="No space left"):
        adapters.save(merged, out, overwrite=True)
    with pytest.raises(OSError, match="No space left"):
        adapters.save(merged, tmp_path / "new" / "below")
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    assert weights_of(out).read_bytes() == before


def test_a_swap_that_fails_brings_the_old_one_back(tmp_path, merged, monkeypatch):

    out, rename = tmp_path / "out", Path.rename
    adapters.save(merged, out)
    before = weights_of(out).read_bytes()

    def second_fails(self, target):
        if target == out and not self.name.endswith("-old"):
            raise OSError(13, "Permission denied")
        return rename(self, target)

    monkeypatch.setattr("pathlib.Path.rename", second_fails)
    with pytest.raises(OSError, match="Permission denied"):
        adapters.save(merged, out, overwrite=True)
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    assert weights_of(out).read_bytes() == before


def test_numbers_beyond_float32_are_refused(tmp_path):
    factors = Factors(np.full((3, 1), 1e39), np.full((1, 2), 1e-39))
    adapter = adapters.Adapter("", {"peft_type": "LORA"}, {"layer": factors}, {"layer": 1.0}, {})
    with pytest.raises(ValueError, match=r"layer\.lora_B\.weight holds numbers beyond float32"):
        adapters.save(adapter, tmp_path / "out")
    assert not (tmp_path / "out").exists()


# ---------------------------------------------------------------- links, sums, kills


def test_a_target_that_is_a_link_is_resolved_and_not_replaced(tmp_path, merged):
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "real")
    adapters.save(merged, tmp_path / "link")
    adapters.save(merged, tmp_path / "link", overwrite=True)
    assert (tmp_path / "link").is_symlink()
    assert adapters.load(tmp_path / "real").sites.keys() == merged.sites.keys()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["link", "real"]


def test_equal_adapters_are_equal_bytes(tmp_path, merged):
    for name in "ab":
        adapters.save(merged, tmp_path / name)
    one, two = (
        [path.read_bytes() for path in sorted((tmp_path / name).iterdir())] for name in "ab"
    )
    assert one == two
    header = one[1][8 : 8 + int.from_bytes(one[1][:8], "little")]
    assert header == json.dumps(json.loads(header), sort_keys=True).encode().ljust(len(header))
    assert len(header) % 8 == 0


@pytest.mark.parametrize("setting", ["r", "lora_alpha", "target_modules"])
def test_a_setting_that_was_altered_is_met_and_one_that_is_free_is_not(tmp_path, merged, setting):
    adapters.save(merged, tmp_path / "a")
    path = tmp_path / "a" / "adapter_config.json"
    config = json.loads(path.read_text())
    path.write_text(json.dumps({**config, "base_model_name_or_path": "elsewhere"}))
    adapters.load(tmp_path / "a")
    altered = ["x"] if setting == "target_modules" else 2 * config[setting]
    path.write_text(json.dumps({**config, setting: altered}))
    with pytest.raises(ValueError, match=r"a: damaged: the checksum in adapter_model"):
        adapters.load(tmp_path / "a")


def test_a_flipped_bit_of_a_number_is_met(tmp_path, merged):
    adapters.save(merged, tmp_path / "a")
    path = tmp_path / "a" / "adapter_model.safetensors"
    data = path.read_bytes()
    path.write_bytes(data[:-3] + bytes([data[-3] ^ 1]) + data[-2:])
    with pytest.raises(ValueError, match="damaged: the checksum"):
        adapters.load(tmp_path / "a")


def test_a_folder_put_aside_by_a_killed_process_comes_back(tmp_path, merged):
    adapters.save(merged, tmp_path / "a")
    child = subprocess.Popen([sys.executable, "-c", ""])
    child.wait()
    begin = temporary(tmp_path / "a").replace(f"{os.getpid()}.", f"{child.pid}.")
    (tmp_path / "a").rename(tmp_path / f"{begin}x-old")
    (tmp_path / f"{begin}x").mkdir()
    with pytest.raises(ValueError, match="exists already"):
        adapters.save(merged, tmp_path / "a")
    assert [p.name for p in tmp_path.iterdir()] == ["a"]
    assert adapters.load(tmp_path / "a").sites.keys() == merged.sites.keys()
