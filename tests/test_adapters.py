"""Trained adapters in peft's file format are read exactly, scale included."""

import math
import subprocess
import sys
import tracemalloc

import numpy as np
import pytest

from decaf_theory import adapters
from decaf_theory.adapters.settings import pattern_value
from tests.adapter_files import EPS, PATTERNS, SHAPES, STORED, gaussian, sites_of, write


@pytest.fixture
def rng():
    return np.random.default_rng(7)


@pytest.mark.parametrize(
    ("config", "scales"),
    [
        ({"lora_alpha": 8}, (4, 4, 4)),
        ({"lora_alpha": 8, "use_rslora": True}, (8 / math.sqrt(2),) * 3),
        ({"lora_alpha": 8, "alpha_pattern": {"q": 6}}, (3, 4, 4)),
        ({"lora_alpha": 8, "alpha_pattern": {r"a\.[qv]": 6, "q": 1}}, (3, 3, 4)),
        ({"lora_alpha": 8, "alpha_pattern": {"a.v": 2}, "use_rslora": True}, None),
        ({"r": 16, "rank_pattern": {".*": 2}}, (4, 4, 4)),
    ],
)
def test_the_scale_is_alpha_over_r_and_folded_into_B(tmp_path, rng, config, scales):
    sites = sites_of(rng)
    adapter = adapters.load(write(tmp_path / "x", sites, **config))
    root = math.sqrt(2)
    for site, scale in zip(SHAPES, scales or (8 / root, 2 / root, 8 / root), strict=True):
        (_, B), (_, A) = sites[site]
        assert adapter.scales[site] == pytest.approx(scale, rel=2 * EPS)
        assert np.array_equal(adapter.sites[site].B, B * adapter.scales[site])
        assert np.array_equal(adapter.sites[site].A, A)


def test_ranks_that_differ_by_site_scale_each_by_its_own_rank(tmp_path, rng):
    sites = {"q": gaussian(rng, 6, 5, 4), "v": gaussian(rng, 6, 5, 1)}
    folder = write(tmp_path / "x", sites, r=4, lora_alpha=8, rank_pattern={"v": 1})
    assert adapters.load(folder).scales == {"q": 2.0, "v": 8.0}


@pytest.mark.parametrize(("patterns", "site", "value"), PATTERNS)
def test_patterns_match_as_in_peft(patterns, site, value):
    assert pattern_value(patterns, site, 0) == value


@pytest.mark.parametrize("kind", ["float16", "float32", "float64", "bfloat16"])
def test_every_float_type_is_read_exactly(tmp_path, rng, kind):
    import torch
    from safetensors.torch import save

    sites = {"layer": gaussian(rng, 6, 4, 2)}
    folder = write(tmp_path / "x", sites, lora_alpha=2)
    tensors = {
        f"base_model.model.layer.lora_{name}.weight": torch.tensor(X).to(getattr(torch, kind))
        for name, X in sites["layer"]
    }
    (folder / "adapter_model.safetensors").write_bytes(save(tensors))
    read = adapters.load(folder).sites["layer"]
    for name, X in zip("BA", read, strict=True):
        stored = tensors[f"base_model.model.layer.lora_{name}.weight"]
        assert X.dtype == np.float64
        assert np.array_equal(X, stored.double().numpy())
    # it was rounded, so that the exact copy above says something
    assert kind == "float64" or not np.array_equal(read.B, dict(sites["layer"])["B"])


def test_files_without_bfloat16_are_read_without_torch():
    folders = [str(folder) for folder in STORED]
    code = f"import sys; from decaf_theory import adapters; adapters.load_agents({folders}); "
    subprocess.run([sys.executable, "-c", code + "assert 'torch' not in sys.modules"], check=True)


def test_names_are_the_same_with_and_without_pefts_prefix(tmp_path, rng):
    sites = sites_of(rng)
    bare = adapters.load(write(tmp_path / "bare", sites, prefix=""))
    full = adapters.load(write(tmp_path / "full", sites))
    assert list(bare.sites) == list(full.sites) == sorted(SHAPES)


def test_the_stored_adapters_are_four_trained_apart_from_a_common_start():
    agents = adapters.load_agents(STORED)
    shapes = {site: factors.shape for site, factors in agents.factors.items()}
    assert shapes == {"fc1": (48, 64), "fc2": (40, 48), "fc3": (32, 40)}
    assert set(agents.scales.values()) == {(2.0,) * 4}
    assert agents.bases == ("digits-mlp",) * 4
    assert {n: X.shape for n, X in agents.others.items()} == {
        "classifier.bias": (4, 10),
        "classifier.weight": (4, 10, 32),
    }
    assert sum(f.stat().st_size for folder in STORED for f in folder.iterdir()) < 200_000


def test_an_opened_adapter_reads_one_site_at_a_time(tmp_path, rng):
    sites = {f"layer{i}": gaussian(rng, 64, 48, 8) for i in range(20)}
    folder = write(tmp_path / "x", sites, r=8, lora_alpha=4)
    found = adapters.opened(folder)
    whole = adapters.load(folder)
    tracemalloc.start()
    for name, site in found.sites.items():
        assert (site.shape, site.rank, site.scale) == ((64, 48), 8, 0.5)
        for X, Y in zip(site.read(), whole.sites[name], strict=True):
            assert np.array_equal(X, Y)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    # of a site of 7 kB in float64, some copies; never the file of 140 kB
    assert peak < 60_000


def test_a_checksum_is_compared_when_an_adapter_is_opened(tmp_path):
    adapters.save(adapters.load(STORED[0]), tmp_path / "x")
    assert adapters.opened(tmp_path / "x").sites
    weights = tmp_path / "x" / "adapter_model.safetensors"
    data = bytearray(weights.read_bytes())
    data[-3] ^= 1
    weights.write_bytes(data)
    with pytest.raises(ValueError, match="damaged: the checksum in"):
        adapters.opened(tmp_path / "x")


def test_a_file_that_is_cut_short_after_it_was_opened_is_named(tmp_path, rng):
    folder = write(tmp_path / "x", sites_of(rng))
    found = adapters.opened(folder)
    weights = folder / "adapter_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-8])
    with pytest.raises(ValueError, match=r"damaged or cut short: it ends within .*: site head"):
        [site.read() for site in found.sites.values()]
