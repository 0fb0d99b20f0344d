"""The runner of `.ci/gpu`: parts that end, fail or hang, what is kept of them, and the page."""

import json
import sys
import textwrap

import pytest

pytest.importorskip("torch", reason="the parts measure torch")

from decaf_theory.bench.rows import skipped, verdict
from decaf_theory.sums import seal_lines, unseal_lines
from paper_checks.gpu import __main__ as command
from paper_checks.gpu import harness, page, parts, runner
from paper_checks.gpu.parts import Part, Setting

CPU = Setting("cpu", small=True)
ROW = verdict("x", "case", "seconds", [1.0])
PRINTS = f"print({json.dumps(json.dumps(ROW))}, flush=True)"
PROGRAMS = {
    "ends": PRINTS,
    "fails": PRINTS + "; raise SystemError('in the middle')",
    # with a child of its own, which must not be left behind
    "hangs": PRINTS + "; import subprocess; subprocess.run(['sleep', '20'])",
    "wrong": 'print(\'{"kind": "test", "name": "t", "outcome": "failed"}\')',
}


@pytest.fixture
def programs(monkeypatch):
    """Parts that are small programs, each with a limit of five seconds, one of a moment."""
    found = {name: Part(5.0, parts.tests) for name in PROGRAMS}
    found["hangs"] = Part(1.0, parts.tests)
    monkeypatch.setattr(runner, "PARTS", found)
    monkeypatch.setattr(
        runner, "command", lambda name, setting: [sys.executable, "-c", PROGRAMS[name]]
    )


@pytest.mark.usefixtures("programs")
def test_a_part_that_hangs_or_fails_loses_neither_its_rows_nor_the_others(tmp_path, capsys):
    assert runner.run(["fails", "hangs", "ends"], CPU, tmp_path) == 1
    rows = unseal_lines((tmp_path / runner.STORED).read_bytes())
    ended = {row["part"]: row for row in rows if row["kind"] == "part"}
    assert {name: row["status"] for name, row in ended.items()} == {
        "fails": "failed",
        "hangs": "timed out",
        "ends": "done",
    }
    assert [row for row in rows if row["kind"] == "verdict"] == [ROW] * 3
    assert "SystemError: in the middle" in ended["fails"]["log"]
    assert 1 <= ended["hangs"]["seconds"] < 5
    assert (rows[0]["kind"], rows[0]["device"], rows[0]["small"]) == ("machine", "cpu", True)
    printed = capsys.readouterr().out
    assert printed.count("seconds") == 3
    assert "hangs    timed out" in printed


def test_the_table_of_a_gpu_fits(fitted):
    named = {"kind": "machine", "gpu": "a device", "torch": "2.11.0+cu130", "triton": "3.6.0"}
    row = verdict("sizes", "one layer of 4096 x 4096", "time over SVD", [1.9, 2.1], "<=", 1.5)
    left_out = skipped("G1", "ring of 10", "seconds", 30 * "a long reason ")
    part = {"kind": "part", "part": "tests", "status": "done", "limit": 60, "log": ""}
    named |= {"numpy": "2.4.0", "python": "3.11.7"}
    found = [named, row, left_out, part | {"seconds": 9.0}]
    assert len(fitted(lambda: runner.table(found)).splitlines()) == 5


@pytest.mark.usefixtures("programs")
def test_what_is_done_counts_as_success_and_a_test_that_fails_does_not(tmp_path, capsys):
    assert runner.run(["ends"], CPU, tmp_path) == 0
    assert runner.run(["wrong"], CPU, tmp_path) == 1
    assert "failed   t\n" in capsys.readouterr().out


def test_parts_find_the_project_and_what_the_script_added_and_interpret_on_the_cpu(monkeypatch):
    monkeypatch.setenv("PYTHONPATH", "/added")
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    found = runner.environment(CPU)
    assert found["PYTHONPATH"].split(":") == [str(parts.ROOT), "/added"]
    assert found["TRITON_INTERPRET"] == "1"
    assert "TRITON_INTERPRET" not in runner.environment(Setting("cuda", small=False))


def test_the_parts_fit_into_eight_minutes():
    assert sum(part.limit for part in parts.PARTS.values()) <= 8 * 60


def test_without_a_gpu_it_says_what_to_do(capsys, monkeypatch):
    pytest.importorskip("transformers", reason="transformers is not installed")
    import torch

    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert command.main([]) == 2
    assert "torch sees no GPU; try --device cpu --small" in capsys.readouterr().err


def test_tests_are_read_line_by_line(monkeypatch):
    lines = textwrap.dedent("""\
        collected 3 items
        tests/test_gpu.py::test_a[x y-1] PASSED      [ 33%]
        tests/test_gpu.py::test_b SKIPPED (no)       [ 66%]
        tests/test_gpu.py::test_c FAILED             [100%]
        FAILED tests/test_gpu.py::test_c - assert 1 == 2""")

    class Done:
        stdout, returncode = iter(lines.splitlines(keepends=True)), 1

        def __enter__(self):
            return self

        def __exit__(self, *error):
            pass

    monkeypatch.setattr(parts.subprocess, "Popen", lambda *args, **keywords: Done())
    found = [(row["name"], row["outcome"]) for row in parts.tests(CPU)]
    assert found == [("test_a[x y-1]", "passed"), ("test_b", "skipped"), ("test_c", "failed")]
    Done.stdout, Done.returncode = iter(()), 4
    with pytest.raises(RuntimeError, match="pytest ended with 4"):
        list(parts.tests(CPU))


def test_the_harness_part_takes_its_steps_and_predicts_as_the_dry_run_does(monkeypatch):
    pytest.importorskip("transformers", reason="the model is one of transformers")
    monkeypatch.setattr(harness, "STEPS", 2)
    monkeypatch.setattr(harness, "EVERY", 2)
    size = harness.SMALL
    rows = list(harness.pace("cpu", size, harness.settings(size, sequential=False)))
    found = {row["measure"]: row for row in rows}
    assert found["tokens / s"]["reached"] > 0
    assert found["mix of all sites, ms"]["reached"] > 0
    assert found["loss is finite"]["status"] == "ok"
    assert found["peak / predicted"]["status"] == "skipped"
    # by hand: weights in bfloat16 (embedding and head of 64 words, two layers, five norms), and
    # then factors of 10 agents, their gradients and AdamW's two moments in float32
    d, inner, words, sites, r = 16, 24, 64, 4, 4
    weights = 2 * (2 * words * d + 2 * (4 * d * d + 3 * d * inner) + 5 * d)
    adapters = 4 * 10 * sites * r * 2 * d
    assert 1e9 * found["predicted, GB"]["reached"] > weights + 4 * adapters


def test_the_page_has_the_stored_rows_or_says_that_there_are_none():
    rows = unseal_lines(page.STORED.read_bytes()) if page.STORED.exists() else []
    text = page.PAGE.read_text(encoding="utf-8")
    assert page.filled(text, rows) == text
    assert page.NONE in text or rows


def test_rows_of_a_gpu_fill_the_page(monkeypatch, tmp_path):
    about = {"kind": "machine", "gpu": "Card", "torch": "2", "triton": "3", "numpy": "2"}
    made = tmp_path / "gpu.jsonl"
    made.write_bytes(seal_lines([{**about, "python": "3.12"}, ROW]))
    monkeypatch.setattr(page, "PAGE", tmp_path / "page.md")
    monkeypatch.setattr(page, "STORED", tmp_path / "kept.jsonl")
    page.PAGE.write_text("a\n<!-- begin: gpu -->\nold\n<!-- end -->\nb\n")
    assert command.main(["--page", str(made)]) == 0
    text = page.PAGE.read_text()
    assert "Card, torch 2, triton 3, numpy 2, python 3.12." in text
    assert "| x | case | seconds | 1.00 | 1.00 ... 1.00 |" in text
    assert "old" not in text
    assert page.STORED.read_bytes() == made.read_bytes()
