"""`miner top`: what a running gateway does, live."""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
from collections.abc import Callable, Coroutine
from contextlib import aclosing
from typing import TYPE_CHECKING, Any

from miner.cli.output.errors import note
from miner.cli.parser import add_gateway_options
from miner.errors import BackendError, ConfigError, MinerError

if TYPE_CHECKING:
    from miner.cli.gateway_client import GatewayClient
    from miner.cli.top.layout import Choice
    from miner.cli.top.view import View

_EPILOG = """\
examples:
  miner top
  miner top --once
  miner top --json | jq .tokens_per_second
  miner top --url http://node:8088 --key - < key.txt

keys: q quits, p pauses, left and right choose the column by which models are
sorted, up and down scroll. It goes on when the gateway is started again. With
--json one object a second; without a terminal it shows once, like `miner ps`.
"""
_TICK_SECONDS = 1.0
_POLL_SECONDS = 15.0
"""Between two looks at what events do not tell."""


def add_parser(new_parser: Callable[..., argparse.ArgumentParser]) -> None:
    """Add the command's parser."""
    parser = new_parser(
        description="Show what a running gateway does: models, slots, tokens per second, requests.",
        epilog=_EPILOG,
        usage="miner top [options]",
    )
    parser.set_defaults(run=run)
    parser.add_argument("--once", action="store_true", help="show it once and exit")
    add_gateway_options(parser)


def run(args: argparse.Namespace) -> int:
    """Show the view; return the exit status."""
    from miner.cli.gateway_client import GatewayClient
    from miner.cli.output.style import is_terminal
    from miner.cli.signals import run_until_stopped
    from miner.cli.top.view import View

    client = GatewayClient.of(args.url, args.key)
    view = View(client.base_url)
    if args.once or not (args.json or is_terminal(sys.stdout)):
        return _once(args, client, view)
    if args.json:
        return run_until_stopped(lambda _: _objects(client, view))
    try:
        import rich  # noqa: F401
    except ModuleNotFoundError as error:
        raise ConfigError(
            "`miner top` draws with the package rich, which is not installed.",
            operator_hint='Install it with: pip install "llm-service-backends[cli]". `miner top --once` needs none.',
        ) from error
    return run_until_stopped(lambda _: _live(client, view))


def _once(args: argparse.Namespace, client: GatewayClient, view: View) -> int:
    from miner.cli.commands.ps import table_of
    from miner.cli.output.style import columns
    from miner.cli.top.layout import node_lines

    async def ask() -> None:
        node, content = await asyncio.gather(client.fetch("/admin/node"), client.fetch("/admin/models"))
        view.node, view.models = node, content["models"]
        view.waiting = view.node.get("requests_waiting", 0)

    asyncio.run(ask())
    if args.json:
        print(json.dumps(view.as_json()))
        return 0
    width = columns(sys.stdout) or 200
    for line in node_lines(view, width, live=False):
        print("".join(text for text, _ in line))
    print(table_of(view.models) if view.models else "No models.")
    if not args.once:
        note("miner: Shown once: this is no terminal. `miner top --json` goes on, with one object a second.")
    return 0


async def _objects(client: GatewayClient, view: View) -> int:
    """Print an object a second."""

    async def tick() -> None:
        while True:
            await asyncio.sleep(_TICK_SECONDS)
            view.tick()
            print(json.dumps(view.as_json()), flush=True)

    await _together(_watch(client, view), _poll(client, view), tick())
    return 0


async def _live(client: GatewayClient, view: View) -> int:
    """Draw until `q`."""
    from miner.cli.top.layout import Choice
    from miner.cli.top.screen import Screen, keys_read

    view.node = await client.fetch(
        "/admin/node"
    )  # what is wrong with address or key is said before the screen is taken
    choice, ended = Choice(), asyncio.Event()
    with Screen(view, choice) as screen:

        def on_key(key: str) -> None:
            if key in ("q", "Q"):
                ended.set()
            else:
                press(choice, key)
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


def press(choice: Choice, key: str) -> None:
    """Apply a key."""
    from miner.cli.top.layout import SORTS

    if key in ("p", "P", " "):
        choice.paused = not choice.paused
    elif key in ("left", "right"):
        choice.sort = (choice.sort + (1 if key == "right" else -1)) % len(SORTS)
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
    while True:
        try:
            node, content = await asyncio.gather(client.fetch("/admin/node"), client.fetch("/admin/models"))
        except BackendError:
            pass  # `_watch` says so
        else:
            view.node, view.models = node, content["models"]
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
