"""Nothing that is a secret leaves the doctor: what the environment and the files hold is taken out of all output."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from itertools import pairwise
from typing import Any
from urllib.parse import quote, unquote

from miner.config.file.problems import hidden

_WORDS = frozenset(
    """key keys apikey token secret secrets password passwd pass passphrase pwd auth authorization
    credential credentials bearer cookie""".split()
)
_PLACES = frozenset({"file", "path", "dir", "sock", "socket", "size", "url"})
"""Last words of names whose value says where a secret is, or how large."""
_PLAIN = re.compile(r"true|false|none|null|yes|auto|[\d.]+", re.IGNORECASE)
_PASSWORDS = (re.compile(r"://([^/?#\s]{1,1000})@"), re.compile(r"://([^\s\"']{1,1000})@"))
"""By the rules of URLs; and with characters in the password that would have to be encoded."""
_SHORTEST = 4
"""Characters: anything shorter would take out parts of words. Such values are never shown to begin with."""
HIDDEN = "***"


def names_secret(name: str) -> bool:
    """Whether a variable or key of this name holds a secret, by the words in it."""
    if name == "PWD":  # the shell's working directory
        return False
    words = re.sub(r"(?<=[a-z])(?=[A-Z])", "_", name).replace("-", "_").lower().split("_")
    return not _WORDS.isdisjoint(words) and words[-1] not in _PLACES


class Redaction:
    """Knows the secrets of this environment, and takes them out of texts."""

    def __init__(self) -> None:
        self._secrets: set[str] = set()
        self._pattern: re.Pattern[str] | None = None

    def learn(self, variables: Mapping[str, str]) -> None:
        """The values of variables that are secrets by their names, and user and password of all URLs."""
        for name, value in variables.items():
            if names_secret(name):
                self.add([value, *re.split(r"[,\s]+", value)])
            self.add_urls(value)

    def learn_tables(self, written: Any, name: str = "") -> None:
        """The same of the tables of a file."""
        if isinstance(written, Mapping):
            for key, value in written.items():
                self.learn_tables(value, str(key))
        elif isinstance(written, list):
            shown = hidden(written, (name,))
            for value, kept in zip(written, shown if isinstance(shown, list) else [], strict=False):
                if isinstance(value, str) and kept == HIDDEN:
                    self.add([value])
                self.learn_tables(value, name)
        elif isinstance(written, str):
            if name != "keys" and names_secret(name):
                self.add([written])
            self.add_urls(written)

    def learn_line(self, line: str) -> None:
        """The same of one line of such a file, or of a `.env`: a name and its value, and options of commands."""
        name, equals, value = line.partition("=")
        texts = re.findall(r"\"([^\"]*)\"|'([^']*)'", value)
        words = [text for pair in texts for text in pair if text]
        if equals and names_secret(name.strip().strip("\"'")):
            self.add(words or [value.strip()])
        for option, word in pairwise(words):
            if option.startswith("-") and names_secret(option.strip("-")):
                self.add([word])

    def add_urls(self, text: str) -> None:
        """User and password of all URLs in a text."""
        for userinfo in (found for pattern in _PASSWORDS for found in pattern.findall(text)):
            user, _, password = userinfo.partition(":")
            self.add([userinfo, password or user])

    def add(self, secrets: Iterable[str | None]) -> None:
        """More of them."""
        for secret in secrets:
            if secret is None or len(secret) < _SHORTEST or secret.startswith("${") or _PLAIN.fullmatch(secret):
                continue
            quoted = quote(secret, safe="", errors="replace")
            self._secrets |= {secret, unquote(secret), quoted, secret.encode("unicode_escape").decode()}
        self._pattern = None

    def __call__(self, value: Any) -> Any:
        """The value without them: a text, or a JSON value with texts in it."""
        if isinstance(value, str):
            return self._text(value)
        if isinstance(value, Mapping):
            return {self._text(str(key)): self(each) for key, each in value.items()}
        if isinstance(value, list | tuple | set | frozenset):
            return [self(each) for each in value]
        return value if isinstance(value, int | float | bool) or value is None else self._text(str(value))

    def _text(self, text: str) -> str:
        if self._pattern is None and self._secrets:
            longest_first = sorted(self._secrets, key=len, reverse=True)
            self._pattern = re.compile("|".join(map(re.escape, longest_first)))
        return text if self._pattern is None else self._pattern.sub(HIDDEN, text)
