"""The fewest rows of the sources that are not claims: benchmark, attacks, adapters, runs,
tournament."""

import json
from hashlib import sha256

from decaf_theory.files import to_json, to_lines
from decaf_theory.sums import seal_lines, sealed
from figures import cost
from tests.adapter_files import STORED
from verification import harness, store
from verification.adapter_report import report

PEERS = ("ours", "QR loop", "GEMM floor", "peft svd")


def write_all(out):
    """Write benchmarks, attacks and runs below a folder of results; return adapters' rows."""
    (out / "attacks").mkdir(parents=True)
    found = [{"claim": "T17", "variant": "fro", "ratio": ratio} for ratio in (0.5, 0.75)]
    records = [sealed(attack) for attack in found]
    (out / "attacks" / "attacks.json").write_text(json.dumps(records))
    tables = {"bench": bench(), "scaling": scaling(), "tournament": tournament()}
    tables["benchmark"] = benchmark()
    for name, found in tables.items():
        (out / f"{name}.jsonl").write_bytes(seal_lines(found))
    for seed in (0, 1):
        for method in ("decaf", "dlora"):
            write_run(out / "paper" / "net" / f"{method}-ring-iid-seed{seed}", method, seed)
    rows = report(STORED, "ring").rows
    return [{"claim": claim, **row.as_json()} for claim in rows for row in rows[claim]]


def bench():
    """One machine, two goals of two rounds, errors and a verdict."""
    case = {"d": 8, "k": 8, "r": 4, "graph": "ring", "dtype": "float32", "layers": 1, "apart": 1.0}
    rows = [{"kind": "machine", "processor": "x86_64", "rounds": 2, "quick": True}]
    for goal, N in (("G1", 10), ("G9", 4)):
        named = {**case, "N": N, "goal": goal, "case": f"8x8 N={N}", "backend": "numpy"}
        for i, role in enumerate(PEERS):
            rows += [
                {
                    "kind": "seconds",
                    "role": role,
                    "round": n,
                    "seconds": 1e-3 * (1 + i + n),
                    **named,
                }
                for n in (0, 1)
            ]
    named = {"goal": "G9", "case": "8x8 N=4", "measure": "error / sigma_1"}
    rows += [{"kind": "error", "role": role, "value": 1e-7, **named} for role in PEERS[::3]]
    return [*rows, {**named, "kind": "verdict", "goal": "G1", "limit": 5e-7, "reached": 1e-7}]


def tournament():
    """Two tasks, two networks, two budgets: what was run, then a judged row of each."""
    tasks = {
        name: {"lower": lower, "reported": [2, 3]} for name, lower in (("P", True), ("net", False))
    }
    rows = [
        {"task": task, "network": network, "method": method, "budget": budget}
        for task in tasks
        for network, method in (("ring", "decaf"), ("server", "flexlora"))
        for budget in ("rounds", "bytes")
    ]
    about = {"tasks": tasks, "level": 0.95}
    return [
        about,
        *({**row, "own_from_base": [-0.25, -0.5, 0.125 * i]} for i, row in enumerate(rows)),
    ]


def benchmark():
    """Two methods, two seeds of every cell that a figure shows."""
    cells = {**dict.fromkeys(("K1", "K50")), "common": 0.0, "spread30": 0.25, "spread60": 0.5}
    cells |= {"primary": 1.0, "once": 1.0}
    scores = {"own": 50.0, "mean": 60.0, "first_interference": 0.75, "first_truncation": 0.5}
    graph = {"once": {"graph": "ring"}}
    return [
        {"trainings": 28},
        *(
            {"suite": "digits", "cell": cell, "method": method, "seed": seed, "start_spread": x}
            | {name: value + seed + (method == "decaf") for name, value in scores.items()}
            | graph.get(cell, {})
            for cell, x in cells.items()
            for method in ("dlora", "decaf")
            for seed in (0, 1)
        ),
    ]


def scaling():
    """Two methods on every graph, at two numbers of agents."""
    sizes = {"kind": "scaling", "d": 8, "k": 8, "r": 2, "low": 1.0, "high": 3.0}
    return [
        {"kind": "machine", "processor": "x86_64", "rounds": 3, "quick": True},
        *(
            {**sizes, "graph": graph, "method": method, "N": N}
            | {"median": 2.0 + share, "memory": 5e3 * share, "comm_bytes": 64 * N * share}
            for graph in cost.GRAPHS
            for share, method in ((1, "dlora"), (2, "decaf"))
            for N in (10, 100)
        ),
    ]


def write_run(folder, method, seed):
    """Write one run of the harness: two scored rounds."""
    folder.mkdir(parents=True)
    settings = {"name": "net", "mix.method": method, "mix.graph": "ring"}
    settings |= {"data.partition": "iid", "train.seed": seed, "code": harness.code()}
    settings |= {"train.steps": 6, "mix.agents": 4, "lora.rank": 2}
    rows = [
        {
            "claim": "training",
            "step": 2 * n,
            "round": n,
            "comm_bytes": 1000 * n,
            "score": 0.5 + n / 10,
        }
        for n in (1, 2)
    ]
    rows.append({"claim": "training", "step": 6, "round": 3, "comm_bytes": 3000, "loss": 0.1})
    data = to_lines(rows)
    (folder / store.ROWS).write_bytes(data)
    about = {
        "settings": settings,
        "files": {store.ROWS: sha256(data).hexdigest()},
        "partition": {"counts": [[4, 1, 5], [2, 8, 0]], "notes": []},
        "step": 6,
        "metric": "accuracy",
        "seconds": {"training": 1.0},
        "mixing_share": 0.1,
        "verdicts": {"T17": {"outcome": "holds", "tightness": 1.0, "rows": 3}},
    }
    (folder / store.RUN).write_bytes(to_json(sealed(about)))
