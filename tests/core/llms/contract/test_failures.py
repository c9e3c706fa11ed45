"""The failure matrix: what goes wrong on the wire, and the error that says so, for calls and streams alike."""

from __future__ import annotations

import pickle
from dataclasses import dataclass
from typing import Any

import pytest

from miner.core._typing import override
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
    UnsupportedFeatureError,
)
from tests.core.services import ENGINES, ask, nothing_left, service_at, speaking_to
from tests.servers import faults
from tests.servers.faults import Behaviour, FaultServer
from tests.servers.http import ResponseWriter
from tests.servers.payloads import DONE, delta, frame, frames
from tests.servers.ports import closed_port

MODES = ("call", "stream")
ADDRESS = {"vllm": "VLLM_API_BASE", "ollama": "OLLAMA_BASE_URL"}
SILENCE = {"vllm": "VLLM_TIMEOUT", "ollama": "OLLAMA_TIMEOUT"}
SECRET = "s3cret-key"


class Faulty(FaultServer):
    """Misbehaves where text is generated only; a GET there is refused, as the engines do."""

    @override
    async def handle(self, writer: ResponseWriter) -> None:
        if writer.request.method == "GET" and writer.request.path.startswith(("/v1/chat", "/v1/emb", "/v1/rer")):
            chat = writer.request.path.startswith("/v1/chat")
            await writer.respond(405 if chat else 404, {"detail": "Method Not Allowed" if chat else "Not Found"})
            return
        await super().handle(writer)


@dataclass(frozen=True)
class Case:
    """One fault and what it must become, in calls and streams alike (a call drains a stream); a dict is by engine."""

    name: str
    behaviour: Behaviour
    kind: Any
    words: tuple[str, ...] = ()
    partial: str | None = None
    """What had arrived."""
    retryable: bool | None = None


def of(value: Any, engine: str) -> Any:
    return value[engine] if isinstance(value, dict) else value


def openai_error(status: int, text: str, kind: str = "BadRequestError", param: str | None = None) -> dict[str, Any]:
    return {"error": {"message": text, "type": kind, "param": param, "code": status}}


def aborted(texts: tuple[str, ...]) -> Behaviour:
    """A vLLM that is told to stop: status 200, finish reason "abort"."""

    async def run(writer: ResponseWriter) -> None:
        request = writer.request
        await writer.head(200, {"content-type": "text/event-stream", "transfer-encoding": "chunked"})
        for piece in frames(request, texts, end=False):
            await writer.piece(piece)
        await writer.piece(frame(request, delta(finish_reason="abort")) + DONE)
        await writer.end()

    return Behaviour("aborted", run)


def garbage_before_text(text: bytes) -> Behaviour:
    async def run(writer: ResponseWriter) -> None:
        await writer.respond(200, text, content_type="text/event-stream")

    return Behaviour("garbage", run)


def error_first(error: Any = None) -> Behaviour:
    return faults.error_in_stream(error, ())


ALL = "Hello there."
UP = "sent no response"
CUT = "incomplete response: the connection was closed"
CASES = [
    Case("reset before headers", faults.reset(), BackendUnavailableError, (UP, "log"), None, True),
    Case("reset in mid-stream", faults.reset(["Hel", "lo"]), StreamInterruptedError,
         ("incomplete response: ", "partial"), "Hello", False),
    Case("silent before headers", faults.silent(False), BackendTimeoutError,
         ("sent nothing for 0.3 s", "Raise {silence}"), None, False),
    Case("silent after headers", faults.silent_after_headers(), BackendTimeoutError, ("0.3 s", "Raise {silence}")),
    Case("silent in mid-stream", faults.silent_in_stream(), BackendTimeoutError, ("0.3 s", "Raise {silence}"), ALL),
    Case("truncated", faults.truncated(), StreamInterruptedError, (CUT,), ALL, False),
    Case("truncated in an event", faults.truncated(cut_last=9), StreamInterruptedError, (CUT,), "Hello there"),
    Case("too short", faults.too_short(), StreamInterruptedError, (CUT,)),
    Case("no end mark", faults.no_end(), StreamInterruptedError, (), ALL, False),
    Case("garbage line", faults.garbage_in_stream(), BackendProtocolError, ("JSON is malformed",), ALL, False),
    Case("nested without end", faults.garbage_in_stream(b'{"x":' * 100_000), BackendProtocolError, (), ALL),
    Case("no HTTP", faults.garbage_http(), BackendProtocolError, ("invalid response", "{address}")),
    Case("endless line", faults.endless_line(), BackendProtocolError, ("longer than",), None),
    Case("not JSON", faults.not_json(), BackendProtocolError, ("{address}",), None, False),
    Case("a page", faults.html_page(200), BackendProtocolError, ("{address}",)),
    Case("a page that looks like events", garbage_before_text(b"<html>\n\n</html>\n\n"), BackendProtocolError),
    Case("some other JSON", garbage_before_text(b'{"hello": "world"}'),
         {"vllm": BackendProtocolError, "ollama": StreamInterruptedError}),
    Case("JSON of another kind", garbage_before_text(b"[1, 2]"), BackendProtocolError),
    Case("a page with 502", faults.html_page(502), BackendUnavailableError, ("HTTP 502", "Bad Gateway"), None, True),
    Case("400", faults.status(400), InvalidRequestError, ("refused the request: status 400",)),
    Case("401", faults.status(401), AuthenticationError,
         {"vllm": ("refused the API key (HTTP 401)", "VLLM_API_KEY"), "ollama": ("refused access (HTTP 401)",)},
         None, False),
    Case("401 as vLLM says it", faults.status(401, {"error": "Unauthorized"}), AuthenticationError, ("Unauthorized",)),
    Case("403", faults.status(403, ""), AuthenticationError, ("HTTP 403",)),
    Case("404 wrong path", faults.status(404, "404 page not found"), {"vllm": UnsupportedFeatureError,
         "ollama": BackendProtocolError}, {"vllm": (), "ollama": ("does not have this route", "{address}")}),
    Case("404 unknown model", faults.status(404, {"error": "model 'smollm2' not found"}),
         {"vllm": UnsupportedFeatureError, "ollama": ModelNotFoundError},
         {"vllm": (), "ollama": ("`ollama pull smollm2`",)}),
    Case("429 with Retry-After", faults.status(429, retry_after="7"), BackendOverloadedError, ("HTTP 429",), None,
         True),
    Case("500", faults.status(500), BackendError, ("HTTP 500", "log"), None, False),
    Case("503", faults.status(503, retry_after="7"), {"vllm": BackendUnavailableError,
         "ollama": BackendOverloadedError}, ("status 503",), None, True),
    Case("504", faults.status(504), BackendTimeoutError, ("HTTP 504", "{silence}")),
    Case("error inside a stream", faults.error_in_stream(), StreamInterruptedError, (), ALL, False),
    Case("error inside a stream, and no end mark", faults.error_in_stream(done=False), StreamInterruptedError, (),
         ALL, False),
    Case("error before any text", error_first(), BackendUnavailableError, (), None, None),
]  # fmt: skip


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
async def test_faults_on_the_wire(case: Case, engine: str, mode: str, monkeypatch: pytest.MonkeyPatch):
    if case.name == "endless line":
        monkeypatch.setattr("miner.core.http.client._MAX_BODY_BYTES", 1 << 20)
        monkeypatch.setattr("miner.core.http.framing.MAX_MESSAGE_BYTES", 1 << 20)
    async with (
        Faulty(case.behaviour, everywhere=False) as server,
        speaking_to(engine, server, default_model="smollm2", timeout=0.3, vllm_api_key=SECRET) as service,
    ):
        with pytest.raises(MinerError) as caught:
            await ask(service, mode)
        error = caught.value
        assert type(error) is of(case.kind, engine), repr(error)
        for word in of(case.words, engine):
            assert word.format(silence=SILENCE[engine], address=ADDRESS[engine]) in str(error)
        assert SECRET not in f"{error} {error!r} {vars(error)}"
        if isinstance(error, BackendError):
            assert server.url in error.message
            assert (error.base_url or "").startswith(server.url)
            assert (error.backend, bool(error.hints)) == (engine, True)
            assert case.retryable is None or error.retryable is case.retryable
            arrived = error.partial.content if error.partial is not None else None
            assert arrived == case.partial
            if error.partial is not None:
                assert (error.partial.backend, error.partial.finish_reason) == (engine, None)
            assert error.retry_after == (
                7.0 if "retry_after" in case.name or "Retry" in case.name else error.retry_after
            )
        assert str(pickle.loads(pickle.dumps(error))) == str(error)
        # A connection that had served before may have been closed by then: once more, on a new one.
        sent = server.generations
        assert len(sent) == (2 if case.name == "reset before headers" else 1)
        assert all(request.nth for request in sent[:1])
        assert not any(request.nth for request in sent[1:])
        server.behaviour = faults.ok()  # and the service goes on
        assert await ask(service, mode) == ALL
    await nothing_left()


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("engine", ENGINES)
async def test_connection_refused(engine: str, mode: str):
    url = f"http://127.0.0.1:{closed_port()}"
    async with service_at(engine, url) as service:
        with pytest.raises(BackendUnavailableError) as caught:
            await ask(service, mode)
    said = str(caught.value)
    assert f"{url}{'/v1' if engine == 'vllm' else ''} cannot be reached: connection refused" in said
    if engine == "ollama":
        assert "`ollama serve`" in said
    else:
        assert "miner vllm" in said
        assert f"curl {url}/v1/models" in said
    assert ADDRESS[engine] in said
    assert caught.value.retryable
    assert caught.value.partial is None


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("engine", ENGINES)
async def test_no_such_host(engine: str, mode: str):
    async with service_at(engine, "http://no-such-host.invalid:1") as service:
        with pytest.raises(BackendUnavailableError, match="unknown host 'no-such-host"):
            await ask(service, mode)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize(
    ("behaviour", "kind"),
    [
        (faults.silent(), BackendTimeoutError),
        (faults.status(404, {"detail": "Not Found"}, everywhere=True), BackendProtocolError),
        (faults.status(404, "404 page not found", everywhere=True), BackendProtocolError),
        (faults.html_page(200, everywhere=True), BackendProtocolError),
        (faults.html_page(404, everywhere=True), BackendProtocolError),
        (faults.not_json(everywhere=True), BackendProtocolError),
        (faults.garbage_http(everywhere=True), BackendProtocolError),
        (faults.status(401, {"error": "Unauthorized"}, everywhere=True), AuthenticationError),
        (faults.status(500, everywhere=True), BackendError),
    ],
    ids=lambda item: getattr(item, "name", ""),
)
async def test_faults_before_the_request_where_models_are_asked_for(
    behaviour: Behaviour, kind: type[MinerError], engine: str, mode: str
):
    """The wrong server, or none that answers: found when the model is looked up, named with the address."""
    async with FaultServer(behaviour) as server, speaking_to(engine, server, timeout=0.3) as service:
        for given in ({}, {"model": "smollm2"}):
            with pytest.raises(MinerError) as caught:
                await ask(service, mode, **given)
            if engine == "ollama" and "model" in given and isinstance(caught.value, ModelNotFoundError):
                assert behaviour.name == "status_404"  # which /api/show says of an unknown model, too
                continue
            assert type(caught.value) is kind
            assert server.url in str(caught.value)
            if kind is BackendProtocolError:
                assert ADDRESS[engine] in str(caught.value)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("engine", ENGINES)
async def test_a_stale_connection_is_replaced_silently(engine: str, mode: str):
    """Keep-alive ends after 5 s on vLLM and llama.cpp, or although it was announced."""
    async with (
        FaultServer(faults.closes_on_reuse()) as server,
        speaking_to(engine, server, default_model="smollm2") as service,
    ):
        for _ in range(4):
            assert await ask(service, mode) == ALL
        assert service.retries == 0


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("texts", [("Hel", "lo"), ()])
async def test_an_abort_of_vllm_is_no_success(texts: tuple[str, ...], mode: str):
    """Status 200 and finish_reason "abort"."""
    async with Faulty(aborted(texts)) as server, speaking_to("vllm", server) as service:
        with pytest.raises(BackendError, match="aborted the request: it is shutting down") as caught:
            await ask(service, mode)
        assert type(caught.value) is (StreamInterruptedError if texts else BackendUnavailableError)
        assert caught.value.retryable is not bool(texts)
        if texts:
            assert caught.value.partial.content == "Hello"


ENGINE_CORE = "EngineCore encountered an issue. See stack trace (above) for the root cause."


@pytest.mark.parametrize("mode", MODES)
async def test_vllms_engine_crashed(mode: str):
    """Protocol notes, 1.3: 500, or an error object in the stream with [DONE] after it."""
    dead = openai_error(500, ENGINE_CORE, "InternalServerError")
    async with Faulty(faults.status(500, dead)) as server, speaking_to("vllm", server) as service:
        with pytest.raises(BackendUnavailableError, match="has crashed") as caught:
            await ask(service, mode)
        assert (caught.value.status, caught.value.retryable) == (500, True)
        assert "Restart the vLLM server" in str(caught.value)
        assert server.url in str(caught.value)
        server.behaviour = faults.error_in_stream(dead["error"], ("Hel", "lo"))
        with pytest.raises(StreamInterruptedError, match="has crashed") as broken:
            await ask(service, "stream")
        assert broken.value.partial.content == "Hello"
        assert not broken.value.retryable
