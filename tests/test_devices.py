"""Devices: one name each, checked once, and what a half type needs of them."""

import pytest

torch = pytest.importorskip("torch")

from paper_checks import cli, devices, finetune, record  # noqa: E402
from tests import paper_runs  # noqa: E402


@pytest.mark.parametrize(
    ("given", "name"),
    [
        ("cpu", "cpu"),
        ("cpu:0", "cpu"),
        ("mps:0", "mps"),
        ("cuda", "cuda"),
        ("cuda:0", "cuda:0"),
        ("cuda:12", "cuda:12"),
        ("xpu:1", "xpu:1"),
    ],
)
def test_a_device_has_one_name(given, name):
    assert devices.normalized(given) == name
    assert devices.kind_of(name) == given.partition(":")[0]


@pytest.mark.parametrize(
    "given",
    ["", "gpu", "CPU", "cpu:1", "mps:1", "meta", "cuda:", "cuda:-1", "cuda:01", "cuda:1:2", "hip"],
)
def test_an_unknown_device_is_named(given):
    with pytest.raises(devices.DeviceError, match=r"--device must be cpu, mps, or cuda or xpu"):
        devices.require(given)


@pytest.mark.parametrize("given", ["cuda:99", "mps", "xpu:99"])
def test_a_device_that_is_not_there_is_one_line(given, tmp_path, capsys):
    try:  # none of these where this is developed; a machine with 100 GPUs, or of Apple, has some
        torch.empty(0, device=given)
        pytest.skip(f"{given} is there")
    except (RuntimeError, AssertionError):
        pass
    assert cli.main(["run", "tiny-bert", "--device", given, "--out", str(tmp_path)]) == 2
    said = capsys.readouterr().err
    assert said.startswith(f"error: --device {given!r} cannot be used (")
    assert said.endswith("); try cpu\n")
    assert said.count("\n") == 1
    assert not list(tmp_path.iterdir())


def test_a_clock_waits_for_the_device_of_the_run(monkeypatch):
    seen = []
    for kind in ("cuda", "mps", "xpu"):
        module = getattr(torch, kind)
        monkeypatch.setattr(module, "synchronize", lambda *of, kind=kind: seen.append((kind, *of)))
    for device in ("cuda:1", "mps", "xpu", "cpu"):
        devices.synchronize(device)
    assert seen == [("cuda", "cuda:1"), ("mps",), ("xpu", "xpu")]


def test_a_run_knows_its_device_by_its_one_name(monkeypatch, tmp_path):
    monkeypatch.setattr(finetune, "load_task", paper_runs.task)
    for device in ("cpu:0", "cpu"):  # the second finds the first, and has nothing to do
        run = finetune.finetune(paper_runs.config(), tmp_path, device=device)
        assert (run.device, run.stamp["device"]) == ("cpu", "cpu")
        assert record.read(tmp_path).run["device"] == "cpu"


def test_a_type_that_a_device_lacks_is_named():
    with pytest.raises(devices.DeviceError, match=r"model\.dtype 'float64' .*mps"):
        devices.require_dtype("mps", "float64")
    devices.require_dtype("cpu", "float64")


def test_an_autocast_that_torch_would_leave_out_is_refused(monkeypatch):
    with devices.autocast("cpu", "bfloat16"):
        assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype == torch.bfloat16
    # torch warns that float64 is not for autocast, and goes on without
    with pytest.raises(devices.DeviceError, match=r"train\.autocast 'float64' .*--device cpu \(In"):
        devices.autocast("cpu", "float64")
