"""The benchmark's machinery, on clocks that are told what to say: no speed is tested here."""

import subprocess
import sys

import pytest

from decaf_theory import bench, cli
from decaf_theory.bench import goals, race
from decaf_theory.bench.cases import Case
from decaf_theory.bench.race import Limit, Peer, Settings
from decaf_theory.bench.rows import line, skipped, verdict
from decaf_theory.bench.timing import Contestant, Timed, fastest, interleaved, ratios
from decaf_theory.sums import unseal_lines

TINY = Case(12, 9, 2, 4, "ring")


class FakeClock:
    """A clock that only moves when somebody works."""

    def __init__(self):
        self.now, self.log = 0.0, []

    def __call__(self):
        return self.now

    def work(self, name, *durations):
        """Return a function that takes these seconds, call by call, the last for ever."""
        left = list(durations)

        def run():
            self.log.append(name)
            self.now += left.pop(0) if len(left) > 1 else left[0]

        return run


# ---------------------------------------------------------------- timing


def test_contestants_take_turns_and_leave_when_their_time_is_spent():
    clock = FakeClock()
    field = [
        Contestant("fast", "numpy", clock.work("fast", 0.25)),
        Contestant("slow", "numpy", clock.work("slow", 1.0)),
    ]
    timed = interleaved(field, clock, rounds=2, budget=1.0, passes=3, turn=1)
    assert clock.log == ["fast", "slow", "fast", "fast"] * 2
    assert [t.repeats for t in timed] == [[3, 3], [1, 1]]


def test_a_turn_is_some_runs_in_a_row_within_the_time():
    clock = FakeClock()
    field = [
        Contestant("fast", "numpy", clock.work("fast", 0.25)),
        Contestant("slow", "numpy", clock.work("slow", 1.0)),
        Contestant("once", "numpy", clock.work("once", 0.25), once=True),
    ]
    interleaved(field, clock, rounds=1, budget=1.5, passes=2, turn=3)
    assert clock.log == [*["fast"] * 3, "slow", "once", *["fast"] * 3]


def test_the_least_of_each_round_counts():
    clock = FakeClock()
    field = [Contestant("a", "numpy", clock.work("a", 3.0, 1.0, 2.0, 5.0, 4.0, 6.0))]
    (timed,) = interleaved(field, clock, rounds=2, budget=100.0, passes=1, turn=3)
    assert timed.seconds == [1.0, 4.0]


def test_a_part_of_the_work_is_scaled_to_the_whole():
    clock = FakeClock()
    field = [Contestant("a", "numpy", clock.work("a", 2.0), times=640.0)]
    (timed,) = interleaved(field, clock, rounds=1, budget=1.0)
    assert timed.seconds == [1280.0]


def test_what_is_too_slow_runs_once_in_all():
    clock = FakeClock()
    field = [
        Contestant("once", "torch", clock.work("once", 30.0, 1.0), once=True),
        Contestant("often", "torch", clock.work("often", 0.5)),
    ]
    timed = interleaved(field, clock, rounds=3, budget=1.0, passes=2, turn=1)
    assert clock.log == ["once", *["often"] * 6]
    assert (timed[0].seconds, timed[0].repeats) == ([30.0] * 3, [1, 0, 0])


def test_a_ratio_is_formed_round_by_round_by_the_fastest_of_each_role():
    def timed(role, *seconds):
        return Timed(Contestant(role, "numpy", lambda: None), list(seconds), [1] * len(seconds))

    times = [timed("ours", 2.0, 1.0), timed("ours", 1.0, 4.0), timed("peer", 6.0, 5.0)]
    assert fastest(times, "ours") == [1.0, 1.0]
    assert ratios(times, "peer", "ours") == [6.0, 5.0]
    assert ratios(times, "ours", "peer") == [1 / 6, 1 / 5]


# ---------------------------------------------------------------- verdicts


@pytest.mark.parametrize(
    ("relation", "limit", "values", "status", "fails"),
    [
        (">=", 5, [5.0, 4.0, 6.0], "ok", False),
        (">=", 5, [4.0, 4.0, 9.0], "missed", False),  # by exactly a fifth
        (">=", 5, [3.9, 3.9, 9.0], "missed", True),
        ("<=", 1.5, [1.5, 1.5, 9.0], "ok", False),
        ("<=", 2.0, [2.4, 2.4, 1.0], "missed", False),
        ("<=", 2.0, [2.5, 2.5, 1.0], "missed", True),
        (">=", 5, [float("nan"), 9.0, 9.0], "missed", True),
        (None, None, [1e9], "no goal", False),
    ],
)
def test_a_goal_fails_where_the_median_misses_it_by_more_than_a_fifth(
    relation, limit, values, status, fails
):
    row = verdict("G1", "case", "a / b", values, relation, limit)
    assert (row["status"], row["fails"]) == (status, fails)
    assert bench.failed([row]) is fails


def test_a_count_may_not_be_missed_at_all():
    assert verdict("G8", "case", "cases", [322], ">=", 323, margin=0)["fails"]
    assert not verdict("G8", "case", "cases", [323], ">=", 323, margin=0)["fails"]


def test_a_line_says_goal_reached_spread_and_status():
    text = line(verdict("G1", "ring", "QR / ours", [4.0, 4.5, 5.5], ">=", 5))
    assert text.split() == "G1 ring QR / ours >= 5.00 4.50 4.00 ... 5.50 missed by 10.0 %".split()
    text = line(skipped("G9", "ring", "peft / ours", "peft is not installed"))
    assert text.split() == "G9 ring peft / ours skipped: peft is not installed".split()
    assert not bench.failed([skipped("G9", "ring", "peft / ours", "peft is not installed")])


# ---------------------------------------------------------------- races


def run_race(clock, limits, *, peer=1.0, ours=1.0):
    field = [
        Peer("ours", lambda inputs: clock.work("ours", ours), ("numpy",)),
        Peer("peer", lambda inputs: clock.work("peer", peer), ("numpy",), times=4.0),
        Peer("absent", lambda inputs: __import__("no_such_peer"), ("numpy",)),
        Peer("elsewhere", lambda inputs: clock.work("elsewhere", 1.0), ("fortran",)),
    ]
    return list(race.race("G9", TINY, field, limits, Settings(True, "cpu", clock, 3)))


def test_a_race_gives_every_time_and_judges_every_ratio():
    limits = [Limit("peer", "ours", ">=", 10), Limit("ours", "peer")]
    rows = run_race(FakeClock(), limits, peer=3.0, ours=1.0)
    times = [row for row in rows if row["kind"] == "seconds"]
    assert {(r["role"], r["round"], r["seconds"]) for r in times} == {
        *(("ours", i, 1.0) for i in range(3)),
        *(("peer", i, 12.0) for i in range(3)),
    }
    # a figure finds the sizes in the row
    assert all((r["d"], r["k"], r["r"], r["N"], r["layers"]) == (12, 9, 2, 4, 1) for r in times)
    first, second = rows[len(times) :]
    assert (first["reached"], first["status"], first["fails"]) == (12.0, "ok", False)
    assert (second["reached"], second["status"]) == (1 / 12, "no goal")


def test_peers_that_cannot_run_are_named_with_the_reason():
    limits = [Limit("absent", "ours", ">=", 5), Limit("ours", "elsewhere", "<=", 2)]
    first, second = (row for row in run_race(FakeClock(), limits) if row["kind"] == "verdict")
    assert (first["status"], first["reason"]) == ("skipped", "no_such_peer is not installed")
    assert (second["status"], second["reason"]) == ("skipped", "does not run on cpu")


def one_goal(least):
    def goal(settings):
        """A goal on a fake clock."""
        yield from run_race(settings.clock, [Limit("peer", "ours", ">=", least)])

    return {"G9": goal}


def test_a_run_shows_lines_and_stores_rows(tmp_path):
    shown, told, path = [], [], tmp_path / "rows.jsonl"
    settings = Settings(True, "cpu", FakeClock())
    rows = bench.run(one_goal(4), settings, to=path, show=shown.append, progress=told.append)
    assert (shown[0], len(shown)) == (bench.HEADER, 2)
    assert told == ["G9: A goal on a fake clock."]
    stored = unseal_lines(path.read_bytes())
    assert stored == rows
    assert all(not isinstance(value, (list, dict)) for row in stored for value in row.values())
    assert {row["kind"] for row in stored} == {"machine", "seconds", "verdict"}
    assert list(tmp_path.iterdir()) == [path]


def test_an_interrupted_run_stores_what_it_measured(tmp_path):
    def stopped(settings):
        """Interrupted."""
        yield verdict("G8", "case", "a / b", [1.0])
        raise KeyboardInterrupt

    path, clock = tmp_path / "rows.jsonl", FakeClock()
    with pytest.raises(KeyboardInterrupt):
        bench.run({**one_goal(4), "G8": stopped}, Settings(True, "cpu", clock), to=path)
    kept = [row["goal"] for row in unseal_lines(path.read_bytes()) if row["kind"] == "verdict"]
    assert kept == ["G9", "G8"]


def test_a_run_uses_one_thread_and_gives_the_others_back():
    import torch

    before, seen = torch.get_num_threads(), []

    def goal(settings):
        """Look at the threads."""
        seen.append(torch.get_num_threads())
        yield verdict("G9", "case", "a / b", [1.0])

    bench.run({"G9": goal}, Settings(True, "cpu", FakeClock()))
    assert (seen, torch.get_num_threads()) == ([1], before)


def test_a_folder_that_is_not_there_is_told_before_anything_is_timed(tmp_path):
    clock = FakeClock()
    with pytest.raises(ValueError, match="there is no folder"):
        bench.run(one_goal(4), Settings(True, "cpu", clock), to=tmp_path / "no" / "rows")
    assert clock.log == []


# ---------------------------------------------------------------- the command


@pytest.mark.parametrize(("least", "code"), [(4, 0), (5, 0), (5.1, 1)])
def test_the_command_fails_where_a_goal_is_missed_by_more_than_a_fifth(
    least, code, monkeypatch, capsys
):
    monkeypatch.setattr(bench, "GOALS", one_goal(least))
    monkeypatch.setattr(race, "clock_of", lambda device: FakeClock())
    assert cli.main(["bench", "--quick", "--only", "G9"]) == code
    out, err = capsys.readouterr()
    assert len(out.splitlines()) == 2
    assert err == "G9: A goal on a fake clock.\n"


def test_the_command_never_replaces_a_file_unasked(monkeypatch, tmp_path, capsys):
    clock, path = FakeClock(), tmp_path / "rows.jsonl"
    monkeypatch.setattr(bench, "GOALS", one_goal(4))
    monkeypatch.setattr(race, "clock_of", lambda device: clock)
    path.write_text("mine")
    command = ["bench", "--quick", "--only", "G9", "--json", str(path)]
    assert cli.main(command) == 2
    assert f"{path}: exists already; overwrite it (--force)" in capsys.readouterr().err
    assert (path.read_text(), clock.log) == ("mine", [])
    assert cli.main([*command, "--force"]) == 0
    assert {row["kind"] for row in unseal_lines(path.read_bytes())} >= {"machine", "seconds"}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["--only", "G0"],
            "unknown goal 'G0'; known: G1, G2, G3, G4, G5, G6, G7, G8, G9, G10, sizes, gpu",
        ),
        (["--only", "G10", "--json", "/no/where"], "/no/where: there is no folder /no; make"),
    ],
)
def test_bad_input_ends_with_two(arguments, message, capsys):
    assert cli.main(["bench", *arguments]) == 2
    assert capsys.readouterr().err.startswith(f"decaf: error: {message}")


def test_cuda_without_a_gpu_ends_with_two(monkeypatch, capsys):
    import torch

    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert cli.main(["bench", "--device", "cuda"]) == 2
    assert "torch sees no GPU" in capsys.readouterr().err


def test_the_goals_that_are_asked_for_are_run_in_their_order():
    assert list(bench.chosen()) == list(bench.GOALS)
    assert list(bench.chosen(["G4", "G1"])) == ["G1", "G4"]


@pytest.mark.parametrize("quick", [True, False])
def test_the_sizes_of_the_figure_are_timed_in_a_quick_run_too(monkeypatch, quick):
    timed = {}

    def race(goal, case, field, limits, settings):
        timed[case.d] = {peer.role for peer in field}
        return []

    monkeypatch.setattr(goals, "race", race)
    assert list(goals.sizes(bench.settings(quick=quick))) == []
    assert list(timed) == [256, 512, 1024, 2048, 4096]
    assert all({"ours", "QR loop", "GEMM floor"} <= roles for roles in timed.values())
    assert [d for d, roles in timed.items() if "ARPACK" in roles] == list(timed)[
        : 2 if quick else 5
    ]


@pytest.mark.slow
def test_the_command_pins_the_threads_before_numpy_is_loaded():
    code = (
        "import os, sys; from decaf_theory import cli\n"
        "assert 'numpy' not in sys.modules\n"
        "cli.main(['bench', '--only', 'G0'])\n"
        "assert 'numpy' in sys.modules\n"
        "print(*(os.environ[name] for name in cli.THREADS))"
    )
    environment = {"OPENBLAS_NUM_THREADS": "7", "OMP_NUM_THREADS": "7"}
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True
    )
    assert (done.stdout, done.returncode) == ("1 1 1\n", 0), done.stderr
