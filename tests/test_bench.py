"""The benchmark's machinery, on clocks that are told what to say: no speed is tested here."""

import json
import subprocess
import sys

import numpy as np
import pytest

from decaf_theory import bench, cli
from decaf_theory.bench import accuracy, goals, lapack, memory, peers, race
from decaf_theory.bench.cases import Case, Inputs, draw, mixing, on_torch
from decaf_theory.bench.race import Limit, Peer, Settings
from decaf_theory.bench.rows import line, short, skipped, verdict, write
from decaf_theory.bench.timing import Contestant, Timed, fastest, interleaved, ratios
from decaf_theory.lowrank import Factors, product
from decaf_theory.tsvd import PATHS, tsvd_of_mix

TINY = Case(12, 9, 2, 4, "ring")
EPS32 = float(np.finfo(np.float32).eps)


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
    assert text.split() == "G1 ring QR / ours >= 5 4.5 4 ... 5.5 missed by 10 %".split()
    text = line(skipped("G9", "ring", "peft / ours", "peft is not installed"))
    assert text.split() == "G9 ring peft / ours skipped: peft is not installed".split()
    assert not bench.failed([skipped("G9", "ring", "peft / ours", "peft is not installed")])


@pytest.mark.parametrize(
    ("x", "text"),
    [(0.0, "0"), (5, "5"), (1.234, "1.23"), (8000, "8000"), (1e5, "1.0e+05"), (5e-7, "5.0e-07")],
)
def test_numbers_have_three_digits(x, text):
    assert short(x) == text


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
    stored = [json.loads(text) for text in path.read_text().splitlines()]
    assert stored == rows
    assert all(not isinstance(value, (list, dict)) for row in stored for value in row.values())
    assert {row["kind"] for row in stored} == {"machine", "seconds", "verdict"}
    assert list(tmp_path.iterdir()) == [path]


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


def test_half_a_file_is_never_seen(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_text("old\n")
    with pytest.raises(TypeError):
        write(path, [{"a": 1.0}, {"a": object()}])
    assert path.read_text() == "old\n"
    assert list(tmp_path.iterdir()) == [path]
    write(path, [{"b": float("inf"), "a": 1}])
    assert path.read_text() == '{"a": 1, "b": "inf"}\n'


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


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--only", "G5"], "unknown goal 'G5'; known: G1, G2, G3, G4, G8, G9, G10, sizes"),
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


def test_quick_leaves_out_the_sizes():
    assert list(bench.chosen()) == list(bench.GOALS)
    assert list(bench.chosen(quick=True)) == [name for name in bench.GOALS if name != "sizes"]
    assert list(bench.chosen(["G4", "G1"], quick=True)) == ["G1", "G4"]


@pytest.mark.slow
def test_the_command_pins_the_threads_before_numpy_is_loaded():
    code = (
        "import os, sys; from decaf_theory import cli\n"
        "assert 'numpy' not in sys.modules\n"
        "cli.main(['bench', '--only', 'G5'])\n"
        "assert 'numpy' in sys.modules\n"
        "print(*(os.environ[name] for name in cli.THREADS))"
    )
    environment = {"OPENBLAS_NUM_THREADS": "7", "OMP_NUM_THREADS": "7"}
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True
    )
    assert (done.stdout, done.returncode) == ("1 1 1\n", 0), done.stderr


# ---------------------------------------------------------------- what is timed is right


def truncations(inputs):
    """Return TSVD_r of each agent's mix of each layer, by a loop and LAPACK in float64."""
    B, A = (np.asarray(X, np.float64) for X in inputs.factors)
    M = np.einsum("ij,ljab->liab", inputs.Pi, B @ A)
    U, S, Vh = np.linalg.svd(M, full_matrices=False)
    r = inputs.rank
    return (U[..., :r] * S[..., None, :r]) @ Vh[..., :r, :]


def assert_near(found, best):
    """Assert products equal to float32 rounding, with room for gaps of a tenth of sigma_1."""
    size = np.max(np.linalg.norm(best, 2, axis=(-2, -1)))
    assert np.max(np.abs(np.asarray(found) - best)) <= 10 * max(best.shape[-2:]) * EPS32 * size


CASES = [
    TINY,
    TINY._replace(graph="complete"),
    TINY._replace(graph="unequal", apart=1e-2),
    TINY._replace(d=9, k=12, layers=3),
]


@pytest.fixture(params=CASES, ids=lambda case: case.label)
def case(request):
    return request.param


@pytest.fixture(params=["numpy", "torch"])
def inputs(request, case):
    drawn = draw(case)
    return drawn if request.param == "numpy" else on_torch(drawn, "cpu")


def test_the_kernel_and_the_qr_loops_truncate_the_mix(inputs):
    best = truncations(inputs)
    for build in (peers.kernel, peers.stacked_qr):
        assert_near(product(build(inputs)()), best)
    loop = np.stack([np.asarray(product(factors)) for factors in peers.qr_loop(inputs)()])
    assert_near(loop.reshape(best.shape), best)


def test_the_dense_peers_truncate_the_first_agents_mix(inputs):
    best, r = truncations(inputs), inputs.rank
    assert_near(product(peers.dense_aggregation(inputs)()), best[0, 0])
    U, S, Vh = (np.asarray(X) for X in peers.dense(inputs)())
    assert_near((U[:, :r] * S[:r]) @ Vh[:r], best[0, 0])
    U, S, Vh = (np.asarray(X) for X in peers.dense_batched(inputs)())
    assert_near((U[..., :r] * S[..., None, :r]) @ Vh[..., :r, :], best)


@pytest.mark.parametrize("solver", ["propack", "arpack"])
def test_svds_finds_the_singular_values_of_every_agent(solver):
    inputs = draw(TINY)
    values = np.linalg.svd(truncations(inputs)[0], compute_uv=False)[:, :2]
    found = np.stack([np.sort(S)[::-1] for _, S, _ in peers.svds(inputs, solver)()])
    assert np.max(np.abs(found - values)) <= 10 * 12 * EPS32 * np.max(values)


def test_randomized_svd_of_torch_is_exact_where_it_keeps_all():
    inputs = on_torch(draw(TINY), "cpu")  # r + 6 = 8 of at most 6 directions
    assert_near(product(peers.svd_lowrank(inputs)()), truncations(inputs)[0, 0])


@pytest.mark.slow
def test_scikit_learns_randomized_svd_is_near():
    pytest.importorskip("sklearn", reason="scikit-learn is not installed")
    inputs = draw(TINY)
    assert_near(product(peers.randomized_svd(inputs)()), truncations(inputs)[0, 0])


@pytest.mark.slow
def test_peft_truncates_the_same_mix_again_and_again():
    pytest.importorskip("peft", reason="peft is not installed")
    inputs = on_torch(draw(TINY), "cpu")
    run, best = peers.peft(inputs), truncations(inputs)[0, 0]
    for _ in range(2):
        assert_near(product(run()), best)


def test_the_floor_multiplies_grams_and_distinct_rows(inputs, monkeypatch):
    xp = peers.namespace(inputs.factors.B)
    seen = []

    def matmul(a, b, **to):
        seen.append((tuple(a.shape), tuple(b.shape), str(a.dtype).rpartition(".")[2]))

    run = peers.floor(inputs)
    monkeypatch.setattr(xp, "matmul", matmul)
    run()
    L, N, d, r = inputs.factors.B.shape
    k, rows = inputs.factors.A.shape[-1], r * len({tuple(row) for row in inputs.Pi})
    expected = []
    for length in (d, k):
        expected += [((N * r, length), (length, N * r), "float64")]
        expected += [((rows, N * r), (N * r, length), "float32")]
    assert seen == expected * L


def test_a_copy_copies(inputs):
    assert peers.copy(inputs)() is None


def test_unequal_rows_mix_all_agents_and_differ():
    Pi = mixing("unequal", 5)
    assert np.all(Pi > 0)
    assert len(np.unique(Pi, axis=0)) == 5
    assert np.max(np.abs(Pi.sum(axis=0) - 1)) <= 5 * np.finfo(float).eps
    assert np.array_equal(Pi, Pi.T)


# ---------------------------------------------------------------- accuracy, memory


def test_the_protocol_counts_all_cases():
    found = accuracy.protocol("qr", "float32")
    assert found.passed == 323
    assert 0 < found.worst < lapack.THRESHOLD
    assert found.where


def test_the_protocol_fails_a_kernel_that_is_wrong(monkeypatch):
    def careless(factors, Pi, rank, method):
        found = tsvd_of_mix(factors, Pi, rank, method=method)
        return found._replace(factors=Factors(found.factors.B * 1.001, found.factors.A))

    monkeypatch.setattr(accuracy, "tsvd_of_mix", careless)
    found = accuracy.protocol("qr", "float32")
    # only zeros survive, and the 102 sizes that are refused
    assert found.passed == 102 + 13
    assert found.worst > 50


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_hard_cases_are_what_they_are_called(dtype):
    cases = accuracy.hard_cases(dtype)
    info = np.finfo(dtype)
    assert len(cases) == 12
    for inputs in cases.values():
        assert all(X.dtype == dtype and np.isfinite(X).all() for X in inputs.factors)
    B = cases["subnormal"].factors.B
    assert 0 < np.max(np.abs(B)) < info.smallest_normal
    values = np.linalg.svd(
        np.einsum("ij,jab->iab", cases["tie"].Pi, product(cases["tie"].factors)), compute_uv=False
    )
    assert np.ptp(values[:, :12]) <= 100 * info.eps
    M = np.einsum("ij,jab->iab", np.full((1, 6), 1 / 6), product(cases["cancelling"].factors))
    assert np.linalg.norm(M) < 0.1 * np.linalg.norm(product(cases["cancelling"].factors)[0])
    assert not cases["zero"].factors.B.any()


@pytest.mark.parametrize("path", ["auto", *PATHS])
@pytest.mark.parametrize("name", ["random", "tie", "cancelling", "zero", "scales 1e+-30"])
def test_a_hard_error_is_that_of_the_factors(name, path, monkeypatch):
    inputs = accuracy.hard_cases("float64")[name]
    honest = accuracy.hard_error(name, inputs, path)
    assert honest.over_terms <= 1e-13

    def careless(factors, Pi, rank, method):
        found = tsvd_of_mix(factors, Pi, rank, method=method)
        return found._replace(factors=Factors(found.factors.B * 1.001, found.factors.A))

    monkeypatch.setattr(accuracy, "tsvd_of_mix", careless)
    careless_error = accuracy.hard_error(name, inputs, path)
    # a thousandth of sigma_1, of the product and of the residual's leading values alike
    assert careless_error.over_sigma == pytest.approx(0.0 if name == "zero" else 1e-3, rel=0.01)


def test_the_error_of_a_layer_is_that_of_its_worst_agent(monkeypatch):
    inputs = draw(TINY._replace(layers=2))
    assert accuracy.layer_error(inputs) <= 10 * 12 * EPS32

    def careless(*args):
        found = tsvd_of_mix(*args)
        B = found.factors.B.copy()
        B[0, 3] *= 1.001
        return found._replace(factors=Factors(B, found.factors.A))

    monkeypatch.setattr(accuracy, "tsvd_of_mix", careless)
    assert accuracy.layer_error(inputs) == pytest.approx(1e-3, rel=1e-2)


@pytest.mark.slow
@pytest.mark.skipif(not memory.STATUS.exists(), reason="the peak is read from /proc")
def test_memory_is_counted_beside_factors_and_results():
    found = memory.added_bytes(2, 3, 500, 400, 4)
    numbers = 2 * 3 * 4 * (500 + 400)
    # results: factors of the same shapes, 4 kept and 12 - 4 dropped singular values an agent
    assert found["factors"] == 4 * numbers
    assert found["results"] == 4 * (numbers + 2 * 3 * 12)
    assert abs(found["added"]) < 64e6  # small results may lie where something was freed before


@pytest.mark.skipif(not memory.STATUS.exists(), reason="the peak is read from /proc")
def test_memory_that_is_given_back_within_the_round_is_counted(monkeypatch, capsys):
    def wasteful(*args, **options):
        np.ones(25 * 10**6).sum()
        return tsvd_of_mix(*args, **options)

    monkeypatch.setattr(memory, "tsvd_of_mix", wasteful)
    memory.tell(1, 3, 50, 40, 2)
    found = json.loads(capsys.readouterr().out)
    assert found["added"] >= 0.99 * 200e6  # the system counts pages by the batch


def test_a_system_that_does_not_tell_its_memory_skips_the_goal(monkeypatch, tmp_path):
    monkeypatch.setattr(memory, "STATUS", tmp_path / "none")
    (row,) = goals.g10(Settings(True, "cpu", FakeClock()))
    assert (row["status"], row["goal"]) == ("skipped", "G10")
    assert "is not here" in row["reason"]


@pytest.mark.slow
@pytest.mark.parametrize("device", ["cpu", "cpu:0"])
def test_every_goal_on_layers_runs_on_a_tiny_layer(device, monkeypatch):
    """Also on torch alone, as on CUDA: "cpu:0" is a device of torch that is not "cpu"."""
    small = TINY._replace(d=40, k=30)  # so large that the panels pay, with sums in float64
    monkeypatch.setattr(goals, "LLAMA", small)
    monkeypatch.setattr(goals, "CLIP", small._replace(layers=2))
    clock = FakeClock()

    def ticking():
        clock.now += 1.0
        return clock.now

    settings = Settings(False, device, ticking, 1)
    backends = {"torch"} if device == "cpu:0" else {"numpy", "torch"}
    for name in ("G1", "G2", "G3"):
        rows = list(goals.GOALS[name](settings))
        verdicts = [row for row in rows if row["kind"] == "verdict"]
        times = [row for row in rows if row["kind"] == "seconds"]
        assert {row["goal"] for row in rows} == {name}
        assert {row["backend"] for row in times} == backends
        absent = {row["measure"] for row in verdicts if row["status"] == "skipped"}
        on_host = {"PROPACK / ours", "ARPACK / ours"} if name == "G1" else set()
        assert absent == (on_host if device == "cpu:0" else set())
        errors = [row for row in verdicts if row["measure"] == "error / sigma_1"]
        assert {row["status"] for row in errors} == {"ok"}


def test_hard_cases_run_on_torch_too():
    for name, inputs in accuracy.hard_cases("float32").items():
        assert accuracy.hard_error(name, inputs, "auto", "cpu").over_terms <= 1e-6
    assert accuracy.protocol("panel", "float32", "cpu").passed == 323


def test_the_whole_is_scaled_from_what_is_measured():
    """A dense SVD at 1024 stands for all agents of a 4096 x 4096 layer: 10 x 4^3 of it."""
    assert goals.dense(goals.LLAMA, 1024).times == 10 * 4**3
    assert goals.dense(goals.LLAMA).times == 10
    assert goals.dense(goals.LLAMA).once
    assert goals.dense(goals.CLIP).times == 10 * 36
    assert not goals.dense(goals.CLIP).once


def test_inputs_name_their_neighbours():
    inputs = Inputs(Factors(None, None), np.array([[0.5, 0.0, 0.5]]), 1)
    assert inputs.neighbours(0).tolist() == [0, 2]
