"""A run that is followed, extended, or ended by its patience."""

import json
import os
import signal
from types import SimpleNamespace

import pytest

torch = pytest.importorskip("torch")

from decaf_theory.files import UnwritableError  # noqa: E402
from paper_checks import checkpoint, cli, closing, finetune, follow, observe, record, stamp  # noqa: E402  # noqa: E402
from paper_checks.rounds import Rounds  # noqa: E402
from tests import paper_runs  # noqa: E402
from tests.paper_runs import snapshot  # noqa: E402


@pytest.fixture(autouse=True)
def net(monkeypatch):
    monkeypatch.setattr(finetune, "load_task", paper_runs.task)


def require_equal(left, right, left_folder, right_folder):
    assert left.step == right.step
    mine, other = snapshot(left), snapshot(right)
    assert all(torch.equal(X, other[name]) for name, X in mine.items())
    for file in (record.ROWS, follow.ROUNDS):
        assert (left_folder / file).read_bytes() == (right_folder / file).read_bytes()


# ---------------------------------------------------------------- followed


def test_every_round_is_a_line_as_soon_as_it_ends(tmp_path):
    seen = []

    def look(step, found):
        seen.append([line["step"] for line in follow.read(tmp_path)])
        assert len((tmp_path / follow.ROUNDS).read_bytes().splitlines()) == len(seen[-1])

    run = finetune.finetune(paper_runs.config(train__steps=5), tmp_path, show=look)
    assert seen == [[], [2], [2], [2, 4], [2, 4, 5]]
    assert follow.read(tmp_path) == run.records
    line = json.loads((tmp_path / follow.ROUNDS).read_text().splitlines()[0])
    assert line.keys() - run.records[0].keys() == {"sum"}


def test_rounds_before_a_damaged_line_are_read(tmp_path):
    assert follow.read(tmp_path) == []
    finetune.finetune(paper_runs.config(), tmp_path)
    path, rounds = tmp_path / follow.ROUNDS, follow.read(tmp_path)
    data = path.read_bytes()
    ends = [at + 1 for at, byte in enumerate(data) if byte == ord("\n")]
    for cut in range(0, len(data), 7):
        path.write_bytes(data[:cut])
        assert follow.read(tmp_path) == rounds[: sum(end - 1 <= cut for end in ends)]
    for at in range(0, len(data), 41):
        path.write_bytes(data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :])
        # or all: of 17 digits the last may change without changing the number
        assert follow.read(tmp_path) in (rounds[: sum(end <= at for end in ends)], rounds)


def test_a_run_that_was_killed_goes_on_with_its_lines(tmp_path):
    config = paper_runs.config(train__steps=8, observe__checkpoint_every=6)
    whole = finetune.finetune(config, tmp_path / "whole")
    child = os.fork()
    if child == 0:  # killed in step 6, before the first checkpoint, with a line half written

        def die(step, found):
            if step == 5:
                with (tmp_path / "cut" / follow.ROUNDS).open("ab") as file:
                    file.write(b'{"step": 6, "rou')
                os.kill(os.getpid(), signal.SIGKILL)

        finetune.finetune(config, tmp_path / "cut", show=die)
        os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL
    assert follow.read(tmp_path / "cut") == whole.records[:2]
    rest = finetune.finetune(config, tmp_path / "cut")
    require_equal(whole, rest, tmp_path / "whole", tmp_path / "cut")


def test_a_line_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / follow.ROUNDS).mkdir()
    with pytest.raises(UnwritableError, match=r"cannot write .*rounds\.jsonl"):
        follow.append(tmp_path, {"step": 1})


# ---------------------------------------------------------------- extended


@pytest.mark.parametrize(
    ("steps", "settings"),
    [
        ((4, 8), {}),
        ((5, 8), {"observe__every": 3, "observe__eval_every": 3}),
        ((6, 7, 9), {"observe__every": 2, "observe__eval_every": 2, "mix__after": 3}),
        ((4, 7), {"train__order": "mix_first", "mix__method": "dlora", "observe__every": 3}),
        ((5, 8), {"train__order": "mix_first", "mix__method": "dlora", "observe__every": 99}),
        ((5, 8), {"train__order": "combine", "mix__method": "dlora", "observe__every": 2}),
        ((5, 9), {"mix__method": "gradient_tracking", "observe__every": 4}),
        (
            (5, 8),
            {"train__schedule": "cosine", "train__period": "round", "train__autocast": "float16"},
        ),
    ],
    ids=str,
)
def test_an_extended_run_is_the_longer_run_bit_for_bit(steps, settings, tmp_path):
    settings |= {"train__optimizer": "adamw", "mix__moments": "keep", "lora__dropout": 0.2}
    for some in steps:
        config = paper_runs.config(train__steps=some, **settings)
        run = finetune.finetune(config, tmp_path / "extended")
        assert record.read(tmp_path / "extended").finished
    whole = finetune.finetune(config, tmp_path / "whole")
    require_equal(whole, run, tmp_path / "whole", tmp_path / "extended")
    assert whole.sent == run.sent


def test_a_run_that_did_not_end_is_extended_alike(tmp_path):
    settings = {"train__order": "mix_first", "mix__method": "dlora", "observe__every": 99}
    stops = iter([False] * 5 + [True])  # after the last mix, which was looked at, before the end
    finetune.finetune(
        paper_runs.config(train__steps=6, **settings), tmp_path / "cut", stop=lambda: next(stops)
    )
    config = paper_runs.config(train__steps=9, **settings)
    run = finetune.finetune(config, tmp_path / "cut")
    whole = finetune.finetune(config, tmp_path / "whole")
    require_equal(whole, run, tmp_path / "whole", tmp_path / "cut")


def test_a_cosine_over_the_run_cannot_be_extended(tmp_path):
    settings = {"train__schedule": "cosine", "train__lr_min": 0.001}
    finetune.finetune(paper_runs.config(**settings), tmp_path)
    longer = paper_runs.config(**settings, train__steps=8)
    with pytest.raises(stamp.OtherStampError, match="= 6 to 8: its step sizes fall as a cosine"):
        finetune.finetune(longer, tmp_path)
    run = finetune.finetune(longer, tmp_path, restart=True)
    assert run.step == 8


def test_fewer_steps_or_other_settings_are_another_run(tmp_path):
    finetune.finetune(paper_runs.config(), tmp_path)
    with pytest.raises(stamp.OtherStampError, match=r"train\.steps: 6 -> 4"):
        finetune.finetune(paper_runs.config(train__steps=4), tmp_path)
    with pytest.raises(stamp.OtherStampError, match=r"train\.lr: 0\.05 -> 0\.1; train\.steps: 6"):
        finetune.finetune(paper_runs.config(train__steps=8, train__lr=0.1), tmp_path)


def test_the_command_line_extends_a_finished_run(tmp_path, capsys):
    toml = tmp_path / "net.toml"
    toml.write_text(
        'name = "net"\ntask.name = "net"\nmodel.from = "random"\nlora.rank = 2\nlora.eta = 4\n'
        "data.batch = 4\ntrain.steps = 4\ntrain.lr = 0.05\nmix.agents = 4\nmix.every = 2\n"
    )
    command = ["run", str(toml), "--out", str(tmp_path / "out")]
    assert cli.main(command) == 0
    assert cli.main([*command, "--steps", "6"]) == 0
    assert "step 6/6" in capsys.readouterr().err
    stored = record.read(tmp_path / "out" / "net" / "decaf-ring-iid-seed0")
    assert stored.finished
    assert [r["step"] for r in stored.records] == [2, 4, 6]
    assert cli.main([*command, "--steps", "6", "--export", str(tmp_path / "peft"), "--best"]) == 2
    assert "--best needs a round that is best on validation" in capsys.readouterr().err


# ---------------------------------------------------------------- ended by its patience

SCORES = {2: 0.5, 4: 0.7, 6: 0.6, 8: 0.7, 10: 0.9, 12: 0.1}


@pytest.fixture
def validated(monkeypatch):
    """A validation score that depends on the step alone."""
    monkeypatch.setattr(finetune, "require_validation", lambda config, task: None)
    evaluate, at = observe.evaluate, []
    advance = finetune.advance

    def known(run):
        at[:] = [run.step + 1]
        advance(run)

    def scored(*args, **kept):
        return evaluate(*args, **kept) | {"validation_score": SCORES[at[0]]}

    monkeypatch.setattr(finetune, "advance", known)
    monkeypatch.setattr(observe, "evaluate", scored)


def test_a_run_ends_after_scores_that_are_no_better(validated, tmp_path):
    config = paper_runs.config(train__steps=12, observe__patience=2)
    run = finetune.finetune(config, tmp_path)
    assert (run.step, run.early, run.finished, run.waited) == (8, True, True, 2)
    assert run.best == {"score": 0.7, "step": 4}  # 0.7 again is not better
    stored = record.read(tmp_path)
    assert stored.finished
    assert stored.run["stopped_early"] is True
    assert stored.run["best"] == run.best
    again = finetune.finetune(config, tmp_path)  # nothing is left to do
    assert (again.step, again.records) == (8, run.records)


@pytest.mark.parametrize("order", ["step_first", "mix_first"])
def test_the_best_round_is_kept_as_it_was_scored(order, validated, tmp_path):
    settings = {"train__order": order, "mix__method": "dlora"}
    config = paper_runs.config(train__steps=12, observe__patience=2, **settings)
    run = finetune.finetune(config, tmp_path)
    (path,) = (tmp_path / checkpoint.BEST).iterdir()
    assert path.name == "step-000000004.ckpt"
    fresh = finetune.prepare(config, device="cpu")
    checkpoint.resume(fresh, tmp_path, best=True)
    assert fresh.step == 4
    short = finetune.finetune(paper_runs.config(train__steps=4, **settings), tmp_path / "short")
    at_best = snapshot(fresh)
    assert all(torch.equal(X, at_best[name]) for name, X in snapshot(short).items())
    assert any(not torch.equal(X, at_best[name]) for name, X in snapshot(run).items())
    record.remove(tmp_path)
    assert not list((tmp_path / "checkpoint").rglob("*.ckpt"))


@pytest.mark.parametrize("cut", [3, 5, 7])
def test_patience_survives_the_process(cut, validated, tmp_path):
    config = paper_runs.config(train__steps=12, observe__patience=2)
    whole = finetune.finetune(config, tmp_path / "whole")
    stops = iter([False] * cut + [True])
    finetune.finetune(config, tmp_path / "cut", stop=lambda: next(stops))
    rest = finetune.finetune(config, tmp_path / "cut")
    require_equal(whole, rest, tmp_path / "whole", tmp_path / "cut")
    assert (whole.best, whole.waited) == (rest.best, rest.waited)


def test_a_score_that_is_there_only_at_the_end_does_not_count(validated, tmp_path):
    settings = {"observe__patience": 3, "observe__eval_every": 2}
    short = finetune.finetune(paper_runs.config(train__steps=10, **settings), tmp_path / "longer")
    assert short.best == {"score": 0.7, "step": 4}  # 0.9 at step 10 is none of a longer run
    config = paper_runs.config(train__steps=12, **settings)
    run = finetune.finetune(config, tmp_path / "longer")
    whole = finetune.finetune(config, tmp_path / "whole")
    require_equal(whole, run, tmp_path / "whole", tmp_path / "longer")
    assert (whole.best, whole.waited) == (run.best, run.waited) == (short.best, 2)


def test_patience_without_validation_examples_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"observe\.patience = 2 .*task net has none"):
        finetune.finetune(paper_runs.config(observe__patience=2), tmp_path)


@pytest.mark.parametrize(("order", "last"), [("step_first", 2), ("combine", 2), ("mix_first", 1)])
def test_a_run_that_mixes_first_has_its_last_mix_before_its_last_round(order, last):
    train = SimpleNamespace(steps=4, order=order)
    run = SimpleNamespace(config=SimpleNamespace(train=train), rounds=Rounds(2, 2))
    assert closing.last_mixed(run) == last
