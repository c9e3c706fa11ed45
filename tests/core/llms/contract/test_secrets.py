"""Keys and passwords are sent, and shown nowhere: not in errors or their causes, not in reprs, not in the log."""

from __future__ import annotations

import logging
import pickle
import traceback
from typing import Any

import pytest

from miner.core.llms import get_backend
from miner.core.llms.LLMService import LLMService
from miner.errors import MinerError
from tests.core.llms.contract.test_failures import MODES, Faulty
from tests.core.services import ENGINES, ask, service_at, settings
from tests.servers import faults
from tests.servers.openai_stub import StubServer
from tests.servers.ports import closed_port

KEY, PASSWORD, BASIC = "s3cret-key", "hunter2", "dXNlcjpodW50ZXIy"
SECRETS = (KEY, PASSWORD, BASIC)


def with_password(url: str) -> str:
    return url.replace("//", f"//user:{PASSWORD}@")


def shown(error: BaseException | None) -> str:
    """All that a log, a traceback or a debugger's listing shows of an error and its causes."""
    text = ""
    while error is not None:
        text += "".join(traceback.format_exception(error)) + f"{error!r} {error.args!r} {vars(error)!r}"
        error = error.__cause__ or error.__context__
    return text


def leaked(text: str) -> list[str]:
    return [secret for secret in SECRETS if secret in text]


FAULTS = [
    faults.status(400), faults.status(401), faults.status(404, "nope"), faults.status(429), faults.status(500),
    faults.status(503), faults.reset(), faults.truncated(), faults.garbage_http(), faults.garbage_in_stream(),
    faults.not_json(), faults.silent(False), faults.error_in_stream(), faults.too_short(), faults.html_page(),
]  # fmt: skip


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("fault", FAULTS, ids=lambda item: item.name)
async def test_no_error_shows_a_key_or_a_password(
    fault: faults.Behaviour, engine: str, mode: str, caplog: pytest.LogCaptureFixture
):
    caplog.set_level(logging.DEBUG)
    async with Faulty(fault, everywhere=False) as server:
        for url, key in ((server.url, KEY), (with_password(server.url), None)):
            async with service_at(engine, url, vllm_api_key=key, default_model="smollm2", timeout=0.2) as service:
                with pytest.raises(MinerError) as caught:
                    await ask(service, mode)
                assert leaked(shown(caught.value)) == []
                assert leaked(repr(pickle.dumps(caught.value))) == []
                assert leaked(str(await service.health())) == []
                client: Any = service._http()  # type: ignore[attr-defined]
                assert leaked(f"{service!r} {client!r} {client.upstream!r}") == []
        if engine == "vllm":  # and they were sent
            sent = {request.headers["authorization"] for request in server.generations}
            assert sent == {f"Bearer {KEY}", f"Basic {BASIC}"}
    assert leaked(caplog.text) == []


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("engine", ENGINES)
async def test_nobody_there_and_all_hints(engine: str, mode: str):
    async with service_at(engine, with_password(f"http://127.0.0.1:{closed_port()}"), vllm_api_key=KEY) as service:
        with pytest.raises(MinerError) as caught:
            await ask(service, mode)
        assert leaked(shown(caught.value)) == []
        assert "http://127.0.0.1:" in str(caught.value)
        assert leaked(str(await service.health())) == []


async def test_retries_and_fallbacks_log_without_them(caplog: pytest.LogCaptureFixture):
    caplog.set_level(logging.DEBUG)
    async with Faulty(faults.status(503)) as first, StubServer() as second:
        config = settings(
            llm_backend="vllm", llm_fallbacks="ollama", max_retries=1, vllm_api_key=KEY,
            vllm_api_base=with_password(first.v1), ollama_base_url=with_password(second.url), default_model="smollm2",
        )  # fmt: skip
        async with get_backend(None, config) as service:
            with pytest.raises(MinerError) as caught:
                await service.generate("hi", model="nobody")
            assert leaked(shown(caught.value)) == []
            second.models.append("smollm2")
            assert await service.generate("hi") == "Hello there."
    assert "Retrying in" in caplog.text
    assert "In cooldown" in caplog.text
    assert leaked(caplog.text) == []


async def test_a_wrong_model_and_a_wrong_server():
    async with StubServer() as server:
        services: list[Any] = [service_at(engine, with_password(server.url)) for engine in ENGINES]
        wrong = service_at("vllm", with_password(server.url + "/nowhere"))

        async def failing(service: LLMService) -> str:
            with pytest.raises(MinerError) as caught:
                await service.generate("hi", model="nobody")
            await service.aclose()
            return shown(caught.value)

        for service in [*services, wrong]:
            text = await failing(service)
            assert leaked(text) == []
            assert server.url in text


def test_plain_text_keys_of_foreign_settings_are_taken_too():
    from miner.core.llms.llm_vllm import VLLMService

    class Foreign:
        vllm_api_key = KEY
        vllm_api_base = "http://localhost:1/v1"

    endpoint = VLLMService(Foreign()).endpoint()
    assert endpoint.api_key == KEY
    assert leaked(repr(endpoint)) == []
