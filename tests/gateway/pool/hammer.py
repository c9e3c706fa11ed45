"""Requests over three models on real engines, while the file that names them is edited: none may be dropped.

`python -m tests.gateway.pool.hammer 1000 20` makes so many requests during so many edits.
"""

from __future__ import annotations

import asyncio
import itertools
import sys
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

from tests.gateway.pool.tables import Client, replace, serving_table, until
from tests.tiny_model import write_tiny_model

MODELS = ("one", "two", "three")
CLIENTS = 6
_PAUSE = 0.2
"""Seconds between a client's requests, so that the edits, of which each takes a second, fall between them."""


def table(edit: int) -> str:
    """What stands in the file after so many edits. The three models are always served; what else stands there changes:
    options of one of them, an alias that moves, a model that comes and goes, and each fifth text is broken.
    """
    if edit % 5 == 4:
        return "[models.one]\ncontext = 'many'\n"
    owner = MODELS[edit % 3]
    lines = ["[defaults]", "threads = 1", "slots = 2", "[limits]", f"max_queue = {1000 + edit}"]
    for name in MODELS:
        context = 512 + 256 * (edit // 2 % 2) if name == "two" else 512
        aliases = '["moving", "claude-*"]' if name == owner else "[]"
        lines += [f"[models.{name}]", f'file = "{name}.gguf"', f"context = {context}", f"aliases = {aliases}"]
        if name == "three":
            lines.append(f"sampling = {{ temperature = 0.{edit % 10} }}")
    if edit % 2:
        lines += ["[models.guest]", 'file = "one.gguf"', "context = 768"]
    return "\n".join(lines) + "\n"


async def hammer(directory: Path, requests: int, edits: int) -> Counter[Any]:
    """What became of the requests, of which there are so many or more, until all edits are made: how many had which
    status, or broke off.
    """
    for name in MODELS:
        write_tiny_model(directory / f"{name}.gguf")
    outcomes: Counter[Any] = Counter()
    async with serving_table(directory, table(0)) as client:
        async with asyncio.timeout(60):
            for name in MODELS:
                await client.chat(name, max_tokens=1)
        edited = asyncio.Event()
        numbers = itertools.takewhile(lambda _: not edited.is_set() or outcomes.total() < requests, itertools.count())
        workers = [asyncio.create_task(_ask(client, numbers, outcomes)) for _ in range(CLIENTS)]
        for edit in range(1, edits + 1):
            due = requests * edit // (edits + 1)
            await until(lambda due=due: outcomes.total() >= due, 300)
            replace(client.path, table(edit))
            if edit % 5 == 4:
                await client.until(lambda: _error(client))
            else:
                await client.until(lambda edit=edit: _served(client, edit))
        edited.set()
        await asyncio.gather(*workers)
        service = client.served.gateway.service
        loaded = service._members.host.started.loaded()
        outcomes["engines"] = len(loaded)
    return outcomes


async def _served(client: Client, edit: int) -> bool:
    shown = await client.get("/admin/config")
    return bool(shown["config"].get("limits", {}).get("max_queue") == 1000 + edit)


async def _error(client: Client) -> Any:
    return (await client.get("/readyz")).get("config")


async def _ask(client: Client, left: Any, outcomes: Counter[Any]) -> None:
    for number in left:
        await asyncio.sleep(_PAUSE)
        name = (*MODELS, "moving", "claude-x")[number % 5]
        stream = number % 2 == 1
        try:
            async with asyncio.timeout(60):
                status, answer, _ = await client.chat(name, stream=stream, max_tokens=8 + number % 24)
        except Exception as error:  # noqa: BLE001  (whatever it is, it is counted)
            outcomes[repr(error)] += 1
            continue
        whole = status == 200 and (answer.rstrip().endswith("data: [DONE]") if stream else bool(answer["choices"]))
        if stream and '"error"' in str(answer):
            whole = False
        outcomes["served" if whole else str((status, answer))[:300]] += 1


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as directory:
        print(dict(asyncio.run(hammer(Path(directory), int(sys.argv[1]), int(sys.argv[2])))))
