"""The HTTP client, on the wire: connections, bounds, closing, secrets."""

from __future__ import annotations

import asyncio
import gc
import subprocess
import sys
import traceback
from pathlib import Path
from typing import Any

import pytest

from miner.core.http import client as http
from miner.core.http.client import HttpClient
from miner.core.http.errors import Upstream
from miner.errors import (
    BackendProtocolError,
    BackendTimeoutError,
    BackendUnavailableError,
    MinerError,
    StreamInterruptedError,
)
from tests.servers import faults
from tests.servers.faults import FaultServer
from tests.servers.http import RawServer, ResponseWriter
from tests.servers.threaded import in_thread

CHAT = b'{"model": "smollm2", "messages": [], "stream": true}'


def client(server: RawServer | str, read_timeout: float = 30.0, **given: Any) -> HttpClient:
    base = server if isinstance(server, str) else server.v1
    return HttpClient(Upstream("vllm", base, read_timeout=read_timeout, timeout_setting="VLLM_TIMEOUT"), **given)


class Echo(RawServer):
    """Answers with a small text, after `delay` seconds."""

    delay = 0.0

    async def handle(self, writer: ResponseWriter) -> None:
        await asyncio.sleep(self.delay)
        await writer.respond(200, b"ok")


async def test_connections_are_reused_unless_disabled():
    async with Echo() as server:
        kept, fresh = client(server), client(server, reuse=False)
        for _ in range(3):
            assert (await kept.request("GET", "/x")).body == b"ok"
        assert server.connections == 1
        for _ in range(3):
            await fresh.request("GET", "/x")
        assert server.connections == 4
        await kept.close()
        await fresh.close()


async def test_a_stale_connection_is_replaced_silently():
    """Keep-alive ends after 5 s on vLLM and llama.cpp, or although it was announced."""
    async with FaultServer(faults.closes_on_reuse()) as server:
        http_client = client(server)
        for _ in range(4):
            assert (await http_client.request("POST", "/chat/completions", CHAT[:-16] + b"}")).status == 200
        assert [request.nth for request in server.generations].count(1) >= 3
        await http_client.close()


async def test_a_lost_new_connection_is_not_retried_here():
    """A request that kills the engine must not be sent over and over: sending again is decided and counted above."""
    async with FaultServer(faults.reset()) as server:
        http_client = client(server)
        with pytest.raises(BackendUnavailableError, match="sent no response"):
            await http_client.request("POST", "/chat/completions", CHAT)
        assert len(server.generations) == 1
        await http_client.close()


async def test_read_timeout_and_total_timeout_are_distinguished():
    async with FaultServer(faults.silent()) as server:
        http_client = client(server, read_timeout=0.2)
        with pytest.raises(BackendTimeoutError, match=r"sent nothing for 0\.2 s .*Raise VLLM_TIMEOUT"):
            await http_client.request("GET", "/models")
        with pytest.raises(BackendTimeoutError, match=r"did not respond within 0\.1 s"):
            await http_client.request("GET", "/models", total=0.1)
        await http_client.close()


async def test_an_answer_without_end_is_cut_before_it_fills_memory(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(http, "_MAX_BODY_BYTES", 1 << 20)
    async with FaultServer(faults.endless_line()) as server:
        http_client = client(server)
        with pytest.raises(BackendProtocolError, match="larger than 1048576 bytes"):
            await http_client.request("POST", "/chat/completions", b"{}")
        await server.wait_for_disconnects()
        await http_client.close()


async def test_leaving_a_stream_early_closes_its_connection_and_no_other():
    async with FaultServer(faults.silent_in_stream()) as server:
        http_client = client(server)
        async with http_client.stream("/chat/completions", CHAT) as answer:
            assert await answer.read_some()
        await server.wait_for_disconnects()
        server.behaviour = faults.ok()
        assert (await http_client.request("GET", "/models")).status == 200
        await http_client.close()


async def test_a_stream_read_to_its_end_leaves_the_connection_for_the_next():
    async with FaultServer(faults.ok()) as server:
        http_client = client(server)
        for _ in range(3):
            async with http_client.stream("/chat/completions", CHAT) as answer:
                while await answer.read_some():
                    pass
        assert server.connections == 1
        await http_client.close()


async def test_a_cancelled_request_hangs_up():
    async with FaultServer(faults.silent()) as server:
        http_client = client(server)
        task = asyncio.create_task(http_client.request("POST", "/chat/completions", b"{}"))
        await server.wait_for_requests()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await server.wait_for_disconnects()
        await http_client.close()


async def test_closing_twice_and_using_again():
    async with Echo() as server:
        http_client = client(server)
        await http_client.close()
        await http_client.request("GET", "/x")
        await http_client.close()
        await http_client.close()
        assert (await http_client.request("GET", "/x")).body == b"ok"
        await http_client.close()


def test_two_event_loops_in_turn_leave_no_warning():
    with in_thread(Echo()) as server:
        http_client = client(server)

        async def once() -> bytes:
            return (await http_client.request("GET", "/x")).body

        assert [asyncio.run(once()) for _ in range(3)] == [b"ok"] * 3
        gc.collect()
        asyncio.run(http_client.close())
        gc.collect()


def test_a_loop_that_ended_in_the_middle_of_a_stream_does_not_trouble_the_next():
    with in_thread(FaultServer(faults.silent_in_stream())) as server:
        http_client = client(server)

        async def leave() -> None:
            async with http_client.stream("/chat/completions", CHAT) as answer:
                await answer.read_some()
                raise KeyError("out")

        for _ in range(2):
            with pytest.raises(KeyError):
                asyncio.run(leave())
        http_client.discard()
        gc.collect()


@pytest.mark.process
def test_a_client_that_is_never_closed_says_nothing_at_exit(tmp_path: Path):
    script = tmp_path / "script.py"
    script.write_text(
        "import asyncio, sys\n"
        "from miner.core.http.errors import Upstream\n"
        "from miner.core.http.client import HttpClient\n"
        "client = HttpClient(Upstream('vllm', sys.argv[1]))\n"
        "async def main():\n"
        "    print((await client.request('GET', '/x')).status)\n"
        "asyncio.run(main())\n"
        "asyncio.run(main())\n"
    )
    with in_thread(Echo()) as server:
        done = subprocess.run(
            [sys.executable, "-W", "error", "-X", "dev", str(script), server.v1],
            capture_output=True, text=True, timeout=120, check=False,
        )  # fmt: skip
    assert (done.returncode, done.stdout, done.stderr) == (0, "200\n200\n", "")


async def test_a_unix_socket_in_place_of_host_and_port(tmp_path: Path):
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok")
        await writer.drain()
        writer.close()

    path = tmp_path / "engine.sock"
    async with await asyncio.start_unix_server(answer, path):
        http_client = client("http://engine/v1", unix_socket=path)
        assert (await http_client.request("GET", "/models")).body == b"ok"
        await http_client.close()
    with pytest.raises(BackendUnavailableError, match="cannot be reached"):
        await http_client.request("GET", "/models")
    await http_client.close()


@pytest.mark.parametrize(
    "base", ["http://", "localhost:8000", "http://[::1", "http://127.0.0.1:99999/v1", "ftp://x/v1"]
)
async def test_an_address_that_is_none(base: str):
    http_client = client(base)
    with pytest.raises(BackendUnavailableError, match="is not a valid address") as caught:
        await http_client.request("GET", "/models")
    assert base in str(caught.value)
    assert not caught.value.retryable
    await http_client.close()


async def test_a_host_that_does_not_exist():
    http_client = client("http://no-such-host.invalid/v1")
    with pytest.raises(BackendUnavailableError, match=r"cannot be reached: unknown host 'no-such-host\.invalid'"):
        await http_client.request("GET", "/models")
    await http_client.close()


@pytest.mark.parametrize("base", ["http://h/v1?key=s3cret", "http://h/v1#s3cret", "http://u:pa?s3cret@h/v1"])
async def test_an_address_with_a_query_is_refused_and_not_shown(base: str):
    """Settings that are not ours (a config object of somebody else's) come here unchecked."""
    http_client = client(base)
    with pytest.raises(BackendUnavailableError, match="is not a valid address") as caught:
        await http_client.request("GET", "/models")
    assert "s3cret" not in said(caught.value)
    assert not caught.value.retryable
    await http_client.close()


def said(error: BaseException | None) -> str:
    """All that a log could show of an error and of what caused it."""
    text = ""
    while error is not None:
        text += "".join(traceback.format_exception(error)) + repr(error) + repr(error.args) + repr(vars(error))
        error = error.__cause__ or error.__context__
    return text


async def test_the_address_may_carry_a_password_which_is_sent_and_never_shown():
    async with Echo() as server:
        http_client = client(server.v1.replace("//", "//user:hunter2@"))
        await http_client.request("GET", "/x")
        assert server.requests[0].headers["authorization"] == "Basic dXNlcjpodW50ZXIy"
        await http_client.close()


@pytest.mark.parametrize(
    "behaviour",
    [
        faults.garbage_http(everywhere=True),
        faults.silent(),
        faults.reset(),
        faults.truncated(),
        faults.too_short(),
        faults.garbage_http(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nzz\r\n", everywhere=True),
    ],
    ids=lambda item: item.name,
)
async def test_neither_key_nor_password_is_in_an_error_or_its_causes(behaviour: faults.Behaviour):
    async with FaultServer(behaviour) as server:
        for base, key in ((server.v1, "s3cret-key"), (server.v1.replace("//", "//user:hunter2@"), None)):
            http_client = client(base, 0.2, api_key=key)
            with pytest.raises(MinerError) as caught:
                await http_client.request("POST", "/chat/completions", b"{}")
            text = said(caught.value)
            assert "s3cret-key" not in text
            assert "hunter2" not in text
            assert "dXNlcjpodW50ZXIy" not in text
            await http_client.close()


async def test_a_key_and_a_password_at_once_the_key_is_used():
    async with Echo() as server:
        http_client = client(server.v1.replace("//", "//user:hunter2@"), api_key="k")
        assert (await http_client.request("GET", "/x")).status == 200
        assert server.requests[0].headers["authorization"] == "Bearer k"
        await http_client.close()


async def test_a_broken_answer_names_what_happened():
    async with FaultServer(faults.too_short()) as server:
        http_client = client(server)
        with pytest.raises(StreamInterruptedError, match="incomplete response: the connection was closed"):
            await http_client.request("POST", "/chat/completions", b"{}")
        await http_client.close()


class LateEnd(RawServer):
    """Ends the body of a stream a moment after the message in it, or never."""

    delay: float | None = 0.05

    async def handle(self, writer: ResponseWriter) -> None:
        await writer.head(200, {"content-type": "text/event-stream", "transfer-encoding": "chunked"})
        await writer.piece(b"data: [DONE]\n\n")
        if self.delay is None:
            await writer.hold()
        await asyncio.sleep(self.delay or 0)
        await writer.end()


async def test_a_message_that_is_over_keeps_its_connection_though_the_body_ends_later():
    """Engines write the end of a body by itself, after the end mark of the stream."""
    async with LateEnd() as server:
        http_client = client(server)
        for _ in range(3):
            async with http_client.stream("/chat/completions", CHAT) as answer:
                assert await answer.read_some() == b"data: [DONE]\n\n"
                answer.message_complete = True
            await asyncio.sleep(0.3)
        assert server.connections == 1
        await http_client.close()


async def test_a_body_that_never_ends_loses_its_connection(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("miner.core.http.connection_pool._DRAIN_SECONDS", 0.1)
    async with LateEnd() as server:
        server.delay = None
        http_client = client(server)
        async with http_client.stream("/chat/completions", CHAT) as answer:
            await answer.read_some()
            answer.message_complete = True
        await server.wait_for_disconnects()
        await http_client.close()
