"""A server that sends recorded responses as fast as it can, so that the client is what is measured.

    python -m bench.replay_server --chunks 256        prints its port and serves until standard input ends

Streams are written as by an engine with continuous batching: in each step one chunk per running request, each an HTTP
chunk and a write of its own. `--burst N` puts N chunks into one write; `--pace MS` sets the duration of a step, so that
each read of a client has one chunk.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import sys
from typing import Any, cast

from bench.recorded import Answer, ollama_answers, vllm_answers

Answers = dict[str, dict[str, Answer]]

_HEALTHY = b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n"
_NOT_FOUND = b"HTTP/1.1 404 Not Found\r\ncontent-type: application/json\r\ncontent-length: 2\r\n\r\n{}"


class Engine:
    """Writes the next chunk of every running stream in each step."""

    def __init__(self, burst: int, pace: float) -> None:
        self._burst = burst
        self._pace = pace
        self._running: list[Connection] = []
        self._stepping = False

    def add(self, connection: Connection) -> None:
        self._running.append(connection)
        if not self._stepping:
            self._stepping = True
            asyncio.get_running_loop().call_soon(self._step)

    def _step(self) -> None:
        burst = self._burst
        left = []
        for connection in self._running:
            if connection.closed:
                continue
            if not connection.paused:
                pieces, at = connection.pieces, connection.at
                connection.transport.write(pieces[at] if burst == 1 else b"".join(pieces[at : at + burst]))
                connection.at = at = at + burst
                if at >= len(pieces):
                    continue
            left.append(connection)
        self._running = left
        loop = asyncio.get_running_loop()
        if not left:
            self._stepping = False
        elif self._pace:
            loop.call_later(self._pace, self._step)
        elif all(connection.paused for connection in left):
            loop.call_later(0.0005, self._step)
        else:
            loop.call_soon(self._step)


class Connection(asyncio.Protocol):
    """One connection, with sequential requests."""

    transport: asyncio.Transport

    def __init__(self, engine: Engine, answers: Answers) -> None:
        self._engine = engine
        self._answers = answers
        self._data = b""
        self.paused = False
        self.closed = False
        self.pieces: list[bytes] = []
        self.at = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)

    def connection_lost(self, exc: Exception | None) -> None:
        self.closed = True

    def pause_writing(self) -> None:
        self.paused = True

    def resume_writing(self) -> None:
        self.paused = False

    def data_received(self, data: bytes) -> None:
        self._data += data
        head, gap, body = self._data.partition(b"\r\n\r\n")
        if not gap:
            return
        if b"expect: 100-continue" in head.lower():
            self.transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        lower = head.lower()
        at = lower.find(b"content-length:")
        length = int(lower[at + 15 :].split(b"\r\n", 1)[0]) if at >= 0 else 0
        if len(body) < length:
            return
        self._data = body[length:]
        self._answer(head.split(b" ", 2)[1].decode(), body[:length])

    def _answer(self, path: str, body: bytes) -> None:
        flat = body.replace(b" ", b"")
        match path:
            case "/v1/chat/completions":
                if b'"stream":true' in flat:
                    kind = next((k for k in ("tools", "schema") if b'"model":"%b"' % k.encode() in flat), "plain")
                    self._stream(self._answers["vllm"][kind])
                else:
                    self._complete(self._answers["vllm"]["chat"])
            case "/v1/models":
                self._complete(self._answers["vllm"]["models"])
            case "/api/chat" if b'"stream":true' in flat:
                self._stream(self._answers["ollama"]["plain"])
            case "/api/chat":
                self._complete(self._answers["ollama"]["chat"])
            case "/api/show" | "/api/tags":
                self._complete(self._answers["ollama"][path[5:]])
            case "/health":  # vllm-router polls it
                self.transport.write(_HEALTHY)
            case _:
                self.transport.write(_NOT_FOUND)

    def _complete(self, answer: Answer) -> None:
        self.transport.write(answer[0] + answer[1][0])

    def _stream(self, answer: Answer) -> None:
        self.transport.write(answer[0])
        self.pieces, self.at = answer[1], 0
        self._engine.add(self)


async def serve(chunks: int, burst: int, pace: float) -> None:
    """Serve until standard input ends."""
    answers = {"vllm": vllm_answers(chunks), "ollama": ollama_answers(chunks)}
    engine = Engine(burst, pace)
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: Connection(engine, answers), "127.0.0.1", 0, backlog=1024)
    print(server.sockets[0].getsockname()[1], flush=True)
    await loop.run_in_executor(None, sys.stdin.read)
    server.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--chunks", type=int, default=256, help="chunks of text per stream")
    parser.add_argument("--burst", type=int, default=1, help="chunks per write")
    parser.add_argument("--pace", type=float, default=0.0, help="milliseconds per step")
    args = parser.parse_args()
    run: Any = asyncio.run
    with contextlib.suppress(ImportError):
        import uvloop

        run = uvloop.run
    run(serve(args.chunks, args.burst, args.pace / 1000))


if __name__ == "__main__":
    main()
