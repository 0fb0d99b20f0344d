"""Settings of the task and of its data that are fine each and do not go together."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import PurePath
from typing import TYPE_CHECKING, Any

from paper_checks.partition import settings_of
from paper_checks.rules import (
    DOMAINS,
    IMAGE_SETS,
    OWN,
    PARTITIONS,
    ConfigError,
    checked,
    require_known,
)

if TYPE_CHECKING:  # which checks by this module
    from paper_checks.config import Config


def require_data_together(config: Config) -> None:
    """Raise ConfigError if settings of [task] and [data] do not go together."""
    _check_partitions(config.data.partitions)
    _check_split_file(config)
    _check_prompt(config)
    _check_own(config)
    _check_domains(config.task)
    _check_validation(config.data.validation)


def _check_partitions(partitions: Mapping[str, Any]) -> None:
    """Raise ConfigError at a setting of a kind of partition, chosen or not, that it cannot have."""
    require_known("kind in [data.partitions]", partitions, PARTITIONS)
    for kind, settings in partitions.items():
        if not isinstance(settings, Mapping):
            raise ConfigError(f"data.partitions.{kind} must be a table, got {settings!r}")
        known = settings_of(kind, settings)
        require_known(f"setting in [data.partitions.{kind}]", settings, known)
        # of many forms: `partition` reads it
        plain = {name: x for name, x in settings.items() if name != "proportions"}
        checked(f"data.partitions.{kind}", plain, known)


def _check_split_file(config: Config) -> None:
    """Raise ConfigError at a file of splits that the task would ignore or the stamp would miss."""
    data, name = config.data, config.task["name"]
    for setting in ("split_file", "split_images"):
        path = PurePath(getattr(data, setting) or "")
        if path.is_absolute() or ".." in path.parts:
            raise ConfigError(
                f"data.{setting} must lie in the data set's folder of --data-dir, got {str(path)!r}"
            )
    if data.split_file is not None and name not in IMAGE_SETS:
        raise ConfigError(
            f"data.split_file is for images, of {', '.join(IMAGE_SETS)}; task {name} has none"
        )
    if data.split_file is None and data.split_images != ".":
        raise ConfigError("data.split_images needs data.split_file, whose paths start there")


def _check_own(config: Config) -> None:
    """Raise ConfigError where a task of own data lacks what no default can know."""
    task, name = config.task, config.task["name"]
    if name not in OWN:
        return
    folder = PurePath(config.data_folder)
    if folder.is_absolute() or ".." in folder.parts:
        raise ConfigError(f"task.folder must lie in --data-dir, got {config.data_folder!r}")
    if not config.lora.targets:
        raise ConfigError(
            f"lora.targets is missing: task {name} may have any model, so say which of its "
            f"nn.Linear layers get adapters, such as ['query', 'value'] or ['q_proj', 'v_proj']"
        )
    if name == "own-text":
        _check_own_texts(config)
    if "heads" in task and not all(task["heads"]):
        raise ConfigError(f"task.heads must be names of modules, got {list(task['heads'])}")


def _check_domains(task: Mapping[str, Any]) -> None:
    """Raise ConfigError at target domains that are unknown or twice, or a threshold for nothing."""
    domains = task.get("domains", DOMAINS)
    require_known("domain in task.domains", domains, DOMAINS)
    if not domains or len(set(domains)) < len(domains):
        raise ConfigError(
            f"task.domains must be one or more different of {', '.join(DOMAINS)}; got "
            f"{list(domains)}"
        )
    if "threshold" in task and task.get("pseudo") == 0:
        raise ConfigError(
            f"task.threshold = {task['threshold']} would have no effect with task.pseudo = 0; "
            f"leave it out"
        )


def _check_own_texts(config: Config) -> None:
    task, causal = config.task, config.model.get("kind") == "causal"
    classes = task.get("classes", ())
    if len(set(classes)) < max(2, len(classes)):
        raise ConfigError(
            f"task.classes must be two or more values of the column of labels, all different, in "
            f"the order of the classes; got {list(classes)}"
        )
    if causal and "prompt" not in task:
        raise ConfigError(
            "task.prompt is missing: a causal model needs three texts with columns in braces, such "
            "as ['Review: ', '{text}', '\\nAnswer:']"
        )
    if len(task.get("answers", classes)) != len(classes):
        raise ConfigError(
            f"task.answers must be one word for each of {len(classes)} classes, got "
            f"{list(task['answers'])}"
        )
    if len(task.get("pair", ("",))) not in (1, 2):
        raise ConfigError(f"task.pair must be one text or two, got {list(task['pair'])}")


def _check_prompt(config: Config) -> None:
    """Raise ConfigError at a prompt of another form than the kind of model reads."""
    prompt = config.task.get("prompt", "{}")
    if isinstance(prompt, str) and prompt.replace("{}", "", 1).count("{}") + ("{}" not in prompt):
        raise ConfigError(
            f"task.prompt must have one {{}}, where the class's name goes; got {prompt!r}"
        )
    if not isinstance(prompt, str) and len(prompt) != 3:
        raise ConfigError(
            f"task.prompt must be three texts: before, what may be cut, and after; got {prompt!r}"
        )


def _check_validation(wanted: float | None) -> None:
    if wanted is not None and wanted >= 1 and wanted != int(wanted):
        raise ConfigError(
            f"data.validation must be a whole number of examples, or a share below 1; got {wanted}"
        )
