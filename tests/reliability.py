"""The 45 inputs and faults, and the tests that show what each gets: `python -m tests.reliability`.

E: an error that names what and where. R: the correct result. W: the result, with a warning.
"""

import ast
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs" / "reliability.md"
INPUTS, FAULTS = "test_bad_inputs.py", "test_faults.py"


class Case(NamedTuple):
    """An input or fault, what must happen, and the test of it, of which there is one per case."""

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
    Case(26, "disconnected graph", "R of a run; E where mixing is needed", "disconnected"),
    Case(27, "N = 1, ring of two", "R: rows sum to exactly one", "smallest_graphs"),
    Case(28, "bipartite graph without own weights", "as 26, naming Assumption 5", "bipartite"),
    Case(29, "ranks that differ between agents", "E; padding is exact", "unequal_ranks"),
    Case(30, "agents and Pi of different sizes", "E", "sizes_that_differ"),
    Case(31, "start at B = 0", "W if mixed first; E under combine", "dead_start"),
    Case(32, "step size beyond a bound's range", "W, the bound not applicable", "large_step"),
    Case(33, "NaN of a loss or gradient", "E with agent and step; states kept", "nan_on_the_way"),
    Case(34, "divergence", "R: status diverged, not used as data", "divergence"),
    Case(35, "constant or zero data", "R", "zero_data"),
    Case(36, "killed at any moment", "R: resumed, equal bits", "killed"),
    Case(37, "a worker killed", "R: its item alone again, named", "killed_worker"),
    Case(38, "a result file damaged", "R: found by its sum, computed again", "damaged_file"),
    Case(39, "results of other settings", "E with the reason", "other_settings"),
    Case(40, "two writers", "E of the second", "two_writers"),
    Case(41, "place that cannot be written", "E before the work", "unwritable"),
    Case(42, "torch or a GPU missing", "R without; E names the extra", "missing_packages"),
    Case(43, "no display", "R: figures are written", "headless"),
    Case(44, "wrong names on the command line", "E with the nearest, code 2", "wrong_names"),
    Case(45, "spaces, letters, locale", "R", "paths_and_locales"),
]


def name_of(case: Case) -> str:
    """Return the name of a case's test."""
    return f"test_case_{case.number:02d}_{case.test}"


def tests_of(file: str) -> set[str]:
    """Return the names of the tests in a file below `tests`."""
    tree = ast.parse((ROOT / "tests" / file).read_text(encoding="utf-8"))
    return {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}


def shown() -> list[Case]:
    """Return the cases that have their test."""
    there = tests_of(INPUTS) | tests_of(FAULTS)
    return [case for case in CASES if name_of(case) in there]


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
        file = INPUTS if case.number <= 35 else FAULTS
        cells = (case.number, case.given, case.gets, f"`{file}::{name_of(case)}`")
        lines.append(f"| {' | '.join(map(str, cells))} |")
    return "\n".join(lines) + "\n" + THREATS


THREATS = """
"""


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
    print(total())
