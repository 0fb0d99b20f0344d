"""All that needs a CUDA device: pytest -m gpu, two minutes; `.ci/gpu` runs it with the rest.

The variable DECAF_GPU=cpu runs it without one, in small sizes: torch on the CPU, factors treated as
if on CUDA, and Triton's interpreter where TRITON_INTERPRET=1 says so. That tries these tests.
"""

import os
import warnings
from functools import cache
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="the GPU is reached through torch")

from decaf_theory import extras, measure, tsvd  # noqa: E402
from decaf_theory.arrays import host  # noqa: E402
from decaf_theory.bench.cases import mixing  # noqa: E402
from decaf_theory.bench.lapack import THRESHOLD, TYPES, matrix  # noqa: E402
from decaf_theory.lowrank import Factors  # noqa: E402
from decaf_theory.tsvd import core, tsvd_of_mix  # noqa: E402
from tests.test_jacobi import DTYPES, hard, ratios  # noqa: E402
from tests.test_simulate import OF_SIGNS, QUANTITIES, gaussian_start, run_of  # noqa: E402
from tests.test_syncs import A_BLOCK, A_ROUND, UPLOADS  # noqa: E402
from tests.watched import Watched  # noqa: E402

DEVICE = os.environ.get("DECAF_GPU", "cuda")
ON_CUDA = DEVICE == "cuda"
pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(
        ON_CUDA and not torch.cuda.is_available(), reason="torch sees no CUDA device"
    ),
]
N = 6
# 17 types of matrices x 19 sizes = 323 cases, at and next to the sizes that the kernel pads to
SIDES = (1, 2, 3, 4, 5, 7, 8, 9, 12, 15, 16, 17, 24, 31, 32, 33, 48, 63, 64) if ON_CUDA else (1, 3)
SHAPES = [(768, 512, 2), (1024, 768, 8), (640, 640, 21)] if ON_CUDA else [(96, 64, 2)]
WAYS = ("auto", "panel", "qr", "dense")
PROMISED = {"float64": 1e-13, "float32": 1e-6, "bfloat16": 1e-6, "float16": 1e-6}
LACKING = extras.missing("triton") if ON_CUDA else extras.no_interpreter()
if not ON_CUDA and os.environ.get("TRITON_INTERPRET") != "1":
    LACKING = "there is neither CUDA nor TRITON_INTERPRET=1"
needs_triton = pytest.mark.skipif(bool(LACKING), reason=LACKING)


@pytest.fixture(autouse=True)
def as_on_cuda(monkeypatch):
    """On the CPU: keep torch's tensors, and take LAPACK for what Triton does on CUDA."""
    if not ON_CUDA:
        monkeypatch.setattr(tsvd, "on_host", lambda factors: factors)
        own = lambda C: torch.linalg.svd(C, full_matrices=False)  # noqa: E731
        monkeypatch.setattr(core, "own_solver", lambda C: own)


@pytest.fixture(params=[False, True], ids=["ieee", "tf32"])
def tf32(request):
    """Torch's switch for TF32, put back afterwards."""
    switches = (torch.backends.cuda.matmul, torch.backends.cudnn)  # cudnn's is on by default
    before = [switch.allow_tf32 for switch in switches]
    for switch in switches:
        switch.allow_tf32 = request.param
    yield request.param
    for switch, was in zip(switches, before, strict=True):
        switch.allow_tf32 = was


def drawn(layers, d, k, r, dtype):
    """Factors of products of size one, rounded to a type of torch, on the device."""
    rng = np.random.default_rng([layers, d, k, r])
    B = rng.standard_normal((layers, N, d, r)) / d**0.5
    A = rng.standard_normal((layers, N, r, k)) / k**0.5
    return Factors(*(torch.from_numpy(X).to(getattr(torch, dtype)).to(DEVICE) for X in (B, A)))


def on_host(factors):
    return Factors(*(X.double().cpu().numpy() for X in factors))


# ---------------------------------------------------------------- the kernel


@pytest.mark.parametrize(
    ("d", "k", "r", "method"),
    # dense only for the smallest: SVDs of large matrices would take the time of all other tests
    [(*shape, way) for shape in SHAPES for way in WAYS[: 4 if shape == SHAPES[0] else 3]],
)
@pytest.mark.parametrize("dtype", PROMISED)
@pytest.mark.filterwarnings("ignore:Please use the new API:UserWarning")
def test_the_kernel_keeps_its_promise(d, k, r, dtype, method, tf32):
    """Against an SVD in float64 of the mix of the rounded factors, with TF32 on as well."""
    factors, Pi, M, S = reference(d, k, r, dtype)
    found = tsvd_of_mix(factors, Pi, r, method=method)
    assert {str(X.device.type) for X in (*found.factors, *found[1:3])} == {DEVICE}
    assert {X.dtype for X in found.factors} == {factors.B.dtype}
    X = np.matmul(*(X[:, :2] for X in on_host(found.factors)))
    best = np.sqrt(np.sum(S[..., r:] ** 2, axis=-1))
    excess = np.linalg.norm(M - X, axis=(-2, -1)) - best
    # half types: both outputs are rounded, |dB||A| <= u sqrt(r) sigma_1 each
    half = dtype in ("bfloat16", "float16")
    unit = float(torch.finfo(factors.B.dtype).eps) / 2 if half else 0.0
    # torch's own QR and SVD are held to LAPACK's threshold, the panels to what is promised
    backward = THRESHOLD * max(d, k) * float(np.finfo("f8" if dtype == "float64" else "f4").eps)
    own = PROMISED[dtype] if found.info.path == "panel" else backward
    assert np.all(excess <= (own + 2 * unit * r**0.5 + unit**2 * r) * S[..., 0])
    assert torch.backends.cuda.matmul.allow_tf32 == tf32


@cache
def reference(d, k, r, dtype):
    """Factors, weights, and of two agents the mix and its singular values in float64."""
    factors, Pi = drawn(2, d, k, r, dtype), mixing("ring", N)
    B, A = on_host(factors)
    M = np.einsum("ij,ljdr,ljrk->lidk", Pi[:2], B, A, optimize=True)
    return factors, Pi, M, np.linalg.svd(M, compute_uv=False)


def test_a_round_waits_as_often_as_is_written_and_copies_no_data_to_the_host():
    """Counted by torch's function calls, and on CUDA by its own warnings, uploads included."""
    layers, d, r = 3, 512 if ON_CUDA else 96, 4
    factors, Pi = drawn(layers, d, d, r, "float32"), mixing("ring", N)
    tsvd_of_mix(factors, Pi, r)  # what the first call sets up is over
    with Watched() as seen:
        tsvd_of_mix(factors, Pi, r)
    assert max(read.numbers for read in seen.reads) <= layers * N * r
    assert len(seen.reads) <= A_ROUND + A_BLOCK, seen.reads
    if ON_CUDA:
        with warnings.catch_warnings(record=True) as waits:
            warnings.simplefilter("always")
            torch.cuda.set_sync_debug_mode("warn")
            try:
                tsvd_of_mix(factors, Pi, r)
            finally:
                torch.cuda.set_sync_debug_mode("default")
        places = [f"{x.filename}:{x.lineno}" for x in waits if "synchronizing" in str(x.message)]
        assert len(places) <= A_ROUND + A_BLOCK + UPLOADS, places


@pytest.mark.skipif(not ON_CUDA, reason="only CUDA has streams that may be waited for")
def test_what_is_given_to_the_device_is_never_waited_for_behind_the_rounds_back():
    """Products and measures of factors on the device: no wait at all."""
    factors = drawn(3, 512, 512, 4, "float32")
    measure.product_norm(factors)
    torch.cuda.set_sync_debug_mode("error")
    try:
        factors.B @ factors.A
        factors.map(lambda X: X.double())
    finally:
        torch.cuda.set_sync_debug_mode("default")


# ---------------------------------------------------------------- small matrices


@needs_triton
@pytest.mark.parametrize("n", SIDES)
@pytest.mark.parametrize("dtype", DTYPES)
def test_lapacks_matrices_pass_by_the_triton_kernel(dtype, n):
    from decaf_theory.tsvd.jacobi_triton import svd

    kinds = TYPES if ON_CUDA else TYPES[::6]
    stack = np.stack([matrix(kind, n, n, dtype) for kind in kinds])
    found = [x.cpu().numpy() for x in svd(torch.from_numpy(stack).to(DEVICE))]
    for one in zip(stack, *found, strict=True):
        assert np.all(ratios(*one) < THRESHOLD)


@needs_triton
@pytest.mark.skipif(not ON_CUDA, reason="the interpreter is tried in test_jacobi_triton.py")
@pytest.mark.parametrize("n", [1, 2, 5, 16, 33, 64])
@pytest.mark.parametrize("dtype", DTYPES)
def test_hard_matrices_pass_by_the_triton_kernel_and_by_array_operations(dtype, n):
    from decaf_theory.tsvd import jacobi, jacobi_triton

    stack = hard(np.random.default_rng(n), n, dtype)
    for solver in (jacobi_triton.svd, jacobi.svd):
        found = [x.cpu().numpy() for x in solver(torch.from_numpy(stack).to(DEVICE))]
        for one in zip(stack, *found, strict=True):
            assert np.all(ratios(*one) < THRESHOLD)


@needs_triton
@pytest.mark.skipif(not ON_CUDA, reason="on the CPU the kernel is not chosen")
def test_on_cuda_the_kernel_takes_the_triton_solver():
    from decaf_theory.tsvd.jacobi_triton import svd

    assert core.own_solver(torch.ones(2, 8, 8, device=DEVICE)) is svd


# ---------------------------------------------------------------- measures, simulator, harness


def test_measures_agree_with_the_cpu():
    factors, Pi = drawn(2, 96, 64, 3, "float64"), mixing("ring", N)
    same = on_host(factors)
    for name in ("fro", "op", "nuc"):
        for of in (measure.product_norm, lambda f, norm: measure.interference_norm(f, Pi, norm)):
            found, wanted = of(factors, norm=name), of(same, norm=name)
            assert found.device.type == DEVICE
            # backward stable at either place: a few dozen roundings of the largest
            slip = THRESHOLD * 96 * np.finfo(np.float64).eps * np.max(wanted)
            np.testing.assert_allclose(found.cpu().numpy(), wanted, rtol=0, atol=slip)
    found, wanted = (measure.consensus_distance(x) for x in (factors, same))
    np.testing.assert_allclose(found.cpu().numpy(), wanted, rtol=1e-12)


@pytest.mark.parametrize("method", ["decaf", "dlora", "dsgd", "fedavg"])
def test_the_simulator_agrees_with_the_cpu(method):
    start = gaussian_start(N=4, d=4, k=3, r=2, shared=True)
    _, expected = run_of(method, start=start)
    _, found = run_of(method, start=start.map(lambda X: torch.tensor(X, device=DEVICE)))
    assert found.final.B.device.type == DEVICE
    for name in set(QUANTITIES) - OF_SIGNS:
        np.testing.assert_allclose(
            host(getattr(found, name)), getattr(expected, name), rtol=1e-10, atol=1e-12
        )


@pytest.mark.parametrize("name", ["tiny-llama", "tiny-clip"] if ON_CUDA else ["tiny-llama"])
@pytest.mark.filterwarnings("ignore:Please use the new API:UserWarning")
def test_the_harness_agrees_with_the_cpu_at_its_first_step_and_goes_on(name, tmp_path, tf32):
    pytest.importorskip("transformers", reason="the models are those of transformers")
    from paper_checks import config, finetune

    losses = []
    for device in ("cpu", DEVICE):
        run = finetune.prepare(config.read(name, {"observe.eval_every": 100}), device=device)
        finetune.advance(run)
        losses.append(np.mean(run.losses[0]))
    while not run.finished:
        finetune.advance(run)
    # two layers, sums over some dozens of terms, as in test_walk.py; TF32 keeps 10 bits of factors
    eps = 2.0**-10 if tf32 and ON_CUDA else float(np.finfo(np.float32).eps)
    assert abs(losses[1] - losses[0]) <= (50 if eps > 1e-4 else 1000) * eps * abs(losses[0])
    assert all(np.isfinite(record["loss"]) for record in run.records)
    assert {site.B.device.type for site in run.stacked.sites.values()} == {DEVICE}


def test_all_tests_that_are_marked_gpu_are_in_this_file():
    here = Path(__file__)
    marked = [p.name for p in here.parent.glob("*.py") if "mark." + "gpu" in p.read_text()]
    assert marked == [here.name]
