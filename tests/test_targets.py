"""A place that cannot be written is named before the work, whatever the command."""

import pytest

from decaf_theory import cli as decaf
from decaf_theory.bench import scaling
from decaf_theory.files import UnwritableError, require_place
from figures import cli as figures
from paper_checks import cli as harness
from paper_checks import effects, trials
from paper_checks.tournament import command as tournament
from verification import cli as verification


def test_a_file_needs_a_folder_that_can_be_made_and_no_folder_in_its_place(tmp_path):
    require_place(tmp_path / "new" / "file")
    assert list((tmp_path / "new").iterdir()) == []
    (tmp_path / "file").touch()
    require_place(tmp_path / "file")
    for place in (tmp_path, tmp_path / "file" / "below"):
        with pytest.raises(UnwritableError, match="cannot write "):
            require_place(place)


# program, command line with {} for a folder in the way, and where its work is
COMMANDS = [
    (decaf, "bench scaling --json {}", scaling, "measured"),
    (verification, "docs {}", verification, "page"),
    (figures, "--report {}", figures, "draw"),
    (harness, "effects --quick --out {}", effects, "run"),
    (harness, "forms --out {out}", trials, "take"),
    (harness, "tournament --quick --out {out}", trials, "take"),
]


@pytest.mark.parametrize(("program", "line", "module", "work"), COMMANDS)
def test_a_folder_in_the_way_of_a_file_is_named_before_the_work(
    program, line, module, work, tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(module, work, None)
    monkeypatch.setattr(tournament, "require_packages", lambda wanted: None)
    (tmp_path / "out.jsonl").mkdir()
    words = line.format("out.jsonl", out="out").split()
    assert program.main(words) == 2
    said = capsys.readouterr().err
    assert "cannot write out.jsonl: Is a directory" in said
    assert said.count("\n") == 1


def test_a_place_for_adapters_is_tried_before_they_are_trained(tmp_path, monkeypatch, capsys):
    finetune = pytest.importorskip("paper_checks.finetune", reason="the harness trains with torch")
    monkeypatch.setattr(finetune, "finetune", None)
    (tmp_path / "file").touch()
    command = ["run", "tiny-bert", "--out", str(tmp_path / "out"), "--export"]
    assert harness.main([*command, str(tmp_path / "file" / "peft")]) == 2
    assert "cannot write" in capsys.readouterr().err
