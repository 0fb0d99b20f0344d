"""Adapters, configurations, replays and stored results with random faults.

In CI a sample that is always the same. `pytest -m night tests/fuzz` draws others for three minutes
at each door, or for DECAF_FUZZ_MINUTES; `python -m tests.fuzz MINUTES [DOOR ...]` says how many.
"""

import json
import tomllib
import warnings
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from hypothesis import HealthCheck, event, given, settings
from hypothesis import strategies as st

from decaf_theory import adapters
from paper_checks import config as configs
from tests.fuzz.texts import VALUES, as_json, as_toml, damaged, torn
from verification import replay, store
from verification.claim import Row
from verification.run import LEDGER

HERE = Path(__file__).resolve().parent.parent
AGENT = HERE / "adapters" / "agent0"
CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
TINY = tomllib.loads((configs.CONFIGS / "tiny-bert.toml").read_text(encoding="utf-8"))
CLAIMS = {claim.id: claim for claim in LEDGER.claims}
REPLAYED = [name for name, claim in CLAIMS.items() if LEDGER.counterexample(name).exists()]
ROW = Row("case", "<=", 1.0, 2.0, 0.0, 1.0, 1.0, params={"r": 2}).as_json()

DOORS = {}  # name -> the test, as a function of its settings
DRAWN = []  # one entry for each draw

often = settings(suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])


@contextmanager
def only(*errors):
    """Let errors of these kinds pass, and count them; numbers may overflow in silence."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        DRAWN.append(1)
        try:
            yield
        except errors as error:
            event(f"refused: {type(error).__name__}")
            if not str(error):  # it must say what is wrong
                raise
        else:
            event("taken")


def door(*strategies):
    """Test with drawn arguments: quickly in every run, and for minutes at night."""

    def decorate(test):
        DOORS[test.__name__.removeprefix("test_")] = lambda how: how(given(*strategies)(test))
        return often(given(*strategies)(test))

    return decorate


def adapter(folder, config, weights):
    folder.mkdir(exist_ok=True)
    (folder / CONFIG).write_bytes(config)
    (folder / WEIGHTS).write_bytes(weights)
    return folder


@door(damaged(json.loads((AGENT / CONFIG).read_bytes())))
def test_settings_of_an_adapter(tmp_path, config):
    folder = adapter(tmp_path / "agent", as_json(config), (AGENT / WEIGHTS).read_bytes())
    with only(ValueError):
        found = adapters.load_agents([folder])
        assert adapters.diagnose(found, adapters.mixing_matrix("complete", 1))


@door(torn((AGENT / CONFIG).read_bytes()), torn((AGENT / WEIGHTS).read_bytes()), st.booleans())
def test_bytes_of_an_adapter(tmp_path, config, weights, first):
    whole = (AGENT / CONFIG).read_bytes(), (AGENT / WEIGHTS).read_bytes()
    files = (config, whole[1]) if first else (whole[0], weights)
    folder = adapter(tmp_path / "agent", *files)
    with only(ValueError):
        merged = adapters.merge(adapters.load_agents([folder, folder]))
        assert all(np.isfinite(X).all() for pair in merged.sites.values() for X in pair)


@door(damaged(TINY, times=3))
def test_settings_of_a_run(tmp_path, tables):
    path = tmp_path / "x.toml"
    path.write_text(as_toml(tables if isinstance(tables, dict) else {}), encoding="utf-8")
    with only(configs.ConfigError):
        config = configs.read(str(path))
        assert config.settings()
        assert config.cell


@door(torn((configs.CONFIGS / "tiny-bert.toml").read_bytes()))
def test_bytes_of_a_configuration(tmp_path, data):
    path = tmp_path / "x.toml"
    path.write_bytes(data)
    with only(configs.ConfigError):
        assert configs.read(str(path)).settings()


@door(st.dictionaries(st.sampled_from(["lora.rank", "mix", "a..b", "origin", "mix.graph"]), VALUES))
def test_settings_of_a_command_line(overrides):
    with only(configs.ConfigError):
        assert configs.read("tiny-bert", overrides).settings()


@door(st.data())
def test_a_replay(tmp_path, data):
    name = data.draw(st.sampled_from(REPLAYED))
    stored = json.loads(LEDGER.counterexample(name).read_bytes())
    path = tmp_path / "x.json"
    path.write_bytes(as_json(data.draw(damaged(stored))))
    with only(replay.ReplayError):
        found = replay.load(path)
        claim = replay.find(LEDGER.claims, found.claim)
        assert replay.line(claim, replay.recompute(claim, found), found)


@door(torn(LEDGER.counterexample("T18-op").read_bytes()))
def test_bytes_of_a_replay(tmp_path, data):
    path = tmp_path / "x.json"
    path.write_bytes(data)
    with only(replay.ReplayError):
        found = replay.load(path)
        claim = replay.find(LEDGER.claims, found.claim)
        assert replay.line(claim, replay.recompute(claim, found), found)


@door(damaged([ROW, ROW]), st.booleans())
def test_stored_rows(rows, bare):
    some = rows if isinstance(rows, list) else [rows]
    data = as_json(rows) if bare else b"".join(as_json(r) + b"\n" for r in some)
    with only(ValueError):
        for row in store.decode_rows(data):
            assert set(Row.from_json(row).as_json()) >= {*store.NUMBERS}
