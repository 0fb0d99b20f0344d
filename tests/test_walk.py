"""The paper's configurations walked end to end on small models of the same classes.

Real data sets objects (load_dataset replaced) and folders; a few steps, mixes, evaluation, export.
On a device that does not compute: no tensor of a step is made elsewhere, and few waits for it.
"""

import traceback
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="the harness trains with torch")
pytest.importorskip("transformers", reason="the models are those of transformers")
pytest.importorskip("PIL", reason="images are opened by pillow")

from torch.utils._python_dispatch import TorchDispatchMode  # noqa: E402
from torch.utils._pytree import tree_leaves  # noqa: E402

from paper_checks import config, devices, finetune  # noqa: E402
from paper_checks.stacked import export  # noqa: E402
from tests import offline_models  # noqa: E402

EPS32 = float(np.finfo(np.float32).eps)
SMALL = {
    "mix.agents": 4, "mix.every": 2, "data.batch": 2, "train.steps": 4, "observe.eval_every": 1,
    "observe.every": 1, "observe.checkpoint_every": 4,
}  # fmt: skip
LLAMA = ["llama2-7b-wic"]
CLIP = ["clip-flowers102", "clip-flowers102-authors"]


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """The folders of both models and of the data."""
    place = tmp_path_factory.mktemp("walk")
    with torch.random.fork_rng():
        torch.manual_seed(3)
        offline_models.llama(place / "llama")
        offline_models.clip(place / "clip")
    offline_models.folders(place / "data")
    return place


@pytest.fixture(autouse=True)
def cached(place, monkeypatch):
    monkeypatch.setenv("DECAF_CACHE", str(place / "cache"))


def settings(name, place, **overrides):
    """The config of the paper, cut to a few steps of a small model."""
    model = place / ("llama" if name in LLAMA else "clip")
    return SMALL | {"model.from": str(model), "model.base": f"tests/{model.name}"} | overrides


def is_whole(run):
    """Whether a run has trained, mixed, observed and evaluated, all in finite numbers."""
    assert run.step == 4
    assert ("validation_score" in run.records[0]) == (run.config.data.validation is not None)
    assert [record["round"] for record in run.records] == [1, 2]
    for record in run.records:
        assert np.isfinite([record["loss"], record["score"], record["test_loss"]]).all()
        assert {"loss", "score", "interference", "truncation"} <= set(record)
    # with a scaled loss the first steps may overflow: nothing has interfered yet
    numbers = [x for x in run.records[-1].values() if isinstance(x, (int, float))]
    assert np.isfinite(numbers).all()
    assert run.records[-1]["comm_bytes"] > 0
    assert all(bool(site.B.any()) for site in run.stacked.sites.values())
    assert {row["claim"] for row in run.rows} >= {"T9", "T17"}


@pytest.mark.slow
@pytest.mark.parametrize("name", [*LLAMA, CLIP[0]])
def test_the_papers_configuration_runs_from_the_hubs_data(name, place, monkeypatch, tmp_path):
    datasets = pytest.importorskip("datasets", reason="the hub's data sets need datasets")
    monkeypatch.setattr(datasets, "load_dataset", offline_models.hub)
    run = finetune.finetune(config.read(name, settings(name, place)), tmp_path)
    is_whole(run)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:`(is_)?gradient_checkpointing:FutureWarning:transformers")
@pytest.mark.parametrize("name", [*LLAMA, *CLIP])
def test_the_papers_configuration_runs_from_folders_and_peft_loads_its_adapters(
    name, place, tmp_path
):
    peft = pytest.importorskip("peft", reason="peft loads what is exported")
    small = settings(name, place, **{"model.dtype": "float32"})
    read = config.read(name, small, data_dir=str(place / "data"))
    run = finetune.finetune(read, tmp_path)
    is_whole(run)
    inputs, _ = run.task.test.take(torch.arange(6))
    inputs = {name: x.repeat(4, *[1] * (x.dim() - 1)) for name, x in inputs.items()}
    with torch.no_grad():
        scores = run.task.scores(run.stacked.model, inputs, 4).chunk(4)
    for agent, own in enumerate(scores):
        export(run.stacked, agent, tmp_path / f"agent{agent}", base="tests/base")
        bare = finetune.load_task(read).model
        loaded = peft.PeftModel.from_pretrained(bare, tmp_path / f"agent{agent}").eval()
        few = {name: x[:6] for name, x in inputs.items()}
        with torch.no_grad():
            found = run.task.scores(loaded.base_model.model, few, 1)
        slip = 1000 * EPS32 * float(own.abs().max())  # two layers, sums over 24 terms, cosines
        assert torch.allclose(found, own, rtol=0, atol=slip)
    assert not torch.equal(scores[0], scores[1])


# ---------------------------------------------------------------- on a device


class Device(TorchDispatchMode):
    """The meta device as an accelerator: its waits are collected, and what is made elsewhere.

    Numbers that are read from it and tensors that are copied from it are 1, and flags are true.
    """

    def __init__(self):
        super().__init__()
        self.waits, self.elsewhere = [], []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        aten, tensors = torch.ops.aten, [x for x in tree_leaves((args, kwargs)) if is_tensor(x)]
        there = [x for x in tensors if x.device.type == "meta"]
        if not there:
            return func(*args, **kwargs)
        if func is aten._local_scalar_dense.default:
            self.waits.append(where())
            return torch.ones((), dtype=there[0].dtype).item()
        target = kwargs.get("device")
        if func is aten._to_copy.default and target is not None and target.type == "cpu":
            self.waits.append(where())
            return torch.ones(there[0].shape, dtype=kwargs.get("dtype") or there[0].dtype)
        if func in (aten.nonzero.default, aten.masked_select.default):
            self.waits.append(where())  # the size of the result is read
        # single numbers may stay on the host, and copies cross over
        crossing = func in (aten._to_copy.default, aten.copy_.default)
        if not crossing and any(x.device.type != "meta" and x.dim() for x in tensors):
            self.elsewhere.append(f"{func} {where()}")
        return func(*args, **kwargs)


def is_tensor(x):
    return isinstance(x, torch.Tensor)


def where():
    """The line of this project or of transformers that asks."""
    named = [
        f"{Path(frame.filename).name}:{frame.lineno} {frame.line}"
        for frame in traceback.extract_stack()
        if "paper_checks" in frame.filename or "transformers" in frame.filename
    ]
    return named[-1] if named else "?"


def stepped(read, steps=2):
    """The device after the steps of a run that does not mix; what the first one sets up is over."""
    device = Device()
    with device:
        run = finetune.prepare(read, device="meta")
        finetune.advance(run)
        device.waits.clear()
        for _ in range(steps):
            finetune.advance(run)
    return device


@pytest.fixture
def accepted(monkeypatch):
    """The meta device is one that runs may name."""
    monkeypatch.setattr(devices, "KINDS", (*devices.KINDS, "meta"))
    monkeypatch.setattr(devices, "ALONE", (*devices.ALONE, "meta"))
    monkeypatch.setattr(devices, "synchronize", lambda device: None)


@pytest.mark.usefixtures("accepted")
@pytest.mark.parametrize("name", [*LLAMA, CLIP[0]])
def test_a_step_makes_its_tensors_on_the_device_and_waits_a_few_times(name, place):
    """3 waits a step: the loss, whether it and the gradients are finite, whether the factors are.

    The model itself may look at its mask once in each forward pass.
    """
    small = settings(name, place, **{"train.steps": 90})
    small |= {"mix.every": 90}
    read = config.read(name, small, data_dir=str(place / "data"))
    device = stepped(read)
    passes = 4 if read.train.sequential else 1
    assert device.elsewhere == []
    assert len(device.waits) <= 2 * (3 + passes), device.waits


@pytest.mark.usefixtures("accepted")
def test_a_tensor_made_elsewhere_and_a_hidden_wait_are_met(place, monkeypatch):
    """The check of the test above: both faults are planted and found."""
    read = config.read("tiny-clip", {"mix.every": 90, "train.steps": 90})
    fine = stepped(read)
    real = finetune.agents_losses

    def slow(*args):
        losses = real(*args)
        losses.sum().item()
        return losses[torch.arange(len(losses))]  # an index on the host: copied at every step

    monkeypatch.setattr(finetune, "agents_losses", slow)
    faulty = stepped(read)
    assert fine.elsewhere == []
    assert len(faulty.elsewhere) >= 3
    assert len(faulty.waits) == len(fine.waits) + 2
    monkeypatch.setattr(finetune, "agents_losses", lambda *args: real(*args) * torch.ones(4))
    with pytest.raises(RuntimeError, match="is not on the expected device meta"):
        stepped(read)
