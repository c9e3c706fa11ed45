"""The path of a route for people."""

from __future__ import annotations

import re

PARAMETER = re.compile(r"\{(\w+)(?::[^}]*)?\}")
"""A variable part, as aiohttp writes it."""


def shown_path(path: str) -> str:
    """`/v1/models/{model}` for `/v1/models/{model:.+}`."""
    return PARAMETER.sub(r"{\1}", path) if ":" in path else path
