"""What llama-swap says of requests: parameters and timeouts; and its values."""

from __future__ import annotations

from typing import Any

from miner.cli.imports.draft import Section
from miner.cli.imports.sampling import sampling_of
from miner.errors import ConfigError

_TIMEOUTS_LOST = {
    "keepalive": "not set for single servers", "tlsHandshake": "counts as connecting: connect_timeout",
    "expectContinue": "not sent", "idleConn": "not set for single servers",
}  # fmt: skip


def write_filters(section: Section, filters: dict[str, Any], where: str, name: str) -> None:
    """`filters` of a model or a peer; `name`: the model's name there."""
    strip = filters.pop("stripParams", None) or filters.pop("strip_params", None)
    if strip:
        section.lose(f"{where}.filters", "stripParams", strip, "what clients set is used")
    _set_params(section, table_of(filters.pop("setParams", None), where), f"{where}.filters.setParams")
    for key, params in table_of(filters.pop("setParamsByID", None), where).items():
        inside = f"{where}.filters.setParamsByID.{key}"
        if key == name:
            _set_params(section, table_of(params, inside), inside)
        else:
            section.add("aliases", [key])
            section.lose(f"{where}.filters.setParamsByID", key, params, "it is only an alias here")
    for key, value in filters.items():
        section.lose(f"{where}.filters", key, value, "not known here")


def _set_params(section: Section, params: dict[str, Any], where: str) -> None:
    sampling, rest = sampling_of(params)
    section.update("sampling", sampling)
    if sampling:
        section.change(where, "for requests that do not set them; llama-swap overrides what clients set")
    for key, value in rest.items():
        section.lose(where, key, value, "no such default of requests")


def write_timeouts(section: Section, timeouts: dict[str, Any], where: str) -> None:
    """`timeouts`, into the table of a backend or of a model."""
    connect, header = timeouts.pop("connect", None), timeouts.pop("responseHeader", None)
    if connect and section.path[0] == "backends":
        section.set("connect_timeout", seconds_of(connect))
    elif connect is not None:
        section.lose(f"{where}.timeouts", "connect", connect, "miner's own engine is connected at once")
    if header:
        section.set("timeout", seconds_of(header), "of any wait for the server")
    for key, value in timeouts.items():
        section.lose(f"{where}.timeouts", key, value, _TIMEOUTS_LOST.get(key, "not known here"))


def table_of(value: Any, where: str) -> dict[str, Any]:
    """A copy of a table; empty for none."""
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise ConfigError(f"{where}: llama-swap needs a table here.")
    return dict(value)


def seconds_of(value: Any) -> float | int:
    """A number of seconds above 0; raises ConfigError."""
    if isinstance(value, bool) or not isinstance(value, int | float) or value <= 0:
        raise ConfigError(f"{value!r}: llama-swap needs a number of seconds here.")
    return value


def keep_alive_of(value: Any, where: str) -> int | float:
    """A number of seconds; 0, which is for ever there, is -1 here. Raises ConfigError."""
    if isinstance(value, bool) or not isinstance(value, int | float) or value < 0:
        raise ConfigError(f"{where}: {value!r}: llama-swap needs a number of seconds, or 0, here.")
    return value or -1
