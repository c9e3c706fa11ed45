"""The test servers do what they say; else no test that stands on them means anything."""

from __future__ import annotations

import asyncio
import errno
import json
import socket
import urllib.request
from typing import Any

import aiohttp
import pytest

from tests.servers import faults
from tests.servers.captures import ENGINES, Capture, capture, captures
from tests.servers.faults import FaultServer
from tests.servers.http import RawServer, ResponseWriter
from tests.servers.ollama_spec import violations
from tests.servers.ports import closed_port
from tests.servers.replay import ReplayServer
from tests.servers.threaded import in_thread

CHAT = {"model": "smollm2", "messages": [{"role": "user", "content": "hi"}]}


async def raw_call(server: RawServer, method: str, path: str, body: Any = None, host: str = "127.0.0.1") -> bytes:
    """Everything that the server sends to one request, until it closes or the response is over by its own framing."""
    reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
    data = json.dumps(body).encode() if body is not None else b""
    writer.write(f"{method} {path} HTTP/1.1\r\nhost: {host}\r\ncontent-length: {len(data)}\r\n\r\n".encode() + data)
    await writer.drain()
    try:
        got = b""
        while True:
            piece = await asyncio.wait_for(reader.read(1 << 16), 10)
            got += piece
            head, _, rest = got.partition(b"\r\n\r\n")
            lengths = [line for line in head.split(b"\r\n") if line.startswith(b"content-length:")]
            whole = lengths and len(rest) >= int(lengths[0].split(b":")[1])
            if not piece or got.endswith(b"0\r\n\r\n") or whole:
                return got
    finally:
        writer.close()
        await writer.wait_closed()


def unchunked(data: bytes) -> list[bytes]:
    """The HTTP chunks of a chunked body."""
    chunks, rest = [], data.partition(b"\r\n\r\n")[2]
    while rest:
        size, _, rest = rest.partition(b"\r\n")
        chunks.append(rest[: int(size, 16)])
        rest = rest[int(size, 16) + 2 :]
    return chunks


@pytest.mark.parametrize("engine", ENGINES)
async def test_replay_sends_every_capture_byte_for_byte_with_its_boundaries(engine: str):
    async with ReplayServer(engine, check_spec=False) as server:
        for item in captures(engine).values():
            server.respond_with(item, path="/anything")
            got = await raw_call(server, "POST", "/anything", {})
            if item.status is None:
                assert got == b""
                continue
            assert got.startswith(b"HTTP/1.1 %d " % item.status), item.name
            if item.chunked:
                assert unchunked(got) == [*item.pieces, *([] if item.broken else [b""])], item.name
                assert got.endswith(b"0\r\n\r\n") is not item.broken, item.name
            else:
                assert got.partition(b"\r\n\r\n")[2] == item.body, item.name


@pytest.mark.parametrize("engine", ENGINES)
async def test_replay_answers_the_recorded_requests_with_their_own_recording(engine: str):
    async with ReplayServer(engine, check_spec=False) as server:
        for item in captures(engine).values():
            if item.request is None or item.path == "/api/ps":
                continue
            await raw_call(server, item.method, item.path, item.request, item.request_headers.get("host", "127.0.0.1"))
            sent = server.answered[-1]
            assert (sent.method, sent.path, sent.request) == (item.method, item.path, item.request), item.name


@pytest.mark.parametrize(
    ("engine", "method", "path", "body", "name"),
    [
        ("ollama", "POST", "/api/chat", CHAT, "chat_stream"),
        ("ollama", "POST", "/api/chat", CHAT | {"stream": False}, "chat"),
        ("ollama", "POST", "/api/chat", CHAT | {"model": "nobody"}, "err_model"),
        ("ollama", "POST", "/api/chat", CHAT | {"think": True}, "chat_think_refused"),
        ("ollama", "POST", "/api/chat", CHAT | {"model": "smollm2-think:latest"}, "chat_think_stream"),
        ("ollama", "POST", "/api/chat", CHAT | {"format": {"type": "object"}}, "chat_schema_stream"),
        ("ollama", "POST", "/api/generate", {"model": "smollm2", "prompt": "x", "raw": True}, "generate_raw_stream"),
        ("ollama", "POST", "/api/show", {"model": "smollm2-tools:latest"}, "show_tools"),
        ("ollama", "POST", "/api/show", {"model": "nobody"}, "show_unknown"),
        ("ollama", "POST", "/api/embed", {"model": "smollm2-embed", "input": ["a"]}, "embed_one"),
        ("ollama", "GET", "/api/tags", None, "tags"),
        ("ollama", "GET", "/api/chat", None, "unknown_method"),
        ("ollama", "GET", "/nothing", None, "unknown_path"),
        ("vllm", "GET", "/v1/models", None, "models"),
        ("vllm", "GET", "/health", None, "health"),
        ("vllm", "POST", "/v1/chat/completions", CHAT | {"stream": True}, "chat_stream"),
        ("vllm", "POST", "/v1/chat/completions", CHAT | {"model": "nobody"}, "err_model"),
        ("llamacpp", "GET", "/props", None, "props"),
        ("llamacpp", "POST", "/v1/chat/completions", CHAT | {"stream": True}, "chat_stream"),
        ("llamacpp", "POST", "/v1/completions", {"prompt": "x", "stream": True}, "completion_stream"),
    ],
)
async def test_replay_chooses_a_fitting_answer(engine: str, method: str, path: str, body: Any, name: str):
    async with ReplayServer(engine, check_spec=False) as server:
        await raw_call(server, method, path, body)
    assert [item.name for item in server.answered] == [name]


async def test_queued_answers_come_in_order_and_are_not_spent_on_side_routes():
    async with ReplayServer("vllm") as server:
        server.respond_with("chat_length")
        server.respond_with("err_overflow", times=2)
        for path in ("/v1/chat/completions", "/v1/chat/completions", "/v1/models", "/v1/chat/completions"):
            await raw_call(server, "GET" if path.endswith("models") else "POST", path, CHAT)
        assert server.pending == []
    assert [item.name for item in server.answered] == ["chat_length", "err_overflow", "models", "err_overflow"]


async def test_an_unknown_capture_is_an_error_that_lists_those_that_exist():
    async with ReplayServer("vllm") as server:
        with pytest.raises(KeyError, match="chat_stream"):
            server.respond_with("no_such")


async def test_replay_keeps_the_recorded_times_when_asked():
    item = Capture("made", "ollama", 200, {"transfer-encoding": "chunked"}, (b"a", b"b"), (0.1, 0.4))
    async with ReplayServer("ollama", pace=True, check_spec=False) as server:
        server.respond_with(item)
        began = asyncio.get_running_loop().time()
        await raw_call(server, "POST", "/api/chat", CHAT)
        assert asyncio.get_running_loop().time() - began >= 0.4


async def test_split_and_cut_answers():
    item = capture("ollama", "chat_stream")
    async with ReplayServer("ollama") as server:
        server.respond_with("chat_stream", split=7)
        server.respond_with("chat_stream", pieces=2)
        got = unchunked(await raw_call(server, "POST", "/api/chat", CHAT))
        assert b"".join(got) == item.body
        assert {len(piece) for piece in got[:-2]} == {7}
        assert unchunked(await raw_call(server, "POST", "/api/chat", CHAT)) == list(item.pieces[:2])


async def test_a_client_that_leaves_early_is_noticed_and_one_that_reads_to_the_end_is_not():
    async with ReplayServer("ollama") as server, aiohttp.ClientSession() as session:
        server.respond_with("chat_stream")
        server.respond_with("chat_stream", pieces=3, hold=True)
        async with session.post(server.url + "/api/chat", json=CHAT) as response:
            assert await response.read() == capture("ollama", "chat_stream").body
        async with session.post(server.url + "/api/chat", json=CHAT) as response:
            await response.content.readany()
            assert server.disconnects == []
        await server.wait_for_disconnects(1)
        assert [item.request.path for item in server.disconnects] == ["/api/chat"]
        assert server.disconnects[0].time >= server.disconnects[0].request.received
    await asyncio.sleep(0)


async def test_waiting_for_what_never_comes_fails():
    async with ReplayServer("ollama") as server:
        with pytest.raises(AssertionError, match="1 disconnects"):
            await server.wait_for_disconnects(1, timeout=0.05)


async def test_a_key_is_asked_for():
    async with ReplayServer("vllm", api_key="secret") as server, aiohttp.ClientSession() as session:
        async with session.get(server.v1 + "/models") as response:
            assert (response.status, await response.json()) == (401, {"error": "Unauthorized"})
        async with session.get(server.v1 + "/models", headers={"authorization": "Bearer secret"}) as response:
            assert response.status == 200


async def test_the_recorded_port_and_server_can_be_started_again():
    async with ReplayServer("ollama") as server:
        port = server.port
        await server.stop()
        with pytest.raises(OSError, match="onnect"):
            await raw_call(server, "GET", "/api/version")
        await server.start()
        assert server.port == port
        assert b'"version"' in await raw_call(server, "GET", "/api/version")


def test_a_reserved_port_refuses_connections_and_goes_to_who_asks_for_it():
    port = closed_port()
    with socket.socket() as client:
        assert client.connect_ex(("127.0.0.1", port)) == errno.ECONNREFUSED
    with socket.socket() as other, pytest.raises(OSError, match="in use"):
        other.bind(("127.0.0.1", port))
    with socket.create_server(("127.0.0.1", port)), socket.create_connection(("127.0.0.1", port)):
        pass
    with socket.socket() as client:
        assert client.connect_ex(("127.0.0.1", port)) == errno.ECONNREFUSED


def test_a_server_in_a_thread():
    with in_thread(ReplayServer("ollama")) as server:
        with urllib.request.urlopen(server.url + "/api/version", timeout=30) as answer:
            assert json.load(answer) == {"version": "0.0.0"}
        assert [request.path for request in server.requests] == ["/api/version"]


def test_a_server_in_a_thread_gives_its_verdict():
    def misspell() -> None:
        with in_thread(ReplayServer("ollama")) as server:
            body = json.dumps(CHAT | {"options": {"temprature": 1}}).encode()
            urllib.request.urlopen(urllib.request.Request(server.url + "/api/chat", data=body), timeout=30).close()

    with pytest.raises(AssertionError, match="temprature"):
        misspell()


@pytest.mark.parametrize(
    ("body", "complaint"),
    [
        (CHAT | {"stram": False}, "stram"),
        (CHAT | {"options": {"temprature": 1}}, "temprature"),
        (CHAT | {"options": {"temperature": "hot"}}, "options.temperature: 'hot' is not of type"),
        (CHAT | {"options": {"stop": "x"}}, "options.stop"),
        (CHAT | {"options": {"seed": None}}, "options.seed"),
        (CHAT | {"keep_alive": "300"}, "keep_alive"),
        (CHAT | {"messages": [{"role": "robot", "content": "hi"}]}, "robot"),
        (CHAT | {"messages": [{"role": "user", "content": "hi", "nme": "x"}]}, "nme"),
        (CHAT | {"messages": [{"role": "user", "content": [{"type": "text", "text": "hi"}]}]}, "messages.0.content"),
        ({"model": "smollm2"}, "'messages' is a required property"),
    ],
)
async def test_a_request_outside_ollamas_openapi_file_fails_the_test(body: Any, complaint: str):
    with pytest.raises(AssertionError, match=complaint):
        async with ReplayServer("ollama") as server:
            await raw_call(server, "POST", "/api/chat", body)


async def test_a_violation_does_not_hide_the_error_that_a_test_failed_with():
    async def fail() -> None:
        async with ReplayServer("ollama") as server:
            await raw_call(server, "POST", "/api/chat", {})
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError) as caught:
        await fail()
    assert any("required property" in note for note in caught.value.__notes__)


def test_what_a_genuine_ollama_accepted_passes_the_check_but_for_what_it_silently_drops():
    silently_accepted = {"chat_null_content", "err_option_unknown", "err_role", "generate_context_again"}
    for item in captures("ollama").values():
        outside = item.path.startswith("/v1/") or item.path == "/api/embeddings"
        if item.status == 200 and item.method == "POST" and not outside:
            found = violations(item.method, item.path, json.dumps(item.request).encode())
            assert bool(found) is (item.name in silently_accepted), (item.name, found)


def test_names_that_the_file_lacks_and_ollama_knows_pass():
    options = {"num_keep": 1, "typical_p": 1.0, "repeat_penalty": 1.1, "repeat_last_n": 64, "presence_penalty": 0.0}
    options |= {"frequency_penalty": 0, "num_batch": 512, "num_gpu": -1, "main_gpu": 0, "num_thread": 2, "stop": ["x"]}
    body = CHAT | {"truncate": False, "shift": False, "options": options | {"use_mmap": True, "draft_num_predict": 1}}
    assert violations("POST", "/api/chat", json.dumps(body).encode()) == []
    assert violations("POST", "/api/nothing", b"{}")
    assert violations("GET", "/api/tags", b"{}")


async def read_all(server: FaultServer, path: str = "/v1/chat/completions", timeout: float = 30.0) -> bytes:
    """What an ordinary HTTP client gets of a streamed chat."""
    limit = aiohttp.ClientTimeout(total=timeout)
    async with (
        aiohttp.ClientSession(timeout=limit) as session,
        session.post(server.url + path, json=CHAT | {"stream": True}) as response,
    ):
        response.raise_for_status()
        return await response.read()


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/api/chat"])
@pytest.mark.parametrize(
    ("behaviour", "error"),
    [
        (faults.silent(), TimeoutError),
        (faults.silent_after_headers(), TimeoutError),
        (faults.silent_in_stream(), TimeoutError),
        (faults.slow(20), TimeoutError),
        (faults.slow(0, between=10), TimeoutError),
        (faults.endless_line(), (TimeoutError, ValueError)),
        (faults.truncated(), aiohttp.ClientPayloadError),
        (faults.too_short(), aiohttp.ClientPayloadError),
        (faults.reset(), aiohttp.ClientConnectionError),
        (faults.reset(["Hel"]), (aiohttp.ClientConnectionError, aiohttp.ClientPayloadError)),
        (faults.garbage_http(), aiohttp.ClientError),
        (faults.html_page(), aiohttp.ClientResponseError),
        (faults.status(429, retry_after="1"), aiohttp.ClientResponseError),
    ],
    ids=lambda value: value.name if isinstance(value, faults.Behaviour) else "",
)
async def test_faults_that_break_the_call(path: str, behaviour: faults.Behaviour, error: Any):
    faulty = error is not TimeoutError and behaviour.name != "endless_line"
    async with FaultServer(behaviour) as server:
        with pytest.raises(error):
            await read_all(server, path, timeout=30.0 if faulty else 0.2)
        assert len(server.generations) == server.connections == 1
        if error is TimeoutError:
            await server.wait_for_disconnects(1)


@pytest.mark.parametrize(
    ("behaviour", "sse", "ndjson"),
    [
        (faults.ok(), b"[DONE]", b'"done":true'),
        (faults.error_in_stream(), b'{"error":{"message"', b'{"error":"an error was'),
        (faults.garbage_in_stream(), b"\xff", b"\xff"),
        (faults.not_json(), b"some other service", b"some other service"),
        (faults.huge_line(1 << 20), b"x" * (1 << 20), b"x" * (1 << 20)),
        (faults.slow(0.05), b"[DONE]", b'"done":true'),
    ],
    ids=lambda value: value.name if isinstance(value, faults.Behaviour) else "",
)
async def test_faults_that_lie_in_the_body(behaviour: faults.Behaviour, sse: bytes, ndjson: bytes):
    async with FaultServer(behaviour) as server:
        assert sse in await read_all(server, timeout=30)
        assert ndjson in await read_all(server, "/api/chat", timeout=30)
        assert server.disconnects == []


async def test_a_stream_without_its_end_mark():
    async with FaultServer(faults.no_end()) as server:
        assert b"[DONE]" not in (got := await read_all(server))
        assert b"there" in got
        assert b'"done":true' not in await read_all(server, "/api/chat")


async def test_behaviours_in_sequence_and_anew():
    async with FaultServer(faults.sequence(faults.status(503), faults.status(500), faults.ok())) as server:
        for expected in (503, 500):
            with pytest.raises(aiohttp.ClientResponseError) as caught:
                await read_all(server)
            assert caught.value.status == expected
        await read_all(server)
        await read_all(server)
        server.behaviour = faults.status(404)
        with pytest.raises(aiohttp.ClientResponseError):
            await read_all(server)


async def test_side_routes_answer_unless_the_fault_is_everywhere():
    async with FaultServer(faults.status(500), models=["a", "b"]) as server, aiohttp.ClientSession() as session:
        async with session.get(server.v1 + "/models") as response:
            assert [model["id"] for model in (await response.json())["data"]] == ["a", "b"]
        async with session.get(server.url + "/api/tags") as response:
            assert [model["name"] for model in (await response.json())["models"]] == ["a:latest", "b:latest"]
        server.everywhere = True
        for path in ("/v1/models", "/api/tags", "/health", "/props"):
            async with session.get(server.url + path) as response:
                assert response.status == 500
        assert server.generations == []


async def test_a_kept_connection_is_closed_when_it_is_used_again():
    async with FaultServer(faults.closes_on_reuse()) as server:
        reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
        ask = b"GET /v1/models HTTP/1.1\r\nhost: x\r\n\r\n"
        writer.write(ask)
        assert b"200" in await reader.readline()
        await reader.readuntil(b"]}")
        writer.write(ask)
        assert await asyncio.wait_for(reader.read(), 10) == b""
        writer.close()
        await writer.wait_closed()
        assert (server.connections, len(server.requests)) == (1, 2)


async def test_a_connection_that_closes_after_its_answer():
    async with FaultServer(faults.closes_after_answer()) as server:
        reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
        writer.write(b"GET /v1/models HTTP/1.1\r\nhost: x\r\n\r\n")
        got = await asyncio.wait_for(reader.read(), 10)
        assert got.startswith(b"HTTP/1.1 200 OK")
        assert b"connection: close" not in got
        writer.close()
        await writer.wait_closed()


async def test_a_mistake_in_a_test_server_fails_the_test():
    class Broken(RawServer):
        async def handle(self, writer: ResponseWriter) -> None:
            raise ZeroDivisionError

    with pytest.raises(AssertionError, match="ZeroDivisionError"):
        async with Broken() as server:
            assert b"500" in await raw_call(server, "GET", "/")


async def test_pipelined_and_chunked_requests_are_read():
    async with ReplayServer("ollama") as server:
        reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
        body = json.dumps({"model": "smollm2"}).encode()
        chunked = b"POST /api/show HTTP/1.1\r\nhost: localhost\r\ntransfer-encoding: chunked\r\n\r\n"
        chunked += b"%x\r\n%s\r\n0\r\n\r\n" % (len(body), body)
        writer.write(chunked + b"GET /api/version HTTP/1.1\r\nhost: localhost\r\n\r\n")
        await server.wait_for_requests(2)
        assert server.requests[0].json == {"model": "smollm2"}
        assert [item.name for item in server.answered] == ["show", "version"]
        assert b"200" in await reader.readline()
        writer.close()
        await writer.wait_closed()
