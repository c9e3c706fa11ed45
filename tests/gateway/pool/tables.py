"""A gateway over a `miner.toml` that a test writes."""

from __future__ import annotations

import os
import textwrap
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp

from miner.core.llms.llm_pool import PoolService
from miner.gateway.auth.keys import KeyEntry, KeyFile, hash_of, key_path, write_keys
from tests.core.llms.pool.files import until
from tests.gateway.serving import Served, config, serving

__all__ = ["Client", "entry", "header", "keys", "replace", "serving_table", "until"]


class Client:
    """Asks a gateway."""

    def __init__(self, served: Served, session: aiohttp.ClientSession, path: Path) -> None:
        self.served = served
        self.session = session
        self.path = path
        """Of the file."""

    async def get(self, path: str, **headers: str) -> Any:
        async with self.session.get(self.served.url + path, headers=headers) as answer:
            return await answer.json(content_type=None)

    async def ask(self, path: str, body: Any, **headers: str) -> tuple[int, Any, Any]:
        """Status, JSON and headers of the answer to a POST."""
        async with self.session.post(self.served.url + path, json=body, headers=headers) as answer:
            raw = await answer.read()
            is_json = answer.content_type == "application/json"
            return answer.status, (await answer.json() if is_json else raw.decode()), answer.headers

    async def chat(
        self, model: str | None, headers: dict[str, str] | None = None, **fields: Any
    ) -> tuple[int, Any, Any]:
        body = {"messages": [{"role": "user", "content": "Hi"}], **fields}
        return await self.ask(
            "/v1/chat/completions", body if model is None else {"model": model, **body}, **(headers or {})
        )

    async def until(self, check: Any) -> Any:
        """The first true result of an async check."""
        return await until(check)

    async def until_served(self, names: set[str]) -> None:
        """Wait until these models are listed, and no other."""

        async def listed() -> bool:
            return {model["id"] for model in (await self.get("/v1/models"))["data"]} == names

        await self.until(listed)


def replace(path: Path, text: str) -> None:
    """Write a file as editors do: another one takes its name."""
    new = path.with_suffix(".new")
    new.write_text(textwrap.dedent(text))
    os.replace(new, path)


@asynccontextmanager
async def serving_table(directory: Path, text: str, *, preload: bool = False, **settings: Any) -> AsyncIterator[Client]:
    """The gateway over a table with this text; preloads are off."""
    path = directory / "miner.toml"
    path.write_text(textwrap.dedent(text))
    service = PoolService(config(config=str(path), max_retries=0))
    async with (
        serving(service, serve_preload=preload, **settings) as served,
        aiohttp.ClientSession() as session,
    ):
        yield Client(served, session, path)


def keys(*entries: KeyEntry) -> None:
    """Write the file of keys, each of which is `key-of-NAME-0123456789`."""
    write_keys(key_path(None), KeyFile(keys=list(entries)))


def entry(name: str, **more: Any) -> KeyEntry:
    return KeyEntry(name=name, sha256=hash_of(f"key-of-{name}-0123456789").hex(), **more)


def header(name: str) -> dict[str, str]:
    return {"x-api-key": f"key-of-{name}-0123456789"}
