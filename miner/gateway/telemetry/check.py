"""Checks the `OTEL_` variables that the SDK would pass over silently, or would log with the keys that are in them."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Literal
from urllib.parse import urlsplit

from miner.errors import ConfigError

Signal = Literal["traces", "metrics"]

_HEADER = re.compile(r"[ \t]*[!#-'*+\-.0-9A-Z^-z|~]+[ \t]*=[ !#-+\--:<-\[\]-~]*")


def check_otlp(signal: Signal, environment: Mapping[str, str]) -> None:
    """Check where a signal goes over OTLP, and how.

    Raises:
        ConfigError: names the variable and what is allowed; never a value that may hold a key.
    """
    checks: dict[str, Callable[[str, str], None]] = {
        "PROTOCOL": _protocol, "ENDPOINT": _endpoint, "HEADERS": _headers, "TIMEOUT": _timeout,
        "COMPRESSION": _compression, "CERTIFICATE": _file, "CLIENT_KEY": _file, "CLIENT_CERTIFICATE": _file,
    }  # fmt: skip
    for name, check in checks.items():
        own, common = f"OTEL_EXPORTER_OTLP_{signal.upper()}_{name}", f"OTEL_EXPORTER_OTLP_{name}"
        variable = own if environment.get(own) else common
        value = environment.get(variable, "").strip()
        if value:
            check(variable, value)


def _protocol(variable: str, value: str) -> None:
    if value.lower() != "http/protobuf":
        raise ConfigError(
            f"{variable}={value} is not supported.",
            hint="Set it to http/protobuf, and the endpoint to the collector's port for that, usually 4318.",
        )


def _endpoint(variable: str, value: str) -> None:
    try:
        parts = urlsplit(value)
        right = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        right = False
    if not right:  # it is not shown: it may have a password
        raise ConfigError(f"{variable} is not an address of HTTP.", hint="Such as http://127.0.0.1:4318.")


def _headers(variable: str, value: str) -> None:
    for number, header in enumerate(value.split(","), 1):
        if header.strip() and not _HEADER.fullmatch(header):
            raise ConfigError(
                f"{variable}: the {_ordinal(number)} of its headers is not NAME=VALUE.",
                hint="Such as authorization=Bearer%20KEY,x-tenant=me.",
            )


def _ordinal(number: int) -> str:
    return {1: "first", 2: "second", 3: "third"}.get(number, f"{number}th")


def _timeout(variable: str, value: str) -> None:
    try:
        right = 0 < float(value) < float("inf")
    except ValueError:
        right = False
    if not right:
        raise ConfigError(f"{variable}={value} is not a number of seconds.", hint="10 is the default.")


def _compression(variable: str, value: str) -> None:
    if value.lower() not in ("none", "gzip", "deflate"):
        raise ConfigError(f"{variable}={value} is not supported.", hint="Use gzip, deflate or none.")


def _file(variable: str, value: str) -> None:
    if not Path(value).is_file():
        raise ConfigError(f"{variable}: there is no file {value!r}.")
