"""Settings of a run: every rule has its message; shipped files are valid."""

import copy

import pytest

from paper_checks import config as configs
from paper_checks.config import ConfigError
from tests import paper_runs


def tables(**changes):
    found = copy.deepcopy(paper_runs.TABLES)
    for name, value in changes.items():
        configs.put(found, name.replace("__", "."), value)
    return found


def test_defaults_are_filled_in_and_settings_are_flat_and_plain():
    config = configs.parse(tables())
    settings = config.settings()
    assert settings["lora.dropout"] == 0
    assert settings["mix.graph"] == "ring"
    assert settings["train.betas"] == [0.9, 0.999]
    assert all(isinstance(x, str | int | float | bool | list | None) for x in settings.values())
    assert config.cell == "decaf-ring-iid-seed0"
    assert config.origin_of("lora.rank") == "ours"


def test_methods_without_a_graph_have_one_cell_for_all_graphs():
    ring, complete = (
        configs.parse(tables(mix__method="local", mix__graph=graph))
        for graph in ("ring", "complete")
    )
    assert ring.cell == complete.cell == "local-any-iid-seed0"
    assert ring.settings() == complete.settings()


@pytest.mark.parametrize(
    ("lora", "scale"),
    [
        ({"rank": 4, "eta": 8}, 2.0),
        ({"rank": 4, "alpha": 8.0}, 2.0),
        ({"rank": 4, "eta": 8, "scaling": "rslora"}, 4.0),
    ],
)
def test_the_scale_is_eta_over_rank_or_over_its_root(lora, scale):
    assert configs.parse({**tables(), "lora": lora}).lora.scale == scale


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"task__metirc": "f1"}, r"unknown setting in \[task\]: 'metirc'; near: metric"),
        ({"task__metric": "f2"}, r"task\.metric must be one of .* got 'f2'; near: f1"),
        ({"model__dtyp": "f1"}, r"unknown setting in \[model\]: 'dtyp'; near: dtype"),
        ({"model__dtype": "set_default_dtype"}, r"model\.dtype must be one of \('float32', "),
        ({"model__kind": "clipp"}, r"model\.kind must be one of .*near: clip"),
        ({"model__hidden_size": 0}, r"model\.hidden_size must be >= 1 and finite, got 0"),
        ({"model__hidden_size": "8"}, r"model\.hidden_size must be an integer, got '8'"),
        ({"train__lr": 10**400}, r"train\.lr must be a number within float64, got"),
        ({"lora__targets": False}, r"lora\.targets must be a list of strings, got False"),
        ({"lora__rank": 10**400}, r"lora\.rank must be an integer of 64 bits"),
        ({"train__seed": 1 << 63}, r"train\.seed must be an integer of 64 bits"),
        ({"data__partitions": {"skew": 3}}, r"data\.partitions\.skew must be a table, got 3"),
        ({"lora__rnak": 1}, r"unknown setting in \[lora\]: 'rnak'; near: rank"),
        ({"lora__rank": 0}, r"lora\.rank must be >= 1 and finite, got 0"),
        ({"lora__rank": 2.0}, r"lora\.rank must be an integer, got 2\.0"),
        ({"lora__rank": True}, r"lora\.rank must be an integer, got True"),
        ({"lora__eta": -1}, r"lora\.eta must be > 0 and finite"),
        ({"lora__dropout": 1.0}, r"lora\.dropout must be >= 0 and < 1, got 1\.0"),
        ({"lora__targets": "query"}, r"lora\.targets must be a list of strings, got 'query'"),
        (
            {"lora__scaling": "eta"},
            r"lora\.scaling must be one of \('eta/r', 'rslora'\), got 'eta'",
        ),
        ({"train__lr": 0}, r"train\.lr must be > 0 and finite in float32, got 0"),
        ({"train__lr": float("nan")}, r"train\.lr must be > 0 and finite in float32, got nan"),
        ({"train__lr_min": 1.0}, r"train\.lr_min must be <= train\.lr = 0\.05, got 1\.0"),
        ({"train__betas": [0.9]}, r"train\.betas must be two numbers in \[0, 1\)"),
        ({"train__optimizer": "adam"}, r"train\.optimizer must be one of .*near: adamw"),
        ({"train__order": "combine"}, "'combine' is not defined for decaf.*another gauge"),
        ({"mix__method": "dsgd"}, r"mix\.method must be one of .* got 'dsgd'"),
        ({"mix__graph": "rnig"}, r"mix\.graph must be one of .*near: ring"),
        ({"mix__graph": "bipartite"}, r"mix\.graph 'bipartite', mix\.agents 3: N must be even"),
        ({"mix__agents": 0}, r"mix\.agents must be >= 1"),
        ({"mix__moments": "rotated"}, r"mix\.moments must be one of .*near: rotate"),
        ({"data__partition": "idd"}, r"data\.partition must be one of .*near: iid"),
        (
            {"data__partitions": {"skwe": {}}},
            r"unknown kind in \[data\.partitions\]: 'skwe'; near: skew",
        ),
        (
            {"data__partitions": {"exclusive": {"samples": 3}}},
            r"unknown setting in \[data\.partitions\.exclusive\]: 'samples'",
        ),
        (
            {"data__partitions": {"shots": {"split": "skew", "alpha": 1.0}}},
            r"unknown setting in \[data\.partitions\.shots\]: 'alpha'",
        ),
        (
            {"data__partitions": {"iid": {"samples": "10"}}},
            r"data\.partitions\.iid\.samples must be an integer, got '10'",
        ),
        (
            {"data__partitions": {"dirichlet": {"equal": 1}}},
            r"data\.partitions\.dirichlet\.equal must be true or false, got 1",
        ),
        ({"observe__every": 0}, r"observe\.every must be >= 1"),
        ({"name": {}}, "name must be a string"),
        ({"model": "x"}, "model must be a table"),
        ({"task": {}}, r"task\.name is missing"),
        ({"model": {}}, r"model\.from is missing"),
        ({"trian": {}}, "unknown table: 'trian'; near: train"),
        ({"origin": {"lora.rnak": "ours"}}, r"unknown setting 'lora\.rnak'; near: lora\.rank"),
        ({"origin": {"lora.rank": "me"}}, r"\[origin\] lora\.rank must be one of .* got 'me'"),
    ],
)
def test_a_wrong_setting_is_named(changes, message):
    with pytest.raises(ConfigError, match=message):
        configs.parse(tables(**changes))


@pytest.mark.parametrize("missing", ["name", "task", "model", "lora", "data", "train", "mix"])
def test_a_missing_table_is_named(missing):
    found = tables()
    del found[missing]
    with pytest.raises(ConfigError, match=f"{missing} is missing"):
        configs.parse(found)


@pytest.mark.parametrize(
    "setting", ["lora.rank", "data.batch", "train.steps", "train.lr", "mix.agents"]
)
def test_a_missing_setting_is_named(setting):
    found = tables()
    table, name = setting.split(".")
    del found[table][name]
    with pytest.raises(ConfigError, match=rf"{table}\.{name} is missing; it has no default"):
        configs.parse(found)


@pytest.mark.parametrize(
    ("table", "one", "other"), [("lora", "eta", "alpha"), ("mix", "every", "every_epochs")]
)
def test_of_two_names_of_one_thing_exactly_one_is_given(table, one, other):
    both, none = tables(), tables()
    both[table][other] = 3
    del none[table][one]
    for found in (both, none):
        with pytest.raises(ConfigError, match=f"exactly one of {table}.* and {table}"):
            configs.parse(found)
    # on the command line, the one that is given replaces the other
    assert getattr(getattr(configs.parse(tables(**{f"{table}__{other}": 3})), table), one) is None


@pytest.mark.parametrize(
    ("text", "value"),
    [("3", 3), ("1e-3", 1e-3), ("true", True), ("[1, 2]", [1, 2]), ("ring", "ring"), ('"3"', "3")],
)
def test_values_of_the_command_line_are_read_as_toml(text, value):
    assert configs.value_of(text) == value


def test_an_unknown_experiment_or_file_is_met_with_names(tmp_path):
    with pytest.raises(ConfigError, match="unknown config 'vit-digit'"):
        configs.read("vit-digit")
    with pytest.raises(ConfigError, match="No such file"):
        configs.read(str(tmp_path / "none.toml"))
    broken = tmp_path / "broken.toml"
    broken.write_text("name = ")
    with pytest.raises(ConfigError, match=r"broken\.toml: not valid TOML"):
        configs.read(str(broken))


@pytest.mark.parametrize("name", configs.names())
def test_a_shipped_experiment_is_valid(name):
    assert configs.read(name).name == name


@pytest.mark.parametrize(
    "name", ["", ".", "..", "../up", "a/b", "/tmp", "a\\b", "a\nb", "a\0", " a", "C:", 3, ["a"]]
)
def test_a_name_that_would_lead_elsewhere_is_refused(name):
    with pytest.raises(ConfigError, match=r"name must be a (plain name|string)"):
        configs.parse({**paper_runs.TABLES, "name": name})


def test_names_of_any_language_are_folders():
    for name in ("net", "résumé 2", "vit-digits.v1_0"):
        assert configs.parse({**paper_runs.TABLES, "name": name}).name == name


def test_a_kind_of_model_has_its_own_settings():
    with pytest.raises(ConfigError, match=r"unknown setting in \[model\]: 'patch_size'"):
        configs.parse(tables(model__kind="causal", model__patch_size=2))
    vit = configs.parse(
        tables(model__kind="vit", model__from="pretrained", model__patch_size=2, model__lr=1)
    )
    assert vit.model["lr"] == 1.0


def test_the_settings_of_a_kind_are_those_that_its_loader_reads():
    from paper_checks.rules import KINDS
    from paper_checks.tasks import causal, digits, text

    assert KINDS["classifier"].keys() == text.TINY.keys()
    assert KINDS["causal"].keys() == causal.TINY.keys()
    assert KINDS["vit"].keys() == digits.SIZES.keys() | digits.PRETRAINING.keys()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('name = "x"\n[lora\nrank = 1', r"x\.toml: not valid TOML: .* \(at line 2, column"),
        ("a = " + "[" * 100_000, r"x\.toml: (brackets are nested too deeply|not valid TOML)"),
        ("\xff", r"x\.toml: not valid TOML: 'utf-8' codec"),
    ],
)
def test_a_file_that_is_no_toml_is_named_with_its_line(text, message, tmp_path):
    path = tmp_path / "x.toml"
    path.write_bytes(text.encode("latin-1"))
    with pytest.raises(ConfigError, match=message):
        configs.read(str(path))


def test_an_origin_that_is_no_table_is_named():
    found = {**tables(), "origin": 3}
    configs.put(found, "lora.rank", 2)
    with pytest.raises(ConfigError, match="origin must be a table"):
        configs.parse(found)


@pytest.mark.parametrize("text", ["[" * 100_000, "1\n2", "", "{", '"a'])
def test_a_value_that_is_no_toml_is_a_string(text):
    assert configs.value_of(text) == text
