"""What programs print, whatever a file or a terminal is like; what adapters and data may hold."""

import argparse
import io
import sys
from pathlib import Path

import numpy as np
import pytest

from decaf_theory import adapters, cli
from decaf_theory.adapters.agents import natural
from decaf_theory.commands.merge import weights
from decaf_theory.files import place
from decaf_theory.terminal import prepare, printable
from paper_checks import config as configs
from paper_checks.sweeping import seeds
from paper_checks.tasks import formats
from tests.adapter_files import sites_of, write


@pytest.fixture
def rng():
    return np.random.default_rng(7)


def test_control_characters_are_escaped_and_lines_stay_lines():
    assert printable("a\x1b[31mb\r\x9b\x7f\n\tc é 結果") == "a\\x1b[31mb\\x0d\\x9b\\x7f\n\tc é 結果"


def test_what_a_terminal_cannot_show_is_escaped_and_not_lost(monkeypatch):
    for name in ("stdout", "stderr"):
        monkeypatch.setattr(sys, name, io.TextIOWrapper(io.BytesIO(), encoding="ascii"))
    prepare()
    print("é 結")
    sys.stdout.flush()
    assert sys.stdout.buffer.getvalue().strip() == b"\\xe9 \\u7d50"


def test_a_closed_stream_shows_nothing(monkeypatch, tmp_path):
    for name in ("stdout", "stderr"):
        monkeypatch.setattr(sys, name, None)
    assert cli.main(["diagnose", str(tmp_path / "none")]) == 2
    sys.stdout.close()
    sys.stderr.close()


def test_a_stream_of_someone_else_is_left_alone(monkeypatch):
    monkeypatch.setattr(sys, "stdout", io.StringIO())
    prepare()
    print("é")
    assert sys.stdout.getvalue() == "é\n"


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"use_rslora": "no"}, "use_rslora must be of type bool, got 'no'"),
        ({"base_model_name_or_path": ["a"]}, "base_model_name_or_path must be of type str"),
        ({"alpha_pattern": [1]}, r"alpha_pattern must be an object of numbers, got \[1\]"),
        ({"lora_alpha": 10**400}, "lora_alpha must be a number, got 'an integer beyond float64'"),
        ({"lora_alpha": 1.7e308, "use_rslora": True}, r"site .*: lora_B holds nan or inf"),
        ({"rank_pattern": {"(a+)+!(": 2}}, "rank_pattern: not a regular expression"),
        ({"rank_pattern": {"(?i:layer)": 2}}, "rank_pattern: subpattern is not followed"),
    ],
)
def test_settings_of_another_kind_are_named(config, message, tmp_path, rng):
    folder = write(tmp_path / "bad", sites_of(rng), **{"r": 2, **config})
    with pytest.raises(ValueError, match=message):
        adapters.load(folder)


def test_names_of_tensors_are_plain_and_unlike(tmp_path, rng):
    folder = write(tmp_path / "a", sites_of(rng), others={"head\x1b[0m": np.zeros(2)})
    with pytest.raises(ValueError, match=r"tensor '.*\\x1b\[0m': names must be printable"):
        adapters.load(folder)
    both = {"head": np.zeros(2), "base_model.model.head": np.ones(2)}
    folder = write(tmp_path / "b", sites_of(rng), others=both, prefix="")
    with pytest.raises(ValueError, match="are one; keep one of them"):
        adapters.load(folder)


def test_numbers_in_names_that_int_does_not_read_are_letters():
    assert natural("layer²") == [(-1, "layer²")]
    assert natural("a" + "9" * 5000)[1][0] == -1


def test_force_replaces_plain_files_only(tmp_path, rng):
    mixed = adapters.merge(adapters.load_agents([write(tmp_path / "agent", sites_of(rng))]))
    elsewhere = tmp_path / "mine.json"
    elsewhere.write_text("{}")
    for kind in ("folder", "link"):
        out = tmp_path / kind
        out.mkdir()
        if kind == "folder":
            (out / "adapter_config.json").mkdir()
        else:
            (out / "adapter_config.json").symlink_to(elsewhere)
        with pytest.raises(ValueError, match=r"holds 'adapter_config\.json', which is not part of"):
            adapters.save(mixed, out, overwrite=True)
    assert elsewhere.read_text() == "{}"


def test_weights_that_sum_to_one_in_float32_are_weights():
    row = np.full(10, 0.1, dtype=np.float32)
    assert abs(row.astype(np.float64).sum() - 1) > 1e-9
    assert adapters.check_weights(row, 10).dtype == np.float64
    with pytest.raises(ValueError, match="weights must sum to one"):
        adapters.check_weights(row.astype(np.float64), 10)
    with pytest.raises(ValueError, match="weights must sum to one"):
        adapters.check_weights(row * np.float32(1.001), 10)


GOOD = '{"question": "q", "passage": "p", "answer": true}'


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ([GOOD, "{"], r"boolq.*balanced\.jsonl: line 2: Expecting"),
        ([GOOD, GOOD, "[1]"], "line 3: must be an object with question, passage, answer"),
        (['{"question": 1, "passage": "p", "answer": true}'], "line 1: must be an object with"),
        (['{"passage": "p", "answer": true}'], "line 1: must be an object with question"),
        (["[" * 100_000], "line 1: brackets are nested too deeply"),
    ],
)
def test_a_line_of_a_data_set_that_is_no_example_is_named(lines, message, tmp_path):
    path = tmp_path / "boolq" / "balanced.jsonl"
    path.parent.mkdir()
    path.write_text("\n".join(lines), encoding="utf-8")
    with pytest.raises(ValueError, match=message):
        formats.objects(path, question=str, passage=str, answer=(bool, int))


def test_data_that_are_not_utf_8_are_named(tmp_path):
    path = tmp_path / "train.tsv"
    path.write_bytes(b"sentence\tlabel\n\xff\t1\n")
    with pytest.raises(ValueError, match=r"train\.tsv: must be UTF-8"):
        formats.lines(path)


def test_a_merge_that_float32_cannot_hold_is_not_written(tmp_path, rng):
    tiny = {site: [(n, 2.0**-200 * X) for n, X in pair] for site, pair in sites_of(rng).items()}
    mixed = adapters.merge(adapters.load_agents([write(tmp_path / "agent", tiny)]))
    with pytest.raises(ValueError, match="is zero in float32; scale the adapters up"):
        adapters.save(mixed, tmp_path / "merged")
    assert not (tmp_path / "merged").exists()


def test_a_tilde_is_the_home_folder(tmp_path, monkeypatch, rng):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(write(tmp_path / "agent", sites_of(rng)).parent)
    assert cli.main(["merge", "~/agent", "--out", "~/merged"]) == 0
    assert (tmp_path / "merged" / "adapter_config.json").exists()
    assert not Path("~").exists()
    assert place("~/x") == tmp_path / "x"


def test_a_table_of_settings_may_begin_with_a_byte_order_mark(tmp_path):
    path = tmp_path / "mine.toml"
    path.write_bytes(b"\xef\xbb\xbf" + (configs.CONFIGS / "tiny-bert.toml").read_bytes())
    assert configs.read(str(path)) == configs.read("tiny-bert")


@pytest.mark.parametrize("text", ["5-", "-", "", "1,", "a", "3-1"])
def test_seeds_are_numbers_and_ranges(text):
    with pytest.raises(argparse.ArgumentTypeError, match="must be seeds, such as 0-4 or 0,2,5"):
        seeds(text)
    assert seeds("0-2,7") == [0, 1, 2, 7]


def test_a_scalar_of_a_head_stays_one(tmp_path, rng):
    folder = write(tmp_path / "agent", sites_of(rng), others={"scale": np.array(2.0)})
    adapters.save(adapters.merge(adapters.load_agents([folder])), tmp_path / "merged")
    assert adapters.load(tmp_path / "merged").others["scale"].shape == ()


@pytest.mark.parametrize("text", ["1e999,0", "1/0,1", "a", "0.5;0.5"])
def test_weights_are_numbers(text):
    with pytest.raises(argparse.ArgumentTypeError, match="must be numbers separated by commas"):
        weights(text)
