"""Checkpoints: kills, signals, damage, other settings; what is resumed is equal bit for bit."""

import os
import signal

import pytest

torch = pytest.importorskip("torch", reason="the harness trains with torch")

from paper_checks import checkpoint, finetune, record, stamp  # noqa: E402
from paper_checks.checkpoint import Checkpoint  # noqa: E402
from tests import paper_runs  # noqa: E402
from verification import store  # noqa: E402


@pytest.fixture(autouse=True)
def net(monkeypatch):
    monkeypatch.setattr(finetune, "load_task", paper_runs.task)


def final(folder, config):
    stamped = stamp.of(config) | stamp.of_loaded(paper_runs.task())
    found, damaged = checkpoint.read(folder / "checkpoint", stamped)
    return (folder / record.ROWS).read_bytes(), found, damaged


def require_equal(folder, other, config):
    (rows, found, _), (other_rows, others, _) = (final(f, config) for f in (folder, other))
    assert rows == other_rows
    assert found.step == others.step == config.train.steps
    assert found.tensors.keys() == others.tensors.keys()
    assert all(torch.equal(X, others.tensors[name]) for name, X in found.tensors.items())


# ---------------------------------------------------------------- signals


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_the_run_after_its_step(tmp_path, number):
    config = paper_runs.config()
    finetune.finetune(config, tmp_path / "whole")

    def interrupt(step, found):
        if step == 3:
            os.kill(os.getpid(), number)

    run = finetune.finetune(config, tmp_path / "cut", show=interrupt)
    assert (run.step, run.stopped_by) == (3, number)
    stored = record.read(tmp_path / "cut")
    assert not stored.finished
    assert [found["step"] for found in stored.records] == [2]
    assert signal.getsignal(number) is not None
    run = finetune.finetune(config, tmp_path / "cut")
    assert run.step == 6
    require_equal(tmp_path / "whole", tmp_path / "cut", config)


def test_a_second_interrupt_does_not_wait(tmp_path):
    def twice(step, found):
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)

    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        finetune.finetune(paper_runs.config(), tmp_path, show=twice)
    assert signal.getsignal(signal.SIGINT) is before


def test_a_run_that_is_told_to_stop_can_go_on(tmp_path):
    config = paper_runs.config(train__optimizer="adamw", lora__dropout=0.2, mix__moments="keep")
    finetune.finetune(config, tmp_path / "whole")
    for _ in range(6):
        answers = iter([False])
        finetune.finetune(config, tmp_path / "cut", stop=lambda found=answers: next(found, True))
    require_equal(tmp_path / "whole", tmp_path / "cut", config)


def test_a_finished_run_takes_no_step_more(tmp_path):
    config, steps = paper_runs.config(), []
    finetune.finetune(config, tmp_path)
    rows = (tmp_path / record.ROWS).read_bytes()
    (tmp_path / record.ROWS).unlink()
    finetune.finetune(config, tmp_path, show=lambda *a: steps.append(a))
    assert not steps
    assert (tmp_path / record.ROWS).read_bytes() == rows


# ---------------------------------------------------------------- damage


def some(step=7):
    return Checkpoint(
        step, {"a/b": torch.arange(6.0).reshape(2, 3)}, {"losses": [0.1, float("inf")]}
    )


def test_what_is_written_is_read_back(tmp_path):
    checkpoint.write(tmp_path, some(), {"train.lr": 0.1})
    found, damaged = checkpoint.read(tmp_path, {"train.lr": 0.1})
    assert (found.step, found.meta, damaged) == (7, some().meta, [])
    assert torch.equal(found.tensors["a/b"], some().tensors["a/b"])
    assert checkpoint.read(tmp_path / "nowhere", {}) == (None, [])


def damages(data):
    """Cuts at every kind of place, and flips of one bit all over the file."""
    for length in (0, 5, len(checkpoint.MAGIC), len(checkpoint.MAGIC) + 20, len(data) // 2):
        yield data[:length]
    yield data[:-1]
    for place in range(0, len(data), max(1, len(data) // 40)):
        yield data[:place] + bytes([data[place] ^ 4]) + data[place + 1 :]


def test_a_damaged_checkpoint_is_passed_over_for_the_one_before(tmp_path):
    checkpoint.write(tmp_path, some(5), {})
    path = checkpoint.write(tmp_path, some(7), {})
    data = path.read_bytes()
    for bad in damages(data):
        path.write_bytes(bad)
        found, damaged = checkpoint.read(tmp_path, {})
        assert found.step == 5
        assert len(damaged) == 1
        assert "step-000000007.ckpt is damaged" in damaged[0]
    path.write_bytes(data)
    assert checkpoint.read(tmp_path, {})[0].step == 7


def test_damaged_checkpoints_of_later_steps_do_not_crowd_out_new_ones(tmp_path):
    for step in (299, 300):
        path = checkpoint.write(tmp_path, some(step), {})
        path.write_bytes(path.read_bytes()[:-3])
    assert checkpoint.read(tmp_path, {})[0] is None
    for step in (10, 20):
        checkpoint.write(tmp_path, some(step), {})
    assert checkpoint.read(tmp_path, {})[0].step == 20


def test_a_run_goes_on_from_the_checkpoint_before_a_damaged_one(tmp_path, capsys):
    config = paper_runs.config(train__optimizer="adamw")
    finetune.finetune(config, tmp_path / "whole")
    finetune.finetune(config, tmp_path / "cut")
    latest = max((tmp_path / "cut" / "checkpoint").glob("*.ckpt"))
    latest.write_bytes(latest.read_bytes()[:-3])
    steps = []
    finetune.finetune(config, tmp_path / "cut", show=lambda step, _: steps.append(step))
    assert steps == [5, 6]
    assert "is damaged" in capsys.readouterr().err
    require_equal(tmp_path / "whole", tmp_path / "cut", config)


def test_two_checkpoints_are_kept_and_nothing_half_written(tmp_path):
    (tmp_path / ".step-000000001.ckpt.x1y2").write_bytes(b"torn")
    for step in (1, 2, 3):
        checkpoint.write(tmp_path, some(step), {})
    assert sorted(p.name for p in tmp_path.iterdir()) == [
        "step-000000002.ckpt",
        "step-000000003.ckpt",
    ]


def test_a_checkpoint_of_other_settings_is_refused_by_name(tmp_path):
    finetune.finetune(paper_runs.config(), tmp_path)
    other = paper_runs.config(train__lr=0.1, mix__zero_directions="drop")
    with pytest.raises(stamp.OtherStampError) as info:
        finetune.finetune(other, tmp_path)
    assert "mix.zero_directions: keep -> drop; train.lr: 0.05 -> 0.1" in str(info.value)
    assert "--out" in str(info.value)


def test_how_often_checkpoints_are_written_changes_no_number(tmp_path):
    for every in (1, 5):
        finetune.finetune(paper_runs.config(observe__checkpoint_every=every), tmp_path / str(every))
    require_equal(tmp_path / "1", tmp_path / "5", paper_runs.config())


def test_one_folder_has_one_writer(tmp_path):
    with store.locked(tmp_path), pytest.raises(store.StoreError, match="another run"):
        finetune.finetune(paper_runs.config(), tmp_path)
