"""Every setting with what it is in force, where that comes from, and what it is for; also where some are invalid.

For a command that shows settings:

    from miner.cli.configuration.settings import all_classes, described_settings

    for setting in described_settings(all_classes(), args):  # or [GatewaySettings]; args: what the command line set
        print(setting.variable, setting.text, setting.source, setting.problem or "")

`value`, `default` and `text` never hold a secret. `find_setting` finds one by its field or variable, in any case.
`unreadable_dotenv` and `mistyped_variables` say what else is wrong with the environment.
"""

from __future__ import annotations

import argparse
import ast
import inspect
import json
import os
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, get_args

from pydantic import BaseModel, SecretStr, ValidationError
from pydantic.fields import FieldInfo
from pydantic_settings import BaseSettings

from miner.cli.guess import nearest
from miner.cli.parser import UsageError, overrides
from miner.config.base import Settings, reason_of
from miner.config.config import MinerConfig
from miner.config.file.merge import default_model
from miner.config.file.problems import hidden, shown_path
from miner.config.file.read import LoadedConfig
from miner.config.secrets import is_secret
from miner.config.sources import dotenv_lines, dotenv_variables, unknown_variables, variable_of

_LIMITS = {
    "llamacpp_memory_budget": "memory", "llamacpp_max_loaded": "max_loaded", "llamacpp_cores": "cores",
    "max_queue": "max_queue", "queue_timeout": "queue_timeout", "kv_cache": "kv_cache",
}  # fmt: skip
"""Settings that `[limits]` of a file replaces."""
_VAGUE = ("must be a valid ", "must be greater ", "must be less ", "must be '")
"""Beginnings of what pydantic says of less than all that is allowed."""


@dataclass(frozen=True, slots=True)
class DescribedSetting:
    """One setting."""

    name: str
    """The field, such as `llamacpp_parallel`."""
    variable: str
    """Its variable, such as `LLAMACPP_PARALLEL`."""
    value: Any
    """What is in force, as JSON has it; where it is invalid, what is written. "***": a secret. None: not set."""
    source: str
    """The option (`--port`), "environment", ".env:LINE", "miner.toml:LINE" or "default"."""
    default: Any
    """As JSON has it; None: what the description says, else nothing."""
    description: str
    """One sentence or more, on one line."""
    allowed: str
    """What it may be, such as "an integer from 1 to 256"."""
    group: str
    """The class: MinerConfig, GatewaySettings, VLLMCommandConfig or NodeConfig."""
    secret: bool
    """Whether its value is one."""
    problem: str | None
    """What is wrong with the value, such as "must be a valid integer"; None: it is valid."""

    @property
    def changed(self) -> bool:
        """Whether anything sets it."""
        return self.source != "default"

    @property
    def complaint(self) -> str:
        """The sentence about an invalid one: which value of what, where it is set, what is allowed."""
        value = "" if self.secret else f"={self.text!r}"
        return f"{self.variable}{value} ({self.source}): {self.problem}."

    @property
    def text(self) -> str:
        """The value as text, as a variable has it; "-": not set."""
        return value_text(self.value)


def value_text(value: Any) -> str:
    """A setting's value as its variable has it."""
    if value is None or value == "":
        return "-"
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def all_classes() -> list[type[Settings]]:
    """All classes of settings: library, gateway, `miner vllm`, commands that talk to a node."""
    from miner.config.node import NodeConfig
    from miner.config.vllm_command import VLLMCommandConfig
    from miner.gateway.settings import GatewaySettings

    return [MinerConfig, GatewaySettings, VLLMCommandConfig, NodeConfig]


def described_settings(
    classes: Iterable[type[Settings]], args: argparse.Namespace | None = None, loaded: LoadedConfig | None = None
) -> list[DescribedSetting]:
    """All settings of these classes, in the order of their fields. An invalid one is an entry, not an error.

    Args:
        args: those of a command whose parser has `flags`: setting -> argument.
        loaded: a `miner.toml`, which replaces some.
    """
    from miner.core.llms.registry import POOL

    arguments = overrides(args) if args is not None and hasattr(args, "flags") else {}
    places: dict[str, tuple[Any, str]] = {}
    lines = {} if unreadable_dotenv() else dotenv_lines(".env")
    written: Mapping[str, str | None] = {} if unreadable_dotenv() else dotenv_variables(".env")
    places |= {
        name.upper(): (value, f".env:{lines[name.upper()]}" if name.upper() in lines else ".env")
        for name, value in written.items()
        if value
    }
    places |= {name.upper(): (value, "environment") for name, value in os.environ.items() if value}
    for field, value in arguments.items():
        places[variable_of(field)] = value, f"--{args.flags[field].replace('_', '-')}"  # type: ignore[union-attr]
    if loaded is not None and places.get("LLM_BACKEND", (POOL,))[0] == POOL:  # another one makes no use of the file
        file = shown_path(loaded.path)
        places.setdefault("LLM_BACKEND", (POOL, file))
        places |= {variable_of(field): (value, f"{file}:{line}") for field, value, line in _from_file(loaded)}
    return [
        _described(cls, name, field, places.get(variable_of(name)))
        for cls in classes
        for name, field in cls.model_fields.items()
    ]


def _from_file(loaded: LoadedConfig) -> Iterable[tuple[str, Any, int]]:
    limits = loaded.content.limits
    for field, key in _LIMITS.items():
        if (value := getattr(limits, key)) is not None:
            yield field, value, loaded.lines.line(("limits", key))
    model = default_model(loaded.content)
    if model is not None:
        yield (
            "default_model",
            model,
            loaded.lines.line(("defaults", "model") if loaded.content.defaults.model else ("models", model)),
        )


def _described(cls: type[Settings], name: str, field: FieldInfo, place: tuple[Any, str] | None) -> DescribedSetting:
    default = field.get_default()
    value, source = place if place is not None else (default, "default")
    secret = is_secret(name) or SecretStr in (field.annotation, *get_args(field.annotation))
    allowed = _allowed(_schema(cls).get(name, {}), name, secret=secret)
    problem = None
    if place is not None:
        try:
            # On an object without checks: other fields may be invalid too. Of the parent class: its error has all.
            probe = cls.model_construct()
            BaseSettings.__setattr__(probe, name, value)
            value = getattr(probe, name)
        except ValidationError as error:
            problem = reason_of(error)
            if problem.startswith(_VAGUE):
                problem = f"must be {allowed}"
    return DescribedSetting(
        name, variable_of(name), _shown(value, name, secret=secret), source, _shown(default, name, secret=secret),
        _docstrings(cls).get(name, ""), allowed, cls.__name__, secret, problem,
    )  # fmt: skip


def _shown(value: Any, name: str, *, secret: bool) -> Any:
    """The value as JSON, without secrets."""
    if value is None:
        return None
    return "***" if secret else hidden(_plain(value), (name,))


def _plain(value: Any) -> Any:
    if isinstance(value, BaseModel):
        return value.model_dump(exclude_unset=True)
    if isinstance(value, (list, tuple)):
        return [_plain(each) for each in value]
    if isinstance(value, Mapping):
        return {key: _plain(each) for key, each in value.items()}
    return value


def allowed_for(variable: str) -> str | None:
    """What the setting of this variable may be; None: there is no such setting."""
    return next((each.allowed for each in described_settings(all_classes()) if each.variable == variable), None)


@cache
def _docstrings(cls: type[Settings]) -> dict[str, str]:
    """The docstring beneath each field, on one line."""
    (body,) = ast.parse(textwrap.dedent(inspect.getsource(cls))).body
    assert isinstance(body, ast.ClassDef)
    found = {}
    for field, below in zip(body.body, body.body[1:], strict=False):
        if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name) and isinstance(below, ast.Expr):
            text = ast.literal_eval(below.value)
            found[field.target.id] = " ".join(str(text).split())
    return found


@cache
def _schema(cls: type[Settings]) -> dict[str, Any]:
    fields: dict[str, Any] = cls.model_json_schema()["properties"]
    return fields


def _allowed(node: Mapping[str, Any], name: str, *, secret: bool) -> str:
    """What a setting may be, in words."""
    from miner.config.file.json_schema import allowed

    node = next((each for each in node.get("anyOf", ()) if each.get("type") != "null"), node)
    if "enum" in node:
        *most, last = map(str, node["enum"])
        return f"{', '.join(most)} or {last}"
    if secret:
        return "text, never shown"
    match name:
        case "llamacpp_lora":
            return "files, comma-separated, each with an optional :SCALE"
        case "llamacpp_flags":
            return "options of llama-server, or a JSON object"
    if node.get("type") == "string":
        return "an http:// or https:// URL" if name.endswith(("_url", "_base", "_endpoint")) else "text"
    return allowed({key: value for key, value in node.items() if key != "anyOf"})


def find_setting(name: str, described: Sequence[DescribedSetting]) -> DescribedSetting:
    """The setting of that field or variable, in any case, with or without MINER_.

    Raises:
        UsageError: there is none; with what was most likely meant.
    """
    wanted = name.strip().upper().replace("-", "_")
    for each in described:
        if wanted in (each.variable, each.name.upper(), f"MINER_{each.variable}"):
            return each
    raise UsageError(f"There is no setting {name!r}.", operator_hint=_meant(wanted, described))


def _meant(wanted: str, described: Sequence[DescribedSetting]) -> str:
    variables = [each.variable for each in described]
    without = {name.removeprefix("MINER_"): name for name in variables}
    parts = [name for name in variables if wanted and wanted in name]
    near = nearest(wanted.removeprefix("MINER_"), without)
    if parts:
        return f"Did you mean {', '.join(parts[:-1][:4])}{' or ' if len(parts) > 1 else ''}{parts[:5][-1]}?"
    if near is not None:
        name = near.removeprefix("Did you mean ").removesuffix("?")
        return f"Did you mean {without[name]}?"
    return "`miner config show --all` lists all settings."


def unreadable_dotenv() -> str | None:
    """Why `.env` in the working directory cannot be read; None: it can, or there is none."""
    try:
        dotenv_variables(".env")
    except UnicodeDecodeError as error:
        return f".env is not UTF-8 text: {error.reason} at byte {error.start}."
    except OSError as error:
        return f".env cannot be read: {error.strerror}."
    return None


def mistyped_variables() -> list[str]:
    """One sentence for each variable that looks like a setting and is none."""
    return [] if unreadable_dotenv() else unknown_variables(all_classes())
