"""A request on its way: its model is looked up once, and the request itself is not changed."""

from __future__ import annotations

from typing import Any

import pytest
from msgspec.structs import replace

from miner.core.llms.contract.capabilities import forget, without_ignored
from miner.core.llms.contract.request import build_request
from miner.core.wire import ModelInfo
from tests.core.llms.test_fallback import chained
from tests.core.services import ENGINES, MESSAGES, read, speaking_to
from tests.servers.openai_stub import StubServer


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("options", [{}, {"reasoning": False}, {"response_format": {"type": "json_object"}}])
async def test_a_request_looks_its_model_up_once(engine: str, options: dict[str, Any], monkeypatch):
    async with StubServer(reply="{}") as server, speaking_to(engine, server, default_model="m") as service:
        calls: list[str] = []
        get_model = service._get_model

        async def counted(name: str) -> Any:
            calls.append(name)
            return await get_model(name)

        monkeypatch.setattr(service, "_get_model", counted)
        for send in (
            lambda: service.generate("hi", **options),
            lambda: service.chat_completion(MESSAGES, **options),
            lambda: read(service.stream("hi", **options)),
        ):
            calls.clear()
            await send()
            assert calls == ["m"]


def test_copies_share_what_is_found_out_and_the_request_stays_as_it_was():
    request = build_request(
        prompt="x", max_tokens=1, temperature=0, top_p=1, unsupported="ignore", options={"seed": 3, "stop": "x"}
    )
    lesser = forget(request, "seed")
    assert (request.seed, lesser.seed, lesser.stop) == (3, None, ["x"])
    assert request.resolution.ignored == lesser.resolution.ignored == ["seed"]
    assert without_ignored(request) == lesser
    lesser.resolution.model = ModelInfo(id="m")
    assert replace(request, model="m").resolution.model is not None
    with pytest.raises(AttributeError, match="immutable"):
        request.seed = 4  # type: ignore[misc]


async def test_a_fallback_looks_it_up_once_too(monkeypatch: pytest.MonkeyPatch):
    async with StubServer() as server, chained(None, server) as service:
        await service.generate("hi")
        calls: list[str] = []
        ollama = service._all()[1]
        get_model = ollama._get_model

        async def counted(name: str) -> Any:
            calls.append(name)
            return await get_model(name)

        monkeypatch.setattr(ollama, "_get_model", counted)
        await service.generate("hi", model="m")
        await read(service.stream("hi", model="m"))
        assert calls == ["m", "m"]
