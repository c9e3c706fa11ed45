"""Who is told what of a failure: the client what helps it, the log the rest, nobody a secret or a prompt."""

from __future__ import annotations

import logging

import aiohttp
import pytest

from miner.core.llms.llm_vllm import VLLMService
from miner.core.llms.LLMService import LLMService
from miner.core.wire import LLMChunk
from miner.errors import (
    BackendError,
    BackendUnavailableError,
    ContextLengthError,
    InvalidRequestError,
    StreamInterruptedError,
)
from miner.gateway.auth.keys import KeyFile, key_path, write_keys
from tests.gateway.middleware.test_auth import entry, header
from tests.gateway.serving import Parrot, config, post, serving
from tests.servers.openai_stub import StubServer

PROMPT = "the secret of the prompt, which nobody but the model may read"
CHAT = {"messages": [{"role": "user", "content": PROMPT}], "model": "m", "max_tokens": 4}
PASSWORD, ENGINE_KEY, KEY = "pass-of-the-url", "key-of-the-engine", "key-of-the-client"
MINE = {"x-request-id": "mine"}


class Failing(Parrot):
    """Fails as it is told."""

    def __init__(self, config, error):
        super().__init__(config)
        self.error = error

    async def generate(self, prompt, model=None, max_tokens=512, temperature=0.7, top_p=0.95):
        raise self.error


class Breaking(LLMService):
    """The same after a piece of its answer."""

    def __init__(self, config, error):
        super().__init__(config)
        self.error = error

    @property
    def capabilities(self):
        return frozenset({"chat"})

    async def _stream(self, request):
        yield [LLMChunk(content="Hel")]
        raise self.error


async def test_a_prompt_that_is_too_long_tells_both_numbers_and_the_log_what_to_set(caplog):
    error = ContextLengthError(
        "The prompt has 5000 tokens, the context 4096 (llamacpp).", prompt_tokens=5000, context_length=4096,
        hint="Shorten the prompt.", operator_hint="Or raise LLAMACPP_CTX_SIZE.",
    )  # fmt: skip
    async with serving(Failing(config(), error)) as served, post(served, CHAT, headers=MINE) as answer:
        told = (await answer.json())["error"]
    assert told["message"] == (
        "prompt is too long: 5000 tokens > 4096 maximum. This model's maximum context length is 4096 tokens. "
        "The prompt has 5000 tokens, the context 4096 (llamacpp). Shorten the prompt."
    )
    assert told["code"] == "context_length_exceeded"
    [line] = [record.getMessage() for record in caplog.records]
    assert line == f"Request mine failed: {error}"


async def test_an_engine_that_is_down_is_named_in_the_log_alone(caplog):
    error = BackendUnavailableError(
        "vllm at http://10.1.2.3:8000/v1 cannot be reached: connection refused.",
        operator_hint="Start it with `miner vllm`, or set VLLM_API_BASE; see /var/log/vllm/now.log.",
    )
    async with serving(Failing(config(), error)) as served:
        async with post(served, CHAT, headers=MINE) as answer:
            text = await answer.text()
            assert answer.status == 503
        assert "vllm cannot be reached" in text
        for secret in ("10.1.2.3", "VLLM_API_BASE", "/var/log"):
            assert secret not in text
            assert secret in caplog.text
    assert "Request mine failed" in caplog.text


async def test_admins_read_what_the_operator_can_do():
    error = BackendUnavailableError(
        "vllm at http://10.1.2.3:8000/v1 cannot be reached.", operator_hint="Set VLLM_API_BASE."
    )
    write_keys(key_path(None), KeyFile(keys=[entry("all"), entry("boss", admin=True)]))
    async with serving(Failing(config(), error)) as served:
        for body in CHAT, {**CHAT, "stream": True}:
            async with post(served, body, headers=header("boss")) as answer:
                assert (await answer.json())["error"]["message"] == "vllm cannot be reached. Set VLLM_API_BASE."
            async with post(served, body, headers=header("all")) as answer:
                assert (await answer.json())["error"]["message"] == "vllm cannot be reached."


async def test_settings_that_a_refused_page_would_need_are_told_in_the_log(caplog):
    headers = {"Origin": "https://evil.example", **MINE}
    async with serving(Parrot(config())) as served, post(served, CHAT, headers=headers) as answer:
        assert (answer.status, "MINER_SERVE_CORS_ORIGINS" in await answer.text()) == (403, False)
    assert "Request mine failed" in caplog.text
    assert "MINER_SERVE_CORS_ORIGINS" in caplog.text


async def test_what_is_only_the_callers_mistake_is_not_logged(caplog):
    error = InvalidRequestError("temperature is not valid.", param="temperature", hint="It goes from 0 to 2.")
    async with serving(Failing(config(), error)) as served, post(served, CHAT) as answer:
        assert "It goes from 0 to 2." in await answer.text()
    assert not caplog.records


@pytest.mark.parametrize("asked", [False, True])
async def test_a_prompt_that_an_engine_quotes_is_logged_only_when_asked(asked, caplog):
    error = BackendError(f"vllm failed (HTTP 500): cannot read '{PROMPT[:40]}'\nRequest forged failed: x")
    for service in (Failing(config(), error), Breaking(config(default_model="m"), StreamInterruptedError(str(error)))):
        caplog.clear()
        body = {**CHAT, "stream": True}
        async with serving(service, serve_log_prompts=asked) as served, post(served, body, headers=MINE) as answer:
            await answer.read()
        [line] = [record.getMessage() for record in caplog.records]
        assert line.startswith("Request mine ")
        assert ("the secret" in line) is asked
        assert "\n" not in line


async def test_no_secret_in_answers_or_logs(caplog, capfd):
    caplog.set_level(logging.DEBUG)
    said = []
    async with StubServer(reply=(500, {"error": {"message": "no", "code": 500}}), api_key=ENGINE_KEY) as engine:
        address = engine.v1.replace("http://", f"http://user:{PASSWORD}@")
        nobody = f"http://user:{PASSWORD}@127.0.0.1:9/v1"
        for base, key in ((address, ENGINE_KEY), (address, f"wrong-{ENGINE_KEY}"), (nobody, ENGINE_KEY)):
            service = VLLMService(config(vllm_api_base=base, vllm_api_key=key, default_model="m", max_retries=0))
            async with serving(service, api_keys=KEY, serve_preload=True) as served:
                headers = {"Authorization": f"Bearer {KEY}"}
                for path in ("/v1/chat/completions", "/v1/messages", "/api/chat"):
                    for body in (CHAT, {**CHAT, "stream": True}):
                        async with post(served, body, path, headers=headers) as answer:
                            said += [await answer.text(), str(answer.headers)]
                async with aiohttp.ClientSession(headers=headers) as session:
                    for path in ("/readyz", "/metrics", "/v1/models", "/api/tags"):
                        async with session.get(served.url + path) as answer:
                            said += [await answer.text(), str(answer.headers)]
    captured = capfd.readouterr()
    everything = "\n".join([*said, caplog.text, captured.out, captured.err])
    assert "Request " in everything
    assert "POST /v1/chat/completions" in caplog.text
    for secret in (PASSWORD, ENGINE_KEY, KEY, PROMPT[:20]):
        assert secret not in everything


@pytest.mark.parametrize("keys", [KEY, None])
async def test_ready_tells_where_the_engine_is_to_admins_alone(keys):
    service = VLLMService(config(vllm_api_base="http://127.0.0.1:9/v1", default_model="m", max_retries=0))
    async with (
        serving(service, api_keys=keys) as served,
        aiohttp.ClientSession(headers={"x-api-key": KEY}) as session,
        session.get(f"{served.url}/readyz") as answer,
    ):
        reason = (await answer.json())["reason"]
    assert reason.startswith("vllm")
    for place in ("127.0.0.1", "VLLM_API_BASE"):
        assert (place in reason) is (keys is None)
