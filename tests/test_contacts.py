"""A file of contacts as rounds of mixing: weights, rho, and what is wrong with a file."""

from fractions import Fraction
from re import escape

import numpy as np
import pytest

from decaf_theory.lowrank import Factors
from decaf_theory.problems import PROBLEMS
from decaf_theory.simulate import Config, simulate
from decaf_theory.topology import (
    SCHEDULES,
    TOPOLOGIES,
    Contacts,
    check_mixing_matrix,
    metropolis,
)
from verification.claims.networks.spectral_gaps import solver_error
from verification.instances import laws

EPS = 2.0**-52
contacts = SCHEDULES["contacts"]
DAYS = """round, i, j, seconds
# the third day nobody meets
0, 0, 1, 30
0; 2; 1; 5.5
0, 1, 0, 10
3  3  1  100

1\t2\t3\t1e2   # the last
"""
ROUNDS = [[(0, 1), (1, 2)], [(2, 3)], [], [(1, 3)]]


@pytest.fixture
def file(tmp_path):
    def write(text, name="met.csv"):
        path = tmp_path / name
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return path

    return write


def graph(links, N=4):
    import networkx

    graph = networkx.empty_graph(N)
    graph.add_edges_from(links)
    return graph


@pytest.mark.parametrize("sparse", [False, True])
def test_a_round_has_the_metropolis_weights_of_its_contacts(file, sparse):
    schedule = contacts(4, file=file(DAYS), sparse=sparse)
    assert schedule.period == 4
    for t in range(12):
        Pi = schedule(t).toarray() if sparse else schedule(t)
        assert np.abs(Pi - metropolis(graph(ROUNDS[t % 4]))).max() <= 4 * EPS
        check_mixing_matrix(schedule(t), 4)
        assert np.array_equal(Pi, Pi.T)
    assert np.array_equal(schedule(2).toarray() if sparse else schedule(2), np.eye(4))


def test_rounds_repeat_or_end_or_are_drawn(file):
    path = file(DAYS)
    ending = contacts(4, file=path, then="end")
    assert np.array_equal(ending(3), contacts(4, file=path)(7))
    message = f"t must be below 4, the rounds of {path}, got 4; then='repeat' starts again"
    with pytest.raises(ValueError, match=f"^{escape(message)}$"):
        ending(4)
    drawn = contacts(4, file=path, then="draw", seed=1)
    days = [contacts(4, file=path)(t).tobytes() for t in range(4)]
    met = [days.index(drawn(t).tobytes()) for t in range(400)]
    # five standard deviations of a binomial count
    assert all(abs(met.count(day) - 100) <= 5 * 75**0.5 for day in range(4))
    assert met == [days.index(drawn(t).tobytes()) for t in range(400)]
    other = contacts(4, file=path, then="draw", seed=2)
    assert met != [days.index(other(t).tobytes()) for t in range(400)]


def test_more_rounds_than_have_contacts_are_rounds_alone(file):
    path = file("0,0,1\n1,1,2")
    schedule = contacts(3, file=path, rounds=5)
    assert schedule.period == 5
    assert all(np.array_equal(schedule(t), np.eye(3)) for t in (2, 3, 4))
    assert np.array_equal(schedule(5), schedule(0))
    assert schedule.rho() > contacts(3, file=path).rho()


def test_contacts_that_are_too_short_in_all_are_none(file):
    path = file("0,0,1,30\n0,1,0,30\n0,1,2,59\n1,1,2,60")
    schedule = contacts(3, file=path, least=60)
    assert np.array_equal(schedule(0), metropolis(graph([(0, 1)], 3)))
    assert np.array_equal(schedule(1), metropolis(graph([(1, 2)], 3)))
    assert np.array_equal(contacts(3, file=path, least=61)(1), np.eye(3))
    assert contacts(3, file=path, least=1000).rho() >= 1


def rational(links, N=4):
    """Metropolis weights in rational numbers."""
    degree = [sum(agent in link for link in links) for agent in range(N)]
    Pi = [[Fraction(i == j) for j in range(N)] for i in range(N)]
    for i, j in links:
        weight = Fraction(1, 1 + max(degree[i], degree[j]))
        for a, b, sign in ((i, i, -1), (j, j, -1), (i, j, 1), (j, i, 1)):
            Pi[a][b] += sign * weight
    return Pi


@pytest.mark.parametrize("sparse", [False, True])
def test_rho_is_that_of_the_mean_over_the_file(file, sparse):
    Pis = [rational(links) for links in ROUNDS]
    mean = [
        [sum(Pi[k][i] * Pi[k][j] for Pi in Pis for k in range(4)) / 4 for j in range(4)]
        for i in range(4)
    ]
    expected = np.linalg.norm(np.array(mean, dtype=float) - 1 / 4, 2)
    found = contacts(4, file=file(DAYS), sparse=sparse).rho()
    assert found == pytest.approx(expected, abs=100 * EPS)
    assert found == pytest.approx(laws.contacts(4, ROUNDS).rho, abs=100 * EPS)
    assert found < 1


def test_rho_of_many_agents_is_the_same_from_the_sparse_form(file):
    N = 600  # beyond the size at which a sparse matrix keeps its structure
    rng = np.random.default_rng(0)
    pairs = [rng.permutation(N).reshape(-1, 2) for _ in range(6)]
    path = file("\n".join(f"{t},{i},{j}" for t, met in enumerate(pairs) for i, j in met))
    thin, dense = (contacts(N, file=path, sparse=sparse).rho() for sparse in (True, False))
    assert thin == pytest.approx(dense, abs=solver_error(N))
    thin, dense = (
        SCHEDULES["stragglers"](N, Pi=TOPOLOGIES["exponential"](N, sparse=sparse), sparse=sparse)
        for sparse in (True, False)
    )
    assert thin.rho() == pytest.approx(dense.rho(), abs=solver_error(N))
    assert "meetings" not in repr(contacts(N, file=path))  # too many for a message


def test_rho_is_one_where_the_contacts_do_not_connect_all(file):
    assert contacts(4, file=file("0,0,1\n1,2,3")).rho() >= 1


def test_rho_bounds_nothing_of_rounds_in_the_order_of_the_file(file):
    path = file("".join(f"{t},{t // 50},{1 + t // 50}\n" for t in range(100)))
    schedule = contacts(3, file=path)
    product = np.eye(3)
    for t in range(100):
        product = schedule(t) @ product
    # two averages, each of them 50 times in a row, are two averages
    left = np.linalg.norm(product - 1 / 3, 2) ** 2
    assert left > 0.2
    assert schedule.rho() ** 100 < 1e-10


def test_many_agents_who_seldom_meet_are_sparse(file):
    N = 2**17
    lines = (f"{t},{i},{i + 1}" for t in range(2) for i in range(t, N - 1, 2))
    schedule = contacts(N, file=file("\n".join(lines)), sparse=True)
    for t in range(2):
        assert schedule(t).nnz <= 2 * N
        check_mixing_matrix(schedule(t), N)


# ---------------------------------------------------------------- what is wrong with a file


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("0,0", "line 1: a contact must be round, i, j and maybe a duration, got '0, 0'"),
        ("0,0,1\n\n0,0,1,2,3", "line 3: a contact must be round, i, j and maybe a duration"),
        ("0,0,1\n0,1,4", "line 2: j must be an agent below N = 4, counted from 0, got 4"),
        ("0,4,1", "line 1: i must be an agent below N = 4, counted from 0, got 4"),
        ("0,-1,1", "line 1: i must be an integer >= 0, got '-1'"),
        ("1.5,0,1", "line 1: round must be an integer >= 0, got '1.5'"),
        ("0,0,1\nround,i,j", "line 2: round must be an integer >= 0, got 'round'"),
        ("0,\u00b2,1", "line 1: i must be an integer >= 0, got '\u00b2'"),
        ("#\n0,2,2", "line 2: j must be another agent than i, got 2"),
        ("0,0,1,", "line 1: duration must be a finite number > 0, got ''"),
        ("0,0,1,nan", "line 1: duration must be a finite number > 0, got 'nan'"),
        ("0,0,1,0", "line 1: duration must be a finite number > 0, got '0'"),
        ("0,0,1,inf", "line 1: duration must be a finite number > 0, got 'inf'"),
    ],
)
def test_a_bad_line_is_named(file, text, message):
    path = file(text)
    with pytest.raises(ValueError, match=f"^{escape(f'{path}, {message}')}"):
        contacts(4, file=path)


def test_a_bad_file_or_argument_is_named(file, tmp_path):
    path = file("0,0,1")
    for text in ("", "round,i,j\n", "# nobody\n\n"):
        with pytest.raises(
            ValueError, match=r"empty\.csv: holds no contacts; each line is a round"
        ):
            contacts(4, file=file(text, "empty.csv"))
    for bad, reason in (
        (tmp_path / "none.csv", "No such file"),
        (tmp_path, "Is a directory"),
        (file(b"0,0,1\n\xff\xfe", "bytes.csv"), "it is not text in UTF-8"),
    ):
        message = f"file must be a readable list of contacts, got {str(bad)!r}: {reason}"
        with pytest.raises(ValueError, match=f"^{escape(message)}"):
            contacts(4, file=bad)
    for arguments, message in (
        ({"then": "stop"}, "then must be one of ('repeat', 'end', 'draw'), got 'stop'"),
        ({"least": -1}, "least must be finite and >= 0, got -1"),
        ({"least": 5}, f"{path}, line 1: a contact must be given a duration, as least > 0"),
        ({"rounds": 0}, "rounds must be an integer >= 1, got 0"),
        ({"seed": -1}, "seed must be an integer >= 0, got -1"),
        ({"N": 0}, "N must be an integer >= 1, got 0"),
    ):
        with pytest.raises(ValueError, match=f"^{escape(message)}"):
            contacts(**{"N": 4, "file": path, **arguments})
    later = file("0,0,1\n7,0,1")
    with pytest.raises(ValueError, match=r"^rounds must be >= 8, as .* has round 7: 7$"):
        contacts(4, file=later, rounds=7)
    with pytest.raises(ValueError, match=r"^t must be an integer >= 0, got -1"):
        contacts(4, file=path)(-1)


# ---------------------------------------------------------------- in a simulation


@pytest.mark.parametrize("method", ["dlora", "decaf", "gradient_tracking"])
def test_agents_who_meet_as_the_file_says_keep_their_mean_and_pay_for_their_contacts(file, method):
    path = file(DAYS)
    problem = PROBLEMS["P3"](N=4, d=4, k=3)
    ends = contacts(4, file=path, then="end")
    assert isinstance(ends, Contacts)
    config = Config(problem=problem, method=method, Pi=ends, rank=3, lr=0.1, steps=4)
    trace = simulate(config).require_finished()
    links = np.array([len(day) for day in ROUNDS])
    message = 8 * (4 + 3) * 3 * (2 if method == "gradient_tracking" else 1)
    assert np.array_equal(np.diff(trace.comm_bytes[0]), 2 * links * message)
    with pytest.raises(ValueError, match="t must be below 4, the rounds of"):
        simulate(Config(problem=problem, Pi=ends, rank=2, lr=0.1, steps=5))


def test_mixing_by_contacts_keeps_the_mean(file):
    rng = np.random.default_rng(0)
    start = Factors(rng.standard_normal((4, 4, 2)), rng.standard_normal((4, 2, 3)))
    config = Config(
        problem=PROBLEMS["P3"](N=4, d=4, k=3),
        method="dlora",
        Pi=contacts(4, file=file(DAYS)),
        start=start,
        lr=0.0,
        steps=8,
    )
    for X, begun in zip(simulate(config).final, start, strict=True):
        # eight mixes of four terms each
        assert np.abs(X[0].mean(axis=0) - begun.mean(axis=0)).max() <= 40 * EPS * np.abs(X).max()
        assert np.abs(X[0] - begun).max() > 0.1
