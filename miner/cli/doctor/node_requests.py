"""Requests to a running node at --url."""

from __future__ import annotations

import json
from typing import Any
from urllib.parse import urlsplit

from miner.cli.doctor.facts import Facts
from miner.cli.node import KEY_SETTING
from miner.core.http.client import HttpClient, HttpResponse
from miner.core.http.errors import Upstream

SECONDS = 10.0
"""For each of them."""


class Node:
    """Requests to the node."""

    def __init__(self, facts: Facts) -> None:
        self.url = (facts.options.url or "").rstrip("/").removesuffix("/v1")
        self.key = facts.options.key
        self.upstream = Upstream(
            "node",
            self.url,
            read_timeout=SECONDS,
            address_setting="--url",
            key_setting=KEY_SETTING,
            unreachable_hint="Start it with `miner serve`, or set its URL with --url.",
        )
        self.host = urlsplit(self.url).hostname or ""

    @property
    def logs_line(self) -> str:
        """The command that shows its log."""
        return f"miner logs --url {self.upstream.shown_url}"

    async def get(self, path: str, *, key: bool = True) -> HttpResponse:
        """GET a path; with the key, if there is one.

        Raises:
            BackendError: it cannot be reached, or does not respond in time.
        """
        http = HttpClient(self.upstream, api_key=self.key if key else None)
        try:
            return await http.request("GET", path, total=SECONDS)
        finally:
            await http.close()


def object_of(response: HttpResponse) -> dict[str, Any]:
    """The object of a response; empty if it is none."""
    try:
        found = json.loads(response.body)
    except (ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}
