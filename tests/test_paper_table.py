"""The table: means, paired differences, and no winner where the interval straddles zero."""

import csv
import hashlib
import json
import re
from itertools import product

import numpy as np
import pytest

from decaf_theory.files import to_json
from decaf_theory.methods import METHODS
from decaf_theory.stats import (
    bonferroni,
    detectable_difference,
    holm,
    mean_interval,
    paired_interval,
    paired_p,
)
from decaf_theory.sums import sealed
from paper_checks import cli, protocol, record, reported, rules, table
from paper_checks import config as configs
from tests import paper_runs
from verification import harness, store
from verification.store import StoreError

SEEDS = range(4)
DIFFERENCE = "Difference from dlora, agents' own models, last round"


def stored(
    out,
    scores,
    *,
    method="decaf",
    graph="ring",
    partition="iid",
    seed=0,
    step=6,
    validation=(),
    final=None,
    about=None,
    point="",
    **more,
):
    """Write a run whose recorded scores are given, as the harness does.

    validation: scores next to them; final: more of the last record; about: more of run.json.
    """
    config = paper_runs.config(
        mix__graph=graph,
        data__partition=partition,
        train__seed=seed,
        **{k.replace(".", "__"): x for k, x in rules.settings_of_row(method).items()},
        **more,
    )
    folder = out / config.name / point / config.cell
    rows = [{"claim": record.TRAINING, "step": i, "score": x} for i, x in enumerate(scores)]
    for row, score in zip(rows, validation, strict=False):
        row["validation_score"] = score
    rows[-1] |= final or {}
    data = store.encode_rows(record.TRAINING, [*rows, {"step": step}])
    store.write_atomically(folder / record.ROWS, data)
    settings = config.settings() | {"code": harness.code()}
    about = {"settings": settings, "step": step, "metric": "accuracy", **(about or {})}
    about["files"] = {record.ROWS: hashlib.sha256(data).hexdigest()}
    store.write_atomically(folder / record.RUN, to_json(sealed(about)))
    return folder


def study(out, gain, noise=0.01):
    """DLoRA and DeCAF at SEEDS on two graphs, local alone; DeCAF is better by `gain`."""
    draw = np.random.default_rng(0)
    found = {}
    for seed in SEEDS:
        for graph in ("ring", "complete"):
            base = 0.7 + draw.normal(0, 0.05)
            for method, shift in (("dlora", 0.0), ("decaf", gain)):
                last = base + shift + draw.normal(0, noise)
                stored(out, [last + 0.02, last], method=method, graph=graph, seed=seed)
                found.setdefault((method, graph), []).append(last)
        stored(out, [0.5, 0.6 + 0.01 * seed], method="local", seed=seed)
    return found


def cells(text, title, method):
    """The cells of a method's line in the table below a title."""
    part = text.split(f"### {title}\n")[1].split("###")[0]
    (line,) = [x for x in part.splitlines() if x.startswith(f"| {method} ")]
    return [x.strip() for x in line.strip("|").split("|")][1:]


def test_a_cell_is_the_mean_with_its_interval(tmp_path):
    found = study(tmp_path, 0.1)
    text = table.text([tmp_path])
    for i, graph in enumerate(("complete", "ring")):
        interval = mean_interval([100 * x for x in found["decaf", graph]])
        expected = f"{interval.estimate:.1f} ± {interval.high - interval.estimate:.1f} (4)"
        assert cells(text, "Last round", "decaf")[i] == expected
        best = cells(text, "Best round (chosen on the test set)", "decaf")[i]
        assert float(best.split()[0]) == pytest.approx(interval.estimate + 2, abs=0.051)


def test_methods_without_a_graph_stand_under_every_graph(tmp_path):
    study(tmp_path, 0.1)
    left, right = cells(table.text([tmp_path]), "Last round", "local")
    assert left == right
    assert left.startswith("61.5")


def test_differences_are_paired_and_hold_together(tmp_path):
    found = study(tmp_path, 0.1)
    text = table.text([tmp_path])
    assert "corrected for all 4 differences" in text  # decaf and local, two graphs
    pairs = {
        (method, graph): ([100 * x for x in values], [100 * x for x in found["dlora", graph]])
        for (method, graph), values in found.items()
        if method != "dlora"
    }
    local = [60.0 + seed for seed in SEEDS]
    pairs |= {("local", graph): (local, pairs["decaf", graph][1]) for graph in ("ring", "complete")}
    adjusted = dict(zip(pairs, holm([paired_p(*pair) for pair in pairs.values()]), strict=True))
    mean, low, high = paired_interval(*pairs["decaf", "ring"])
    p = adjusted["decaf", "ring"]
    assert 0.001 <= p <= 0.05
    shown = f"{mean:+.1f} [{low:+.1f}, {high:+.1f}] p {p:.2g} better"
    assert cells(text, DIFFERENCE, "decaf")[1] == shown
    spread = float(np.std(np.subtract(*pairs["decaf", "ring"]), ddof=1))
    seen = detectable_difference(spread, 4, bonferroni(0.95, 4))
    title = "Difference that would have been seen, agents' own models"
    assert cells(text, title, "decaf")[1] == f"{seen:.1f}"


@pytest.mark.parametrize(("gain", "expected"), [(0.2, "better"), (-0.2, "worse"), (0.0, "")])
def test_only_a_clear_difference_gets_a_word(tmp_path, gain, expected):
    study(tmp_path, gain)
    for cell in cells(table.text([tmp_path]), DIFFERENCE, "decaf"):
        assert "".join(re.findall("better|worse", cell)) == expected


def test_equal_differences_of_a_few_seeds_are_no_evidence(tmp_path):
    study(tmp_path, 0.1, noise=0.0)
    for cell in cells(table.text([tmp_path]), DIFFERENCE, "decaf"):
        assert "p 1" in cell
        assert "better" not in cell


def test_pairs_are_made_of_common_seeds(tmp_path):
    for seed, (left, right) in enumerate([(0.5, 0.4), (0.6, 0.4), (0.7, None)]):
        stored(tmp_path, [left], method="decaf", seed=seed)
        if right:
            stored(tmp_path, [right], method="dlora", seed=seed)
    (cell,) = cells(table.text([tmp_path]), DIFFERENCE, "decaf")
    assert cell.startswith("+15.0 [")


def test_one_seed_has_no_interval(tmp_path):
    stored(tmp_path, [0.5])
    text = table.text([tmp_path])
    assert cells(text, "Last round", "decaf") == ["50.0 (1 seed)"]
    assert "Difference" not in text


def test_unfinished_runs_are_left_out_and_named(tmp_path):
    stored(tmp_path, [0.5])
    stored(tmp_path, [0.9], seed=1, step=3)
    text = table.text([tmp_path])
    assert cells(text, "Last round", "decaf") == ["50.0 (1 seed)"]
    assert "left out because not finished: decaf-ring-iid-seed1" in text
    with pytest.raises(StoreError, match="no finished run below"):
        table.text([tmp_path / "nowhere"])


def test_runs_of_other_settings_do_not_share_a_table(tmp_path):
    stored(tmp_path / "a", [0.5])
    stored(tmp_path / "b", [0.6], seed=1, train__lr=0.3)
    with pytest.raises(StoreError, match=r"runs of net differ in train\.lr"):
        table.text([tmp_path])


def test_a_damaged_run_is_no_part_of_a_table(tmp_path):
    path = stored(tmp_path, [0.5]) / record.ROWS
    path.write_bytes(path.read_bytes().replace(b"0.5", b"0.9"))
    with pytest.raises(StoreError, match="truncated or altered"):
        table.text([tmp_path])


def test_a_reported_number_stands_next_to_our_cell_of_its_place_alone(tmp_path, monkeypatch):
    path = tmp_path / "reported.csv"
    monkeypatch.setattr(reported.read, "__defaults__", (path,))
    stored(tmp_path, [0.5])
    ours = {"config": "net", "method": "decaf", "partition": "iid", "graph": "ring"}
    place = {**ours, "metric": "accuracy"}
    write(path, [place])
    text = table.text([tmp_path])
    assert cells(text, "Last round", "decaf") == ["50.0 (1 seed); reported 61.5 [Table 9, v1]"]
    assert "Reported elsewhere" not in text
    for name in place:
        other = {**place, name: "dlora" if name == "method" else "another"}
        write(path, [other])
        text = table.text([tmp_path])
        assert cells(text, "Last round", "decaf") == ["50.0 (1 seed)"], name
        apart = text.split("## Reported elsewhere\n")[1]
        assert "61.5" in apart, name


def write(path, rows):
    """Write reported numbers: 61.5 of Table 9, v1, read at its source, unless a row says else."""
    known = {"method": "decaf", "value": "61.5", "source": "Table 9", "version": "v1"}
    known |= {"read": "source"}
    with path.open("w", newline="") as file:
        lines = csv.DictWriter(file, reported.Reported._fields, restval="")
        lines.writeheader()
        lines.writerows(known | row for row in rows)


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"value": "many"}, "line 2: could not convert"),
        ({"method": "decay"}, "line 2: method must be one of ours, got 'decay'"),
        ({"source": ""}, "line 2: source must say"),
        ({"version": ""}, "line 2: version must say"),
        ({"read": ""}, "line 2: read must be one of"),
    ],
)
def test_a_reported_number_that_says_too_little_is_refused(tmp_path, row, message):
    write(tmp_path / "reported.csv", [row])
    with pytest.raises(StoreError, match=message):
        reported.read(tmp_path / "reported.csv")


def test_a_reported_number_has_all_columns_and_no_others(tmp_path):
    path = tmp_path / "reported.csv"
    write(path, [{}])
    whole = path.read_text()
    path.write_text(whole.replace("note\n", "remark\n", 1).replace("note\r\n", "remark\r\n", 1))
    with pytest.raises(StoreError, match="must have the columns config,method"):
        reported.read(path)
    for text in (whole.rstrip() + ",more\n", whole.rstrip()[:-1] + "\n"):
        path.write_text(text)
        with pytest.raises(StoreError, match="line 2: "):
            reported.read(path)


def test_every_reported_number_says_where_it_stands_and_none_counts_as_ours():
    rows = reported.read()
    assert len(rows) >= 20
    assert all(row.source and row.version and row.metric and row.graph for row in rows)
    for row in rows:
        assert ("notes of others" in row.origin) == (row.read != "source")
    # none was measured in the setting of an experiment here
    assert not {row.config for row in rows} & {*configs.names()}
    assert {row.config for row in rows} == {""}
    assert reported.elsewhere(rows, set()) == rows


def test_the_table_lists_reported_numbers_apart_from_ours(tmp_path):
    stored(tmp_path, [0.5])
    ours, apart = table.text([tmp_path]).split("## Reported elsewhere\n")
    assert "reported" not in ours
    assert apart.count("\n| ") == len(reported.read()) + 2
    assert "| dlora    | 0.8458" in apart


@pytest.mark.parametrize(("score", "words"), [(0.5, "is above"), (0.61, "is not above")])
def test_centralized_training_is_compared_with_the_baseline(tmp_path, score, words):
    for seed in SEEDS:
        stored(tmp_path, [0.6 + 0.01 * seed], method="centralized", seed=seed)
    baseline = {"what": "logistic regression on raw inputs", "score": score}
    (tmp_path / "net" / "baseline.json").write_bytes(to_json(sealed(baseline)))
    text = table.text([tmp_path])
    assert f"logistic regression on raw inputs: {100 * score:.1f}." in text
    assert f"{words} the baseline; without heads_only_centralized, whether adapters add" in text


@pytest.mark.parametrize(
    ("gain", "words"),
    [(0.1, "add to them"), (0.0, "are not shown to add"), (-0.1, "are not shown to add")],
)
def test_adapters_add_something_only_if_centralized_is_above_its_heads_alone(tmp_path, gain, words):
    draw = np.random.default_rng(0)
    for seed in SEEDS:
        heads = 0.7 + draw.normal(0, 0.05)
        stored(tmp_path, [heads], method="heads_only_centralized", seed=seed)
        own = heads + gain + draw.normal(0, 0.01)
        stored(tmp_path, [own], method="centralized", seed=seed)
    text = table.text([tmp_path])
    assert f"from its heads alone: adapters {words}" in text
    assert len(cells(text, "Last round", "heads_only_centralized")) == 1


def test_the_columns_are_of_one_width(tmp_path):
    study(tmp_path, 0.1)
    for line in table.text([tmp_path]).split("\n\n"):
        rows = [x for x in line.splitlines() if x.startswith("|")]
        assert len({len(x) for x in rows}) <= 1


def test_every_method_that_trains_adapters_can_be_run_and_six_are_swept():
    assert METHODS.keys() - {*configs.ADAPTER_METHODS} == {"dsgd"}
    assert {*configs.SWEPT} < {*configs.ADAPTER_METHODS}
    six = ("local", "centralized", "fedavg", "dlora", "dlora_fa", "decaf")
    assert configs.read("smollm2-boolq").swept == six
    controls = ("heads_only_centralized", "heads_only_dlora")
    assert configs.read("vit-digits").swept == six + controls


def test_the_baseline_is_logistic_regression_kept_once(tmp_path, monkeypatch, capsys):
    torch = pytest.importorskip("torch", reason="tasks hold tensors")
    linear_model = pytest.importorskip("sklearn.linear_model", reason="the baseline is its")
    from paper_checks import baseline, tasks

    task = paper_runs.task()
    x, y = task.train.inputs["x"].numpy(), task.train.labels.numpy()
    tested = task.test.inputs["x"].numpy(), task.test.labels.numpy()
    models = [linear_model.LogisticRegression(C=C).fit(x, y) for C in (0.01, 0.1, 1, 10)]
    fits = [model.score(*tested) for model in models]
    monkeypatch.setattr(tasks, "load_task", lambda config: task)
    baseline.keep(paper_runs.config(), tmp_path)
    kept = json.loads((tmp_path / "baseline.json").read_text())
    what = "logistic regression on raw inputs, its penalty chosen on"
    assert (kept["what"], kept["score"]) == (f"{what} the test set, which favours it", max(fits))
    apart = task.test.take(torch.arange(9))
    few = [fit.score(apart.inputs["x"].numpy(), apart.labels.numpy()) for fit in models]
    chosen = baseline.logistic(task._replace(validation=apart))
    assert chosen["what"] == f"{what} validation examples"
    assert chosen["score"] == fits[int(np.argmax(few))] != max(fits)
    monkeypatch.setattr(tasks, "load_task", None)
    baseline.keep(paper_runs.config(), tmp_path)
    monkeypatch.setattr(tasks, "load_task", lambda config: task)
    path = tmp_path / "baseline.json"
    whole = path.read_bytes()
    path.write_bytes(whole.replace(b'"score": 0.', b'"score": 1.'))
    baseline.keep(paper_runs.config(), tmp_path)
    assert path.read_bytes() == whole
    baseline.keep(paper_runs.config(data__train_samples=50), tmp_path)
    assert path.read_bytes() != whole
    assert "is damaged" in (said := capsys.readouterr().err)
    assert "of another task or other data; computed again" in said
    words = task.train._replace(inputs={"input_ids": torch.zeros(72, 5, dtype=torch.int64)})
    assert baseline.logistic(task._replace(train=words)) is None
    large = task.train._replace(inputs={"pixel_values": torch.zeros(2, 3, 64, 64)})
    assert baseline.logistic(task._replace(train=large)) is None


# ---------------------------------------------------------------- kept in one file


def shown(capsys, *arguments):
    assert cli.main(["table", *map(str, arguments)]) == 0
    return capsys.readouterr().out


def test_one_file_has_the_tables_of_all_runs(tmp_path, capsys):
    out, file = tmp_path / "out", tmp_path / "net.jsonl"
    plan = protocol.Plan(("dlora", "decaf", "local"), ("ring", "complete"), ("iid",), (0, 1))
    contrast = protocol.contrast_of("decaf - dlora on ring, iid")
    protocol.keep(out / "net", plan, contrast, 0)
    about = {"floors": {"majority": {"accuracy": 0.2}}, "verdicts": {"T17": {"outcome": "holds"}}}
    draw = np.random.default_rng(0)
    for seed in (0, 1):
        for method, graph in [
            *product(("dlora", "decaf"), ("ring", "complete")),
            ("local", "ring"),
        ]:
            first, last, mean = draw.uniform(0.3, 0.9, 3).tolist()
            where = {"method": method, "graph": graph, "seed": seed, "about": about}
            stored(out, [first, last], final={"averaged_score": mean}, **where)
    baseline = {"what": "logistic regression", "score": 0.4}
    (out / "net" / "baseline.json").write_bytes(to_json(sealed(baseline)))
    text = shown(capsys, out, "--keep", file)
    for part in ("Primary contrast", "averaged model", "Best round", "majority", "Baseline"):
        assert part in text
    assert shown(capsys, file) == text
    assert shown(capsys, file, "--keep", tmp_path / "again.jsonl") == text
    assert (tmp_path / "again.jsonl").read_bytes() == file.read_bytes()
    file.write_bytes(file.read_bytes().replace(b"decaf", b"dlora", 1))
    assert cli.main(["table", str(file)]) == 2
    assert "cannot be read" in capsys.readouterr().err


def test_one_file_is_of_one_experiment(tmp_path, capsys):
    for name in ("net", "web"):
        stored(tmp_path / "out", [0.5], name=name)
    assert cli.main(["table", str(tmp_path / "out"), "--keep", str(tmp_path / "file")]) == 2
    assert "--keep takes one experiment, got net, web" in capsys.readouterr().err
    assert not (tmp_path / "file").exists()
