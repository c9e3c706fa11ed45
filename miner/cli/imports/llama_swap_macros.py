"""llama-swap's macros, replaced as it replaces them. `${env.NAME}` becomes a variable of ours, as does `${PORT}`."""

from __future__ import annotations

import re
from typing import Any

from miner.cli.imports.command_line import without_comments
from miner.cli.imports.draft import variable
from miner.config.file.read import LATE_VARIABLES
from miner.errors import ConfigError

_MACRO = re.compile(r"\$\{([a-zA-Z0-9_-]+)\}")
_ENV = re.compile(r"\$\{env\.([a-zA-Z_][a-zA-Z0-9_]*)\}")
_SCALARS = (str, int, float, bool)
_MAX_TEXT = 1 << 20
_WITH_PORT = ("cmd", "proxy", "checkEndpoint", "env")
Macros = list[tuple[str, Any]]


class MacroError(ConfigError):
    """A macro that llama-swap would refuse."""


def replace_macros(content: dict[str, Any]) -> dict[str, Any]:
    """The file with all macros replaced, without their definitions.

    Raises:
        MacroError: a macro is unknown, or its value is not a scalar.
    """
    content = _with_env(content)
    shared = _macros(content.pop("macros", None), "macros")
    models = content.pop("models", None)
    content = {key: _replaced(value, shared) for key, value in content.items()}
    if not isinstance(models, dict):
        return content | ({} if models is None else {"models": models})
    done: dict[str, Any] = {}
    for name, model in models.items():
        if not isinstance(model, dict):
            done[name] = model
            continue
        model = dict(model)
        own = dict(_macros(model.pop("macros", None), f"models.{name}.macros"))
        macros = [("MODEL_ID", name)]
        macros += [*((key, own.pop(key, value)) for key, value in shared), *own.items()]
        for key in ("cmd", "cmdStop"):  # so that a comment cannot become a word of the command
            if isinstance(model.get(key), str):
                model[key] = without_comments(model[key])
        resolved = _replaced(model, macros)
        resolved = {
            # Only a command's own keys know its port; a text elsewhere is one that people read.
            key: _replace(value, "${PORT}", variable("PORT") if key in _WITH_PORT else "PORT")
            for key, value in resolved.items()
        }
        _check(resolved, f"models.{name}")
        done[name] = resolved
    _check(content, "")
    return content | {"models": done}


def _macros(value: Any, where: str) -> Macros:
    if value is None:
        return []
    if not isinstance(value, dict) or not all(isinstance(each, _SCALARS) for each in value.values()):
        raise MacroError(f"{where}: macros are names with texts, numbers, true or false.")
    for name in value:
        if name in ("PID", "PORT", "MODEL_ID"):
            raise MacroError(f"{where}.{name}: llama-swap sets this name itself.")
    return list(value.items())


def _with_env(value: Any) -> Any:
    """With `${env.NAME}` replaced, in keys too."""
    if isinstance(value, dict):
        return {_with_env(key): _with_env(each) for key, each in value.items()}
    if isinstance(value, list):
        return [_with_env(each) for each in value]
    if isinstance(value, str):
        return _ENV.sub(lambda match: variable(_other_name(match[1])), value)
    return value


def _other_name(name: str) -> str:
    """The variable's name; one that means something else in our file gets another."""
    return f"ENV_{name}" if name in LATE_VARIABLES else name


def _replaced(value: Any, macros: Macros) -> Any:
    """The last macro first, so that macros may use those before them."""
    for name, replacement in reversed(macros):
        value = _replace(value, f"${{{name}}}", replacement)
    return value


def _replace(value: Any, slug: str, replacement: Any) -> Any:
    if isinstance(value, dict):
        return {
            str(_text(key, slug, replacement)) if slug in key else key: _replace(each, slug, replacement)
            for key, each in value.items()
        }
    if isinstance(value, list):
        return [_replace(each, slug, replacement) for each in value]
    if not isinstance(value, str) or slug not in value:
        return value
    return replacement if value == slug else _text(value, slug, replacement)


def _text(text: str, slug: str, replacement: Any) -> str:
    shown = str(replacement).lower() if isinstance(replacement, bool) else str(replacement)
    if len(text) + text.count(slug) * len(shown) > _MAX_TEXT:
        raise MacroError(f"{slug}: a text of more than {_MAX_TEXT >> 20} MiB, once its macros are replaced.")
    return text.replace(slug, shown)


def _check(value: Any, where: str) -> None:
    if isinstance(value, dict):
        for key, each in value.items():
            _check(each, f"{where}.{key}" if where else key)
    elif isinstance(value, list):
        for each in value:
            _check(each, where)
    elif isinstance(value, str):
        for match in _MACRO.finditer(value):
            if not (match[1] == "PID" and where.endswith(".cmdStop")):
                raise MacroError(
                    f"{where}: ${{{match[1]}}} is no macro of the file.", operator_hint="llama-swap refuses it too."
                )
