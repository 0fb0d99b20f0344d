"""The faults of docs/reliability.md that the tests in `faults` do not try, one test per case."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from decaf_theory import cli as decaf
from paper_checks import cli as harness
from tests.test_extras import without_torch
from verification import cli as verification

ROOT = Path(__file__).resolve().parent.parent
AGENTS = [str(ROOT / "tests" / "adapters" / f"agent{i}") for i in range(2)]


def run(*command, **environment):
    """Run a program of ours in a process of its own, with an environment changed like this."""
    return subprocess.run(
        [sys.executable, *command],
        capture_output=True,
        cwd=ROOT,
        env=os.environ | environment,
        check=False,
    )


@pytest.mark.slow
def test_case_42_missing_packages(tmp_path):
    assert without_torch("decaf", "diagnose", *AGENTS).returncode == 0
    ran = without_torch("verification", "attack", "T18", "--out", str(tmp_path))
    assert ran.returncode == 2
    assert ran.stderr.strip() == "error: torch not installed: pip install -e '.[torch]'"
    ran = without_torch("verification", "run", "--device", "cuda", "--out", str(tmp_path))
    assert ran.returncode == 2
    assert "torch not installed" in ran.stderr


@pytest.mark.slow
@pytest.mark.parametrize("backend", [None, "inline", "tkagg"])
def test_case_43_headless(backend, tmp_path):
    chosen = {} if backend is None else {"MPLBACKEND": backend}
    out = str(tmp_path)
    drawing = ("-m", "figures", "--only", "schematic", "--no-report", "--out", out)
    ran = run(*drawing, DISPLAY="", **chosen)
    assert ran.returncode == 0, ran.stderr
    assert {path.suffix for path in tmp_path.iterdir()} == {".svg", ".pdf", ".png", ".txt"}


def test_case_44_wrong_names(capsys, tmp_path):
    for main, words, nearest in (
        (decaf.main, ["diagnos", "a"], "diagnose"),
        (decaf.main, ["diagnose", *AGENTS, "--topology", "rnig"], "ring"),
        (verification.main, ["explian", "T1"], "explain"),
        (verification.main, ["explain", "T100", "--out", str(tmp_path)], "T10"),
        (harness.main, ["run", "minilm-sst", "--out", str(tmp_path)], "minilm-sst2"),
        (harness.main, ["table", "--against", "dlor", str(tmp_path)], "dlora"),
    ):
        try:
            code = main(words)
        except SystemExit as end:
            code = end.code
        assert code == 2, words
        assert nearest in capsys.readouterr().err.split("; ")[-1], words
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
@pytest.mark.parametrize("encoding", ["ascii", "cp1252", "utf-8"])
def test_case_45_paths_and_locales(encoding, tmp_path):
    folder = tmp_path / "résultats à moi 結果"
    program = "import sys; from decaf_theory.cli import main; sys.exit(main(sys.argv[1:]))"
    merge = ("-c", program, "merge", *AGENTS, "--out", str(folder))
    ran = run(*merge, PYTHONIOENCODING=f"{encoding}:strict", LC_ALL="C.UTF-8")
    assert ran.returncode == 0, ran.stderr
    assert b"matrices of rank" in ran.stdout
    again = ("-c", program, "diagnose", str(folder), AGENTS[0])
    ran = run(*again, PYTHONIOENCODING=f"{encoding}:strict", LC_ALL="C.UTF-8")
    assert ran.returncode == 0, ran.stderr
    escape = tmp_path / "red\x1b[31m"
    ran = run("-c", program, "diagnose", str(escape))
    assert ran.returncode == 2
    assert b"red\\x1b[31m: no such folder" in ran.stderr
