"""The replay server with the health check that vllm-router waits for before it starts.

python -m bench.upstream --chunks 128        prints its port and serves until standard input ends
"""

from __future__ import annotations

import argparse
import asyncio
import sys

import uvloop

from bench.recorded import vllm_answers
from bench.replay_server import Connection, Engine
from miner.core._typing import override

_HEALTHY = b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n"


class _Connection(Connection):
    @override
    def _answer(self, path: str, body: bytes) -> None:
        if path == "/health":
            self.transport.write(_HEALTHY)
        else:
            super()._answer(path, body)


async def serve(chunks: int, burst: int) -> None:
    """Serve until standard input ends."""
    answers = {"vllm": vllm_answers(chunks), "ollama": {}}
    engine = Engine(burst=burst, pace=0.0)
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: _Connection(engine, answers), "127.0.0.1", 0, backlog=1024)
    print(server.sockets[0].getsockname()[1], flush=True)
    await loop.run_in_executor(None, sys.stdin.read)
    server.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--chunks", type=int, default=256, help="pieces of text in a streamed reply")
    parser.add_argument("--burst", type=int, default=1, help="pieces in one write")
    args = parser.parse_args()
    uvloop.run(serve(args.chunks, args.burst))


if __name__ == "__main__":
    main()
