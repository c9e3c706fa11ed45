"""The text of a secret setting. Without pydantic, so that importing a backend does not load it."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pydantic import SecretStr


def secret_text(secret: SecretStr | str | None) -> str | None:
    """Return a secret's text; None if it is not set. A config object of another class may hold plain text."""
    return secret if secret is None or isinstance(secret, str) else secret.get_secret_value()
