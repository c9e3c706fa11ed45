"""Images of every dialect: the same list, the client's own name of the field, and nothing reaches the backend."""

from __future__ import annotations

import json

import pytest

from miner.core.llms.LLMService import LLMService
from miner.core.wire import LLMResponse
from tests.core.llms.contract.test_images import GOOD, NEVER, PIXEL, REMOTE
from tests.gateway.serving import config, post, serving

FORMS = {
    "/v1/chat/completions": "messages[1].content[0].image_url.url",
    "/v1/responses": "input[1].content[0].image_url",
    "/v1/messages": "messages[0].content[0].source.url",
    "/v1/messages/count_tokens": "messages[0].content[0].source.url",
}


class Seeing(LLMService):
    """Sees images, and remembers what it was asked."""

    def __init__(self, config):
        super().__init__(config)
        self.requests = []

    @property
    def capabilities(self):
        return frozenset({"chat", "images", "count_tokens"})

    async def _chat(self, request):
        self.requests.append(request)
        return LLMResponse(content="A dot.", finish_reason="stop")

    async def _count_tokens(self, request):
        self.requests.append(request)
        return 1


class Own(LLMService):
    """A third party's backend that has a `chat_completion` of its own: nothing of ours checks behind the gateway."""

    asked = 0

    async def chat_completion(self, messages, **_):
        self.asked += 1
        return LLMResponse(content="A dot.", finish_reason="stop")


def body(path, url):
    system, user = {"role": "system", "content": "Be brief."}, {"role": "user"}
    if path == "/v1/chat/completions":
        parts = [{"type": "image_url", "image_url": {"url": url}}]
        return {"model": "m", "messages": [system, {**user, "content": parts}]}
    if path == "/v1/responses":
        parts = [{"type": "input_image", "image_url": url}]
        return {"model": "m", "input": [system, {**user, "content": parts}]}
    parts = [{"type": "image", "source": {"type": "url", "url": url}}]
    made = {"model": "m", "system": "Be brief.", "messages": [{**user, "content": parts}]}
    return made if path.endswith("count_tokens") else {**made, "max_tokens": 9}


@pytest.mark.parametrize("kind", [Seeing, Own])
@pytest.mark.parametrize("path", FORMS)
async def test_no_url_but_those_of_the_list_passes(path, kind):
    service = kind(config(default_model="m"))
    async with serving(service) as served:
        for url in NEVER + REMOTE:
            async with post(served, body(path, url), path) as response:
                told = (await response.json())["error"]
                assert response.status == 400, (url, told)
                assert FORMS[path] in told["message"], url
                assert told.get("param") in (FORMS[path], None)
                assert PIXEL not in told["message"]
        assert not getattr(service, "requests", None)
        assert not getattr(service, "asked", 0)
    if kind is Own:
        return
    service = kind(config(default_model="m", allow_remote_images=True))
    async with serving(service) as served:
        for url in [GOOD, *REMOTE]:
            async with post(served, body(path, url), path) as response:
                assert response.status == 200, (url, await response.text())
        for url in NEVER:
            async with post(served, body(path, url), path) as response:
                assert response.status == 400, url
    assert len(service.requests) == 1 + len(REMOTE)


@pytest.mark.parametrize("stream", [False, True])
async def test_a_result_of_a_tool_has_images_too(stream):
    call = {"type": "tool_use", "id": "c1", "name": "look", "input": {}}
    image = {"type": "image", "source": {"type": "url", "url": "file:///etc/passwd"}}
    result = {"type": "tool_result", "tool_use_id": "c1", "content": [{"type": "text", "text": "x"}, image]}
    turns = [{"role": "assistant", "content": [call]}, {"role": "user", "content": [result]}]
    service = Seeing(config(default_model="m"))
    async with serving(service) as served:
        asked = {"model": "m", "max_tokens": 9, "messages": turns, "stream": stream}
        async with post(served, asked, "/v1/messages") as response:
            assert response.status == 400
            assert "messages[1].content[0].content[1].source.url" in await response.text()
    assert not service.requests


@pytest.mark.parametrize(
    ("path", "fields", "where"),
    [
        ("/v1/messages", {"max_tokens": 9, "messages": [{"role": "user", "content": [
            {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "%DATA"}}]}]},
         "messages[0].content[0].source.data"),
        ("/api/chat", {"messages": [{"role": "user", "content": "x", "images": [PIXEL, "%DATA"]}]},
         "messages[0].images[1]"),
        ("/api/generate", {"prompt": "x", "images": ["%DATA"]}, "images[0]"),
    ],
)  # fmt: skip
async def test_bare_base64_is_base64(path, fields, where):
    service = Seeing(config(default_model="m"))
    async with serving(service) as served:
        bad = ["notbase64", "%%%%", PIXEL + "\n", PIXEL[:-1], "http://example.invalid/", "file:///etc/passwd", "aG-_"]
        for data in [*bad, f"data:image/png;base64,{PIXEL}", PIXEL + "," + PIXEL]:
            raw = json.dumps({"model": "m", **fields}).replace('"%DATA"', json.dumps(data)).encode()
            async with post(served, raw, path) as response:
                assert response.status == 400, data
                assert where in await response.text()
        assert not service.requests
        raw = json.dumps({"model": "m", **fields}).replace("%DATA", PIXEL).encode()
        async with post(served, raw, path) as response:
            assert response.status == 200, await response.text()
