"""Breaks the library on purpose and reports which breakages the tests catch.

A change is the altered source of one file. It is never written to disk: a worker process that has
loaded the libraries forks for each change, substitutes the source on import and runs pytest until
the first failure.
"""

import ast
import importlib.abc
import importlib.machinery
import importlib.util
import json
import math
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parent.parent
PRELOADED = (
    "numpy scipy.linalg scipy.sparse.linalg scipy.stats networkx torch hypothesis pytest"
).split()
CHANGE = "DECAF_CHANGE"  # in the environment of processes that tests start
LIMIT_S = 300  # a change that makes the tests run for ever is caught too


class Change(NamedTuple):
    """One breakage: the file, its altered source, and what was altered.

    The label holds the altered lines and no line numbers, so that it survives edits elsewhere.
    """

    path: str  # from the project's root
    source: str
    kind: str
    label: str


class _Altered(importlib.machinery.SourceFileLoader):
    """Loads a module from an altered source text instead of its file."""

    def __init__(self, name: str, path: str, source: str) -> None:
        super().__init__(name, path)
        self.altered = source

    def get_code(self, fullname: str):
        return compile(self.altered, self.path, "exec", dont_inherit=True)


class _Finder(importlib.abc.MetaPathFinder):
    def __init__(self, change: Change) -> None:
        self.file = str(ROOT / change.path)
        parts = Path(change.path).with_suffix("").parts
        self.name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
        self.source = change.source

    def find_spec(self, name, path=None, target=None):
        if name != self.name:
            return None
        loader = _Altered(name, self.file, self.source)
        return importlib.util.spec_from_file_location(name, self.file, loader=loader)


def alter() -> None:
    """Substitute what the environment says, in a process that tests start, before it imports it."""
    if CHANGE in os.environ:
        sys.meta_path.insert(0, _Finder(Change(*json.loads(os.environ[CHANGE]))))


def _run_child(change: Change | None, tests: list[str], log: str) -> None:
    """Run pytest in this forked process and leave with its exit code."""
    import pytest

    descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)
    if change is not None:
        os.environ[CHANGE] = json.dumps(change)
        alter()
    sys.dont_write_bytecode = True
    # hypothesis is loaded before pytest could rewrite its assertions: no matter here, but a warning
    quiet = ["-W", "ignore::pytest.PytestAssertRewriteWarning", "-p", "no:cacheprovider"]
    arguments = ["-x", "-q", "--no-header", "--tb=line", *quiet, *tests]
    os._exit(int(pytest.main(arguments)))


def serve() -> None:
    """Write one JSON line per change to standard output: its exit code."""
    for name in PRELOADED:
        importlib.import_module(name)
    assert "decaf_theory" not in sys.modules
    for line in sys.stdin:
        job = json.loads(line)
        change = Change(*job["change"]) if job["change"] else None
        child = os.fork()
        if child == 0:
            signal.alarm(LIMIT_S)
            _run_child(change, job["tests"], job["log"])
        _, status = os.waitpid(child, 0)
        print(json.dumps(os.waitstatus_to_exitcode(status)), flush=True)


def exit_codes(
    jobs: list[tuple[Change | None, list[str]]], folder: Path, seconds: float = math.inf
) -> list[int]:
    """Return pytest's exit code for each job that begins within so many seconds, the first ones.

    Two workers; logs are left in `folder`.
    """
    folder.mkdir(parents=True, exist_ok=True)
    results: dict[int, int] = {}
    until = time.monotonic() + seconds
    waiting = enumerate(jobs)  # shared: who is free takes the next

    def work() -> None:
        command = [sys.executable, "-c", "from tests.mutation import serve; serve()"]
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
        with subprocess.Popen(command, cwd=ROOT, **pipes) as process:
            while time.monotonic() < until and (job := next(waiting, None)):
                number, (change, tests) = job
                log = str(folder / f"{number}.log")
                asked = {"change": change, "tests": tests, "log": log}
                process.stdin.write(json.dumps(asked) + "\n")
                process.stdin.flush()
                results[number] = int(process.stdout.readline())
            process.stdin.close()

    with ThreadPoolExecutor(2) as pool:
        for done in [pool.submit(work) for _ in range(2)]:
            done.result()
    return [results[number] for number in range(len(results))]


def caught(code: int) -> bool:
    """Say whether an exit code means that the tests noticed: a failure, or an error on import."""
    # 4 and 5 are a wrong call of pytest and no tests: defects of the table, not catches
    assert code not in (3, 4, 5), f"pytest left with {code}"
    return code != 0


def written(path: str, old: str, new: str) -> Change:
    """Return the change that replaces the one place of `old` in a file."""
    source = (ROOT / path).read_text()
    assert source.count(old) == 1, f"{path} holds {source.count(old)} times: {old}"
    return Change(path, source.replace(old, new), "written", _label(path, old, new))


def _label(path: str, old: str, new: str) -> str:
    return f"{path}: {old.strip()}  =>  {new.strip()}"


def candidates(path: str) -> Iterator[Change]:
    """Yield every small breakage of a file: sign, literal, transpose, index, comparison."""
    source = (ROOT / path).read_text()
    lines = source.splitlines(keepends=True)
    starts = [0]
    for line in lines:
        starts.append(starts[-1] + len(line.encode()))
    raw = source.encode()

    def span(node) -> tuple[int, int]:
        return (
            starts[node.lineno - 1] + node.col_offset,
            starts[node.end_lineno - 1] + node.end_col_offset,
        )

    def change(begin: int, end: int, new: str, kind: str) -> Change:
        altered = raw[:begin] + new.encode() + raw[end:]
        first, last = raw.rfind(b"\n", 0, begin) + 1, raw.find(b"\n", end)
        before, after = raw[first:last].decode(), altered[first : last + len(altered) - len(raw)]
        return Change(path, altered.decode(), kind, _label(path, before, after.decode()))

    tree = ast.parse(source)
    in_messages = {
        id(inner)
        for node in ast.walk(tree)
        if isinstance(node, ast.Raise | ast.JoinedStr)
        for inner in ast.walk(node)
    }
    for node in ast.walk(tree):
        if id(node) in in_messages:
            continue
        if isinstance(node, ast.BinOp):
            begin, end = span(node.left)[1], span(node.right)[0]
            between = raw[begin:end].decode()
            for old, new in (("+", "-"), ("-", "+")):
                if isinstance(node.op, ast.Add if old == "+" else ast.Sub):
                    at = begin + between.index(old)
                    yield change(at, at + 1, new, "sign")
            for side in (node.left, node.right):
                if isinstance(side, ast.Constant) and isinstance(side.value, int | float):
                    yield change(*span(side), repr(side.value * 1.02), "literal")
                    yield change(*span(side), repr(side.value * 0.98), "literal")
        elif isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
            if not isinstance(node.operand, ast.Constant):
                begin = span(node)[0]
                yield change(begin, begin + 1, "+", "sign")
        elif isinstance(node, ast.Call) and ast.unparse(node.func) == "transpose":
            inner = raw[slice(*span(node.args[0]))].decode()
            yield change(*span(node), f"({inner})", "transpose")
        elif isinstance(node, ast.Subscript):
            for part in ast.walk(node.slice):
                if isinstance(part, ast.Constant) and type(part.value) is int:
                    yield change(*span(part), str(part.value + 1), "index")
        elif isinstance(node, ast.Compare) and len(node.ops) == 1:
            swap = {ast.Lt: ("<", "<="), ast.LtE: ("<=", "<"), ast.Gt: (">", ">=")}
            swap |= {ast.GtE: (">=", ">"), ast.Eq: ("==", "!="), ast.NotEq: ("!=", "==")}
            pair = swap.get(type(node.ops[0]))
            if pair:
                begin, end = span(node.left)[1], span(node.comparators[0])[0]
                at = begin + raw[begin:end].decode().index(pair[0])
                yield change(at, at + len(pair[0]), pair[1], "comparison")


def drawn(paths: list[str], count: int, seed: int | str) -> list[Change]:
    """Return `count` breakages drawn evenly over the kinds, without repetition."""
    pools: dict[str, list[Change]] = {}
    for path in paths:
        for change in candidates(path):
            pools.setdefault(change.kind, []).append(change)
    draw = random.Random(seed)
    for pool in pools.values():
        draw.shuffle(pool)
    chosen: list[Change] = []
    while len(chosen) < count and any(pools.values()):
        for kind in sorted(pools):
            if pools[kind] and len(chosen) < count:
                chosen.append(pools[kind].pop())
    return chosen
