"""Secrets: the text of a setting that is one, and what errors show instead. Without pydantic, so that importing a
backend does not load it.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pydantic import SecretStr

_WORDS = frozenset({"key", "token", "secret", "password"})
_USERINFO = re.compile(r"""^(['"]?https?://|['"])?.*@""", re.DOTALL)
"""Up to the last @: a password may contain a character that would end it in a well-formed URL."""


def secret_text(secret: SecretStr | str | None) -> str | None:
    """Return a secret's text; None if it is not set. A config object of another class may hold plain text."""
    return secret if secret is None or isinstance(secret, str) else secret.get_secret_value()


def sent_key(text: str) -> str:
    """The key as a header can carry it: without the line ends and spaces around it, which files have.

    Raises:
        ValueError: a control character is inside it; the text does not show the key.
    """
    key = text.strip()
    if not key:
        raise ValueError("must not be empty")
    if any(ord(letter) < 32 or ord(letter) == 127 for letter in key):
        raise ValueError("has a control character inside, such as a line end")
    return key


def is_secret(name: str) -> bool:
    """Whether a setting of this name is one, by the words in it."""
    return not _WORDS.isdisjoint(name.lower().split("_"))


def without_password(text: str) -> str:
    """A URL, or what was meant as one, without what may be a user name and password."""
    return _USERINFO.sub(r"\1***@", text)


def without_url_secrets(text: str) -> str:
    """The same for a quoted URL, without the query or fragment as well: either may contain a key."""
    address, *rest = re.split(r"([?#])", text, maxsplit=1)
    if not rest or not rest[1].strip("'\""):
        return without_password(text)
    separator, query = rest
    if "@" in query:  # a password may contain the separator: the start of the host is ambiguous
        return f"{text[: text.find('://') + 3]}***" if "://" in address else "***"
    closing_quote = text[-1] if text[-1] in ("'", '"') else ""
    return f"{without_password(address)}{separator}***{closing_quote}"
