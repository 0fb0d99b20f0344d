"""Every command of the README and of docs/ runs: here, in the test of its page, or at night."""

import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

import decaf_theory.cli
import figures.cli
import paper_checks.cli
import verification.cli
from tests.adapter_files import STORED
from verification import options

ROOT = Path(__file__).resolve().parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
PARSERS = {
    "decaf": lambda words: decaf_theory.cli.parser().parse_args(words),
    "figures": lambda words: figures.cli.parser().parse_args(words),
    "paper_checks": lambda words: paper_checks.cli.parser().parse_args(words),
    "verification": options.parse,
}
MAINS = {
    "decaf": decaf_theory.cli.main,
    "figures": figures.cli.main,
    "paper_checks": paper_checks.cli.main,
    "verification": verification.cli.main,
}
SHELL = re.compile(r"^```sh\n(.*?)^```", re.M | re.S)
COMMAND = re.compile(r"decaf \w|python -m (?:figures|verification|paper_checks)(?: |$)")
# a word of prose that names a command without its arguments, or with a part left out
NAMED = re.compile(
    r".*(?:\.\.\.|module:function).*|decaf merge (?:--method dlora|--rank r)|python -m paper_checks"
)
STUDIES = "asda benchmark effects ensemble forms merging prism sequences tournament".split()
ELSEWHERE = {
    r".* --scheduler .*": "tests/test_cluster_sweep.py",
    r"decaf check mix\.py.*": "tests/test_conformance.py",
    r"python -m figures --only .*": "tests/test_figures.py",
    r"python -m paper_checks run (pictures|reviews)\.toml .*": "tests/test_own_data.py",
    r"python -m paper_checks run llama2-7b-wic --dry-run": "tests/test_dryrun.py",
    r"python -m paper_checks table.*": "tests/test_paper_table.py",
    r"python -m verification docs": "tests/test_docs.py",
    **{
        rf"python -m paper_checks {name} --page": f"tests/test_{name}.py"
        for name in ("asda", "benchmark", "ensemble", "merging", "prism")
    },
}
# longer than ten seconds: a minute of each at night
LONG = [
    r"decaf bench.*",
    r"python -m figures",
    rf"python -m paper_checks (run|sweep|{'|'.join(STUDIES)})\b.*",
    r"python -m verification( run| all| adapters)?",
    r"python -m verification (--only|attack) .*",
]
MINUTE = 60
END = 120  # what a step, or LAPACK's SVD of a large matrix, may take to come to its end


def commands(text: str) -> list[str]:
    """Return the commands of a page: the lines of its shell blocks, and what its prose quotes."""
    text = text.replace("\\\n", " ")
    lines = [line for block in SHELL.findall(text) for line in block.splitlines()]
    quoted = re.findall(r"`([^`\n]+)`", SHELL.sub("", text))
    found = (" ".join(re.split(r"\s#|>", line)[0].split()) for line in (*lines, *quoted))
    return [line for line in found if COMMAND.match(line)]


ALL = sorted({command for page in PAGES for command in commands(page.read_text("utf-8"))})
WHOLE = [command for command in ALL if not NAMED.fullmatch(command)]
BARE = [c for c in WHOLE if len(c.removeprefix("python -m ").split()) == 2]  # perhaps only named


def tells(command: str) -> list[str]:
    """Return the ways in which a command is run other than here."""
    ways = [file for rule, file in ELSEWHERE.items() if re.fullmatch(rule, command)]
    return ways or ["night"] * any(re.fullmatch(rule, command) for rule in LONG)


HERE = [command for command in WHOLE if not tells(command) and command not in BARE]
# named in prose: they ask for arguments; or for adapters of MiniLM, which train for minutes
INCOMPLETE = {f"python -m {name}" for name in ("paper_checks sweep", "verification adapters")}
GIVEN = " --adapters agent0 agent1 agent2 agent3 --data-dir DIR"
INCOMPLETE |= {f"python -m paper_checks merging{given}" for given in ("", GIVEN)}
NIGHT = [command for command in WHOLE if tells(command) == ["night"] and command not in INCOMPLETE]


def split(command: str) -> tuple[str, list[str]]:
    program, *words = shlex.split(command.removeprefix("python -m "))
    return program, words


@pytest.mark.parametrize("command", WHOLE)
def test_a_program_understands_the_command(command):
    program, words = split(command)
    if "--scheduler" in words:
        pytest.importorskip("distributed", reason="distributed is not installed")
    if command in BARE:
        with pytest.raises(SystemExit, match=r"^0$"):
            PARSERS[program]([*words, "--help"])
    elif "--help" not in words:
        PARSERS[program](words)


def test_every_command_is_run_here_elsewhere_or_at_night():
    assert len(HERE) > 50
    for command in {*WHOLE} - {*HERE, *BARE}:
        assert len(tells(command)) == 1, (command, tells(command))
    for rule, file in ELSEWHERE.items():
        assert any(re.fullmatch(rule, command) for command in ALL), rule
        assert (ROOT / file).is_file()
    for rule in LONG:
        assert any(re.fullmatch(rule, command) for command in ALL), rule


@pytest.fixture(scope="module")
def here(quick_run, tmp_path_factory) -> Path:
    """A folder as the pages assume it: results of a run, four adapters, the counterexamples."""
    folder = tmp_path_factory.mktemp("here")
    shutil.copytree(quick_run[1], folder / "results")
    for stored in STORED:
        shutil.copytree(stored, folder / stored.name)
        shutil.copytree(stored, folder / "tests" / "adapters" / stored.name)
    shutil.copytree(
        ROOT / "verification" / "counterexamples", folder / "verification/counterexamples"
    )
    return folder


@pytest.mark.parametrize("command", HERE)
def test_the_command_runs(command, here, monkeypatch, capsys):
    monkeypatch.chdir(here)
    program, words = split(command)
    for place in (words[i + 1] for i, word in enumerate(words) if word in ("--out", "--report")):
        shutil.rmtree(here / place, ignore_errors=True)
        (here / place).unlink(missing_ok=True)
    try:
        code = MAINS[program](words)
    except SystemExit as end:  # of --help
        code = end.code
    printed = capsys.readouterr()
    assert code in (0, None), printed.err
    assert printed.out


@pytest.mark.night
@pytest.mark.parametrize("command", NIGHT)
def test_a_minute_of_a_long_command_goes_well(command, here, outside_data):
    """It ends well, or is interrupted after a minute as a reader would and says so in a line."""
    pytest.importorskip("transformers", reason="transformers is not installed")
    if "cuda" in command and not pytest.importorskip("torch").cuda.is_available():
        pytest.skip("there is no GPU")
    data = str(outside_data("sst2").parent)
    program, words = split(command)
    before = ["", *words]
    words = [
        data if last == "--data-dir" else word for last, word in zip(before, words, strict=False)
    ]
    if {"minilm-sst2", "prism"} & {*words} and "--data-dir" not in words:
        words += ["--data-dir", data]  # the page has it from the hub
    shutil.rmtree(here / "results" / "paper", ignore_errors=True)  # of another command
    if "--json" in words:  # what another command left there
        (here / words[words.index("--json") + 1]).unlink(missing_ok=True)
    decaf = ["-c", "import sys, decaf_theory.cli as m; sys.exit(m.main())"]
    start = [sys.executable, *(decaf if program == "decaf" else ["-m", program])]
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    run = subprocess.Popen([*start, *words], cwd=here, env=env, stderr=subprocess.PIPE, text=True)
    try:
        _, err = run.communicate(timeout=MINUTE)
        assert run.returncode == 0, err
    except subprocess.TimeoutExpired:
        run.send_signal(signal.SIGINT)
        try:
            _, err = run.communicate(timeout=END)
        except subprocess.TimeoutExpired:  # a study that goes on to the end of a training
            run.send_signal(signal.SIGINT)
            _, err = run.communicate(timeout=END)
        # that it had ended, or was ending, in the same moment is well, too
        assert run.returncode in (0, 130, -signal.SIGINT), err
        assert "Traceback" not in err
