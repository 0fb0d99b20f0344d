"""PRISM's split: planted kinds, per-sample gradients in one pass, and what the rows say."""

import json
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from decaf_theory.concentration import STATISTICS, gini
from paper_checks import trials
from paper_checks.cli import main
from paper_checks.prism import command, judge, page, planted
from paper_checks.prism.planted import CASES, draw, recovery
from verification.store import StoreError

EPS = float(np.finfo(np.float64).eps)

# ---------------------------------------------------------------- planted kinds


@pytest.mark.parametrize(("name", "m"), [("few", 2), ("half", 6)])
def test_without_noise_the_planted_kinds_have_the_gini_coefficients_of_the_page(name, m):
    gradients, kind = draw(CASES[name], 0.0, 3)
    norms = np.linalg.norm(gradients, axis=(-2, -1))
    found = gini(norms)
    wanted = m * (12 - m) * 2 / (12 * (2 * m + 12))  # a = 3 b
    # norms of unit directions, over their largest, are within the rounding of sums over 8 * 6
    assert found[kind] == pytest.approx(wanted, abs=200 * EPS)
    assert found[~kind] == pytest.approx(0, abs=200 * EPS)
    assert kind.sum() == CASES[name].share * len(kind)
    energy = (norms**2).sum(axis=1)
    sizes = energy / 12  # of both kinds the same law: nothing but the factor of a sample
    assert ((sizes > 4.0**-2.01) & (sizes < 4.0**2.01)).all()


def test_size_and_sign_are_as_good_as_nothing_to_every_split():
    nothing, size, sign = (recovery(CASES[name], 1.0, 5) for name in ("none", "scale", "sign"))
    assert nothing == size == sign
    one, other = (draw(CASES[name], 1.0, 5) for name in ("none", "sign"))
    assert np.array_equal(other.gradients[other.planted], -one.gradients[one.planted])


def test_concentration_is_found_by_gini_and_cv_and_half_of_the_sites_reverse_kurtosis():
    few, half, quarter = (recovery(CASES[name], 0.3, 6) for name in ("few", "half", "quarter"))
    for found in (few, half):
        assert min(found["gini"], found["cv"]) > 0.99
        assert abs(found["random"] - 0.5) < 0.2
    assert few["kurtosis"] > 0.8
    assert half["kurtosis"] < 0.05
    assert quarter["gini"] == 0.75 == 1 - abs(CASES["quarter"].share - 0.5)


# ---------------------------------------------------------------- gradients


@pytest.fixture(scope="module")
def batch():
    """A small BERT in float64, its sites, and eight sentences of different lengths."""
    torch = pytest.importorskip("torch", reason="gradients need torch")
    pytest.importorskip("transformers", reason="the model is of transformers")
    from paper_checks import config as configs
    from paper_checks.prism.gradients import projections
    from paper_checks.tasks import load_task

    task = load_task(configs.read("tiny-bert"))
    task.model.double()
    return task, projections(task.model), task.train.take(torch.arange(8))


def losses_of(task, batch):
    import torch

    scores = task.scores(task.model, batch.inputs, 1)
    return torch.nn.functional.cross_entropy(scores, batch.labels, reduction="none")


def test_the_sites_are_the_projections_of_all_layers(batch):
    task, sites, _ = batch
    layers = task.model.config.num_hidden_layers
    assert len(sites) == 6 * layers
    assert not [name for name in sites if "pooler" in name or "classifier" in name]


def test_one_pass_gives_the_norms_of_one_backward_pass_per_sample(batch):
    import torch

    from paper_checks.prism.gradients import norms_of_samples, outputs

    task, sites, some = batch
    with outputs(sites) as (x, y):
        total = losses_of(task, some).sum()
    gradients = torch.autograd.grad(total, [y[name] for name in sites])
    found = norms_of_samples(sites, lambda: losses_of(task, some))
    assert found.shape == (8, len(sites))
    weights = [layer.weight for layer in sites.values()]
    for weight in weights:
        weight.requires_grad_(True)
    for s in range(8):
        alone = task.train.take(torch.tensor([s]))
        own = torch.autograd.grad(losses_of(task, alone).sum(), weights)
        for site, (name, G) in enumerate(zip(sites, gradients, strict=True)):
            exact = float(own[site].norm())
            parts = float(G[s].norm() * x[name][s].norm())
            # |G|^2 |X|^2 is what cancels in the square; G and X come from some ten layers of sums
            # over at most 64 terms
            lost = 10 * 64 * EPS * parts**2 / exact
            assert float(found[s, site]) == pytest.approx(exact, abs=lost)
            assert exact > 1e3 * lost
    for weight in weights:
        weight.requires_grad_(False)


def test_of_two_classes_no_statistic_sees_the_label(batch):
    from paper_checks.prism.gradients import norms_of_samples

    task, sites, some = batch
    other = some._replace(labels=1 - some.labels)
    own, flipped = (norms_of_samples(sites, lambda b=b: losses_of(task, b)) for b in (some, other))
    assert float((own / flipped - 1).abs().min()) > 1e-3  # the gradients themselves differ
    for of in STATISTICS.values():
        # statistics of the same numbers, each known to some thousand eps as above
        assert of(own.numpy()) == pytest.approx(of(flipped.numpy()), rel=1e5 * EPS)


# ---------------------------------------------------------------- rows and page


def test_rank_correlation_and_agreement_are_those_of_their_definitions(monkeypatch):
    draw = np.random.default_rng(0)
    x = draw.integers(5, size=30).astype(float)  # with ties
    y = x + draw.normal(0, 2, 30)
    assert judge.correlation(x, y) == pytest.approx(stats.spearmanr(x, y).statistic, rel=1e3 * EPS)
    above = [(a > np.median(x)) == (b > np.median(y)) for a, b in zip(x, y, strict=True)]
    assert judge.agreement(x, y) == np.mean(above)
    monkeypatch.setattr(judge, "RESAMPLES", 200)
    found = judge.bootstrapped(x, y, judge.agreement)
    assert found.low < found.estimate < found.high
    rows = np.stack([x, y]), np.stack([y, x])
    assert judge.correlation(*rows).tolist() == [judge.correlation(x, y)] * 2


def sentences(head, shift):
    draw = np.random.default_rng(1)
    gini = draw.random(40)
    others = {name: (gini + shift * draw.random(40)).tolist() for name in ("cv", "kurtosis")}
    rest = {"loss": draw.random(40).tolist(), "length": draw.integers(3, 30, 40).tolist()}
    about = {"part": "sentences", "head": head, "flipped": 1e-15}
    return {**about, "gini": gini.tolist(), **others, **rest}


def test_of_sentences_only_what_they_say_is_kept(monkeypatch):
    monkeypatch.setattr(judge, "RESAMPLES", 20)
    rows = list(judge.judged([sentences("a", 0.0), sentences("b", 1.0)]))
    parts = [row["part"] for row in rows]
    assert parts == ["distribution"] * 6 + ["pair"] * 18 + ["heads"]
    pair = {(row["head"], row["first"], row["second"]): row for row in rows[6:24]}
    assert pair["a", "gini", "cv"]["correlation"] == [1.0, 1.0, 1.0]
    assert pair["a", "gini", "cv"]["agreement"] == [1.0, 1.0, 1.0]
    assert pair["b", "gini", "cv"]["correlation"][0] < 0.95
    assert "agreement" not in pair["a", "gini", "loss"]
    assert rows[-1]["gini"] == [1.0, 1.0, 1.0] != rows[-1]["cv"]


def test_the_command_stores_each_part_and_resumes(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(command, "NOISES", (0.3,))
    monkeypatch.setattr(command, "CASES", {"few": CASES["few"], "none": CASES["none"]})
    monkeypatch.setattr(command, "SEEDS", range(2))
    monkeypatch.setattr(planted, "SAMPLES", 20)
    args = ["prism", "--parts", "planted", "--out", str(tmp_path / "out")]
    assert main(args) == 0
    assert "[2/2] planted-none-0.3" in capsys.readouterr().err
    assert main(args) == 0
    assert capsys.readouterr().err == ""
    about, few, none = trials.read(tmp_path / "out.jsonl", "")
    assert set(about) >= {"code", "core_minutes"}
    assert few["gini"] == [recovery(CASES["few"], 0.3, seed)["gini"] for seed in range(2)]
    assert none["case"] == "none"
    assert json.loads((tmp_path / "out" / "run.json").read_text())["files"]


@pytest.mark.parametrize("error", [ValueError, OSError, StoreError])
def test_a_part_whose_data_is_at_fault_costs_the_others_nothing(
    tmp_path, monkeypatch, capsys, error
):
    def missing(task):
        raise error("data file a is missing")

    monkeypatch.setattr(command, "NOISES", (0.3,))
    monkeypatch.setattr(command, "CASES", {"few": CASES["few"], "none": CASES["none"]})
    monkeypatch.setattr(command, "SEEDS", range(2))
    monkeypatch.setattr(planted, "SAMPLES", 20)
    row = command.Planted.row
    monkeypatch.setattr(
        command.Planted, "row", lambda task: (missing if task.case == "few" else row)(task)
    )
    assert main(["prism", "--parts", "planted", "--out", str(tmp_path / "out")]) == 1
    first, second = capsys.readouterr().err.splitlines()
    assert first == "[0/2] planted-few-0.3: failed: data file a is missing"
    assert second.startswith("[1/2] planted-none-0.3: planted; ")
    assert [one["case"] for one in trials.read(tmp_path / "out.jsonl", "")[1:]] == ["none"]


def test_a_number_of_processes_below_one_is_refused(tmp_path, capsys):
    assert main(["prism", "--jobs", "0", "--out", str(tmp_path)]) == 2
    assert "--jobs must be >= 1, got 0" in capsys.readouterr().err


def test_the_page_is_that_of_the_stored_rows():
    text = Path(page.PAGE).read_text()
    assert page.filled(text, command.STUDY.read()) == text
