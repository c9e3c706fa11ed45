"""What `miner top` does: once, as one object a second, or drawn until `q`."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Coroutine
from contextlib import aclosing
from typing import TYPE_CHECKING, Any

from miner.cli.output.errors import note
from miner.errors import BackendError, MinerError

if TYPE_CHECKING:
    from miner.cli.gateway_client import GatewayClient
    from miner.cli.top.layout import Choice
    from miner.cli.top.view import View

_TICK_SECONDS = 1.0
_POLL_SECONDS = 15.0
"""Between two looks at what events do not tell."""


def once(client: GatewayClient, view: View, *, as_json: bool, announce: bool) -> int:
    """Show it once; return the exit status.

    Args:
        announce: say that it was only once.
    """
    from miner.cli.commands.ps import table_of
    from miner.cli.gateway_client import Models
    from miner.cli.output.style import columns
    from miner.cli.top.layout import node_lines

    async def ask() -> None:
        node, content = await asyncio.gather(client.fetch("/admin/node"), client.fetch("/admin/models", Models))
        view.node, view.models, view.known = node, content["models"], True
        view.waiting = view.node.get("requests_waiting", 0)

    asyncio.run(ask())
    if as_json:
        print(json.dumps(view.as_json()))
        return 0
    width = columns(sys.stdout) or 200
    for line in node_lines(view, width, live=False):
        print("".join(text for text, _ in line))
    print(table_of(view.models) if view.models else "No models.")
    if announce:
        note("miner: Shown once: this is no terminal. `miner top --json` goes on, with one object a second.")
    return 0


async def objects(client: GatewayClient, view: View) -> int:
    """Print an object a second."""

    async def tick() -> None:
        while True:
            await asyncio.sleep(_TICK_SECONDS)
            view.tick()
            print(json.dumps(view.as_json()), flush=True)

    await _together(_watch(client, view), _poll(client, view), tick())
    return 0


async def live(client: GatewayClient, view: View) -> int:
    """Draw until `q`."""
    from miner.cli.top.layout import Choice
    from miner.cli.top.screen import Screen, keys_read

    # What is wrong with address or key is said before the screen is taken.
    view.node = await client.fetch("/admin/node")
    choice, ended = Choice(), asyncio.Event()
    with Screen(view, choice) as screen:

        def on_key(key: str) -> None:
            if key in ("q", "Q"):
                ended.set()
            else:
                press(choice, key, gpus=bool(view.gpu_memory))
                screen.draw()

        async def tick() -> None:
            while True:
                view.tick()
                if not choice.paused:
                    screen.draw()
                await asyncio.sleep(_TICK_SECONDS)

        with keys_read(on_key):
            await _together(_watch(client, view), _poll(client, view), tick(), _until(ended))
    return 0


def press(choice: Choice, key: str, *, gpus: bool) -> None:
    """Apply a key.

    Args:
        gpus: whether the column of GPU memory is shown.
    """
    from miner.cli.top.layout import SORTS

    if key in ("p", "P", " "):
        choice.paused = not choice.paused
    elif key in ("left", "right"):
        step = 1 if key == "right" else -1
        choice.sort = (choice.sort + step) % len(SORTS)
        if SORTS[choice.sort][0] == "GPU" and not gpus:
            choice.sort += step
    elif key in ("up", "down"):
        choice.scroll = max(0, choice.scroll + (1 if key == "down" else -1))


async def _until(ended: asyncio.Event) -> None:
    await ended.wait()


async def _watch(client: GatewayClient, view: View) -> None:
    from miner.cli.watching import watch

    def on_lost(error: MinerError | None) -> None:
        view.lost = "the gateway has stopped." if error is None else error.message
        view.running.clear()

    def on_back() -> None:
        view.lost = None
        view.restarts += 1

    def path(after: int | None) -> str:
        return "/admin/events" if after is None else f"/admin/events?after={after}"

    async with aclosing(watch(client, path, on_lost=on_lost, on_back=on_back)) as events:
        async for event in events:
            view.event(event)


async def _poll(client: GatewayClient, view: View) -> None:
    from miner.cli.gateway_client import Models

    while True:
        try:
            node, content = await asyncio.gather(client.fetch("/admin/node"), client.fetch("/admin/models", Models))
        except BackendError:
            pass  # `_watch` says so
        else:
            view.node, view.models, view.known = node, content["models"], True
        await asyncio.sleep(_POLL_SECONDS)


async def _together(*work: Coroutine[Any, Any, None]) -> None:
    """Run until the first of them ends; raise its error."""
    tasks = [asyncio.ensure_future(each) for each in work]
    try:
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        for task in done:
            task.result()
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
