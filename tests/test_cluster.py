"""Work on a Dask cluster whose scheduler and workers are killed: nothing is lost or done twice."""

import threading
import time
from collections import Counter
from contextlib import contextmanager
from functools import partial
from itertools import cycle

import pytest

distributed = pytest.importorskip("distributed", reason="a cluster needs Dask: .[cluster]")

from tests.dask_cluster import JOB, Cell, Local, lines  # noqa: E402
from verification import cluster, serving  # noqa: E402
from verification.cluster import Cluster  # noqa: E402

pytestmark = pytest.mark.slow
NIGHT = pytest.mark.night
EACH_DONE = ["a done", "b done", "c done"]


@pytest.fixture(scope="module")
def started(tmp_path_factory):
    found = Local(tmp_path_factory.mktemp("cluster"))
    found.start()
    until(found.listening)
    yield found
    found.end()


@pytest.fixture
def local(started):
    """The cluster with a worker at least."""
    started.start(workers=0 if started.alive() else 1)
    return started


@pytest.fixture(autouse=True)
def patience(monkeypatch):
    monkeypatch.setattr(cluster, "PATIENCE_S", 300.0)  # machines of tests are slow at times


def run(where, cells, stamp=JOB.stamp, **others):
    return list(
        cluster.on_cluster(
            where,
            JOB._replace(stamp=stamp),
            cells,
            name=lambda cell: cell.name,
            failed=lambda cell, why: f"{cell.name} failed: {why}",
            **others,
        )
    )


def until(condition):
    ends = time.monotonic() + 240
    while not condition():
        assert time.monotonic() < ends, "it never came"
        time.sleep(0.02)


def stamp_of(names, cell):
    """A stamp with the code of the submitter, on workers of these names with another."""
    try:
        return {"cell": cell.name, "code": "theirs"[: 6 * (distributed.get_worker().name in names)]}
    except ValueError:  # not on a worker
        return {"cell": cell.name, "code": ""}


def test_a_worker_of_other_code_is_refused_and_named_before_it_begins(
    tmp_path, caplog, monkeypatch
):
    log = tmp_path / "log"
    cells = [Cell(name, log) for name in "abc"]
    apart = {"processes": False, "protocol": "tcp", "dashboard_address": ":0"}
    apart |= {"local_directory": str(tmp_path), "threads_per_worker": 1}
    with distributed.LocalCluster(n_workers=2, **apart) as workers:
        there = Cluster(workers.scheduler_address)
        assert sorted(run(there, cells, stamp=partial(stamp_of, [1]))) == EACH_DONE
        refused = "is refused: it would not compute the same (code: theirs -> )"
        assert f"{workers.workers[1].address} {refused}" in caplog.text
        assert f"{workers.workers[0].address} {refused}" not in caplog.text
        assert of(log, "begun") == {"a": 1, "b": 1, "c": 1}
        monkeypatch.setattr(cluster, "PATIENCE_S", 1.0)
        with pytest.raises(cluster.ClusterError, match=r"no worker of .* can be used: .*theirs"):
            run(there, cells, stamp=partial(stamp_of, [0, 1]))
        assert of(log, "begun").total() == 3


def test_a_cell_that_kills_its_worker_thrice_is_failed_and_costs_no_other(local, tmp_path, caplog):
    log = tmp_path / "log"
    cells = [Cell(name, log) for name in ("a", "deadly", "raises", "b")]

    def replace():
        for killed in range(1, 4):
            until(lambda killed=killed: of(log, "begun")["deadly"] == killed and not local.alive())
            local.start(workers=1)

    with beside(replace):
        found = run(local.cluster, cells)
    assert sorted(found)[:2] == ["a done", "b done"]
    assert found[1].startswith("deadly failed: its worker tcp://127.0.0.1:")
    assert found[1].endswith(" is gone, 3 times")
    assert found[2] == "raises failed: it raised ValueError: a defect of this cell, 3 times"
    assert of(log, "begun") == {"a": 1, "deadly": 3, "raises": 3, "b": 1}
    assert "deadly: its worker" in caplog.text


# how many have ended -> what is killed then
FEW = {3: "scheduler"}  # the worker is, above
MANY = dict(zip(range(5, 95, 10), cycle(["worker", "scheduler"]), strict=False))


@pytest.mark.parametrize(("count", "kills"), [(6, FEW), pytest.param(100, MANY, marks=NIGHT)])
def test_no_cell_is_computed_twice_though_workers_and_scheduler_are_killed(
    local, tmp_path, count, kills
):
    log = tmp_path / "log"
    cells = [Cell(f"cell{i}", log, seconds=0.3, deaf=True) for i in range(count)]

    def kill_in_turn():
        for ended, what in kills.items():
            until(lambda ended=ended: of(log, "ended").total() >= ended)
            begun = len(lines(log))
            until(lambda begun=begun: at_work(lines(log)[begun:]))
            if what == "scheduler":
                local.kill(local.scheduler)
                until(lambda: not local.alive())  # each ends its cell before it ends
            else:
                victim = at_work(lines(log)[begun:])
                local.kill(next(x for x in local.workers if str(x.pid) == victim))
            local.start(workers=1)

    with beside(kill_in_turn):
        found = run(local.cluster, cells)
    assert sorted(found) == sorted(f"{cell.name} done" for cell in cells)
    assert of(log, "ended") == dict.fromkeys((cell.name for cell in cells), 1)
    # a cell whose worker was killed at work is begun again, and no other is
    assert of(log, "begun").total() == count + [*kills.values()].count("worker")
    assert not [*(local.folder / "workers").rglob(serving.RESULT)]


def test_what_runs_is_told_to_end_once_it_stops_and_goes_on_from_its_folder(local, tmp_path):
    log = tmp_path / "log"
    cells = [Cell("endless", log), Cell("next", log)]
    found = run(local.cluster, cells, stopping=lambda: of(log, "begun")["endless"] > 0)
    assert found == []
    until(lambda: of(log, "told")["endless"])
    assert of(log, "begun") == {"endless": 1}


def test_a_scheduler_that_stays_away_ends_it_in_a_line(local, tmp_path, monkeypatch):
    log = tmp_path / "log"
    monkeypatch.setattr(cluster, "PATIENCE_S", 1.0)
    cells = [Cell("cell", log, seconds=1.0)]

    def kill():
        until(lambda: of(log, "begun")["cell"])
        local.kill(local.scheduler)

    with beside(kill), pytest.raises(cluster.ClusterError, match="the same command resumes"):
        run(local.cluster, cells)
    with pytest.raises(cluster.ClusterError, match=r"no scheduler at tcp://127\.0"):
        run(local.cluster, cells)


def of(log, word):
    """How often each cell wrote a word."""
    return Counter(cell for said, cell, _ in lines(log) if said == word)


def at_work(written):
    """The process of the last cell that began and has not ended, empty if there is none."""
    ended = {process for word, _, process in written if word == "ended"}
    begun = [process for word, _, process in written if word == "begun"]
    return begun[-1] if begun and begun[-1] not in ended else ""


@contextmanager
def beside(action):
    """Let an action run in a thread of its own, and wait for its end."""
    errors = []

    def guarded():
        try:
            action()
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=guarded)
    thread.start()
    yield
    thread.join()
    assert not errors, errors
