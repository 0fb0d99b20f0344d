"""One BLAS thread for every test, the hypothesis profiles dev, ci and night, outside data."""

import os
from pathlib import Path

for variable in ("OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "OMP_NUM_THREADS"):
    os.environ.setdefault(variable, "1")

import pytest  # noqa: E402  (threads are set before NumPy loads)
from hypothesis import HealthCheck, settings  # noqa: E402

settings.register_profile("dev", max_examples=25, deadline=None)
settings.register_profile("ci", max_examples=50, deadline=None, derandomize=True)
settings.register_profile(
    "night", max_examples=2000, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "ci"))


@pytest.fixture
def outside_data():
    """Return a function that finds data the project does not ship, or skips the test.

    The environment variable DECAF_DATA names a folder with boolq/, sst2/, wic/ and adapters/.
    """

    def find(name: str) -> Path:
        root = os.environ.get("DECAF_DATA")
        if not root:
            pytest.skip("DECAF_DATA does not name a folder of outside data")
        if not (Path(root) / name).is_dir():
            pytest.skip(f"the folder DECAF_DATA has no {name}")
        return Path(root) / name

    return find
