"""Stamps: results and checkpoints of other code, libraries, data or models are not taken over."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="the harness trains with torch")

from figures import rows as figure_rows  # noqa: E402
from paper_checks import cli, devices, finetune, record, stamp, sweep, tasks  # noqa: E402
from paper_checks import config as configs  # noqa: E402
from tests import paper_runs  # noqa: E402
from verification import harness, provenance  # noqa: E402
from verification.store import StoreError  # noqa: E402

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(autouse=True)
def net(monkeypatch):
    for module in (finetune, tasks):
        monkeypatch.setattr(module, "load_task", paper_runs.task)


@pytest.fixture
def toml(tmp_path):
    return str(paper_runs.written(tmp_path))


def other_code(monkeypatch, name="0123456789ab"):
    monkeypatch.setattr(harness, "code", lambda: name)


def half(config, folder):
    """Train three of six steps."""
    answers = iter([False] * 3)
    return finetune.finetune(config, folder, stop=lambda: next(answers, True))


# ---------------------------------------------------------------- the sum of the code


def test_the_code_that_counts_is_what_a_run_loads_and_nothing_that_draws_or_prints():
    found = provenance.sources(harness.MODULE)
    begun = "import sys, importlib, paper_checks.finetune\n"
    names = ("data", "text", "causal", "clip", "images", "digits")
    for name in names:
        begun += f"importlib.import_module('paper_checks.tasks.{name}')\n"
    begun += "print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", begun], capture_output=True, text=True, cwd=ROOT)
    rooms = ("decaf_theory", "paper_checks", "verification", "figures")
    loaded = {name for name in done.stdout.split() if name.split(".")[0] in rooms}
    assert "paper_checks.mixing" in loaded
    assert loaded <= found.keys()
    assert "verification.adapter_evidence" in found
    for name in ("paper_checks.cli", "paper_checks.table", "paper_checks.sweep"):
        assert name not in found
    for room in ("figures", "decaf_theory.bench", "decaf_theory.cli", "verification.ledger"):
        assert not [name for name in found if name.startswith(room)]


def test_every_source_that_counts_changes_the_sum(monkeypatch, tmp_path):
    copies = {}
    for name, path in provenance.sources(harness.MODULE).items():
        copies[name] = tmp_path / name
        copies[name].write_bytes(path.read_bytes())
    monkeypatch.setattr(provenance, "sources", lambda *modules: copies)
    whole = provenance.code_sum.__wrapped__(harness.MODULE)
    for path in copies.values():
        data = path.read_bytes()
        path.write_bytes(data + b"#")
        assert provenance.code_sum.__wrapped__(harness.MODULE) != whole
        path.write_bytes(data)
    assert provenance.code_sum.__wrapped__(harness.MODULE) == whole


# ---------------------------------------------------------------- what else counts


def test_a_stamp_names_code_libraries_device_data_and_model():
    config = paper_runs.config()
    found = stamp.of(config) | stamp.of_loaded(paper_runs.task())
    assert config.settings().items() <= found.items()
    assert (found["device"], found["dtype"]) == ("cpu", "float32")
    assert (
        found["libraries.torch"] == torch.__version__.partition("+")[0] or "+" in torch.__version__
    )
    for name in ("code", "python", "libraries.numpy", "sum.examples", "sum.model"):
        assert found[name]
    assert {"sum.data", "sum.adapters"} <= found.keys()


def changed_task(part):
    task = paper_runs.task()
    if part == "model":
        with torch.no_grad():
            next(task.model.parameters()).view(-1)[0] += 1e-6
    else:
        getattr(task, part).inputs["x"][0, 0] += 1e-6
    return task


@pytest.mark.parametrize(
    ("part", "name"), [("model", "sum.model"), ("train", "sum.examples"), ("test", "sum.examples")]
)
def test_one_number_of_the_data_or_the_model_is_another_run(tmp_path, monkeypatch, part, name):
    config = paper_runs.config()
    half(config, tmp_path)
    task = changed_task(part)
    monkeypatch.setattr(finetune, "load_task", lambda config: task)
    with pytest.raises(stamp.OtherStampError, match=f"{name}: ") as info:
        finetune.finetune(config, tmp_path, accept_code=True)
    assert "--restart" in str(info.value)
    assert "--accept-code" not in str(info.value)  # it would not help


def test_half_types_have_a_sum_too():
    task = paper_runs.task(dtype=torch.bfloat16)
    found = stamp.of_loaded(task)
    assert found["dtype"] == "bfloat16"
    assert found["sum.model"] != stamp.of_loaded(paper_runs.task())["sum.model"]


def test_a_data_set_edited_on_disk_is_not_the_one_of_a_finished_run(toml, tmp_path):
    folder = tmp_path / "data" / "net"
    folder.mkdir(parents=True)
    (folder / "train.tsv").write_text("a\t0\n")
    cell = sweep.Cell(toml, {}, tmp_path / "out", str(tmp_path / "data"), "cpu")
    assert sweep.run_cell(cell).status == "finished"
    assert sweep.run_cell(cell).status == "skipped"
    (folder / "train.tsv").write_text("a\t1\n")
    stamp.sum_of_data.cache_clear()  # another process would not have it
    found = sweep.run_cell(cell)
    assert found.status == "failed"
    assert "sum.data: " in found.line


def test_adapters_that_were_trained_further_are_another_start(toml, tmp_path):
    (tmp_path / "agent0").mkdir()
    (tmp_path / "agent0" / "weights").write_text("1")
    config = configs.read(toml)
    before = stamp.of(config, [tmp_path / "agent0"])
    assert stamp.of(config, [tmp_path / "agent0"]) == before
    (tmp_path / "agent0" / "weights").write_text("2")
    assert provenance.differences(before, stamp.of(config, [tmp_path / "agent0"]))


def test_another_library_is_another_run(tmp_path, monkeypatch):
    config = paper_runs.config()
    half(config, tmp_path)
    versions = provenance.library_versions
    monkeypatch.setattr(stamp, "library_versions", lambda *x: {**versions(*x), "torch": "0.1"})
    with pytest.raises(stamp.OtherStampError, match=r"libraries\.torch: .* -> 0\.1.*--accept-code"):
        finetune.finetune(config, tmp_path)


# ---------------------------------------------------------------- run, sweep, table, figures


def test_a_half_finished_run_of_other_code_is_refused_restarted_or_accepted(
    tmp_path, monkeypatch, capsys
):
    config = paper_runs.config(train__optimizer="adamw")
    finetune.finetune(config, tmp_path / "whole")
    for name in ("refused", "restarted", "accepted"):
        half(config, tmp_path / name)
    whole = (tmp_path / "whole" / record.ROWS).read_bytes()
    made_by = harness.code()
    other_code(monkeypatch)
    with pytest.raises(stamp.OtherStampError) as info:
        finetune.finetune(config, tmp_path / "refused")
    for words in (f"code: {made_by} -> 0123456789ab", "--out", "--restart", "--accept-code"):
        assert words in str(info.value)
    steps = []
    show = lambda step, found: steps.append(step)  # noqa: E731
    finetune.finetune(config, tmp_path / "restarted", restart=True, show=show)
    assert steps == [1, 2, 3, 4, 5, 6]
    assert (tmp_path / "restarted" / record.ROWS).read_bytes() == whole
    steps.clear()
    finetune.finetune(config, tmp_path / "accepted", accept_code=True, show=show)
    assert steps == [4, 5, 6]
    assert "is of other code and accepted" in capsys.readouterr().err
    (note,) = record.read(tmp_path / "accepted").run["accepted"]
    assert f"code: {made_by} -> 0123456789ab" in note
    assert record.read(tmp_path / "restarted").run["accepted"] == []


def test_a_checkpoint_of_other_code_without_a_record_is_refused(tmp_path, monkeypatch):
    config = paper_runs.config()
    half(config, tmp_path)
    (tmp_path / record.RUN).unlink()  # as after a kill
    other_code(monkeypatch)
    with pytest.raises(stamp.OtherStampError, match=r"step-000000003\.ckpt was made with other"):
        finetune.finetune(config, tmp_path)


def test_a_record_of_other_code_without_its_checkpoint_is_not_overwritten(tmp_path, monkeypatch):
    config = paper_runs.config()
    finetune.finetune(config, tmp_path)
    for path in (tmp_path / "checkpoint").iterdir():
        path.unlink()
    other_code(monkeypatch)
    with pytest.raises(stamp.OtherStampError, match=r"run\.json was made with other"):
        finetune.finetune(config, tmp_path)


@pytest.fixture
def results(toml, tmp_path, capsys):
    """The results of a sweep of two methods, in the place where figures look."""
    out = tmp_path / "results" / "paper"
    command = ["sweep", toml, "--out", str(out), "--methods", "dlora", "decaf"]
    assert cli.main(command) == 0
    capsys.readouterr()
    return tmp_path / "results", command


def test_a_sweep_does_not_count_runs_of_other_code(results, monkeypatch, capsys):
    _, command = results
    other_code(monkeypatch)
    assert cli.main(command) == 1
    assert capsys.readouterr().out.count("failed; ") == 2
    assert cli.main([*command, "--accept-code"]) == 0
    assert capsys.readouterr().out.count("skipped; ") == 2
    assert cli.main([*command, "--restart"]) == 0
    assert capsys.readouterr().out.count("finished; ") == 2
    assert cli.main(command) == 0
    assert capsys.readouterr().out.count("skipped; ") == 2


def test_a_run_of_other_code_is_refused_in_one_line(toml, tmp_path, monkeypatch, capsys):
    command = ["run", toml, "--out", str(tmp_path / "out")]
    assert cli.main(command) == 0
    other_code(monkeypatch)
    capsys.readouterr()
    assert cli.main(command) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "-> 0123456789ab" in line
    assert cli.main([*command, "--accept-code"]) == 0
    assert cli.main([*command, "--restart"]) == 0
    assert cli.main(command) == 0


def test_a_table_and_a_figure_of_other_code_are_refused_or_accepted(results, monkeypatch, capsys):
    folder, _ = results
    table = ["table", str(folder / "paper")]
    assert cli.main(table) == 0
    assert figure_rows.read(folder, ["runs"])
    other_code(monkeypatch)
    assert cli.main(table) == 2
    assert "were made by other code" in capsys.readouterr().err
    with pytest.raises(StoreError, match=r"made by other code .*-> 0123456789ab.*--accept-code"):
        figure_rows.read(folder, ["runs"])
    assert cli.main([*table, "--accept-code"]) == 0
    assert figure_rows.read(folder, ["runs"], accept_code=True)


def test_runs_of_two_codes_share_no_table_and_no_figure(results, toml, monkeypatch, capsys):
    folder, _ = results
    other_code(monkeypatch)
    more = ["sweep", toml, "--out", str(folder / "paper"), "--methods", "local", "--seeds", "1"]
    assert cli.main(more) == 0
    capsys.readouterr()
    assert cli.main(["table", str(folder / "paper")]) == 2
    assert "runs of net differ in code: " in capsys.readouterr().err
    with pytest.raises(StoreError, match="runs of net differ in code: "):
        figure_rows.read(folder, ["runs"])
    assert cli.main(["table", str(folder / "paper"), "--accept-code"]) == 0


def test_one_run_stored_twice_with_unlike_scores_is_refused_by_both_names(results, tmp_path):
    folder, _ = results
    (first, *_) = sorted((folder / "paper" / "net").glob("decaf*"))
    again = tmp_path / "results" / "runs" / "net" / first.name
    copied(first, again)
    assert figure_rows.read(folder, ["runs"])  # the same scores
    copied(first, again, change=0.25)
    with pytest.raises(StoreError, match=f"{first} and {again} are the same run with unlike"):
        figure_rows.read(folder, ["runs"])
    from paper_checks import table

    with pytest.raises(StoreError, match=f"{first} and {again} are the same run with unlike"):
        table.text([folder])


def copied(source, target, change=0.0):
    """Copy a run, its scores raised."""
    from hashlib import sha256

    from decaf_theory.files import to_json, to_lines
    from decaf_theory.sums import sealed

    stored = harness.read(source)
    found = [
        {**row, **({"score": row["score"] + change} if "score" in row else {})}
        for row in [*stored.records, *stored.rows]
    ]
    data = to_lines(found)
    target.mkdir(parents=True, exist_ok=True)
    (target / record.ROWS).write_bytes(data)
    about = {**stored.run, "files": {record.ROWS: sha256(data).hexdigest()}}
    (target / record.RUN).write_bytes(to_json(sealed(about)))


def test_the_default_of_a_device_that_is_a_gpu_is_its_model(monkeypatch):
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: f"GPU of {device[:4]}")
    assert devices.model_name("cuda:0") == devices.model_name("cuda:1") == "GPU of cuda"
    assert devices.model_name("cpu") == devices.model_name("cpu:0") == "cpu"


def test_a_sum_of_tensors_is_that_of_their_numbers_whatever_their_layout():
    X = torch.arange(6.0).reshape(2, 3)
    assert stamp.sum_of_tensors({"a": X.T.contiguous().T}) == stamp.sum_of_tensors({"a": X})
    assert stamp.sum_of_tensors({"a": X}) != stamp.sum_of_tensors({"a": X.reshape(3, 2)})
    assert stamp.sum_of_tensors({"a": X}) != stamp.sum_of_tensors({"a": X.int()})
    assert stamp.sum_of_tensors({"a": torch.tensor(np.pi)})
