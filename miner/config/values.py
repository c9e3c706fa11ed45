"""Annotated types of settings."""

from __future__ import annotations

import os
from typing import Annotated, Any
from urllib.parse import urlsplit

from pydantic import AfterValidator, BeforeValidator, Field

__all__ = ["HttpUrl", "PathText", "Seconds", "path_as_text"]


def _http_url(value: str) -> str:
    """Validate an http(s) base URL; return it without a trailing slash."""
    if not value.startswith(("http://", "https://")):
        raise ValueError(_HTTP)
    try:
        parts = urlsplit(value)
    except ValueError:  # such as an IPv6 address without its closing bracket
        raise ValueError(_HTTP) from None
    if not parts.hostname:
        raise ValueError(_HTTP)
    try:
        port = parts.port
    except ValueError:  # its own message would show what may be part of a password
        port = 0
    if port == 0:
        raise ValueError("its port must be from 1 to 65535, such as 8000 in http://localhost:8000/v1")
    if "?" in value or "#" in value:
        raise ValueError(_NO_QUERY)
    return value.rstrip("/")


_NO_QUERY = "must not have a query or fragment (? or #), which would not be sent; an API key has its own setting"
_HTTP = "must start with http:// or https:// and name a host, such as http://localhost:8000/v1"


def path_as_text(value: Any) -> Any:
    """Convert a path object to str; return anything else as it is."""
    return os.fspath(value) if isinstance(value, os.PathLike) else value


HttpUrl = Annotated[str, AfterValidator(_http_url)]
Seconds = Annotated[float, Field(gt=0, allow_inf_nan=False)]
PathText = Annotated[str, BeforeValidator(path_as_text)]
