"""The table: means, paired differences, and no winner where the interval straddles zero."""

import hashlib
import json

import numpy as np
import pytest

from decaf_theory.files import to_json
from decaf_theory.methods import METHODS
from decaf_theory.stats import bonferroni, mean_interval, paired_interval
from decaf_theory.sums import sealed
from paper_checks import cli, record, table
from paper_checks import config as configs
from tests import paper_runs
from verification import harness, store
from verification.store import StoreError

SEEDS = range(4)


def stored(out, scores, *, method="decaf", graph="ring", partition="iid", seed=0, step=6, **more):
    """Write a run whose recorded scores are given, as the harness does."""
    config = paper_runs.config(
        mix__method=method, mix__graph=graph, data__partition=partition, train__seed=seed, **more
    )
    folder = out / config.name / config.cell
    rows = [{"claim": record.TRAINING, "step": i, "score": x} for i, x in enumerate(scores)]
    data = store.encode_rows(record.TRAINING, [*rows, {"step": step}])
    store.write_atomically(folder / record.ROWS, data)
    settings = config.settings() | {"code": harness.code()}
    about = {"settings": settings, "step": step, "metric": "accuracy"}
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
    comparisons = 2 * 2 * 2  # two methods beside dlora, two graphs, last and best
    assert f"all {comparisons} intervals" in text
    level = bonferroni(0.95, comparisons)
    interval = paired_interval(
        *([100 * x for x in found[method, "ring"]] for method in ("decaf", "dlora")), level
    )
    shown = f"{interval.estimate:+.1f} [{interval.low:+.1f}, {interval.high:+.1f}] better"
    assert cells(text, "Difference from dlora, last round", "decaf")[1] == shown


@pytest.mark.parametrize(("gain", "expected"), [(0.2, "better"), (-0.2, "worse"), (0.0, "")])
def test_only_a_clear_difference_gets_a_word(tmp_path, gain, expected):
    study(tmp_path, gain)
    for cell in cells(table.text([tmp_path]), "Difference from dlora, last round", "decaf"):
        assert cell.split("]")[1].strip() == expected


def test_equal_differences_of_a_few_seeds_are_no_evidence(tmp_path):
    study(tmp_path, 0.1, noise=0.0)
    for cell in cells(table.text([tmp_path]), "Difference from dlora, last round", "decaf"):
        assert "better" not in cell


def test_pairs_are_made_of_common_seeds(tmp_path):
    for seed, (left, right) in enumerate([(0.5, 0.4), (0.6, 0.4), (0.7, None)]):
        stored(tmp_path, [left], method="decaf", seed=seed)
        if right:
            stored(tmp_path, [right], method="dlora", seed=seed)
    (cell,) = cells(table.text([tmp_path]), "Difference from dlora, last round", "decaf")
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


def test_reported_numbers_stand_beside_ours_with_their_source(tmp_path, monkeypatch):
    path = tmp_path / "reported.csv"
    head = "config,method,partition,graph,metric,value,source\n"
    path.write_text(head + "net,decaf,iid,ring,accuracy,61.5,Table 9\n")
    monkeypatch.setattr(table.reported, "__defaults__", (path,))
    stored(tmp_path, [0.5])
    assert cells(table.text([tmp_path]), "Last round", "decaf") == [
        "50.0 (1 seed); reported 61.5 [Table 9]"
    ]
    path.write_text(head + "net,decaf,iid,ring,accuracy,61.5,\n")
    with pytest.raises(StoreError, match="line 2: source"):
        table.text([tmp_path])
    path.write_text(head + "net,decaf,iid,ring,accuracy,many,Table 9\n")
    with pytest.raises(StoreError, match="line 2: "):
        table.text([tmp_path])


def test_no_number_is_reported_that_was_not_read():
    assert table.REPORTED.read_text() == "config,method,partition,graph,metric,value,source\n"


@pytest.mark.parametrize(("score", "words"), [(0.5, "beats it"), (0.61, "says nothing")])
def test_a_task_that_the_baseline_solves_says_nothing(tmp_path, score, words):
    for seed in SEEDS:
        stored(tmp_path, [0.6 + 0.01 * seed], method="centralized", seed=seed)
    baseline = {"what": "logistic regression on raw inputs", "score": score}
    (tmp_path / "net" / "baseline.json").write_bytes(to_json(sealed(baseline)))
    text = table.text([tmp_path])
    assert f"logistic regression on raw inputs: {100 * score:.1f}." in text
    assert words in text


def test_the_columns_are_of_one_width(tmp_path):
    study(tmp_path, 0.1)
    for line in table.text([tmp_path]).split("\n\n"):
        rows = [x for x in line.splitlines() if x.startswith("|")]
        assert len({len(x) for x in rows}) <= 1


def test_every_method_that_trains_adapters_can_be_run_and_six_are_swept():
    assert METHODS.keys() - {*configs.ADAPTER_METHODS} == {"dsgd"}
    assert {*configs.SWEPT} < {*configs.ADAPTER_METHODS}
    swept = cli.parser().parse_args(["sweep", "vit-digits"]).methods
    assert swept == ["local", "centralized", "fedavg", "dlora", "dlora_fa", "decaf"]


def test_the_baseline_is_logistic_regression_kept_once(tmp_path, monkeypatch, capsys):
    torch = pytest.importorskip("torch", reason="tasks hold tensors")
    linear_model = pytest.importorskip("sklearn.linear_model", reason="the baseline is its")
    from paper_checks import baseline, tasks

    task = paper_runs.task()
    x, y = task.train.inputs["x"].numpy(), task.train.labels.numpy()
    tested = task.test.inputs["x"].numpy(), task.test.labels.numpy()
    fits = [
        linear_model.LogisticRegression(C=C).fit(x, y).score(*tested) for C in (0.01, 0.1, 1, 10)
    ]
    monkeypatch.setattr(tasks, "load_task", lambda config: task)
    baseline.keep(paper_runs.config(), tmp_path)
    kept = json.loads((tmp_path / "baseline.json").read_text())
    assert (kept["what"], kept["score"]) == ("logistic regression on raw inputs", max(fits))
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
