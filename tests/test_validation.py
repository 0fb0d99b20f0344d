"""Validation examples: where they come from, and that runs are scored on them, too."""

import json

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="tasks hold torch models")

from paper_checks import config as configs  # noqa: E402
from paper_checks import endpoints, finetune, stamp  # noqa: E402
from paper_checks.tasks import data, digits, images  # noqa: E402
from paper_checks.tasks.records import divided, without_validation  # noqa: E402
from tests import paper_runs  # noqa: E402


def settings(**given):
    return paper_runs.config(**{f"data__{name}": value for name, value in given.items()}).data


def test_a_count_or_a_share_of_the_training_examples_is_kept_apart():
    for wanted, count in ((12, 12), (0.25, 18), (0.001, 1)):
        train, apart = divided(paper_runs.task().train, wanted)
        assert len(apart.labels) == count
        assert len(train.labels) == 72 - count
        rows = {tuple(x.tolist()) for part in (train, apart) for x in part.inputs["x"]}
        assert len(rows) == 72
    whole = paper_runs.task().train
    assert divided(whole, None) == (whole, None)


def test_the_draw_of_validation_is_fixed_and_keeps_groups_whole():
    groups = [i // 4 for i in range(40)]
    kept, apart = without_validation(groups, 10)
    assert np.array_equal(apart, without_validation(groups, 10)[1])
    assert len(apart) == 12  # the third group fills ten up
    assert not {groups[i] for i in kept} & {groups[i] for i in apart}
    with pytest.raises(ValueError, match="must leave examples to train on, got 40 of the 40"):
        without_validation(groups, 40)


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (0, "data.validation must be > 0"),
        (2.5, "data.validation must be a whole number of examples, or a share below 1; got 2.5"),
        ("dev", "data.validation must be a number"),
    ],
)
def test_a_size_of_validation_that_means_nothing_is_refused(value, message):
    with pytest.raises(configs.ConfigError, match=message):
        settings(validation=value)


# ---------------------------------------------------------------- the data sets


@pytest.fixture
def sst2(tmp_path):
    """Twenty sentences of training, of validation and of test, all different."""
    (tmp_path / "sst2").mkdir()
    for part in ("train", "dev", "test"):
        rows = [f"{part} {i}\t{i % 2}" for i in range(20)]
        (tmp_path / f"sst2/{part}.tsv").write_text("\n".join(["sentence\tlabel", *rows]) + "\n")
    return tmp_path


def sentences(parts):
    return {part: {e.fields["sentence"] for e in found} for part, found in parts.items()}


def test_a_data_set_with_validation_labels_gives_its_own_and_trains_on_all(sst2):
    found = sentences(data.read("sst2", settings(validation=5), sst2))
    assert len(found["train"]) == len(found["test"]) == 20
    assert len(found["validation"]) == 5
    assert all(text.startswith("dev ") for text in found["validation"])
    assert "validation" not in data.read("sst2", settings(), sst2)


def test_a_folder_without_that_file_gives_a_part_of_its_training_examples(sst2):
    (sst2 / "sst2/dev.tsv").unlink()
    wanted = settings(validation=5, train_samples=12, shots=7)
    found = sentences(data.read("sst2", wanted, sst2))
    assert len(found["validation"]) == 5
    assert len(found["train"]) == 12  # taken of what is left
    assert not found["validation"] & found["train"]
    before = sentences(data.read("sst2", settings(), sst2))
    assert found["validation"] | found["train"] <= before["train"]
    assert found["test"] == before["test"]


def test_wic_gives_its_own_and_the_made_up_sentences_a_part_of_training(tmp_path):
    (tmp_path / "wic").mkdir()
    for part in ("train", "dev", "test"):
        rows = [f"{part}{i}\tV\t0-1\tHook a fish .\tA hook .\n" for i in range(4)]
        (tmp_path / f"wic/{part}.data.txt").write_text("".join(rows))
        (tmp_path / f"wic/{part}.gold.txt").write_text("F\nT\n" * 2)
    found = data.read("wic", settings(validation=3), tmp_path)
    assert [e.fields["word"][:3] for e in found["validation"]] == ["dev"] * 3
    assert len(found["train"]) == 4
    found = data.read("toy-text", settings(validation=0.25), None)
    assert [len(found[part]) for part in ("train", "validation", "test")] == [120, 40, 60]


def test_the_passages_of_boolq_are_trained_validated_or_tested_on(tmp_path):
    (tmp_path / "boolq").mkdir()
    asked = [(f"is it {i}", f"passage {i // 3}") for i in range(120)]
    rows = [{"question": q, "passage": p, "answer": True} for q, p in asked]
    (tmp_path / "boolq/balanced.jsonl").write_text("\n".join(map(json.dumps, rows)) + "\n")
    tested = [
        {"query": f"Passage: {p}\nQuestion: {q}?", "choices": ["no", "yes"], "gold": 1}
        for q, p in asked
    ]
    text = "\n".join(map(json.dumps, tested)) + "\n"
    (tmp_path / "boolq/dev_mosaic_format.jsonl").write_text(text)
    found = data.read("boolq", settings(validation=20), tmp_path)
    passages = [{e.fields["passage"] for e in found[p]} for p in ("train", "validation", "test")]
    assert [len(x) for x in passages][1] == 7  # 21 questions are the first at or above 20
    assert len(set.union(*passages)) == sum(map(len, passages)) == 40


@pytest.fixture
def pictures(tmp_path):
    """Two classes of clips, five groups of three; files that need not be opened."""
    for part in ("train", "test", "val"):
        for name in ("Archery", "Diving"):
            place = tmp_path / "ucf101" / part / name
            place.mkdir(parents=True)
            for group in range(5):
                for clip in range(3):
                    (place / f"v_{name}_g{group:02d}_c{clip:02d}.png").touch()
    return tmp_path


def test_images_for_validation_are_those_of_val_or_whole_groups_of_clips(pictures):
    found, _ = images.read("ucf101", settings(validation=4), pictures)
    assert {path.parts[-3] for path in found["validation"].items} == {"val"}
    assert [len(found[part].items) for part in ("train", "validation")] == [30, 4]
    for path in (pictures / "ucf101/val").rglob("*.png"):
        path.unlink()
    with pytest.raises(ValueError, match="no images in"):
        images.read("ucf101", settings(validation=4), pictures)
    for path in sorted((pictures / "ucf101/val").rglob("*"), reverse=True):
        path.rmdir()
    (pictures / "ucf101/val").rmdir()
    found, _ = images.read("ucf101", settings(validation=4), pictures)
    groups = [{path.name[:-8] for path in found[p].items} for p in ("train", "validation")]
    assert len(found["validation"].items) == 6
    assert not groups[0] & groups[1]
    assert len(groups[0] | groups[1]) == 10


def test_the_digits_validated_on_are_neither_trained_nor_tested_on():
    pytest.importorskip("sklearn", reason="the digits come with scikit-learn")
    train, test = digits.unseen()
    kept, apart = divided(train, 100)
    rows = [{tuple(x) for x in p.inputs["pixel_values"].flatten(1).tolist()} for p in (kept, apart)]
    tested = {tuple(x) for x in test.inputs["pixel_values"].flatten(1).tolist()}
    assert len(apart.labels) == 100
    assert not (rows[0] & rows[1]) | (rows[1] & tested)


# ---------------------------------------------------------------- in a run


def with_validation():
    task = paper_runs.task()
    train, apart = divided(task.train, 24)
    return task._replace(train=train, validation=apart)


def test_every_evaluation_scores_the_validation_examples_next_to_the_test(tmp_path, monkeypatch):
    monkeypatch.setattr(finetune, "load_task", lambda config: with_validation())
    run = finetune.finetune(paper_runs.config(mix__method="local", train__lr=0.5), tmp_path)
    assert len(run.records) == 3
    assert all({"score", "validation_score", "validation_loss"} <= r.keys() for r in run.records)
    task = with_validation()
    own = []
    for agent in range(3):
        with run.stacked.only(agent), torch.no_grad():
            found = run.stacked.model(task.validation.inputs["x"])
        own.append(float((found.argmax(-1) == task.validation.labels).double().mean()))
    assert run.records[-1]["validation_score"] == np.mean(own)
    assert len(set(own)) > 1  # agents differ, so that the mean is one of unlike numbers
    known = stamp.of_loaded(task)["sum.examples"]
    assert known == run.stamp["sum.examples"]
    other = task._replace(validation=task.validation.take(torch.arange(5)))
    assert stamp.of_loaded(other)["sum.examples"] != known


def test_without_validation_nothing_of_it_is_recorded():
    run_of = paper_runs.task()
    assert run_of.validation is None
    from paper_checks.stacked import stack

    stacked = stack(
        run_of.model, targets=run_of.targets, agents=2, rank=1, scale=1.0, heads=run_of.heads
    )
    found = endpoints.scored(stacked, run_of, 6)
    assert not [name for name in found if name.startswith("validation")]
