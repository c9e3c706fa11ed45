"""Error mapping: from what the HTTP library raises and what engines say to errors of miner."""

from __future__ import annotations

import asyncio
import pickle
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from typing import Any

import pytest

from miner.core.http.errors import (
    ErrorBody,
    Upstream,
    map_errors,
    parse_error_body,
    retry_after_seconds,
    status_error,
)
from miner.core.http.framing import FramingError
from miner.core.http.http1 import ServerDisconnectedError
from miner.core.http.transport_errors import ConnectError, InvalidAddressError
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
from tests.servers.captures import capture

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
        (401, AuthenticationError, ["refused our key (HTTP 401): nope", "Set VLLM_API_KEY"], False),
        (403, AuthenticationError, ["HTTP 403", "VLLM_API_KEY"], False),
        (404, BackendProtocolError, ["does not have that path (HTTP 404): nope", "VLLM_API_BASE"], False),
        (408, BackendTimeoutError, ["HTTP 408", "VLLM_TIMEOUT"], False),
        (504, BackendTimeoutError, ["HTTP 504", "VLLM_TIMEOUT"], False),
        (429, BackendOverloadedError, ["too many requests (HTTP 429): nope", "Try again later"], True),
        (502, BackendUnavailableError, ["cannot serve now (HTTP 502)"], True),
        (503, BackendUnavailableError, ["cannot serve now (HTTP 503)"], True),
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
    """Ollama answers 403 with an empty body to a foreign Host header (protocol notes, 3.1)."""
    error = status_error(403, ErrorBody("", json=False), Upstream("ollama", "http://h:1"))
    assert "key" not in str(error)
    assert "refused us (HTTP 403)." in error.message
    assert error.hint == "Does it expect another Host header?"


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
    with pytest.raises(during if receiving else before) as caught, map_errors(UPSTREAM, receiving=receiving):
        raise raised
    assert caught.value.__cause__ is raised
    assert "http://host:1/v1" in str(caught.value)
    assert caught.value.hint


@pytest.mark.parametrize("raised", [KeyError("a"), TypeError("b"), asyncio.CancelledError(), ModelNotFoundError("c"),
                                    RuntimeError("d"), GeneratorExit(), ZeroDivisionError()])  # fmt: skip
def test_programming_errors_cancellation_and_our_own_pass_untouched(raised: BaseException):
    with pytest.raises(type(raised)) as caught, map_errors(UPSTREAM, receiving=True):
        raise raised
    assert caught.value is raised


def test_silence_is_told_with_its_bound_and_its_setting():
    with (
        pytest.raises(BackendTimeoutError, match=r"silent for more than 7\.5 s\. Raise VLLM_TIMEOUT"),
        map_errors(UPSTREAM),
    ):
        raise TimeoutError
    with (
        pytest.raises(BackendTimeoutError, match=r"did not answer within 1\.5 s") as caught,
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
