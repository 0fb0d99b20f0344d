"""The 45 inputs and faults, and the tests that show what each gets: `python -m tests.reliability`.

E: an error that names what and where. R: the correct result. W: the result, with a warning.
"""

import ast
from functools import cache
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs" / "reliability.md"
INPUTS, FAULTS = "test_bad_inputs.py", "test_faults.py"
KILLS = "faults/test_kills.py::test_a_program_that_is_killed_anywhere_ends_as_if_it_was_not"
WORKER = (
    "faults/test_signals.py::"
    "test_a_killed_worker_of_a_sweep_costs_its_cell_a_second_try_and_no_other"
)
DAMAGED = "faults/test_corruption.py::test_a_damaged_file_is_met_or_changes_nothing"
OTHERS = "test_stamps.py::test_a_half_finished_run_of_other_code_is_refused_restarted_or_accepted"
WRITERS = "test_store.py::test_one_folder_has_one_writer_at_a_time"
FULL = "faults/test_full_disks.py::test_a_full_disk_is_met_before_the_work"


class Case(NamedTuple):
    """An input or fault, what must happen, and its test: a name, or a file and a name."""

    number: int
    given: str
    gets: str
    test: str


AREAS = {1: "The truncated SVD", 23: "Mixing matrices and problems", 36: "Runs"}
CASES = [
    Case(1, "zero matrix", "R: zero singular values, finite factors", "zero_matrix"),
    Case(2, "identity", "R", "identity"),
    Case(3, "repeated singular values", "R: compared as subspaces", "repeated_singular_values"),
    Case(4, "rank below r", "R: zeros at the end, finite factors", "rank_below_r"),
    Case(5, "r > min(d, k)", "E, with the largest r", "r_beyond_the_matrix"),
    Case(6, "r zero or negative", "E", "r_below_one"),
    Case(7, "r not an integer", "E", "r_not_an_integer"),
    Case(8, "an empty axis", "E", "empty_axis"),
    Case(9, "1 x k, d x 1", "R", "single_rows_and_columns"),
    Case(10, "factors of size 1e150 and 1e-150", "R", "scales_that_cancel"),
    Case(11, "a product beyond float64", "E, and not inf", "overflow"),
    Case(12, "subnormal entries", "R", "subnormal_entries"),
    Case(13, "condition 1e16", "R: ratios below 50, as in LAPACK's tests", "condition_1e16"),
    Case(14, "NaN in one element", "E with agent and index; others intact under skip", "nan"),
    Case(15, "infinite entry", "E, and not NaN", "infinity"),
    Case(16, "float16, bfloat16", "R in the type that came in", "half_types"),
    Case(17, "integers, booleans", "E, on every kind of array", "integers"),
    Case(18, "complex numbers", "E", "complex_numbers"),
    Case(19, "views: strides, order, read-only", "R, the input unchanged", "views"),
    Case(20, "d < k and d > k", "R", "both_shapes"),
    Case(21, "the same call again; a batch", "R: equal bits; equal to singles", "repeats"),
    Case(22, "GPU against CPU", "R; said where there is none", "gpu"),
    Case(23, "Pi not symmetric", "E where symmetry is needed", "pi_not_symmetric"),
    Case(24, "rows off from one", "E by 1e-3, R by 1e-12", "rows_off_from_one"),
    Case(25, "negative weight", "W", "negative_weight"),
    Case(26, "disconnected graph", "R of a run, W; E where mixing is needed", "disconnected"),
    Case(27, "N = 1, ring of two", "R: rows sum to exactly one", "smallest_graphs"),
    Case(28, "bipartite graph without own weights", "as 26, naming Assumption 5", "bipartite"),
    Case(29, "ranks that differ between agents", "E; padding is exact", "unequal_ranks"),
    Case(30, "agents and Pi of different sizes", "E", "sizes_that_differ"),
    Case(31, "start at B = 0", "W if mixed first; E under combine", "dead_start"),
    Case(32, "step size beyond a bound's range", "W, the bound not applicable", "large_step"),
    Case(33, "NaN of a loss or gradient", "E with agent and step; states kept", "nan_on_the_way"),
    Case(34, "divergence", "R: status diverged, not used as data", "divergence"),
    Case(35, "constant or zero data", "R", "zero_data"),
    Case(36, "killed at any moment", "R: resumed, equal bits", KILLS),
    Case(37, "a worker killed", "R: its item alone again, named", WORKER),
    Case(38, "a result file damaged", "R: found by its sum, computed again", DAMAGED),
    Case(39, "results of other code or settings", "E with the reason", OTHERS),
    Case(40, "two writers", "E of the second", WRITERS),
    Case(41, "place that cannot be written", "E before the work", FULL),
    Case(42, "torch or a GPU missing", "R without; E names the extra", "missing_packages"),
    Case(43, "no display", "R: figures are written", "headless"),
    Case(44, "wrong names on the command line", "E with the nearest, code 2", "wrong_names"),
    Case(45, "spaces, letters, locale", "R", "paths_and_locales"),
]


def place_of(case: Case) -> tuple[str, str]:
    """Return the file below `tests` and the name of a case's test."""
    if "::" in case.test:
        file, name = case.test.split("::")
        return file, name
    file = INPUTS if case.number <= 35 else FAULTS
    return file, f"test_case_{case.number:02d}_{case.test}"


@cache
def tests_of(file: str) -> set[str]:
    """Return the names of the tests in a file below `tests`."""
    tree = ast.parse((ROOT / "tests" / file).read_text(encoding="utf-8"))
    functions = (node.name for node in tree.body if isinstance(node, ast.FunctionDef))
    return {name for name in functions if name.startswith("test_")}


def shown() -> list[Case]:
    """Return the cases that have their test."""
    return [case for case in CASES if place_of(case)[1] in tests_of(place_of(case)[0])]


def total() -> str:
    """Return the line of the README."""
    return f"{len(shown())} of {len(CASES)} bad inputs and faults behave as written"


def page() -> str:
    """Return the page: what each input or fault gets, and where that is tested."""
    lines = [
        "# Bad inputs and faults\n",
        f"{total()}: an error that names what and where (E), the correct result (R), or the",
        "result with a warning (W). This page is written by `python -m tests.reliability`.",
    ]
    for case in CASES:
        if case.number in AREAS:
            lines += [f"\n## {AREAS[case.number]}\n", "| | given | what happens | test |"]
            lines += ["|---|---|---|---|"]
        cells = (case.number, case.given, case.gets, f"`{'::'.join(place_of(case))}`")
        lines.append(f"| {' | '.join(map(str, cells))} |")
    return "\n".join(lines) + "\n" + ENDINGS + LONGER + THREATS


ENDINGS = """
## How programs end

On a fault each of the four programs prints one line and returns 2, never 1, which says that a
result differs: bad usage and input, a place that cannot be written, a package that is missing, too
little memory, and input too deep or too large for a check to have foreseen it. Anything else is a
defect and leaves a traceback. Too little memory is no verdict on a claim, and what is stored of the
claim is kept; in a sweep it is a cell's own, and the others go on. OpenBLAS ends a process itself,
with code 1 and a line of its own, if it finds no memory for its buffers.
"""

LONGER = """
## Tried for longer

`pytest -m night` runs these; each also runs alone, and the last two print what they find.

- Programs killed at random moments, 20 times and more each, and two writers at once:
  `pytest -m night tests/faults/test_kills.py`, or, with another seed, up to 4 kills a trial,
  `python -m tests.faults.kills PROGRAM NEW_FOLDER SEED TRIALS`.
- 300 flipped bits in every kind of stored file: `pytest -m night tests/faults/test_corruption.py`.
- Readers with random faults, each time others: `pytest -m night tests/fuzz` for three minutes at
  each door, or DECAF_FUZZ_MINUTES; `python -m tests.fuzz MINUTES [DOOR ...]` counts them.
- Memory after 1,000 calls: `pytest -m night -s tests/faults/test_memory.py`.
- A ring and a star of 100,000 agents: `pytest -m night -s tests/test_many_agents.py`.

A killed program that is started again leaves the files of one that was not killed, byte for byte
but for times, and no others: no temporary file, no torn one. 268 kills of the six programs
(verification, adapters, figures, run, sweep and merge, at least 31 each) were tried, and none left
a trace.

Four threads that call the kernel, the measures, the simulator and the merge at once get the bits
that one thread gets (`tests/faults/test_threads.py`). Load torch before starting threads:
`array_api_compat` fails on a torch that another thread has half loaded.
"""

THREATS = """
## What is read, and what is trusted

Read are adapters (`adapter_config.json`, safetensors), configurations (TOML), data sets (text, JSON
lines, images), stored results and instances to replay (JSON, JSON lines, safetensors), and the
weights of a model (safetensors, GGUF). All of it may come from someone else, and none of it is
trusted: each has one reader, which checks kinds, names, sizes and finite numbers and names the file
and the line or the tensor. Trusted are the sources of this project and its libraries, what is typed
on the command line, and the folders that it names. `decaf check module:function` executes the
module that is named there, as `import` does, and calls the function; no other command runs code
that is not of this project or its libraries.

Whatever a file holds, reading it cannot

- run code: no pickle, no `eval`, no module or function looked up by a name from a file; weights
  that come as a pickle are refused (`tests/test_threats.py`). Models of the Hub are built by
  `transformers` without code from there. Exceptions are the worker of a Dask cluster, which runs
  whatever its scheduler sends, and reads back results that it left in its own folder, and the ranks
  of one run, which tell each other settings and states by pickle, as torch's own collectives do;
- start a process of its choice: there is no shell, and programs are started by lists of words that
  are written in the sources;
- reach the network: but for such ranks and workers nothing here opens a connection. A configuration
  that says `hub:` lets `transformers` and `datasets` download what it names, and `HF_HUB_OFFLINE=1`
  forbids it;
- run forever: patterns of adapters are matched in a bounded number of steps, and a replay refuses
  sizes beyond those of its claim (`tests/test_adapters_patterns.py`,
  `tests/test_counterexamples.py`);
- write elsewhere: the name of a configuration is one part of a path, links are followed and not
  replaced, and a file appears whole or not at all;
- move the cursor: control characters are escaped when they are printed.

Not defended against: a file so large that memory ends (the operating system ends the process, and
nothing half written stays), images that exploit an image library, and someone who can write to the
results and computes their checksums, which are no signatures.
"""


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
    print(total())
