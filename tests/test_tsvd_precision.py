"""The kernel's products on CUDA keep float32's digits, however torch is told to use TF32.

Seen on the CPU by factors that say they are on CUDA: what counts is the switch during products.
"""

import pytest

torch = pytest.importorskip("torch", reason="the switch is torch's")

from decaf_theory.lowrank import Factors  # noqa: E402
from decaf_theory.tsvd import tsvd_of_mix  # noqa: E402
from decaf_theory.tsvd.full_precision import in_full_precision  # noqa: E402

MATMUL = torch.backends.cuda.matmul


class OnCuda:
    is_cuda = True


def state():
    """What torch's switches say; one of them may refuse to, and it counts that it does."""
    found = []
    for name in ("allow_tf32", "fp32_precision"):
        try:
            found.append(getattr(MATMUL, name, None))
        except RuntimeError:
            found.append("refused")
    return found


def newer(where):
    if not hasattr(where, "fp32_precision"):
        pytest.skip("this torch has no fp32_precision")
    where.fp32_precision = "tf32"


WAYS = {
    "allow_tf32": lambda: setattr(MATMUL, "allow_tf32", True),
    "high": lambda: torch.set_float32_matmul_precision("high"),
    "fp32_precision": lambda: newer(MATMUL),
    "of all": lambda: newer(torch.backends),
    "off": lambda: None,
}


@pytest.fixture(autouse=True)
def put_back():
    before = getattr(torch.backends, "fp32_precision", None)
    yield
    if before is not None:
        torch.backends.fp32_precision = before
    torch.set_float32_matmul_precision("highest")


@in_full_precision
def look(factors, fails=False):
    if fails:
        raise ValueError("inside")
    return state()


@pytest.mark.filterwarnings("ignore:Please use the new API:UserWarning")
@pytest.mark.parametrize("way", WAYS)
def test_inside_tf32_is_off_and_afterwards_as_before(way):
    WAYS[way]()
    before = state()
    inside = look(Factors(OnCuda(), OnCuda()))
    assert inside[0] is False
    assert inside[1] in (None, "ieee", "none")
    assert look(factors=Factors(OnCuda(), OnCuda())) == inside
    assert state() == before
    with pytest.raises(ValueError, match="inside"):
        look(Factors(OnCuda(), OnCuda()), fails=True)
    assert state() == before


@pytest.mark.filterwarnings("ignore:Please use the new API:UserWarning")
def test_on_the_cpu_nothing_is_switched():
    MATMUL.allow_tf32 = True
    assert look(Factors(torch.ones(1), torch.ones(1)))[0] is True
    assert look(Factors(1, 1))[0] is True


def test_the_kernel_computes_so():
    assert tsvd_of_mix.__wrapped__.__name__ == "tsvd_of_mix"
