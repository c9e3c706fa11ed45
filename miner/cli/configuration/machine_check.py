"""Whether a valid `miner.toml` can be served on this machine: what `miner serve` would refuse, and what is missing."""

from __future__ import annotations

import re

from miner.config.config import MinerConfig
from miner.config.file.kinds import ENGINE_KEYS
from miner.config.file.problems import Problem, nearest
from miner.config.file.read import LoadedConfig
from miner.config.sources import variable_of
from miner.errors import ConfigError, MinerError

_KEYS = {variable_of(f"llamacpp_{key}"): key for key in ENGINE_KEYS} | {
    "LLAMACPP_CTX_SIZE": "context", "LLAMACPP_PARALLEL": "slots", "MODEL_PATH": "file",
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
    from miner.core.llms.pool.members import Members
    from miner.core.llms.pool.plan import config_for, plan_models
    from miner.core.llms.registry import check_settings

    Members(settings, loaded)  # what this refuses, `miner serve` refuses
    notes, problems = [], []
    for name, plan in plan_models(loaded).items():
        if not plan.service.runs_engines:
            continue
        config = config_for(plan.service, settings)
        source = next((key for key in ("file", "hub", "name") if getattr(plan.model, key) is not None), None)
        try:
            find_model(None, config)
        except MinerError as error:
            path = ("models", name) if source is None else ("models", name, source)
            message = re.sub(r"^MODEL_PATH is .*?['\"]\. ", "", error.message).rstrip(".")
            notes.append(Problem(f"{message[:1].lower()}{message[1:]}", path, hint=error.hints))
            continue
        try:
            check_settings(plan.service.kind, config)
        except ConfigError as error:
            problems.append(_setting_problem(error, name))
    if problems:
        raise loaded.error(problems)
    return [loaded.located(note) for note in (*notes, *_unknown_keys(loaded))]


def _setting_problem(error: ConfigError, model: str) -> Problem:
    """A wrong setting of a model's service, under the key of the file."""
    variable, _, rest = error.message.partition("=")
    key = _KEYS.get(variable)
    why = error.message if key is None else re.sub(r"^('[^']*'|\"[^\"]*\"|\S+?):? ", "", rest)
    path = ("models", model) if key is None else ("models", model, key)
    hint = error.hints and _VARIABLE.sub(lambda match: _KEYS[match[0]], error.hints)
    return Problem(_VARIABLE.sub(lambda match: _KEYS[match[0]], why).rstrip("."), path, hint=hint)


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
