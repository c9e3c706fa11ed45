"""Whether a valid `miner.toml` can be served on this machine: what `miner serve` would refuse, and what is missing."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace

from miner.config.config import MinerConfig
from miner.config.file.kinds import ENGINE_KEYS
from miner.config.file.problems import ConfigFileError, Problem, nearest
from miner.config.file.read import LoadedConfig
from miner.config.sources import variable_of
from miner.errors import ConfigError, MinerError

_KEYS = {variable_of(f"llamacpp_{key}"): key for key in ENGINE_KEYS} | {
    "LLAMACPP_CTX_SIZE": "context", "LLAMACPP_PARALLEL": "slots", "MODEL_PATH": "file",
    "LLAMACPP_SPEC_TYPE": "speculation.type", "LLAMACPP_SPEC_DRAFT_MODEL": "speculation.file",
}  # fmt: skip
"""Variables that services name in their errors, and the keys of a model that stand for them."""
_VARIABLE = re.compile(rf"\b(?:{'|'.join(_KEYS)})\b")


def check_here(loaded: LoadedConfig, settings: MinerConfig) -> list[Problem]:
    """The notes on a file on this machine: models that are not there, keys that do not exist. Starts nothing and
    connects to no server. Blocks.

    Raises:
        ConfigError: it cannot be served.
    """
    from miner.core.llms.llamacpp.models import find_model
    from miner.core.llms.pool.hints import with_keys
    from miner.core.llms.pool.members import Members
    from miner.core.llms.pool.plan import config_for, plan_models
    from miner.core.llms.registry import check_settings

    _check_plans(loaded)
    Members(settings, loaded)  # what this refuses, `miner serve` refuses
    notes, problems = [], []
    for name, plan in plan_models(loaded).items():
        if not plan.service.runs_engines:
            continue
        config = config_for(plan.service, settings)
        source = next((key for key in ("file", "hub", "name") if getattr(plan.model, key) is not None), None)
        try:
            trained = find_model(None, config).header.context_length
            if plan.model.context is not None and trained is not None and trained < plan.model.context:
                why = f"the model was trained for {trained} tokens; a larger context is not used"
                notes.append(Problem(why, ("models", name, "context")))
        except ConfigError as error:
            problems.append(_setting_problem(error, name, loaded))
            continue
        except MinerError as error:
            path = ("models", name) if source is None else ("models", name, source)
            message = without_model_path(error.message).rstrip(".")
            hint = with_keys(error.hints or "", name, plan.service.backend) or None
            notes.append(Problem(f"{message[:1].lower()}{message[1:]}", path, hint=hint))
            continue
        try:
            check_settings(plan.service.kind, config)
        except ConfigError as error:
            problems.append(_setting_problem(error, name, loaded))
    if problems:
        raise loaded.error(problems)
    return [loaded.located(note) for note in (*notes, *_missing_programs(loaded), *_unknown_keys(loaded))]


def without_model_path(message: str) -> str:
    """An error about a model's file, without the variable that stands for it where there is no miner.toml."""
    return re.sub(r"^MODEL_PATH is .*?['\"]\. ", "", message)


def _check_plans(loaded: LoadedConfig) -> None:
    """Raise one error for all models that cannot be planned."""
    from miner.core.llms.pool.plan import plan_models

    problems: list[Problem] = []
    for name, model in loaded.content.models.items():
        alone = loaded.content.model_copy(update={"models": {name: model}})
        try:
            plan_models(replace(loaded, content=alone))
        except ConfigFileError as error:
            problems += error.problems
    if problems:
        raise loaded.error(problems)


def _setting_problem(error: ConfigError, model: str, loaded: LoadedConfig) -> Problem:
    """A wrong setting of a model's service, under the key of the file."""
    variable, _, rest = error.message.partition("=")
    key = _KEYS.get(variable)
    if key is None:
        return loaded.error_at(("models", model), error).problems[0]
    why = re.sub(r"^('[^']*'|\"[^\"]*\"|\S+?):? ", "", rest)
    hint = error.hints and _VARIABLE.sub(lambda match: _KEYS[match[0]], error.hints)
    where = ("models", model, *key.split("."))
    return Problem(_VARIABLE.sub(lambda match: _KEYS[match[0]], why).rstrip("."), where, hint=hint)


def _missing_programs(loaded: LoadedConfig) -> Iterator[Problem]:
    from miner.core.llms.pool.command_engine import command_spec

    for name, backend in loaded.content.backends.items():
        if backend.command is not None:
            problem = command_spec(name, backend, loaded.directory, None).problem()
            if problem is not None:
                yield Problem(problem.text, ("backends", name, "command"), hint=problem.operator_hint)


def _unknown_keys(loaded: LoadedConfig) -> list[Problem]:
    """Names in `keys` that no API key has."""
    content = loaded.content
    named = [(("defaults", "keys"), content.defaults.keys), *(
        (("models", name, "keys"), model.keys) for name, model in content.models.items()
    )]  # fmt: skip
    if not any(keys for _, keys in named):
        return []
    from miner.gateway.auth.keys import key_path, read_keys
    from miner.gateway.settings import GatewaySettings

    path = key_path(GatewaySettings().api_keys_file)
    try:
        known = [entry.name for entry in read_keys(path).keys]
    except FileNotFoundError:
        known = []
    found = []
    for where, keys in named:
        for number, name in enumerate(keys or ()):
            if name not in known:
                hint = nearest(name, known) or f"Create one: miner keys new {name}"
                found.append(Problem(f"there is no key of this name in {path}", (*where, number), hint=hint))
    return found
