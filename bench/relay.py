"""A bare aiohttp.web relay that copies bytes: the minimal cost of a Python gateway on this framework.

    python -m bench.relay http://127.0.0.1:9000        prints its port and serves until standard input ends

No parsing, no keys, no limits. One write per read from upstream, as in the gateway.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
from collections.abc import AsyncIterator

import aiohttp
import uvloop
from aiohttp import web

_SESSION = web.AppKey("session", aiohttp.ClientSession)
_BODY_LIMIT = 32 * 1024 * 1024


def make_app(upstream: str) -> web.Application:
    """The relay in front of a server."""

    async def session(app: web.Application) -> AsyncIterator[None]:
        async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0), auto_decompress=False) as made:
            app[_SESSION] = made
            yield

    async def copy(request: web.Request) -> web.StreamResponse:
        body = await request.read()
        async with request.app[_SESSION].request(
            request.method, upstream + request.path_qs, data=body, headers={"content-type": "application/json"}
        ) as answer:
            if answer.content_length is not None:
                body = await answer.read()
                return web.Response(status=answer.status, body=body, content_type=answer.content_type)
            out = web.StreamResponse(status=answer.status, headers={"content-type": answer.headers["content-type"]})
            await out.prepare(request)
            async for piece in answer.content.iter_any():
                await out.write(piece)
            await out.write_eof()
            return out

    app = web.Application(client_max_size=_BODY_LIMIT)
    app.cleanup_ctx.append(session)
    app.router.add_route("*", "/{path:.*}", copy)
    return app


async def serve(upstream: str) -> None:
    """Serve until standard input ends."""
    runner = web.AppRunner(make_app(upstream), access_log=None, handler_cancellation=True)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0, backlog=1024)
    await site.start()
    print(runner.addresses[0][1], flush=True)
    await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)
    await runner.cleanup()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("upstream", help="base URL of the server to relay to")
    uvloop.run(serve(parser.parse_args().upstream))


if __name__ == "__main__":
    main()
