"""Every kind of stored file, cut short or with one bit flipped: met, or nothing is changed."""

import json
import random
import shutil
from hashlib import sha256
from pathlib import Path

import pytest

torch = pytest.importorskip("torch", reason="the harness trains with torch")
pytest.importorskip("transformers", reason="the cache of vit-digits is read with its task")

from decaf_theory import adapters  # noqa: E402
from decaf_theory.files import to_json, to_lines  # noqa: E402
from decaf_theory.sums import seal_bytes, seal_lines, sealed  # noqa: E402
from figures import rows  # noqa: E402
from paper_checks import baseline, checkpoint  # noqa: E402
from paper_checks.tasks import digits  # noqa: E402
from tests.adapter_files import STORED  # noqa: E402
from verification import everything, harness, replay, store  # noqa: E402
from verification.evidence import at_most  # noqa: E402
from verification.run import LEDGER  # noqa: E402

FLIPS, NIGHTLY_FLIPS = 12, 300
ROWS = [at_most("c", x, 1.0, rounding=1e-15, r=4).as_json() for x in (0.1 + 0.2, 0.5)]
VERDICTS = [{"claim": name, "outcome": "holds", "tightness": 0.7, "rows": 2} for name in "ab"]


def write_results(out: Path) -> None:
    """Write one of each kind of file below a folder."""
    run, _ = store.open_run(out, {"code": "abc", "seed": 0}, ["a", "b"])
    for verdict in VERDICTS:
        run.put(verdict["claim"], ROWS, verdict)
    (out / "claims.json").write_bytes(to_json(sealed({"claims": ["a"], "notation": []})))
    everything.record(out, "verify", {"inputs": "1", "outputs": "2", "code": 1})
    (out / "bench.jsonl").write_bytes(seal_lines([{"kind": "seconds", "seconds": 0.1}, {"a": 1}]))
    (out / "attacks").mkdir()
    records = [sealed({"claim": "a", "variant": "fro", "ratio": 0.75})]
    (out / "attacks" / "attacks.json").write_text(json.dumps(records))
    cell = out / "paper" / "net" / "cell"
    cell.mkdir(parents=True)
    data = to_lines([{"claim": "training", "step": 1, "score": 0.5}, {"claim": "a", **ROWS[0]}])
    (cell / store.ROWS).write_bytes(data)
    settings = {"name": "net", "train.steps": 2}
    about = {"settings": settings, "step": 2, "files": {store.ROWS: sha256(data).hexdigest()}}
    (cell / store.RUN).write_bytes(to_json(sealed(about)))
    found = {"what": "logistic regression", "score": 0.5, "of": "abc"}
    (out / baseline.BASELINE).write_bytes(to_json(sealed(found)))
    state = checkpoint.Checkpoint(7, {"a": torch.arange(6.0)}, {"losses": [0.1]})
    checkpoint.write(out / "checkpoint", state, {"train.lr": 0.1})
    weights = seal_bytes(safetensors_of({"w": torch.arange(5.0)}))
    (out / "cache.sealed").write_bytes(weights)
    agents = adapters.load_agents(STORED)
    adapters.save(adapters.merge(agents), out / "merged")


def safetensors_of(tensors):
    from safetensors.torch import save

    return save(tensors)


def read_checkpoint(path):
    found, notes = checkpoint.read(path.parent, {"train.lr": 0.1})
    if found is None:
        assert "is damaged" in notes[0]
        path.with_suffix(".damaged").unlink()
        raise ValueError(notes[0])
    return found.step, found.tensors["a"].tolist(), found.meta


def read_cache(path):
    found = digits.recalled(path)
    if found is None:
        raise ValueError("trained again, and said")
    return found["w"].tolist()


def read_adapter(path):
    found = adapters.load(path.parent)
    numbers = {name: (pair.B.tolist(), pair.A.tolist()) for name, pair in found.sites.items()}
    free = ("base_model_name_or_path", "inference_mode")  # changes no number
    return numbers, {k: v for k, v in found.config.items() if k not in free}


def read_stages(path):
    if not (table := everything.stored(path.parent)):
        raise ValueError("the stages are run again")
    return table


KINDS = {
    "run.json": lambda p: store.read_run(p.parent),
    "verdicts.json": store.read_records,
    "rows/a.jsonl": lambda p: store.read_rows(p.parent.parent, "a"),
    "claims.json": store.read_sealed,
    "stages.json": read_stages,
    "bench.jsonl": lambda p: rows.bench(p.parent),
    "attacks/attacks.json": lambda p: rows.attacks(p.parent.parent),
    "paper/net/cell/run.json": lambda p: harness.read(p.parent)[1:],
    "paper/net/cell/rows.jsonl": lambda p: harness.read(p.parent)[1:],
    "baseline.json": store.read_sealed,
    "checkpoint/step-000000007.ckpt": read_checkpoint,
    "cache.sealed": read_cache,
    "merged/adapter_model.safetensors": read_adapter,
    "merged/adapter_config.json": read_adapter,
}


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    out = tmp_path_factory.mktemp("corruption") / "out"
    write_results(out)
    return out


def damages(data: bytes, flips: int, seed: int):
    """Yield cuts at every kind of place and flips of single bits all over the file."""
    for length in (0, 1, len(data) // 3, len(data) - 2, len(data) - 1):
        yield data[:length]
    draw = random.Random(seed)
    for _ in range(flips):
        place, bit = draw.randrange(len(data)), draw.randrange(8)
        yield data[:place] + bytes([data[place] ^ (1 << bit)]) + data[place + 1 :]


def tried(path: Path, read, flips: int, seed: int = 0) -> tuple[int, int]:
    """Return how many damages were met, and how many changed nothing; others fail."""
    data, whole = path.read_bytes(), read(path)
    met = harmless = 0
    for bad in damages(data, flips, seed):
        path.write_bytes(bad)
        try:
            found = read(path)
        except (store.StoreError, ValueError):
            met += 1
            continue
        finally:
            path.write_bytes(data)
        assert found == whole, f"{path.name}: {bad!r} was believed"
        harmless += 1
    assert read(path) == whole
    return met, harmless


@pytest.mark.parametrize("kind", KINDS)
def test_a_damaged_file_is_met_or_changes_nothing(results, kind):
    met, harmless = tried(results / kind, KINDS[kind], FLIPS)
    assert met + harmless == FLIPS + 5
    assert met >= 4  # of the cuts, one may take a last newline alone


@pytest.mark.night
@pytest.mark.parametrize("kind", KINDS)
def test_many_damages_are_met_or_change_nothing(results, kind):
    assert sum(tried(results / kind, KINDS[kind], NIGHTLY_FLIPS, seed=1)) == NIGHTLY_FLIPS + 5


@pytest.mark.parametrize("claim", ["T18-op", "T13-constant"])
def test_a_damaged_counterexample_is_recomputed_and_so_never_believed(tmp_path, claim):
    path = tmp_path / f"{claim}.json"
    shutil.copy(LEDGER.counterexample(claim), path)
    whole = replay.load(path)

    def read(path):
        found = replay.load(path)
        row = replay.recompute(replay.find(LEDGER.claims, found.claim), found)
        if not replay.equal(row, found):
            raise ValueError("differs from what is stored")
        return True

    assert read(path)
    met, harmless = tried(path, read, FLIPS)
    assert met + harmless == FLIPS + 5
    assert replay.load(path) == whole


def test_every_stored_kind_of_file_is_tried(results):
    names = {str(p.relative_to(results)) for p in results.rglob("*") if p.is_file()}
    assert names - {".lock", "rows/b.jsonl"} == KINDS.keys()
