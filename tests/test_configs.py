"""The experiments' files: valid, every setting with its origin, the paper's as they are known."""

import tomllib

import numpy as np
import pytest

from paper_checks import config
from paper_checks.partition import partition

NAMES = config.names()
PAPER = ["clip-flowers102", "clip-food101", "clip-ucf101", "llama2-7b-boolq", "llama2-7b-wic"]
TWINS = ["minilm-sst2", "minilm-wic", "smollm2-boolq", "smollm2-wic", "vit-digits"]

# setting -> value, of the paper's two experiments
VISION = {
    "lora.rank": 2,
    "lora.eta": 1.0,
    "lora.dropout": 0.25,
    "data.batch": 32,
    "data.shots": 40,
    "mix.agents": 10,
    "mix.every_epochs": 1,
    "train.schedule": "cosine",
}
LANGUAGE = {
    "lora.rank": 4,
    "lora.eta": 8.0,
    "lora.dropout": 0.1,
    "data.batch": 32,
    "train.steps": 150,
    "mix.every": 3,
    "task.metric": "f1",
}
# and of the authors' public code, which runs the vision experiment
CODE = {
    "train.optimizer": "adamw",
    "train.lr": 2e-4,
    "train.weight_decay": 1e-2,
    "train.betas": [0.9, 0.999],
    "train.lr_min": 1e-6,
    "train.period": "round",
    "train.seed": 1,
    "train.order": "step_first",
    "mix.moments": "reset",
    "lora.targets": ["q_proj", "k_proj", "v_proj"],
}
# what that code has beyond, or instead of, the paper's text
AUTHORS = CODE | {
    "lora.rank": 2,
    "lora.alpha": 1.0,
    "lora.scaling": "rslora",
    "lora.dropout": 0.25,
    "data.batch": 32,
    "data.shots": 40,
    "data.partition": "exclusive",
    "data.augment": "resized_crop_flip",
    "data.validation": 100_000,  # all of val,
    "data.validation_shots": 4,  # of which at most 4 a class
    "train.steps": 500 * 25,
    "train.schedule": "cosine",
    "train.autocast": "float16",
    "model.dtype": "float32",
    "mix.agents": 5,
    "mix.every": 25,
}
# of the paper of ASDA, and in `pseudo` of its authors' code
ASDA = {
    "task.labelled": 3,
    "task.temperature": 0.05,
    "task.first": 0.25,
    "task.second": 0.75,
    "task.pseudo": 1.0,
    "task.source_entropy": 0.1,
    "task.target_entropy": 0.1,
    "task.discrepancy": 0.1,
}


def tables(name):
    return tomllib.loads((config.CONFIGS / f"{name}.toml").read_text(encoding="utf-8"))


def written(name):
    """The dotted settings that a file gives, [origin] apart; data.partitions counts as one."""
    return {
        f"{table}.{setting}"
        for table, rows in tables(name).items()
        if table not in ("name", "origin")
        for setting in rows
    }


def test_the_experiments_of_the_paper_and_their_twins_are_there():
    assert set(PAPER + TWINS) <= set(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_a_file_is_valid_and_named_as_it_names_itself(name):
    assert config.read(name).name == name


@pytest.mark.parametrize("name", NAMES)
def test_every_setting_has_its_origin(name):
    assert written(name) == set(tables(name)["origin"])


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("origin", ["paper", "authors' code"])
def test_what_is_said_to_be_the_papers_or_the_codes_is_its_value(name, origin):
    """Numbers of the paper and the code are those written above, and no others."""
    vision = name.startswith("clip")
    known = AUTHORS if name.endswith("-authors") else CODE
    if origin == "paper":
        known = VISION if vision else LANGUAGE | {"mix.agents": 10}
    if name.startswith("asda"):
        known = ASDA
    settings = config.read(name).settings()
    for setting, said in tables(name)["origin"].items():
        value = settings.get(setting)
        number = isinstance(value, (int, float)) and not isinstance(value, bool)
        if said == origin and number and setting != "train.steps":
            assert value == known[setting], setting


@pytest.mark.parametrize("name", PAPER)
def test_the_papers_experiments_have_the_papers_settings(name):
    settings, origin = config.read(name).settings(), tables(name)["origin"]
    for setting, value in (VISION if name.startswith("clip") else LANGUAGE).items():
        assert settings[setting] == value, setting
        assert origin[setting] == "paper", setting


@pytest.mark.parametrize("name", [name for name in PAPER if name.startswith("clip")])
def test_the_vision_experiments_have_the_codes_settings(name):
    settings, origin = config.read(name).settings(), tables(name)["origin"]
    for setting, value in CODE.items():
        assert settings[setting] == value, setting
        assert origin[setting] == "authors' code", setting


@pytest.mark.parametrize("name", [name for name in PAPER if name.startswith("clip")])
def test_the_vision_experiments_are_there_as_the_authors_ran_them_too(name):
    settings, origin = (
        config.read(f"{name}-authors").settings(),
        tables(f"{name}-authors")["origin"],
    )
    for setting, value in AUTHORS.items():
        assert settings[setting] == value, setting
        assert origin[setting] == "authors' code", setting
    prompts = {"clip-food101": "a photo of {}, a type of food."}  # of this one none is known
    assert settings["task.prompt"] == prompts.get(name, "a photo of a {}.")
    assert "paper" not in origin.values()


@pytest.mark.parametrize(("name", "classes"), [("clip-flowers102", 102), ("clip-food101", 101)])
def test_the_steps_of_a_vision_experiment_are_500_epochs(name, classes):
    read = config.read(name)
    shard = read.data.shots * classes // read.mix.agents
    assert read.train.steps == 500 * -(-shard // read.data.batch)


@pytest.mark.parametrize("name", NAMES)
def test_every_partition_that_a_file_configures_can_be_dealt(name):
    """On labels of two classes, five for the digits, ten for images, in plenty."""
    read = config.read(name)
    classes = {"digits": 5, "digit-domains": 5, "wic": 2, "boolq": 2, "sst2": 2, "toy-text": 2}.get(
        read.task["name"], 10
    )
    labels = np.arange(20_000) % classes
    for kind in {read.data.partition, *read.data.partitions}:
        settings = read.data.partitions.get(kind, {})
        shards = partition(labels, read.mix.agents, kind=kind, seed=0, **settings)
        assert len({len(shard) for shard in shards}) == 1
