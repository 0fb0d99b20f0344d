"""The studies of examples/ run top to bottom, and say what they promise."""

import runpy
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).resolve().parent.parent / "examples"


@pytest.fixture
def ran(tmp_path, monkeypatch, capsys):
    """Runs an example in an empty folder; returns its names and what it printed."""
    monkeypatch.chdir(tmp_path)

    def run(name):
        names = runpy.run_path(str(EXAMPLES / name), run_name="__main__")
        return names, capsys.readouterr().out

    return run


def cells(name):
    """The code of a `# %%` script without docstring, comments and blank lines."""
    _, _, code = (EXAMPLES / name).read_text().partition("# %%\n")
    return [line for line in code.splitlines() if line.strip() and not line.startswith("#")]


def test_a_problem_of_ones_own_is_a_study_of_few_lines(ran):
    names, out = ran("own_problem.py")
    assert len(cells("own_problem.py")) <= 20  # five of them imports
    assert "declared       found" in out
    for method in ("dsgd", "dlora", "decaf"):
        assert f"\n{method}\nclaim " in out
    assert "VIOLATED" not in out
    assert {line.verdict for line in names["found"].lines if line.bound is not None} == {"holds"}
    assert "T25-sharp" in Path("own_problem.svg").read_text()


def test_a_method_of_ones_own_is_dlora_with_errors_of_mixing(ran):
    names, out = ran("own_method.py")
    own = out.split("\nalternating: ")[1].split("\ndecaf: ")[0]
    assert "T30-certificate" in own
    assert "VIOLATED" not in out
    trace = names["trace"]
    assert (trace.consensus_aligned <= trace.consensus_factors).all()
    assert Path("own_method.svg").exists()
