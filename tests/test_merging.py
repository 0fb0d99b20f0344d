"""Real adapters merged at several ranks: what is kept, what is scored, and the page's intervals."""

import copy

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="the harness trains with torch")

from decaf_theory.stats import bonferroni, mean_interval, share_interval  # noqa: E402
from paper_checks import finetune, trials  # noqa: E402
from paper_checks.cli import main  # noqa: E402
from paper_checks.merging import command, page, play  # noqa: E402
from paper_checks.stacked import export  # noqa: E402
from tests import paper_runs  # noqa: E402

EPS = float(np.finfo(np.float64).eps)
SITES = {"fc1": (7, 5), "fc2": (4, 7)}


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Adapters of three agents of the net, each with its own factors and head."""
    run = finetune_run()
    paper_runs.randomize(run.stacked)
    place = tmp_path_factory.mktemp("adapters")
    for agent in range(3):
        export(run.stacked, agent, place / f"agent{agent}", base="net")
    return [str(place / f"agent{agent}") for agent in range(3)]


def finetune_run():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(finetune, "load_task", paper_runs.task)
        return paper_runs.prepare()


@pytest.fixture
def net(monkeypatch):
    monkeypatch.setattr(finetune, "load_task", paper_runs.task)
    monkeypatch.setattr(play, "RANKS", (1, 2, 4))
    monkeypatch.setattr(play, "config_of", lambda agents, data_dir: paper_runs.config())


def dense(run):
    """Return by site the agents' updates s B A [3, d, k] without the scale, in float64."""
    pairs = run.stacked.factors()
    return {name: (pairs[name].B.double() @ pairs[name].A.double()).numpy() for name in SITES}


def test_the_energy_kept_is_that_of_dense_matrices(net, folders):
    run = finetune.prepare(paper_runs.config(), device="cpu", adapters=folders)
    means = {name: X.mean(axis=0) for name, X in dense(run).items()}
    total = sum(np.sum(M**2) for M in means.values())
    found = {row["model"]: row["kept"] for row in play.merged(run)}
    assert list(found) == [
        "head alone",
        "plain average",
        "rank 1",
        "rank 2",
        "rank 4",
        "exact mean",
    ]
    values = [np.linalg.svd(M, compute_uv=False) for M in means.values()]
    slip = 100 * EPS  # sums of some ten squares, of numbers of one size
    for r in (1, 2, 4):
        share = sum(np.sum(S[:r] ** 2) for S in values) / total
        assert found[f"rank {r}"] == pytest.approx(share, abs=slip)
    assert (found["head alone"], found["exact mean"]) == pytest.approx((0.0, 1.0), abs=slip)
    lost = 0.0
    for name, M in means.items():
        B, A = (X.detach().double().mean(0).numpy() for X in run.stacked.factors()[name])
        lost += np.sum((B @ A - M) ** 2)
    assert found["plain average"] == pytest.approx(1 - lost / total, abs=slip * (1 + lost / total))


def test_a_merged_model_is_the_frozen_one_with_the_mean_update_and_head(net, folders):
    run = finetune.prepare(paper_runs.config(), device="cpu", adapters=folders)
    plain = copy.deepcopy(paper_runs.task().model)
    with torch.no_grad():
        for name, updates in dense(run).items():
            scale = run.stacked.sites[name].scale
            mean = torch.from_numpy(updates.mean(axis=0)).float()
            getattr(plain, name).weight += scale * mean
        head = run.stacked.heads["classifier"]
        plain.classifier.weight.copy_(head.weight.mean(0))
        plain.classifier.bias.copy_(head.bias.mean(0))
        labels, x = run.task.test.labels, run.task.test.inputs["x"]
        right = (plain(x).argmax(-1) == labels).int().tolist()
        log_p = plain(x).double().log_softmax(-1)
    rows = {row["model"]: row for row in play.play(folders, None)}
    assert rows["exact mean"]["right"] == "".join(map(str, right))
    nll = float(-log_p[torch.arange(len(labels)), labels].mean())
    # scores of some tens, of sums of ten terms in float32, move the loss by as much at most
    room = 100 * float(np.finfo(np.float32).eps) * (1 + float(plain(x).abs().max()))
    assert rows["exact mean"]["nll"] == pytest.approx(nll, abs=room)
    others = [row["nll"] for name, row in rows.items() if name != "exact mean"]
    assert all(abs(other - nll) > room for other in others)


def test_members_have_their_own_heads_and_rows_name_the_files(net, folders):
    rows = play.play(folders, None)
    assert [row["model"] for row in rows[:3]] == ["member 0", "member 1", "member 2"]
    assert len({row["nll"] for row in rows[:3]}) == 3
    assert {(row["adapters"], row["model_sum"], row["examples"]) for row in rows} == {
        tuple(rows[0][name] for name in ("adapters", "model_sum", "examples"))
    }
    assert play.play(folders[::-1], None)[0]["nll"] == rows[2]["nll"]


# ---------------------------------------------------------------- the page


def made_up():
    answers = {"member 0": "1100", "plain average": "1010", "rank 4": "1111"}
    about = {"adapters": "a", "model_sum": "b", "examples": "c"}
    return [{**about, "model": name, "nll": 0.5, "right": x} for name, x in answers.items()]


def test_differences_are_paired_by_sentence_and_hold_together():
    member, base, rank = page.lines(made_up())
    assert base.difference is None
    assert member.difference == mean_interval([0, 1, -1, 0], bonferroni(0.95, 2))
    assert rank.difference == mean_interval([0, 1, 0, 1], bonferroni(0.95, 2))
    assert rank.accuracy == share_interval(4, 4)


def test_the_page_is_that_of_the_stored_rows():
    text = page.PAGE.read_text()
    assert page.filled(text, command.STUDY.read()) == text


def test_the_command_stores_rows_once_and_refuses_what_it_cannot_merge(
    net, folders, tmp_path, capsys
):
    given = ["merging", "--adapters", *folders, "--out", str(tmp_path / "out")]
    assert main(given) == 0
    about, *rows = trials.read(tmp_path / "out.jsonl", "")
    assert about["sets of adapters"] == 1
    assert [row["model"] for row in rows] == [row["model"] for row in play.play(folders, None)]
    capsys.readouterr()
    assert main(given) == 0
    assert "[" not in capsys.readouterr().err  # nothing is scored again
    assert main(["merging", "--adapters", folders[0]]) == 2
    assert "--adapters needs two folders or more" in capsys.readouterr().err
