"""Which URLs of images reach an engine: the list holds however a URL is spelled."""

from __future__ import annotations

import base64
from typing import Any

import pytest

from miner.core.llms.contract.images import checked_image_url, is_base64
from miner.core.wire import ImagePart, ImageURL, Message, TextPart
from miner.errors import InvalidRequestError
from tests.core.services import PlainService, service_at, settings
from tests.servers.openai_stub import StubServer

PIXEL = base64.b64encode(b"\x89PNG\r\n\x1a\n" + bytes(16)).decode()
GOOD = f"data:image/png;base64,{PIXEL}"
REMOTE = ["http://169.254.169.254/", "HTTP://169.254.169.254/", "hTTps://example.invalid/a.png", "http://[::1]/a"]
NEVER = [
    " http://example.invalid/a", "http://example.invalid/a ", "\thttp://example.invalid/", "\nhttp://example.invalid/",
    "ht\ttp://example.invalid/", "http:\n//example.invalid/", "http://exa\nmple.invalid/", "\x00http://example.invalid/",
    "\u00a0http://example.invalid/", "http:/\\example.invalid/", "http:\\\\example.invalid/", "http:example.invalid",
    "http:///a", "http://", "http://?a", "http://:80/", "http://@host/", "//example.invalid/a", "/etc/passwd", "a.png",
    "file:///etc/passwd", "FILE:///etc/passwd", "file:/etc/passwd", "ftp://example.invalid/a", "gopher://x/", "blob:x",
    "javascript:alert(1)", "jar:http://example.invalid/", "url:http://example.invalid/", "",
    "data:text/html,x", "data:text/html;base64,aGk=", "data:image/png,raw", "data:image/png", "data:,", "data:",
    "data:image/;base64,aGk=", "data:image/png;charset=x;base64,aGk=", " data:image/png;base64,aGk=", "aGk=",
    "data:image/png;base64,", "data:image/png;base64,%%%", "data:image/png;base64,notbase64", "data:image/png;base64,a",
    "data:image/png;base64,aGk=\n", "data:image/png;base64,aG k=", "data:image/png;base64,aGk=aGk=",
    "data:image/png;base64,====", "data:image/png;base64,\u00e9\u00e9\u00e9\u00e9", "data:image/png;base64,aG-_",
    "data:image/p ng;base64,aGk=", "data:image/png\n;base64,aGk=",
]  # fmt: skip
WHERE = "messages[1].content[1].image_url.url"


class Seeing(PlainService):
    """A server whose models see images."""

    features = PlainService.features | {"images"}


def conversation(url: str) -> list[Any]:
    parts = [{"type": "text", "text": "What?"}, {"type": "image_url", "image_url": {"url": url}}]
    return [{"role": "system", "content": "Be brief."}, {"role": "user", "content": parts}]


@pytest.mark.parametrize("allow", [False, True])
async def test_the_list_holds_for_every_verb_of_the_library(allow):
    engine = StubServer()
    async with engine:
        service = Seeing(settings(vllm_api_base=engine.v1, allow_remote_images=allow, default_model="m"))
        for url in NEVER + ([] if allow else REMOTE):
            with pytest.raises(InvalidRequestError) as refused:
                await service.chat_completion(conversation(url))
            assert refused.value.param == WHERE, url
            with pytest.raises(InvalidRequestError):
                await service.stream(messages=conversation(url)).collect()
        struct = Message(role="user", content=[TextPart("What?"), ImagePart(ImageURL("file:///etc/passwd"))])
        with pytest.raises(InvalidRequestError):
            await service.chat_completion([struct])
        assert not engine.bodies
        for url in [GOOD, *(REMOTE if allow else [])]:
            await service.chat_completion(conversation(url))
            sent = engine.bodies[-1]["messages"][1]["content"][1]["image_url"]["url"]
            scheme = url.partition(":")[0]
            assert sent == scheme.lower() + url[len(scheme) :]  # engines compare the scheme as it is written
        await service.aclose()


async def test_the_data_of_an_image_goes_to_ollama_as_it_came():
    shown = {"capabilities": ["completion", "vision"], "details": {}, "model_info": {}}
    async with StubServer(capabilities=["completion", "vision"], side={"/api/show": shown}) as engine:
        service = service_at("ollama", engine.url)
        async with service:
            await service.chat_completion(conversation(f"DATA:image/PNG;base64,{PIXEL}"), model="m")
    assert engine.bodies[-1]["messages"][1]["images"] == [PIXEL]


def test_base64_is_told_without_decoding_it():
    for length in range(200):
        text = base64.b64encode(bytes(range(length))).decode()
        assert is_base64(text) is bool(text)
        assert not is_base64(text + "A")
    big = base64.b64encode(bytes(3_000_000)).decode()
    assert is_base64(big)
    for place in (0, 1_048_575, 1_048_576, len(big) - 3):
        assert not is_base64(big[:place] + "-" + big[place + 1 :])
    assert checked_image_url(f"Data:Image/Png;Base64,{PIXEL}", "x") == (GOOD, False)
