"""Ranks of torch.distributed do what one process does, bit for bit; their faults are one line."""

import json
import os
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from decaf_theory.distributed import Neighbourhood
from decaf_theory.distributed.neighbourhood import blocks_of, heard_by, require_neighbours
from decaf_theory.distributed.running import problem_of
from decaf_theory.distributed.wire import packed, room, unpacked
from decaf_theory.lowrank import Factors
from decaf_theory.methods import METHODS
from decaf_theory.problems import PROBLEMS
from decaf_theory.topology import TOPOLOGIES
from paper_checks import cli, ranks
from paper_checks import config as configs
from paper_checks.config import ConfigError
from tests import paper_runs

ROOT = Path(__file__).resolve().parent.parent
SUITED = [m.name for m in METHODS.values() if (m.meets, m.pools) == ("graph", "none")]
THREADS = ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS")
ALONE = dict.fromkeys(THREADS, "1") | {"TORCH_CPP_LOG_LEVEL": "ERROR"}

RANKS = """
from tests.mutation import alter
alter()
from runpy import run_module
run_module("tests.ranks", run_name="__main__")
"""


class Ended:
    """What the ranks of all scenes left."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.codes = json.loads((directory / "codes.json").read_text())

    def said(self, scene: str, rank: int, kind: str = "err") -> str:
        return (self.directory / f"{scene}.{rank}.{kind}").read_text()

    def said_of_hosts(self) -> str:
        """Return why there were no two hosts, if there were none."""
        return (self.directory / "hosts.txt").read_text()

    def error(self, scene: str, rank: int) -> str:
        """Return the one line with which the rank ended."""
        assert self.codes[scene][rank] == 2
        # triton 3.9 may have its binding write at an interpreter's end what it did not free
        said, _, _ = self.said(scene, rank).partition("nanobind: ")
        lines = [line for line in said.splitlines() if line]
        assert len(lines) == 1, lines
        assert lines[0].startswith("error: ")
        return lines[0].removeprefix("error: ")


@pytest.fixture(scope="module")
def ended(tmp_path_factory):
    directory = tmp_path_factory.mktemp("ranks")
    done = subprocess.run(
        [sys.executable, "-c", RANKS, str(directory)],
        cwd=ROOT,
        env=os.environ | ALONE,
        timeout=480,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return Ended(directory)


@pytest.fixture(scope="module")
def rows(ended):
    assert ended.codes["equal"] == [0] * 4, ended.said("equal", 0)
    found = [json.loads(line) for line in ended.said("equal", 0, "txt").splitlines()]
    return {row["name"]: row for row in found}


def test_ranks_do_what_one_process_does_bit_for_bit(rows):
    assert {row["name"]: row["far"] for row in rows.values() if row["far"] != 0} == {}
    assert all(row["moved"] for row in rows.values())
    for name in SUITED:
        fixed = METHODS[name].one_graph or METHODS[name].tuned
        graphs = ["ring", "complete", "bipartite"] + ([] if fixed else ["one peer"])
        assert {f"{name} on {graph}" for graph in graphs} <= set(rows)


def test_means_of_exact_numbers_are_those_of_the_whole_stack(rows):
    means = {f"{name} exactly" for name in SUITED if METHODS[name].space == "factors"}
    assert len(means) >= 8
    assert means <= set(rows)


def test_bytes_are_those_that_the_method_declares(rows):
    for name, row in rows.items():
        assert row["sent"] > 0
        if "six agents" not in name:
            runs = 2 if name == "two runs" else 1
            assert row["sent"] == runs * row["declared"], name


def test_agents_of_one_rank_send_each_other_nothing(rows):
    # of the 12 links of a ring of six in blocks of 2, 2, 1, 1 four stay within a block
    for name in ("six agents", "six agents of unequal rank", "training six agents"):
        assert rows[name]["sent"] * 12 == rows[name]["declared"] * 8


def test_a_model_of_several_sites_mixes_in_one_message(rows):
    assert rows["model"]["kinds"] == ["torch.float32", "torch.float64"]


@pytest.mark.parametrize("rank", [0, 2])
def test_a_dead_rank_is_named_by_its_neighbours(ended, rank):
    line = ended.error("dead", rank)
    assert re.match(rf"rank {rank} cannot mix in round 2: .*rank 1 has ended", line), line
    assert ended.codes["dead"][1] == -9


def test_the_others_of_a_dead_rank_end_as_well(ended):
    assert re.match(r"rank 3 cannot mix in round \d: .*rank [02] ", ended.error("dead", 3))


@pytest.mark.parametrize("rank", [0, 2])
def test_a_slow_rank_is_named_with_the_limit(ended, rank):
    line = ended.error("slow", rank)
    assert "cannot mix in round 2: " in line
    assert "rank 1 did not answer within 5 s" in line
    assert ended.codes["slow"][1] == 2  # it finds the others gone


def test_a_rank_that_is_late_where_all_speak_is_named(ended):
    assert ended.error("late", 0) == "rank 0: as all spoke, rank 1 did not answer in time"
    assert ended.error("late", 2).startswith("rank 2: as all spoke, rank 0 ")


def test_a_rank_that_ends_as_agents_are_gathered_is_named(ended):
    assert ended.codes["killed_measuring"] == [2, -9, 2]
    assert ended.error("killed_measuring", 0) == (
        "rank 0: as agents were gathered at step 1, rank 1 has ended: its connection is closed"
    )
    left = r"rank 2: as (agents were gathered|rank 0 measured) at step 1, rank 0 has ended"
    assert re.match(left, ended.error("killed_measuring", 2))


@pytest.mark.parametrize("rank", [0, 1, 2])
def test_the_sender_of_a_message_that_is_not_finite_is_named(ended, rank):
    line = ended.error("nonfinite", rank)
    assert line == (
        f"rank {rank}: the message of agent 1 at rank 1 in round 2 holds nan or inf; "
        f"take smaller steps there"
    )


@pytest.mark.parametrize("rank", [0, 1])
def test_an_agent_whose_step_overflows_is_named_by_its_number_among_all(ended, rank):
    line = ended.error("overflown", rank)
    agent = 2 * rank  # the first of two
    said = rf"rank {rank}: [AB] of agent {agent} in run 0 not finite at step 0; take smaller steps"
    assert re.fullmatch(said, line), line


@pytest.mark.parametrize(
    ("scene", "ranks", "words"),
    [
        ("other_method", 3, r"rank 2 joined with method dlora \(.*rank 0 with method decaf \("),
        ("other_step", 2, r"rank 1 joined with lr 0\.2, rank 0 with lr 0\.1; start all ranks ali"),
        ("other_version", 3, r"rank 2 joined with decaf-theory 0\.0\.1, rank 0 with decaf-theory "),
    ],
)
def test_ranks_that_differ_are_refused_at_the_start_and_both_named(ended, scene, ranks, words):
    for rank in range(ranks):
        assert re.match(words, ended.error(scene, rank))


@pytest.mark.parametrize("rank", [0, 1])
def test_a_rank_that_does_not_come_is_named_and_waited_for_no_longer_than_asked(ended, rank):
    line = ended.error("missing", rank)
    assert line == f"rank {rank}: rank 2 of 3 did not join within 5 s"


@pytest.mark.parametrize("rank", [0, 1])
def test_a_graph_that_differs_in_a_late_round_is_found_before_it_mixes(ended, rank):
    line = ended.error("other_rounds", rank)
    assert re.match(r"rank 1 came to round 8 with graph of round 9 \w{12}, rank 0 with graph", line)
    assert ended.said("other_rounds", rank, "txt").split() == [str(t) for t in range(8)]


def test_messages_travel_while_the_next_gradient_is_computed(rows):
    served, late, trained = " ".join(rows["overlap"]["seen"]).split(" then ")
    assert served.split() == trained.split() == ["post", "compute", "wait"] * 2
    assert late.split() == ["compute", "post", "wait"] * 2


def test_the_command_times_rounds_with_messages_during_the_gradient_and_after(ended):
    assert ended.codes["timed"] == [0, 0], ended.said("timed", 0)
    assert re.fullmatch(
        r"dlora, 2 agents, 5 times 3 rounds of each: \d+\.\d\d ms a round with messages during "
        r"the gradient, \d+\.\d\d ms with messages after it\n",
        ended.said("timed", 0, "txt"),
    )
    assert ended.said("timed", 1, "txt") == ""


def test_the_harness_trains_at_ranks_as_in_one_process_bit_for_bit(rows):
    # iterates, rows.jsonl; bytes are compared with those that are declared above
    assert {f"training {name}" for name in ("decaf", "combine", "sora", "six agents")} <= set(rows)


def test_the_harness_at_ranks_is_that_of_one_process_up_to_rounding(ended):
    # sums over those that a rank hears, and products of the batches of its agents alone
    assert ended.codes["other_order"] == [0] * 4, ended.said("other_order", 0)
    row = json.loads(ended.said("other_order", 0, "txt"))
    assert row["gap"] <= row["allowed"] <= 1e-13 * row["size"]
    assert row["lost"] > 0.1  # by gradients in float32, in its units: they do round


def test_two_hosts_serve_a_problem(ended):
    reason = ended.said_of_hosts()
    if reason:
        pytest.skip(reason)
    assert ended.codes["two_hosts"] == [0, 0], ended.said("two_hosts", 0)
    row = json.loads(ended.said("two_hosts", 0, "txt"))
    assert row["far"] == 0
    assert row["moved"]
    assert row["sent"] == row["declared"] > 0


@pytest.mark.parametrize("rank", [0, 1, 2])
def test_ranks_go_on_where_all_have_saved_as_if_nothing_had_happened(ended, rank):
    assert ended.codes["killed"] == [2, -9, 2]
    assert "rank 1 has ended" in ended.error("killed", 0)
    first, other, *_ = ended.said("restarted", rank, "txt").splitlines()
    # six arrays are equal bit for bit; of seven rounds the last five were to be done
    assert first == "6 5 True"
    assert other.startswith(
        f"rank {rank}: its checkpoint of round 6 is of seed 3, and now it is 4; remove those of all"
    )


@pytest.mark.parametrize("rank", [0, 1, 2])
def test_a_rank_that_lost_its_checkpoints_is_named(ended, rank):
    line = ended.error("restarted", rank)
    assert line.startswith(
        f"rank {rank}: rank 1 holds no checkpoint of round 6, which others have, and no round is"
    )


def test_training_at_ranks_goes_on_where_all_have_saved(ended):
    assert ended.codes["killed_training"] == [2, -9, 2]
    assert ended.codes["restarted_training"] == [0, 0, 0], ended.said("restarted_training", 0)
    assert ended.said("restarted_training", 0, "txt").endswith(" [3, 4, 5, 6, 7, 8]\n")


def test_the_example_runs_in_an_own_loop(ended):
    assert ended.codes["own_loop"] == [0, 0], ended.said("own_loop", 0)
    told = [ended.said("own_loop", rank, "txt") for rank in (0, 1)]
    # B and A in float32, once a round to the one neighbour
    sent = 20 * 4 * (8 * 4 + 4 * 16)
    assert all(re.fullmatch(rf"rank \d: loss \d\.\d+, {sent} bytes sent\n", text) for text in told)


@pytest.mark.parametrize("name", [name for name in METHODS if name not in SUITED])
def test_a_method_that_does_not_meet_on_a_graph_is_refused_with_the_reason(name):
    reason = {
        "server": "meets by a server",
        "none": "sends nothing" if METHODS[name].pools == "none" else "pools gradients before",
    }[METHODS[name].meets]
    with pytest.raises(ValueError, match=rf"{name} {reason}.*; choose one that .*decaf"):
        Neighbourhood(METHODS[name], TOPOLOGIES["ring"](2), Factors(*np.ones((2, 1, 1, 1))))


def test_suited_methods_are_accepted_unless_they_pool_gradients():
    for name in SUITED:
        require_neighbours(METHODS[name])
        with pytest.raises(ValueError, match=f"{name} pools gradients before each step"):
            require_neighbours(replace(METHODS[name], pools="graph"))


def test_mix_refuses_a_method_with_local_steps_of_its_own(ended):
    assert ended.codes["own_steps"] == [2]
    assert "heavy_ball has local steps of its own" in ended.error("own_steps", 0)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"mix__method": "fedavg"}, r"mix\.method cannot .*fedavg meets by a server"),
        ({"mix__method": "centralized"}, r"mix\.method .*centralized pools gradients before each"),
        ({"mix__method": "local"}, r"mix\.method .*local sends nothing"),
        (
            {"lora__dropout": 0.1},
            r"lora\.dropout must be 0\.0 with --distributed, as .*, got 0\.1;",
        ),
        (
            {"train__autocast": "float16"},
            r"train\.autocast must be left out .*one scale.*'float16'",
        ),
    ],
)
def test_what_ranks_cannot_train_is_refused_with_the_reason(settings, words):
    ranks.require_served(paper_runs.config())
    with pytest.raises(ConfigError, match=words):
        ranks.require_served(paper_runs.config(**settings))


def test_tasks_in_turn_are_refused_at_ranks():
    with pytest.raises(ConfigError, match=r"task\.sequence must be left out with --distributed"):
        ranks.require_served(configs.read("vit-digits-in-turn"))


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--timeout", "5"], "--timeout is for ranks: add --distributed"),
        (["--distributed", "--timeout", "0"], "--timeout must be > 0 seconds, got 0"),
        (
            ["--distributed", "--export", "x"],
            "--export writes all agents, of which a rank has",
        ),
        (["--distributed"], "ranks need RANK, WORLD_SIZE, MASTER_ADDR, MASTER_PORT in the envi"),
    ],
)
def test_the_harness_says_what_ranks_need(options, words, tmp_path, capsys, monkeypatch):
    monkeypatch.delenv("RANK", raising=False)
    monkeypatch.chdir(tmp_path)
    config = str(paper_runs.written(tmp_path))
    assert cli.main(["run", config, "--set", "task.name=toy-text", *options]) == 2
    assert words in capsys.readouterr().err


@pytest.mark.parametrize("kind", ["numpy", "torch"])
def test_a_buffer_holds_the_bytes_of_the_messages_and_gives_them_back(kind):
    rng = np.random.default_rng(0)
    message = {
        "B": rng.standard_normal((2, 3, 4, 1)).astype("f4"),
        "places": rng.integers(0, 9, (2, 3, 1, 3), dtype=np.int32),  # odd, so that A is not aligned
        "A": rng.standard_normal((2, 3, 1, 5)),
    }
    if kind == "torch":
        message = {name: torch.from_numpy(X) for name, X in message.items()}
    buffer = packed([message, message], [2, 0])
    assert (
        buffer.nbytes == 2 * 2 * 2 * (4 * 4 + 4 * 3 + 8 * 5) == room([message, message], 2).nbytes
    )
    for found in unpacked(buffer, [message, message], 2):
        assert list(found) == list(message)
        for name, X in message.items():
            assert type(found[name]) is type(X)
            np.testing.assert_array_equal(found[name], X[:, [2, 0]])


def test_blocks_hold_all_agents_and_hear_whom_they_weight():
    assert blocks_of(6, 4) == [[0, 1], [2, 3], [4], [5]]
    Pi = TOPOLOGIES["ring"](6)
    assert heard_by(Pi, [2, 3], [0, 1]) == [1]
    assert heard_by(Pi, [5], [0, 1]) == [0]
    assert heard_by(Pi, [4], [0, 1]) == []


@pytest.mark.parametrize("own", [[1], [2, 3, 4]])
def test_the_problem_of_some_agents_has_their_losses_and_gradients(own):
    problem = PROBLEMS["P3"](N=5, d=3, k=2, seed=1)
    W = np.random.default_rng(2).standard_normal((2, 5, 3, 2))
    some = problem_of(problem, own)
    np.testing.assert_array_equal(some.loss(W[:, own]), problem.loss(W)[:, own])
    np.testing.assert_array_equal(some.grad(W[:, own]), problem.grad(W)[:, own])


@pytest.mark.night
def test_torchrun_runs_a_problem_and_the_example():
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2"]
    local = ["--master-addr", "127.0.0.1", "--master-port", "29533"]
    for program in (["-m", "decaf_theory.distributed", "--steps", "5"], ["examples/own_loop.py"]):
        done = subprocess.run(
            [*torchrun, *local, *program],
            cwd=ROOT,
            env=os.environ | ALONE,
            timeout=240,
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stderr
        assert "bytes sent" in done.stdout
