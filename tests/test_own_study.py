"""The studies of examples/ run top to bottom, and say what they promise."""

import ast
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
    """The code of a `# %%` script without docstring, words and blank lines."""
    _, _, code = (EXAMPLES / name).read_text().partition("# %%\n")
    return [line for line in code.splitlines() if line.strip() and not line.startswith("#")]


@pytest.mark.parametrize("name", ["own_problem.py", "own_method.py"])
def test_a_study_is_a_notebook_of_words_and_code_in_turn(name):
    docstring, *cells = (EXAMPLES / name).read_text().split("\n# %%")
    ast.parse(docstring)
    for i, cell in enumerate(cells):
        kind, _, text = cell.partition("\n")
        lines = [line for line in text.splitlines() if line.strip()]
        assert lines
        if kind == " [markdown]":
            assert all(line.startswith("#") for line in lines)
            assert i % 2 == 1
        else:
            assert kind == ""
            ast.parse(text)
            assert not any(line.startswith("#") for line in lines)
            assert i % 2 == 0


def test_the_readme_says_how_long_the_studies_are():
    of = [len(cells(name)) for name in ("own_problem.py", "own_method.py")]
    readme = (EXAMPLES.parent / "README.md").read_text()
    assert f"Whole studies of {of[0]} and {of[1]} lines of code" in readme


def test_a_problem_of_ones_own_is_a_study_of_few_lines(ran):
    names, out = ran("own_problem.py")
    assert len(cells("own_problem.py")) <= 15  # three of them imports
    assert "declared       found" in out
    for method in ("dsgd", "dlora", "decaf"):
        assert f"\n{method}\nclaim " in out
    assert "VIOLATED" not in out
    assert {line.verdict for line in names["found"].lines if line.bound is not None} == {"holds"}
    for method, claim in {"dsgd": "T25-sharp", "dlora": "T14", "decaf": "T30-certificate"}.items():
        assert claim in Path(f"own_problem_{method}.svg").read_text()


def test_a_method_of_ones_own_is_dlora_with_errors_of_mixing(ran):
    names, out = ran("own_method.py")
    assert len(cells("own_method.py")) <= 25
    assert "found     allowed" in out.split("\ndlora: ")[0]
    own = out.split("\nalternating: ")[1].split("\ndecaf: ")[0]
    assert "T30-certificate" in own
    assert "VIOLATED" not in out
    trace = names["trace"]
    assert (trace.consensus_aligned <= trace.consensus_factors).all()
    assert Path("own_method.svg").exists()
