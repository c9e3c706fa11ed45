"""Speech, passed to a vLLM server that has it."""

from __future__ import annotations

import asyncio
import json

import pytest

from tests.gateway.apis.openai.client import client
from tests.gateway.serving import Parrot, config, post, serving, vllm
from tests.servers.http import RawServer, ResponseWriter

SOUND = b"RIFF\x00--" + bytes(range(256)) * 40


class Speaker(RawServer):
    """Speaks and listens as vLLM does, and remembers what it was sent."""

    async def handle(self, writer: ResponseWriter) -> None:
        path = writer.request.path
        if path == "/v1/audio/speech":
            await writer.head(200, {"content-type": "audio/wav", "transfer-encoding": "chunked"})
            for start in range(0, len(SOUND), 1000):
                await writer.piece(SOUND[start : start + 1000])
            await writer.end()
        elif path == "/v1/audio/transcriptions" and b'name="stream"' in writer.request.body:
            await writer.head(200, {"content-type": "text/event-stream", "transfer-encoding": "chunked"})
            await writer.piece(b'data: {"choices":[{"delta":{"content":"hel"}}]}\n\n')
            await asyncio.sleep(30)
        elif path == "/v1/audio/transcriptions":
            await writer.respond(200, {"text": "hello", "usage": {"type": "duration", "seconds": 1}})
        elif path == "/v1/audio/translations":
            error = {"message": "The model `m` does not exist.", "type": "NotFoundError", "param": "model", "code": 404}
            await writer.respond(404, {"error": error})
        else:
            await writer.respond(404, {"detail": "Not Found"})


async def test_speech_goes_through_as_it_is():
    async with Speaker() as engine, serving(vllm(engine)) as served, client(served) as api:
        text = await api.audio.transcriptions.create(model="m", file=("a.wav", SOUND), language="en")
        sent = engine.requests[-1]
        assert text.text == "hello"
        assert SOUND in sent.body
        assert b'name="language"' in sent.body
        assert sent.headers["content-type"].startswith("multipart/form-data; boundary=")
        spoken = await api.audio.speech.create(model="m", voice="alloy", input="Hi")
        assert spoken.content == SOUND
        assert spoken.response.headers["content-type"] == "audio/wav"
        assert engine.requests[-1].json["voice"] == "alloy"
        form = b'--x\r\nContent-Disposition: form-data; name="model"\r\n\r\nm\r\n--x--\r\n'
        kind = {"Content-Type": "multipart/form-data; boundary=x"}
        async with post(served, form, "/v1/audio/translations", headers=kind) as answer:
            assert answer.status == 404
            assert "does not exist" in await answer.text()


async def test_a_stream_is_passed_on_at_once_and_its_end_stops_the_engine():
    form = (
        b'--x\r\nContent-Disposition: form-data; name="file"; filename="a.wav"\r\n\r\nRIFF\r\n'
        b'--x\r\nContent-Disposition: form-data; name="stream"\r\n\r\ntrue\r\n--x--\r\n'
    )
    kind = {"Content-Type": "multipart/form-data; boundary=x"}
    async with Speaker() as engine, serving(vllm(engine)) as served:
        async with post(served, form, "/v1/audio/transcriptions", headers=kind) as answer:
            assert answer.content_type == "text/event-stream"
            assert b"hel" in await asyncio.wait_for(answer.content.readany(), 10)
            assert served.gateway.running
        await asyncio.wait_for(served.gateway.wait_until_idle(10), 15)


@pytest.mark.parametrize("path", ["transcriptions", "translations", "speech"])
async def test_other_backends_name_the_one_that_could(path: str):
    form = b'--x\r\nContent-Disposition: form-data; name="file"; filename="a"\r\n\r\nRIFF\r\n--x--\r\n'
    body: object = {"input": "Hi", "voice": "v"} if path == "speech" else form
    kind = {} if path == "speech" else {"Content-Type": "multipart/form-data; boundary=x"}
    async with serving(Parrot(config())) as served:
        for prefix in ("/v1", ""):
            async with post(served, body, f"{prefix}/audio/{path}", headers=kind) as answer:
                assert answer.status == 501
                assert "LLM_BACKEND=vllm" in json.loads(await answer.text())["error"]["message"]


@pytest.mark.parametrize("kind", ["application/json", "multipart/form-data", 'multipart/form-data; boundary="a;b"'])
async def test_what_is_no_form_is_refused(kind: str):
    async with (
        serving(Parrot(config())) as served,
        post(served, b"{}", "/v1/audio/transcriptions", headers={"Content-Type": kind}) as answer,
    ):
        assert answer.status == 400
