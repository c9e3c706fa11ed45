"""What real engines sent when something was wrong, and the errors that it becomes."""

from __future__ import annotations

import pytest

from miner.core.llms.LLMService import LLMService
from miner.errors import (
    AuthenticationError,
    BackendError,
    BackendOverloadedError,
    BackendProtocolError,
    BackendUnavailableError,
    ContextLengthError,
    InvalidRequestError,
    MinerError,
    ModelNotFoundError,
    StreamInterruptedError,
    UnsupportedFeatureError,
)
from tests.core.llms.contract.test_failures import CUT, MODES, UP, Faulty
from tests.core.services import ask, speaking_to
from tests.servers.captures import capture
from tests.servers.faults import Behaviour
from tests.servers.http import ResponseWriter
from tests.servers.payloads import frame, frames, is_ollama
from tests.servers.replay import ReplayServer


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(
    ("name", "kind", "words", "retryable"),
    [
        ("fault_model_garbage", BackendUnavailableError, "could not run the model: invalid file magic", False),
        ("fault_model_truncated", BackendUnavailableError, "exceeds file size", False),
        ("fault_model_truncated_stream", BackendUnavailableError, "ollama pull", False),
        ("fault_queue_full", BackendOverloadedError, "maximum pending requests exceeded", True),
        ("fault_runner_killed_nostream", BackendUnavailableError, "unexpected EOF", True),
        ("fault_server_killed_nostream", BackendUnavailableError, UP, True),
        ("err_option_type", InvalidRequestError, 'option "temperature" must be of type float32', None),
        ("err_option_stop_string", InvalidRequestError, 'option "stop" must be of type array', None),
        ("err_format", InvalidRequestError, "invalid format", None),
        ("err_schema", InvalidRequestError, "JSON schema conversion failed", None),
        ("err_image", UnsupportedFeatureError, "does not support multimodal requests", None),
        ("err_keep_alive", InvalidRequestError, "missing unit in duration", None),
        ("err_top_logprobs", InvalidRequestError, "top_logprobs must be between 0 and 20", None),
        ("err_model", ModelNotFoundError, "`ollama pull smollm2`", None),
        ("err_json", InvalidRequestError, "unexpected EOF", None),
        ("err_empty_body", InvalidRequestError, "missing request body", None),
        ("err_host", AuthenticationError, "Host header", False),
        ("unknown_path", BackendProtocolError, "OLLAMA_BASE_URL", False),
        ("chat_tools_refused", UnsupportedFeatureError, "does not support tools", None),
        ("chat_think_refused", UnsupportedFeatureError, "does not support thinking", None),
        ("chat_on_embed_model", UnsupportedFeatureError, "does not support chat", None),
        ("overflow_chat_truncate_false", ContextLengthError, "9010 tokens, the context 4096", None),
        ("overflow_chat_truncate_shift_false_stream", ContextLengthError, "OLLAMA_NUM_CTX", None),
    ],
)
async def test_what_a_genuine_ollama_said(name: str, kind: type[MinerError], words: str, retryable: bool, mode: str):
    async with ReplayServer("ollama") as server, speaking_to("ollama", server, default_model="smollm2") as service:
        server.respond_with(name, times=2)
        with pytest.raises(MinerError) as caught:
            await ask(service, mode)
        assert type(caught.value) is kind, repr(caught.value)
        assert words in str(caught.value)
        if isinstance(caught.value, BackendError):
            assert caught.value.retryable is retryable
        if isinstance(caught.value, ContextLengthError):
            assert (caught.value.prompt_tokens, caught.value.context_length) == (9010, 4096)


async def gather(service: LLMService, pieces: list[str]) -> None:
    async for chunk in service.stream("hi"):
        pieces.append(chunk.content or "")  # noqa: PERF401  (what had come before the error must be there)


@pytest.mark.parametrize(
    ("name", "words", "last"),
    [
        (
            "fault_runner_killed_stream",
            "aborted its response: an error was encountered while running the model",
            " that",
        ),
        ("fault_server_killed_stream", CUT, " the"),
        ("fault_server_stopped_stream", CUT, " sea"),
        ("cut_stream", CUT, " history"),
    ],
)
async def test_a_genuine_ollama_that_died_in_mid_stream(name: str, words: str, last: str):
    """Also what a stream without `done:true` is."""
    async with ReplayServer("ollama") as server, speaking_to("ollama", server, default_model="smollm2") as service:
        server.respond_with(name)
        pieces: list[str] = []
        with pytest.raises(StreamInterruptedError) as caught:
            await gather(service, pieces)
        assert words in str(caught.value)
        assert caught.value.partial.content == "".join(pieces)
        assert pieces[-1] == last


@pytest.mark.parametrize(
    "name", ["chat_tools_cut_stream", "chat_tools_no_call_stream", "chat_tools_unknown_name_stream"]
)
async def test_text_that_ollama_swallowed_is_no_empty_success(name: str):
    """The engine counts tokens and delivers none."""
    tools = capture("ollama", name).request["tools"]
    async with ReplayServer("ollama") as server, speaking_to("ollama", server) as service:
        server.respond_with(name)
        with pytest.raises(BackendProtocolError, match=r"lost the reply: it counted \d+ tokens and delivered none"):
            await service.stream("hi", model="smollm2-tools", tools=tools).collect()


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(
    ("name", "kind", "words"),
    [
        ("err_overflow", ContextLengthError, "at least 2049 tokens, the context 2048"),
        ("err_overflow_stream", ContextLengthError, "at least 2049 tokens, the context 2048"),
        ("err_model", ModelNotFoundError, "Valid aliases: smollm2"),
        ("err_max_tokens", InvalidRequestError, "max_tokens must be at least 1, got 0"),
        ("err_messages_missing", InvalidRequestError, "Field required"),
        ("err_schema", InvalidRequestError, "Grammar error"),
        ("err_json", InvalidRequestError, "JSON decode error"),
    ],
)
async def test_what_a_genuine_vllm_said(name: str, kind: type[MinerError], words: str, mode: str):
    async with ReplayServer("vllm") as server, speaking_to("vllm", server, default_model="smollm2") as service:
        server.respond_with(name)
        with pytest.raises(kind) as caught:
            await ask(service, mode)
        assert type(caught.value) is kind
        assert words in str(caught.value)
        if isinstance(caught.value, ContextLengthError):
            assert (caught.value.prompt_tokens, caught.value.context_length) == (2049, 2048)
        if isinstance(caught.value, InvalidRequestError):
            assert caught.value.param == capture("vllm", name).json["error"]["param"]


async def test_a_request_error_inside_a_stream_does_not_lose_the_text_before_it():
    """One read may carry both."""

    async def both(writer: ResponseWriter) -> None:
        request = writer.request
        said = {
            "message": "Context size has been exceeded. maximum context length",
            "type": "server_error",
            "code": 400,
        }
        data = b"".join([*frames(request, ["Hel", "lo"], end=False), frame(request, {"error": said})])
        assert not is_ollama(request)
        await writer.respond(200, data, content_type="text/event-stream")

    async with Faulty(Behaviour("both", both)) as server, speaking_to("vllm", server) as service:
        pieces: list[str] = []
        with pytest.raises(ContextLengthError):
            await gather(service, pieces)
        assert pieces == ["Hel", "lo"]
