"""Error mapping: transport errors, HTTP statuses, redirects and engines' error bodies become errors of miner."""

from __future__ import annotations

import asyncio
import pickle
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from typing import Any

import pytest

from miner.core.http.client import HttpClient
from miner.core.http.errors import (
    ErrorBody,
    Upstream,
    interrupted,
    map_errors,
    parse_error_body,
    retry_after_seconds,
    status_error,
)
from miner.core.http.transport_errors import ConnectError, FramingError, InvalidAddressError, ServerDisconnectedError
from miner.errors import (
    AuthenticationError,
    BackendError,
    BackendOverloadedError,
    BackendProtocolError,
    BackendTimeoutError,
    BackendUnavailableError,
    InvalidRequestError,
    MinerError,
    ModelNotFoundError,
    StreamInterruptedError,
)
from tests.core.llms.contract.test_failures import MODES
from tests.core.services import ENGINES, ask, service_at
from tests.servers.captures import capture
from tests.servers.http import RawServer, ResponseWriter

UPSTREAM = Upstream(
    backend="vllm",
    base_url="http://user:hunter2@host:1/v1",
    timeout_setting="VLLM_TIMEOUT",
    read_timeout=7.5,
    unreachable_hint="Start it, or set VLLM_API_BASE.",
    key_setting="VLLM_API_KEY",
    address_setting="VLLM_API_BASE",
)


@pytest.mark.parametrize(
    ("engine", "name", "message", "kind", "param"),
    [
        ("vllm", "err_model", "The model `no-such-model` does not exist. Valid aliases: smollm2.", "NotFoundError",
         "model"),
        ("vllm", "err_embeddings", "Not Found", None, None),
        ("vllm", "err_messages_missing", "1 validation error: {'type': 'missing', 'loc': 'body.messages', 'msg': "
         "'Field required', 'input': '<dict of 1 items>'}", "Bad Request", "body.messages"),
        ("llamacpp", "err_messages_missing", "'messages' is required", "invalid_request_error", None),
        ("ollama", "err_model", "model 'no-such-model' not found", None, None),
        ("ollama", "err_image", "Multimodal data provided, but model does not support multimodal requests.",
         "invalid_request_error", None),
    ],
)  # fmt: skip
def test_the_error_bodies_of_the_engines(engine: str, name: str, message: str, kind: str | None, param: str | None):
    body = parse_error_body(capture(engine, name).body)
    assert (body.message, body.type, body.param, body.json) == (message, kind, param, True)


def test_json_inside_the_sentence_keeps_its_numbers():
    body = parse_error_body(capture("ollama", "overflow_chat_truncate_shift_false").body)
    assert body.type == "exceed_context_size_error"
    assert (body.fields["n_prompt_tokens"], body.fields["n_ctx"]) == (9010, 4096)


@pytest.mark.parametrize(
    ("raw", "message", "is_json"),
    [
        (b'{"error":"Unauthorized"}', "Unauthorized", True),
        (b"404 page not found", "404 page not found", False),
        (b"", "", False),
        (b"\xff\xfe", "\ufffd\ufffd", False),
        (b'"just text"', "just text", True),
        (b"[1]", "[1]", True),
        (b'{"error":{"message":"a\\n  b"}}', "a b", True),
        (b'{"error":"{not json"}', "{not json", True),
        (b"<html>" + b"x" * 9000, "<html>" + "x" * 493 + "…", False),
        (b"[" * 200_000, "[" * 499 + "…", False),
    ],
)
def test_error_bodies_of_any_shape(raw: bytes, message: str, is_json: bool):
    body = parse_error_body(raw)
    assert (body.message, body.json) == (message, is_json)


def test_retry_after_as_number_as_date_and_as_nonsense():
    assert retry_after_seconds("7") == 7.0
    assert retry_after_seconds("0.5") == 0.5
    assert retry_after_seconds("-3") == 0.0
    assert retry_after_seconds(None) is None
    assert retry_after_seconds("soon") is None
    assert retry_after_seconds("nan") is None
    assert retry_after_seconds("inf") is None
    later = retry_after_seconds(format_datetime(datetime.now(UTC) + timedelta(seconds=90), usegmt=True))
    assert later is not None
    assert 60 < later <= 90
    assert retry_after_seconds("Wed, 21 Oct 2015 07:28:00 GMT") == 0.0


@pytest.mark.parametrize(
    ("status", "kind", "words", "retryable"),
    [
        (400, InvalidRequestError, ["vllm refused the request: nope"], None),
        (413, InvalidRequestError, ["nope"], None),
        (422, InvalidRequestError, ["nope"], None),
        (401, AuthenticationError, ["refused the API key (HTTP 401): nope", "Set VLLM_API_KEY"], False),
        (403, AuthenticationError, ["HTTP 403", "VLLM_API_KEY"], False),
        (404, BackendProtocolError, ["does not have this route (HTTP 404): nope", "VLLM_API_BASE"], False),
        (408, BackendTimeoutError, ["HTTP 408", "VLLM_TIMEOUT"], False),
        (504, BackendTimeoutError, ["HTTP 504", "VLLM_TIMEOUT"], False),
        (429, BackendOverloadedError, ["too many requests (HTTP 429): nope", "Try again later"], True),
        (502, BackendUnavailableError, ["is unavailable (HTTP 502)"], True),
        (503, BackendUnavailableError, ["is unavailable (HTTP 503)"], True),
        (500, BackendError, ["failed (HTTP 500): nope", "log"], False),
        (418, BackendError, ["failed (HTTP 418)"], False),
    ],
)
def test_statuses(status: int, kind: type[MinerError], words: list[str], retryable: bool | None):
    error = status_error(status, ErrorBody("nope"), UPSTREAM, retry_after=4.0)
    assert type(error) is kind
    assert [word for word in words if word not in str(error)] == []
    assert "hunter2" not in str(error)
    if isinstance(error, BackendError):
        assert (error.backend, error.base_url, error.status) == ("vllm", "http://host:1/v1", status)
        assert error.retryable is retryable
        assert "http://host:1/v1" in error.message
        assert error.retry_after == (4.0 if status in (429, 502, 503) else None)


def test_an_engine_without_a_key_is_not_said_to_refuse_one():
    """Ollama answers 403 with an empty body to a foreign Host header."""
    error = status_error(403, ErrorBody("", json=False), Upstream("ollama", "http://h:1"))
    assert "key" not in str(error)
    assert "refused access (HTTP 403)." in error.message
    assert error.operator_hint == "It may expect another Host header."


class FakeTransportError(ConnectionResetError):
    """Not of our own, but a connection's all the same."""


@pytest.mark.parametrize("receiving", [False, True])
@pytest.mark.parametrize(
    ("raised", "before", "during"),
    [
        (ServerDisconnectedError("the connection was closed"), BackendUnavailableError, StreamInterruptedError),
        (FakeTransportError("gone"), BackendUnavailableError, StreamInterruptedError),
        (TimeoutError(), BackendTimeoutError, BackendTimeoutError),
        (ConnectError("timed out"), BackendUnavailableError, BackendUnavailableError),
        (FramingError("a page"), BackendProtocolError, BackendProtocolError),
        (InvalidAddressError("x"), BackendUnavailableError, BackendUnavailableError),
    ],
)
def test_library_errors(raised: Exception, before: type[MinerError], during: type[MinerError], receiving: bool):
    with pytest.raises(during if receiving else before) as caught, map_errors(UPSTREAM, response_started=receiving):
        raise raised
    assert caught.value.__cause__ is raised
    assert "http://host:1/v1" in str(caught.value)
    assert caught.value.hints


@pytest.mark.parametrize("raised", [KeyError("a"), TypeError("b"), asyncio.CancelledError(), ModelNotFoundError("c"),
                                    RuntimeError("d"), GeneratorExit(), ZeroDivisionError()])  # fmt: skip
def test_programming_errors_cancellation_and_our_own_pass_untouched(raised: BaseException):
    with pytest.raises(type(raised)) as caught, map_errors(UPSTREAM, response_started=True):
        raise raised
    assert caught.value is raised


def test_a_read_timeout_names_its_limit_and_its_setting():
    with (
        pytest.raises(BackendTimeoutError, match=r"sent nothing for 7\.5 s .*Raise VLLM_TIMEOUT"),
        map_errors(UPSTREAM),
    ):
        raise TimeoutError
    with (
        pytest.raises(BackendTimeoutError, match=r"did not respond within 1\.5 s") as caught,
        map_errors(UPSTREAM, total=1.5),
    ):
        raise TimeoutError
    assert "VLLM_TIMEOUT" not in str(caught.value)


def all_of(value: Any) -> str:
    return f"{value} {value!r} {vars(value)}"


def test_the_errors_survive_pickling_with_all_they_carry():
    error = status_error(429, ErrorBody("full"), UPSTREAM, retry_after=2.0)
    again = pickle.loads(pickle.dumps(error))
    assert all_of(again) == all_of(error)
    assert type(again) is type(error)


# Redirects: a request goes to the configured address, with its key, or nowhere


class Redirecting(RawServer):
    """Sends everybody elsewhere."""

    status = 307
    location: str | None = None

    async def handle(self, writer: ResponseWriter) -> None:
        headers = {} if self.location is None else {"location": self.location}
        await writer.respond(self.status, b"moved", **headers)


class Target(RawServer):
    """Where nobody should come."""

    async def handle(self, writer: ResponseWriter) -> None:
        await writer.respond(200, b"{}")


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
async def test_redirects_are_not_followed_streamed_or_not(status: int):
    async with Target() as target, Redirecting() as server:
        server.status, server.location = status, f"http://user:hunter2@127.0.0.1:{target.port}/login?token=hunter2"
        upstream = Upstream("vllm", server.v1, address_setting="VLLM_API_BASE")
        client = HttpClient(upstream, api_key="s3cret")
        for _ in range(2):  # and the connection stays in order
            with pytest.raises(BackendProtocolError) as whole:
                await client.request("POST", "/chat/completions", b"{}")
            with pytest.raises(BackendProtocolError) as streamed:
                async with client.stream("/chat/completions", b"{}"):
                    pytest.fail("a stream came")
        await client.close()
        assert target.requests == []
        assert len(server.requests) == 4
        for error in (whole.value, streamed.value):
            there = f"http://127.0.0.1:{target.port} (HTTP {status})"
            assert error.message == f"vllm at {server.v1} redirects to {there}, which is not followed."
            assert error.operator_hint == "Set VLLM_API_BASE to the server's own address."
            assert error.status == status
            assert "hunter2" not in f"{error!r} {vars(error)}"


@pytest.mark.parametrize(
    ("location", "shown"),
    [
        (None, "another path"),
        ("/login?token=hunter2", "another path"),
        ("//elsewhere.example/hunter2", "elsewhere.example"),
        ("https://elsewhere.example/v1", "https://elsewhere.example"),
        ("http://[::1/hunter2", "an invalid URL"),
        (f"http://{'x' * 1000}/", "an invalid URL"),
    ],
)
async def test_the_target_of_a_redirect_is_shown_by_host_only(location: str | None, shown: str):
    async with Redirecting() as server:
        server.location = location
        client = HttpClient(Upstream("vllm", server.v1))
        with pytest.raises(BackendProtocolError, match="redirects to") as caught:
            await client.request("GET", "/models")
        await client.close()
        assert f"redirects to {shown} (HTTP 307)" in caught.value.message
        assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("engine", ENGINES)
async def test_a_service_names_its_setting(engine: str, mode: str):
    async with Redirecting() as server:
        server.location = "https://elsewhere.example/"
        async with service_at(engine, server.url, vllm_api_key="s3cret") as service:
            with pytest.raises(BackendProtocolError, match=r"https://elsewhere\.example") as caught:
                await ask(service, mode)
            assert {"vllm": "VLLM_API_BASE", "ollama": "OLLAMA_BASE_URL"}[engine] in (caught.value.operator_hint or "")
            health = await service.health()
            assert (health.state, health.hint) == ("unavailable", caught.value.hints)


def test_only_callers_in_python_are_told_of_an_attribute():
    error = interrupted("vllm ended the stream.", Upstream("vllm", "http://127.0.0.1:1/v1"))
    assert "`partial`" in str(pickle.loads(pickle.dumps(error)))
    assert "partial" not in f"{error.message} {error.hints_for_people}"
    assert "log says why" in (error.hints_for_people or "")
