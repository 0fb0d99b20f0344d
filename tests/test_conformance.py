"""The check of aggregation functions: no false alarm on right ones, words for wrong ones."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("torch")

from decaf_theory.cli import main
from decaf_theory.conformance import RULES, Report, check, load
from decaf_theory.conformance.cases import SITES, Asked, cases
from decaf_theory.conformance.checking import belongs
from decaf_theory.conformance.judge import room
from decaf_theory.conformance.rules import mixed
from tests.faulty import FAULTS
from tests.right_aggregators import RIGHT
from tests.right_styles import STYLES

ROOT = Path(__file__).resolve().parent.parent
SEEDS = [0, *(pytest.param(seed, marks=pytest.mark.night) for seed in range(1, 5))]
ALL_RIGHT = {**RIGHT, **STYLES}
# one fault of each kind every day, all at night
DAILY = """
transposed_tsvd unbalanced forgot_the_root signs_from_two_solves factors_swapped_on_return
square_layers_only collapses_at_zero forgot_to_return one_power_iteration
another_result_each_time root_of_the_weight_on_each_factor ignores_the_weights
weights_of_a_reversed only_b_is_rotated accumulates_in_half_precision
accumulates_in_the_first_agent stale_copies_in_the_mean padded_on_the_wrong_side
stacks_in_two_orders rslora_off_by_the_root_of_r rotation_that_may_reflect
ring_of_thirds_for_two agents_sorted_as_strings pi_transposed mixes_what_is_already_mixed
stale_neighbours cut_to_the_neighbours_rank residual_transposed residual_never_applied
heads_left_out unweighted_heads counts_as_eight_bit_numbers
""".split()
FAULTY = [pytest.param(name, marks=[] if name in DAILY else pytest.mark.night) for name in FAULTS]


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("name", ALL_RIGHT)
def test_right_functions_raise_no_alarm(name, seed):
    function, rule, options = ALL_RIGHT[name]
    report = check(function, rule, seed=seed, **options)
    assert report, report
    assert report.passed == report.asked >= 19


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("name", FAULTY)
def test_a_fault_is_reported_in_its_words(name, seed):
    function, rule, words, options = FAULTS[name]
    report = check(function, rule, seed=seed, **options)
    assert not report
    said = " ".join(finding.words for finding in report.faults)  # not the names of cases
    assert re.search(words, said), report


def test_the_daily_faults_are_faults():
    assert set(DAILY) <= set(FAULTS)


def mean(B, A, weights):
    return np.tensordot(weights, B, 1), np.tensordot(weights, A, 1)


def positional(B, A, weights, /):
    return mean(B, A, weights)


def wants_more(B, A, weights, temperature):
    return mean(B, A, weights)


def raises(states, weights):
    raise RuntimeError("no\nnetwork")


@pytest.mark.parametrize(
    ("arguments", "options", "message"),
    [
        ((mean, "fedavgg"), {}, r"rule must be one of .*'fedavgg'; the nearest is fedavg"),
        ((mean, "dlora"), {"topology": "rings"}, r"topology must be one of .*nearest is ring"),
        ((mean, "fedavg"), {"shape": "list"}, r"shape must be one of .*nearest is lists"),
        ((positional, "fedavg"), {}, "by name"),
        ((wants_more, "fedavg"), {}, "parameter 'temperature' of the function must have"),
        ((3, "fedavg"), {}, "function must be callable with a signature, got 3"),
        ((mean, "fedrot"), {}, "take them as `reference`"),
        ((raises, "fedavg"), {}, "in any shape .*RuntimeError: no network"),
    ],
)
def test_wrong_use_is_an_error_that_says_what_to_do(arguments, options, message):
    with pytest.raises(ValueError, match=message):
        check(*arguments, **options)


def module(tmp_path, text):
    path = tmp_path / "mixing_of_a_user.py"
    path.write_text(text, encoding="utf-8")
    return path


@pytest.mark.parametrize(
    ("text", "name", "message"),
    [
        ("def aggregate(): pass", "aggregat", "has no 'aggregat'; the nearest is aggregate"),
        ("x = 3", "x", "must be a function, got int"),
        ("import sys; sys.exit('bye')", "f", "cannot be imported: SystemExit: bye"),
        ("1 / 0", "f", "cannot be imported: ZeroDivisionError: division by zero"),
        ("import no_such_package", "f", "cannot be imported: ModuleNotFoundError"),
    ],
)
def test_a_function_that_cannot_be_had_is_an_error(tmp_path, monkeypatch, text, name, message):
    monkeypatch.setattr(sys, "path", [*sys.path])
    with pytest.raises(ValueError, match=message):
        load(f"{module(tmp_path, text)}:{name}")


@pytest.mark.parametrize("name", ["mix", "mix.py:", ":f"])
def test_a_name_without_a_function_is_an_error(name):
    with pytest.raises(ValueError, match="function must be module:function"):
        load(name)


@pytest.mark.parametrize("name", ["no_such_file.py:f", "no_such_module:f"])
def test_a_module_that_is_not_there_is_an_error(name, monkeypatch):
    monkeypatch.setattr(sys, "path", [*sys.path])
    with pytest.raises(ValueError, match="cannot be imported"):
        load(name)


def test_a_function_that_exits_is_reported_and_control_c_ends_the_check():
    def exits(B, A, weights):
        if len(B) == 10:
            sys.exit("too many")
        return mean(B, A, weights)

    def interrupted(B, A, weights):
        raise KeyboardInterrupt

    assert "raises SystemExit: too many (N = 10)" in str(check(exits, "fedavg"))
    with pytest.raises(KeyboardInterrupt):
        check(interrupted, "fedavg")


def test_an_error_at_zero_alone_is_a_fault():
    def adds(B, A, weights):
        mean_B, mean_A = mean(B, A, weights)
        return mean_B, mean_A, np.full((len(mean_B), mean_A.shape[1]), 1.0 - B.any())

    report = check(adds, "fedavg")
    assert not report
    assert "something is added to zeros" in str(report)


def test_the_command_prints_stores_and_exits_with_the_outcome(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(sys, "path", [*sys.path])
    path = module(tmp_path, "def f(B, A, w): return w @ B[:, 0], A[0]\ndef g(x): return None")
    stored = tmp_path / "report.json"
    assert main(["check", f"{ROOT}/examples/exact_mix.py:exact_mix", "--rule", "exact"]) == 0
    assert main(["check", f"{path}:g", "--rule", "exact", "--json", str(stored)]) == 1
    assert "returns NoneType" in capsys.readouterr().out
    data = json.loads(stored.read_text(encoding="utf-8"))
    assert data.pop("right") is False
    assert Report(**data).to_json() == {"right": False, **data}
    assert main(["check", f"{path}:h"]) == 2
    assert "has no 'h'; the nearest is g" in capsys.readouterr().err


def test_what_a_function_prints_is_no_part_of_the_report(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(sys, "path", [*sys.path])
    lines = "print('loaded')\ndef f(B, A, w):\n    print('called')\n    return None"
    path = module(tmp_path, lines)
    assert main(["check", f"{path}:f", "--rule", "exact", "--json", "-"]) == 1
    said = capsys.readouterr()
    assert json.loads(said.out)["right"] is False
    assert "loaded\ncalled\n" in said.err


@pytest.mark.parametrize("options", [{"samples": True}, {}, {"heads": False}])
def test_the_mixing_function_of_the_examples_is_exact(monkeypatch, options):
    monkeypatch.setattr(sys, "path", [*sys.path])
    report = check(load(f"{ROOT}/examples/exact_mix.py:exact_mix"), "exact", **options)
    assert report, report
    assert "unequal ranks" not in str(report)


def test_the_page_shows_what_the_check_prints(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(sys, "path", [*sys.path])
    page = (ROOT / "docs" / "check.md").read_text(encoding="utf-8")
    example = re.search(r"```python\n# mix.py\n(.*?)```.*?```text\n(.*?)```", page, re.DOTALL)
    source, printed = example.groups()
    (tmp_path / "mix.py").write_text(source, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    assert main(["check", "mix.py:aggregate"]) == 1
    assert capsys.readouterr().out == printed


def test_the_page_names_every_rule_shape_and_parameter():
    from decaf_theory.conformance.calls import ROLES, SHAPES

    page = (ROOT / "docs" / "check.md").read_text(encoding="utf-8")
    parameters = [name for names in ROLES.values() for name in names.split()]
    for name in [*RULES, *SHAPES, *parameters]:
        assert f"`{name}`" in page, name


@pytest.mark.parametrize("graph", [None, "ring"])
@pytest.mark.parametrize("name", RULES)
def test_rounding_never_has_room_for_half_of_an_update(name, graph):
    rule = RULES[name]
    more = {"referred": rule.referred, "timed": rule.referred, "shared": rule.shared}
    asked = Asked(graph=graph, weighs=True, scaled=True, torch=True, listed=rule.unequal, **more)
    sizes = {}
    for case in cases(0, asked):
        if not belongs(case, rule):
            continue
        for site in SITES:
            updates = mixed(rule, case, site, own_rank=False)[0][: len(case.weights)]
            for i, P in enumerate(updates):
                space, size = room(rule, case, site, i, case.dtype), np.linalg.norm(P)
                assert space < size / 2 or size == 0, case.name
                sizes.setdefault(case.dtype, []).append(space / size if size else 0.0)
    assert max(sizes["float32"]) < 1e-2
    assert max(sizes["bfloat16"]) > max(sizes["float16"])
