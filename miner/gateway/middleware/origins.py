"""Origins: which web pages may call, as browsers name them, or as patterns with `*`."""

from __future__ import annotations

import re
from collections.abc import Iterable

from miner.errors import ConfigError

__all__ = ["Origins"]

_SCHEME = r"[a-z][a-z0-9+.-]*"
_LABEL = r"[a-z0-9_](?:[a-z0-9_-]*[a-z0-9_])?"
_ENTRY = re.compile(
    rf"(?P<scheme>{_SCHEME})://(?:(?P<any>\*)|(?P<sub>\*\.)?(?P<host>{_LABEL}(?:\.{_LABEL})*|\[[0-9a-f:.]+\]))"
    r"(?::(?P<port>\d{1,5}|\*))?"
)
_ANY_HOST = r"(?:[^/:@\[\]]+|\[[0-9a-f:.]+\])"


class Origins:
    """The origins of a list: exact ones, `*` for any, and patterns: `chrome-extension://*`, `http://localhost:*` (with
    any port, or none), `https://*.example.org` (any name below it).

    Raises:
        ConfigError: one is no origin; or `null`, which every sandboxed page is.
    """

    def __init__(self, entries: Iterable[str]) -> None:
        entries = [entry.lower() for entry in entries]
        self.any = "*" in entries
        """Whether all pages may call."""
        self._exact = {_checked(entry) for entry in entries if "*" not in entry}
        patterns = [_pattern(entry) for entry in entries if "*" in entry and entry != "*"]
        self._pattern = re.compile("|".join(patterns)) if patterns else None

    def allow(self, origin: str) -> bool:
        """Whether a page of this origin may call."""
        origin = origin.lower()
        if self.any or origin in self._exact:
            return True
        return self._pattern is not None and self._pattern.fullmatch(origin) is not None


def _checked(entry: str) -> str:
    _parts(entry)
    return entry


def _pattern(entry: str) -> str:
    parts = _parts(entry)
    host = _ANY_HOST if parts["any"] else (rf"(?:{_LABEL}\.)+" if parts["sub"] else "") + re.escape(parts["host"])
    port = {None: "", "*": r"(?::\d{1,5})?"}.get(parts["port"], f":{parts['port']}")
    if parts["any"] and parts["port"] is None:
        port = r"(?::\d{1,5})?"
    return f"{re.escape(parts['scheme'])}://{host}{port}"


def _parts(entry: str) -> re.Match[str]:
    found = _ENTRY.fullmatch(entry)
    if found is None or (found["port"] not in (None, "*") and not 0 < int(found["port"]) < 65536):
        raise ConfigError(
            f"MINER_SERVE_CORS_ORIGINS: {entry!r} is no origin.",
            hint="Write scheme, name and port, without a path: https://app.example.org, http://localhost:3000; "
            "patterns are http://localhost:*, https://*.example.org, chrome-extension://*, or * for any.",
        )
    return found
