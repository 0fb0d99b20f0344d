"""A plan: its bytes and rounds against simulations, its bounds, memory, order, words, bad input."""

import json
import re
import tracemalloc
from fractions import Fraction
from math import inf, sqrt
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from decaf_theory import bounds
from decaf_theory.cli import main
from decaf_theory.lowrank import Factors
from decaf_theory.measure import consensus_distance
from decaf_theory.methods import METHODS, Clock
from decaf_theory.methods.cost import round_bytes
from decaf_theory.methods.turns import interval_at, switching_interval
from decaf_theory.plan import MODELS, Assumed, Site, network, parse_sites, plan, sites_of
from decaf_theory.plan import mixing as mix
from decaf_theory.plan.planning import DEFAULT_METHODS, merit
from decaf_theory.problems import PROBLEMS
from decaf_theory.simulate import Config, simulate
from decaf_theory.topology import TOPOLOGIES

ROOT = Path(__file__).resolve().parent.parent
SMALL = [Site(12, 10, 2, 3)]
EPS = float(np.finfo(float).eps)


def rows_of(*graphs, N=10, sites=SMALL, **more):
    return plan(list(graphs), N, sites, measure=False, **more)


# ---------------------------------------------------------------- bytes and rounds


@pytest.mark.parametrize("graph", ["ring", "star", "complete"])
def test_rounds_and_bytes_are_those_of_a_simulated_run(graph):
    problem = PROBLEMS["P3"](N=6, d=4, k=3)
    (row,) = rows_of(graph, N=6, sites=[Site(4, 3, 2, 1)], methods=["dlora"], dtype="float64")
    start = Factors(*np.random.default_rng(0).standard_normal((2, 6, 4, 2)))
    start = Factors(start.B, start.A[:, :3].mT.copy())
    config = Config(
        problem=problem,
        method="dlora",
        Pi=TOPOLOGIES[graph](6),
        rank=2,
        lr=1e-300,  # mixing alone
        steps=row.rounds,
        start=start,
        record_every=row.rounds,
    )
    trace = simulate(config)
    assert trace.comm_bytes[0][-1] == row.total_bytes == row.rounds * row.round_bytes
    apart = np.sqrt(trace.consensus_factors[0][-1] / consensus_distance(start))
    # the mean is lost to rounding in every round
    assert apart <= row.factor + 8 * row.rounds * EPS


@pytest.mark.parametrize("name", mix.graph_methods())
def test_a_round_sends_what_the_list_of_methods_says(name):
    Pi, sites = TOPOLOGIES["star"](5), [Site(12, 10, 2, 3), Site(8, 9, 2, 1)]
    (row,) = rows_of("star", N=5, sites=sites, methods=[name])
    method = METHODS[name].on(Pi)
    each = [round_bytes(method, Pi, d=s.d, k=s.k, r=s.rank) for s in sites]
    assert [row.round_bytes] * 2 == [3 * a + b for a, b in zip(*each, strict=True)]
    assert row.round_bytes == 8 * row.message_bytes == 2 * row.busiest_bytes
    assert row.averages == (name not in ("choco", "decaf", "decaf_ef", "odelora"))


def test_bytes_follow_the_type_of_the_messages():
    sent = [mix.sent_bytes(METHODS["dlora"], SMALL, dtype) for dtype in mix.DTYPES]
    assert sent == [size * 3 * (12 + 10) * 2 for size in (8, 4, 2, 2)]


# ---------------------------------------------------------------- what the bounds are


def test_the_bounds_are_those_of_the_ledger():
    a = Assumed(L=0.7, c=1.3, G=0.2, sigma=0.4, kappa=0.6, scale=0.5)
    for graph in ("ring", "complete", "star"):
        Pi = TOPOLOGIES[graph](8)
        mu = np.linalg.eigvalsh(Pi)[:-1]
        lam, L = np.abs(mu).max(), 0.5 * (2 * 0.5 * 0.7 * 1.69 + 0.2)
        q, S = lam / (1 - lam), np.sum(mu**2 / (1 - mu**2))
        (row,) = rows_of(graph, N=8, assumed=a, methods=["dlora"])
        assert row.safe_step == row.step == pytest.approx(min(1 / L, 1 / (2 * L * max(q, 1e-9))))
        to_factors = sqrt(2) * 0.5 * 1.3
        drift = to_factors * (0.4 * sqrt(S / 8) + 0.6 * q)
        room = {"rel": 1e-9, "abs": 1e-24}
        Xi = (row.step * drift / (1 - row.step * L * q)) ** 2
        assert row.consensus == pytest.approx(Xi, **room)
        before = to_factors * (0.4 * sqrt(np.sum(1 / (1 - mu**2)) / 8) + 0.6 / (1 - lam))
        Xi = (row.step * before / (1 - row.step * L * q)) ** 2
        assert row.interference == pytest.approx(0.5 * Xi / 2, **room)


def test_before_a_mix_two_agents_come_as_far_apart_as_the_bound_on_interference_says():
    """f_i = -L x^2/2 +- kappa x at N = 2, in fractions: y = lam x, x+ = y + lr (L y + kappa)."""
    lam, L, lr, kappa = Fraction(1, 3), Fraction(1), Fraction(1, 5), Fraction(1)
    x = Fraction(0)
    for _ in range(80):
        y = lam * x
        x = y + lr * (L * y + kappa)
    limit = lr * kappa / (1 - lam * (1 + lr * L))
    assert limit - x < Fraction(1, 10**20)
    # scale and c with sqrt(2) s c = 1, and L* = s (2 s L' c^2 + G) = 1
    a = Assumed(L=0.5, c=1 / sqrt(2), G=0.75, sigma=0.0, kappa=1.0, scale=1.0)
    assert a.smoothness == pytest.approx(1 * (2 * 0.5 * 0.5 + 0.75)) == pytest.approx(1.25)
    a = Assumed(L=0.5, c=1 / sqrt(2), G=0.5, sigma=0.0, kappa=1.0, scale=1.0)
    known = network("ring", 2)
    assert known.lam == pytest.approx(1 / 3)
    assert a.interference(known, float(lr)) == pytest.approx(float(limit) ** 2 / 2, rel=1e-12)


def test_a_step_that_is_too_large_is_said_and_not_refused():
    rows = rows_of("ring", "complete", step=0.1, methods=["dlora"])
    assert {row.graph: row.beyond for row in rows} == {"ring": True, "complete": False}
    (row,) = rows_of("ring", step=10.0, methods=["dlora"])
    assert (row.consensus, row.interference) == (inf, inf)


@given(
    constants=st.lists(st.floats(1e-3, 1e3), min_size=6, max_size=6),
    graph=st.sampled_from(["complete", "ring", "path", "star"]),
    N=st.integers(1, 10**12),
)
def test_at_the_safe_step_every_bound_is_finite_and_grows_with_the_step(constants, graph, N):
    a, known = Assumed(*constants), network(graph, N)
    step = a.safe_step(known)
    assert 0 < step * a.smoothness <= 1 + 4 * EPS
    assert step * a.smoothness * known.q <= 0.5 + 4 * EPS
    for bound in (a.consensus, a.interference):
        assert 0 <= bound(known, step / 2) <= bound(known, step) < inf


def test_the_interval_is_that_of_tad_lora():
    for lam in (0.0, 0.3, 0.87, 0.999):
        assert interval_at(1 - lam**2, 2.0) == switching_interval(lam, 2.0)
    (row,) = rows_of("ring", N=10**9, methods=["tad_lora"])
    assert row.interval == pytest.approx(1 / sqrt(2 * row.gap), rel=1e-8)
    (row,) = rows_of("path", N=20, methods=["tad_lora"])
    method = METHODS["tad_lora"].on(TOPOLOGIES["path"](20))
    switch = next(t for t in range(99) if method.trains(Clock(t)) == ("A",))
    assert row.interval == switch > 1


# ---------------------------------------------------------------- a mix, measured


@pytest.mark.parametrize("name", DEFAULT_METHODS)
def test_memory_is_that_of_an_agent_that_mixes_all_its_matrices(name):
    site, method, m = Site(256, 200, 4, 3), METHODS[name], 4
    (row,) = plan(["complete"], m, [site], methods=[name])
    random = np.random.default_rng(0)
    shapes = ((m, 256, 4), (m, 4, 200))
    drawn = Factors(*(random.standard_normal(shape).astype(np.float32) for shape in shapes))
    weights = np.full((1, m), 1 / m)
    tracemalloc.start()
    heard = [
        {n: X.copy() for n, X in method.send(method.begin(drawn), Clock(1)).items()}
        for _ in range(3)
    ]
    own = method.begin(drawn).take([0])
    left = [method.receive(own, sent, weights, Clock(1)) for sent in heard]
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    objects = 2**15  # of Python, and the rest of what a mix returns
    assert len(left) == 3
    assert row.held == (m + 1) * row.message_bytes
    assert row.held <= peak + objects
    assert peak <= row.memory + objects


def test_time_is_measured_once_for_a_shape_and_counts_copies():
    one, three = (mix.measured(METHODS["decaf"], [Site(9, 8, 2, n)], 3) for n in (1, 3))
    assert 0 < one.milliseconds * 3 == pytest.approx(three.milliseconds, rel=4 * EPS)
    assert one.working == three.working > 9 * 2 * 4
    assert not one.scaled


def test_more_messages_than_fit_are_scaled_and_too_much_is_not_measured(monkeypatch):
    site = Site(16, 12, 1, 1)
    monkeypatch.setattr(mix, "FLOPS", mix.flops(METHODS["dlora"], site, 8))
    mix._of_site.cache_clear()
    found = mix.measured(METHODS["dlora"], [site], 64)
    base = mix.measured(METHODS["dlora"], [site], 8)
    assert (found.scaled, base.scaled) == (True, False)
    # by the flops: those of a mean are in proportion to the messages
    one = mix.flops(METHODS["dlora"], site, 1)
    assert one == 2 * (16 + 12)
    assert mix.flops(METHODS["dlora"], site, 64) == 64 * one
    monkeypatch.setattr(mix, "FLOPS", 1.0)
    mix._of_site.cache_clear()
    assert mix.measured(METHODS["decaf"], [site], 2) == (None, None, False)
    mix._of_site.cache_clear()


def test_flops_of_a_truncated_mix_go_on_where_the_dense_path_begins():
    site, decaf = Site(40, 30, 2, 1), METHODS["decaf"]
    at, after = (mix.flops(decaf, site, m) for m in (15, 16))
    assert after - at == 2 * 40 * 30 * 2
    # the same as the kernel's own count at the seam
    factors = Factors(np.zeros((15, 40, 2), np.float32), np.zeros((15, 2, 30), np.float32))
    assert at == mix.mix_flops(factors, np.full((1, 15), 1 / 15), 2)


# ---------------------------------------------------------------- order and words


def test_each_target_puts_the_least_first():
    graphs = ("ring", "star", "complete", "path")
    for target in ("rounds", "bytes", "accuracy"):
        rows = rows_of(*graphs, target=target)
        assert len(rows) == 12
        assert rows == sorted(rows, key=lambda row: merit(row, target))
    rounds = rows_of(*graphs, target="rounds")
    assert [row.rounds for row in rounds] == sorted(row.rounds for row in rounds)
    cheap = rows_of(*graphs, target="bytes", methods=["choco", "dlora", "dlora_fa"])
    lawful = [row.total_bytes for row in cheap if row.averages]
    assert lawful == sorted(lawful)
    assert [row.method for row in cheap[-4:]] == ["choco"] * 4  # its rounds have no law
    near = rows_of(*graphs, target="accuracy")
    assert [row.interference for row in near] == sorted(row.interference for row in near)


def printed(capsys, *words):
    code = main(["plan", *map(str, words)])
    out, err = capsys.readouterr()
    return code, out, err


@pytest.mark.parametrize(
    "words",
    [
        "--graph ring star complete --agents 10 --target bytes",
        "--graph exponential hypercube --agents 1073741824 --model minilm-l6 "
        "--method gradient_tracking dsgd choco",
        "--graph ring star path complete --agents 1e9 --target accuracy --step 1e-3",
        "--graph ring --agents 1 --sites 4,4,2,1",
        "--graph complete erdos_renyi bipartite --agents 2 --sites 4,4,2,1 4,5,1,2 --step 3",
    ],
)
def test_the_text_fits_and_ends_with_what_it_rests_on(capsys, words):
    code, out, err = printed(capsys, *words.split(), "--no-measure")
    assert (code, err) == (0, "")
    assert max(map(len, out.splitlines())) <= 96
    assert out.isascii()
    assert "recommended for " in out
    for claim in ("T31", "T25", "T14", "T2-sharp", "TAD-LoRA", "T17", "R1"):
        assert claim in out
    for name in ("L", "c", "G", "sigma", "kappa", "scale"):
        assert f"{name} = 1 (assumed)" in out


def test_what_is_given_is_not_called_assumed_and_a_large_step_is_said(capsys):
    _, out, _ = printed(
        capsys, *"--L 2 --step 9 --target accuracy --sites 4,4,2,1 --no-measure".split()
    )
    assert "L = 2: grad f" in out
    assert "c = 1 (assumed)" in out
    assert "recommended for accuracy: none, as every bound is inf at step 9.00." in out
    assert "step 9.00 is beyond the safe step of ring" in out
    assert "the least of the safe steps" not in out


def test_the_records_are_written_whole_and_never_over_a_file(capsys, tmp_path):
    path, words = tmp_path / "plan.json", "--sites 4,4,2,1 --no-measure --json"
    assert printed(capsys, *words.split(), path)[0] == 0
    stored = json.loads(path.read_text())
    assert [row["method"] for row in stored["rows"]] == ["dlora_fa", "decaf", "dlora"]
    assert stored["assumed"]["kappa"] == 1.0
    assert stored["sites"] == [{"d": 4, "k": 4, "rank": 2, "copies": 1}]
    code, out, err = printed(capsys, *words.split(), path)
    assert (code, out) == (2, "")
    assert "exists already; overwrite it (--force) or name another" in err
    assert printed(capsys, *words.split(), path, "--force")[0] == 0


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("--graph rng", "the nearest name is ring"),
        ("--graph hypercube", "must be a power of two for the hypercube, got 10"),
        ("--agents 0", "must be a whole number >= 1, as 10 or 1e6; got '0'"),
        ("--agents 2.5", "got '2.5'"),
        ("--agents many", "got 'many'"),
        ("--agents inf", "got 'inf'"),
        ("--agents 1e13", "agents must be at most 1e+12"),
        ("--sites 4,4,1", "sites must be four whole numbers D,K,R,COUNT"),
        ("--sites 4,4,x,1", "got '4,4,x,1'; e.g. 4096,4096,8,64"),
        ("--sites 4,4,5,1", "rank must be in 1 ... min(D, K) = 4"),
        ("--sites 4,4,1,0", "D, K and COUNT >= 1, got 4,4,1,0"),
        ("--sites 4,4,1,1 --model minilm-l6", "--model and --sites exclude each other"),
        ("--sites 4,4,1,1 --rank 2", "--rank and --sites exclude each other"),
        ("--model llama", "the nearest name is llama2-7b"),
        ("--rank 0", "rank must be in 1"),
        ("--method fedavg", "that mix on a graph, got 'fedavg'"),
        ("--target speed", "target must be one of rounds, bytes, accuracy, got 'speed'"),
        ("--dtype int8", "dtype must be one of float64, float32, bfloat16, float16"),
        ("--factor 1", "factor must lie in (0, 1), got 1.0"),
        ("--factor nan", "factor must lie in (0, 1), got nan"),
        ("--L 0", "L must be a finite number > 0, got 0.0"),
        ("--sigma -1", "sigma must be a finite number >= 0, got -1.0"),
        ("--G nan", "G must be a finite number >= 0, got nan"),
        ("--step inf", "step must be a finite number > 0, got inf"),
    ],
)
def test_bad_input_is_named(capsys, words, said):
    try:
        code = main(["plan", *words.split(), "--no-measure"])
    except SystemExit as stop:
        code = stop.code
    out, err = capsys.readouterr()
    assert (code, out) == (2, "")
    assert said in err


@pytest.mark.parametrize("names", ["graph", "methods", "sites"])
def test_nothing_to_plan_is_named(names):
    given = {"graph": ["ring"], "methods": ["dlora"], "sites": SMALL} | {names: []}
    with pytest.raises(ValueError, match="at least one"):
        plan(given["graph"], 4, given["sites"], methods=given["methods"])


# ---------------------------------------------------------------- models


@pytest.mark.night
def test_sites_are_those_of_the_models_of_the_harness():
    transformers = pytest.importorskip("transformers")
    from paper_checks.architectures import ARCHITECTURES

    assert transformers
    names = {"llama2-7b": "meta-llama/Llama-2-7b-hf"}
    names["clip-vit-b16"] = "openai/clip-vit-base-patch16"
    for ours, theirs in names.items():
        built = ARCHITECTURES[theirs]
        shapes = [
            tuple(module.weight.shape)
            for name, module in built.build().named_modules()
            if name.rsplit(".", 1)[-1] in built.targets
        ]
        counts = {(s.d, s.k): s.copies for s in sites_of(ours, 4)}
        assert counts == {shape: shapes.count(shape) for shape in shapes}


def test_sites_of_other_models_are_counted_by_hand():
    assert sites_of("smollm2-135m", 4) == [Site(576, 576, 4, 30), Site(192, 576, 4, 30)]
    assert sites_of("minilm-l6", 4) == [Site(384, 384, 4, 12)]
    assert sites_of("vit-digits", 4) == [Site(48, 48, 4, 4), Site(96, 48, 4, 2)]
    assert parse_sites(["8,9,2,5"]) == [Site(8, 9, 2, 5)]
    assert len(MODELS) == 5


# ---------------------------------------------------------------- the page


def test_the_page_shows_what_the_command_prints(capsys):
    page = (ROOT / "docs" / "plan.md").read_text(encoding="utf-8")
    shown = re.search(r"```sh\ndecaf plan (.*?)\n```\n\n```text\n(.*?)```", page, re.S)
    command, text = shown.groups()
    code, out, _ = printed(capsys, *command.split())
    assert (code, out) == (0, text)


def test_the_lines_of_python_on_the_page_run():
    page = (ROOT / "docs" / "plan.md").read_text(encoding="utf-8")
    (code,) = re.findall(r"```python\n(.*?)```", page, re.S)
    names = {}
    exec(code, names)
    best = names["rows"][0]
    assert best.total_bytes == min(row.total_bytes for row in names["rows"] if row.averages)
    assert bounds.sqrt_rho_ring(N=10) == pytest.approx(1 - network("ring", 10).gap)


def test_more_bytes_than_units_have_names_for_come_with_an_exponent(capsys):
    assert main(["plan", "--graph", "complete", "--agents", "1e9", "--no-measure"]) == 0
    printed = capsys.readouterr().out
    assert re.search(r"\d\.\de\+\d\d B\b", printed)
    assert not re.search(r"e\+\d\d TB", printed)
