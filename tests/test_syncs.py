"""A round on a GPU waits for a few numbers only; docs/performance.md says for how many and where.

Counted on the CPU with factors that are treated as if on CUDA: the lines that ask are the same.
"""

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="only torch has devices")

from decaf_theory import tsvd  # noqa: E402
from decaf_theory.bench.cases import Case, draw, on_torch  # noqa: E402
from decaf_theory.tsvd import core, panel  # noqa: E402
from tests.watched import Watched  # noqa: E402

# reads, as docs/performance.md says; the last of a block in which a row may miss a condition
A_ROUND, A_CLEAR_BLOCK, A_BLOCK = 2, 10, 18
UPLOADS = 4  # a block: indices and weights
LAYERS, N, r = 3, 10, 4
CASE = Case(256, 200, r, N, "ring", layers=LAYERS)


@pytest.fixture(autouse=True)
def as_on_cuda(monkeypatch):
    def own(C):
        return torch.linalg.svd(C, full_matrices=False)

    monkeypatch.setattr(tsvd, "on_host", lambda factors: factors)
    monkeypatch.setattr(core, "own_solver", lambda C: own)


def watched(case=CASE, **keywords):
    inputs = on_torch(draw(case), "cpu")
    with Watched() as seen:
        found = tsvd.tsvd_of_mix(*inputs, **keywords)
    assert found.info.fell_back == ()
    return seen


@pytest.mark.parametrize("graph", ["ring", "complete", "unequal"])
def test_a_round_waits_a_few_times_and_reads_only_flags(graph):
    seen = watched(CASE._replace(graph=graph))
    a_block = A_BLOCK if graph == "complete" else A_CLEAR_BLOCK
    assert 0 < len(seen.reads) <= A_ROUND + a_block, seen.reads
    assert max(read.numbers for read in seen.reads) <= LAYERS * N * r
    assert sum(x.numbers for x in seen.uploads) <= N * (3 * r) ** 2 + 3 * N * N * r
    assert len(seen.uploads) <= UPLOADS


@pytest.mark.parametrize("method", ["qr", "dense"])
def test_the_other_paths_wait_less(method):
    assert 0 < len(watched(method=method).reads) <= 1 + A_ROUND


def test_each_block_of_layers_waits_as_often(monkeypatch):
    monkeypatch.setattr(panel, "BLOCK", N * r * 256)  # a layer
    assert len(watched().reads) <= A_ROUND + LAYERS * A_CLEAR_BLOCK
    assert len(watched(CASE._replace(layers=2)).reads) <= A_ROUND + 2 * A_CLEAR_BLOCK


def test_a_copy_of_the_factors_to_the_host_would_be_seen(monkeypatch):
    real = tsvd.panel_rows

    def copying(factors, *others):
        factors.B.cpu()
        return real(factors, *others)

    monkeypatch.setattr(tsvd, "panel_rows", copying)
    assert max(read.numbers for read in watched().reads) == LAYERS * N * 256 * r


def test_every_way_to_read_is_seen():
    x = torch.arange(4.0)
    ways = [
        lambda: bool(x[0] > 1), lambda: float(x[1]), lambda: int(x[1]), lambda: x[2].item(),
        lambda: x.tolist(), lambda: x.cpu(), lambda: x.numpy(), lambda: x[x > 1],
        lambda: torch.nonzero(x), lambda: x.masked_select(x > 0),
        lambda: torch.linalg.cholesky(torch.eye(2)),
    ]  # fmt: skip
    for number, way in enumerate(ways):
        with Watched() as seen:
            way()
        assert len(seen.reads) >= 1, number
    with Watched() as seen:
        torch.asarray(np.ones(3))
    assert [up.numbers for up in seen.uploads] == [3]
