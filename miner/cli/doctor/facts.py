"""What all checks start from: the command's options, the settings as far as they can be read, the file."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from miner.cli.doctor.redact import Redaction
from miner.config.config import MinerConfig
from miner.config.node import NodeConfig
from miner.config.sources import dotenv_variables, variable_of
from miner.config.vllm_command import VLLMCommandConfig
from miner.errors import ConfigError, MinerError
from miner.gateway.settings import GatewaySettings

if TYPE_CHECKING:
    from miner.config.base import Settings
    from miner.config.file.read import LoadedConfig

T = TypeVar("T")

CLASSES: tuple[type[Settings], ...] = (MinerConfig, GatewaySettings, VLLMCommandConfig, NodeConfig)
_MOST_TEXT = 1 << 20
_MOST_LINE = 10_000
_READ_SECONDS = 5.0
"""For one file: it may be a pipe, or on a network that is gone."""


@dataclass(frozen=True, slots=True)
class Options:
    """The command line."""

    url: str | None = None
    key: str | None = None
    config: str | None = None
    backend: str | None = None
    model: str | None = None
    probe: bool = True
    seconds: float = 120.0
    """Bound of a probe, loading of the model included."""


@dataclass(frozen=True, slots=True)
class Given:
    """A setting that is set."""

    variable: str
    source: str
    """environment, .env or the option."""
    field: str
    value: str
    error: str | None = None
    """Why it is not valid."""
    spelt: str = ""
    """The variable as it is written there, whose case does not matter."""


@dataclass
class Facts:
    """As much of it as could be read; what could not is an error for the check that it belongs to."""

    options: Options
    redact: Redaction
    environment: dict[str, str] = field(default_factory=dict)
    dotenv: dict[str, str] = field(default_factory=dict)
    dotenv_error: str | None = None
    given: list[Given] = field(default_factory=list)
    settings: MinerConfig = field(default_factory=MinerConfig)
    gateway: GatewaySettings = field(default_factory=GatewaySettings)
    config_path: Path | None = None
    """The miner.toml that would be served."""
    loaded: LoadedConfig | None = None
    config_error: Exception | None = None
    backend: str = "llamacpp"
    """The backend in use; "pool": the file says."""

    @property
    def variables(self) -> Mapping[str, str]:
        """The environment over `.env`."""
        return {**self.dotenv, **self.environment}

    @property
    def is_set(self) -> frozenset[str]:
        """The fields that are set to something valid."""
        return frozenset(each.field for each in self.given if each.error is None)

    def source_of(self, name: str) -> str:
        """Where a field's value is from."""
        return next((each.source for each in reversed(self.given) if each.field == name), "default")


def bounded(function: Callable[[], T], seconds: float = _READ_SECONDS) -> T:
    """The function's result.

    Raises:
        TimeoutError: it takes longer; it is left behind in its thread.
        Exception: what it raises.
    """
    result: list[T] = []
    errors: list[BaseException] = []

    def work() -> None:
        try:
            result.append(function())
        except BaseException as error:  # noqa: BLE001  (handed to the caller)
            errors.append(error)

    thread = threading.Thread(target=work, daemon=True, name="doctor read")
    thread.start()
    thread.join(seconds)
    if result:
        return result[0]
    if errors:
        raise errors[0] if isinstance(errors[0], Exception) else RuntimeError(type(errors[0]).__name__)
    raise TimeoutError(f"no result within {seconds:g} s")


@contextmanager
def gathered(options: Options) -> Iterator[Facts]:
    """The facts. While the block lasts, this process has the valid settings only: each in its environment, and `.env`
    is not read again, so that code which reads the settings works whatever is wrong with them.
    """
    environment = dict(os.environ)
    redact = Redaction()
    redact.learn(environment)
    redact.add([options.key])
    dotenv, dotenv_error = _dotenv()
    redact.learn(dotenv)
    fields = {variable_of(name): (name, cls) for cls in CLASSES for name in cls.model_fields}
    configs = [cls.model_config for cls in CLASSES]
    before = [config.get("env_file") for config in configs]
    try:
        for config in configs:
            config["env_file"] = None
        for name in list(os.environ):
            if name.upper() in fields:
                del os.environ[name]
        given = list(_given(dotenv, environment, options, fields))
        for each in given:
            if each.error is None:
                os.environ[each.variable] = each.value
        facts = Facts(options, redact, environment, dotenv, dotenv_error, given)
        _read_file(facts)
        yield facts
    finally:
        os.environ.clear()
        os.environ.update(environment)
        for config, file in zip(configs, before, strict=True):
            config["env_file"] = file


def _dotenv() -> tuple[dict[str, str], str | None]:
    """The variables of `.env`, or why it cannot be read."""
    try:
        found = bounded(lambda: dotenv_variables(".env"))
    except UnicodeDecodeError as error:
        return {}, f"not UTF-8 text: {error.reason} at byte {error.start}"
    except TimeoutError as error:
        return {}, str(error)
    except OSError as error:
        return {}, f"cannot be read: {error.strerror or error}"
    except Exception as error:  # noqa: BLE001  (whatever the parser does not like)
        return {}, f"cannot be parsed: {type(error).__name__}: {error}"
    return {name: value for name, value in found.items() if value}, None


def _given(
    dotenv: Mapping[str, str],
    environment: Mapping[str, str],
    options: Options,
    fields: Mapping[str, tuple[str, type[Settings]]],
) -> Iterator[Given]:
    """All settings that are set, each checked on its own. Of one that stands in several places the last counts, and
    the others are left out.
    """
    flags = {"config": options.config, "default_model": options.model, "llm_backend": options.backend}
    flag_names = {"config": "--config", "default_model": "--model", "llm_backend": "--backend"}
    found: dict[str, tuple[str, str]] = {}
    spelt: dict[str, str] = {}
    for source, variables in ((".env", dotenv), ("environment", environment)):
        spelt |= {name.upper(): name for name, value in variables.items() if value}
        found |= {
            name.upper(): (source, value) for name, value in variables.items() if value and name.upper() in fields
        }
    for name, value in flags.items():
        if value is not None:
            found[variable_of(name)] = flag_names[name], value
    for variable, (source, value) in sorted(found.items()):
        name, cls = fields[variable]
        error = None
        try:
            cls(**{name: value})
        except MinerError as wrong:
            error = wrong.message
        except Exception as wrong:  # noqa: BLE001  (a value that breaks the validation itself)
            error = f"{variable} is not valid: {type(wrong).__name__}"
        if error is None and "\0" in value:
            error = f"{variable} has a NUL character"
        yield Given(variable, source, name, value, error, spelt.get(variable, variable))


def _read_file(facts: Facts) -> None:
    """Find and read miner.toml, and say which backend is in use."""
    from miner.config.file.find import find_config
    from miner.config.file.read import read_config
    from miner.core.llms.registry import POOL

    facts.backend = facts.settings.llm_backend
    chosen = "llm_backend" in facts.settings.model_fields_set and facts.backend != POOL
    try:
        path = find_config(facts.settings.config)
    except (OSError, RuntimeError, ValueError) as error:  # no home directory
        facts.config_error = ConfigError(f"miner.toml cannot be looked for: {error}.", operator_hint="Set HOME.")
        return
    if path is None or (chosen and not facts.options.config):
        return
    facts.config_path, facts.backend = path, POOL
    _learn_file(facts, path)
    try:
        facts.loaded = bounded(lambda: read_config(path, facts.variables))
    except Exception as error:  # noqa: BLE001  (reported by the check of the file)
        facts.config_error = error
        return
    _learn_key_files(facts)


def _learn_file(facts: Facts, path: Path) -> None:
    """Learn the secrets of a file that may be wrong: by its lines, since it may be no TOML."""

    def read() -> str:
        with path.open(encoding="utf-8", errors="replace") as file:
            return file.read(_MOST_TEXT)

    try:
        text = bounded(read, 2.0) if path.is_file() else ""
    except (OSError, TimeoutError):
        return
    facts.redact.add_urls(text)
    for line in text.splitlines():
        facts.redact.learn_line(line[:_MOST_LINE])


def _learn_key_files(facts: Facts) -> None:
    assert facts.loaded is not None
    facts.redact.learn_tables(facts.loaded.written)
    for backend in facts.loaded.content.backends.values():
        facts.redact.add([backend.key, backend.plain_key])
        if backend.key_file:
            path = facts.loaded.directory / Path(backend.key_file).expanduser()
            try:
                facts.redact.add(bounded(partial(path.read_text, encoding="utf-8"), 2.0).split())
            except (OSError, ValueError, TimeoutError):
                continue


def shown(value: Any) -> Any:
    """A setting's value for the screen: texts as they are, others as Python writes them."""
    return value if isinstance(value, str | int | float | bool) or value is None else str(value)
