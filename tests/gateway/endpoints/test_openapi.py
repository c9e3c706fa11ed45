"""Random requests by our own OpenAPI document, and random bodies: no 500, and the server lives on."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from contextlib import asynccontextmanager

import aiohttp
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from miner.core.llms.contract.audio import AudioReply
from miner.core.llms.contract.native import NativeBatch
from miner.core.wire import LLMChunk, ModelInfo, RerankResponse, RerankResult, TokenUsage
from tests.fuzzing import examples
from tests.gateway.serving import Parrot, alive, config, serving

WAIT = 30


class Able(Parrot):
    """Can what only some backends can, so that no 501 is meant."""

    @property
    def capabilities(self):
        return super().capabilities | {"count_tokens", "rerank"}

    async def _rerank(self, query, documents, model, top_n):
        return RerankResponse(results=[RerankResult(place, 1.0) for place in range(len(documents))])

    async def load_model(self, model=None, *, keep_alive=None):
        return ModelInfo(id=model)

    async def unload_model(self, model):
        return False

    def reset_model(self, model):
        pass

    async def pull_model(self, model, *, insecure=False):
        yield {"status": "success"}

    @asynccontextmanager
    async def audio(self, path, body, content_type, model=None):
        pieces = [b"", b"{}"]

        async def read_some():
            return pieces.pop()

        yield AudioReply("application/json", read_some)

    async def native(self, path, body=None, model=None):
        return b"[]" if path in ("/slots", "/lora-adapters") else b"{}"

    async def native_stream(self, path, body, model=None):
        yield NativeBatch([b"{}"], LLMChunk(content="a", usage=TokenUsage(1, 1, 2)))

    async def create_model(self, name, recipe):
        yield {"status": "success"}

    async def copy_model(self, source, destination):
        pass

    async def delete_model(self, model):
        pass

    async def has_blob(self, digest):
        return True

    async def add_blob(self, digest, content):
        return bool([part async for part in content])

    async def _count_tokens(self, request):
        return 1


@pytest.mark.process
async def test_random_requests_by_our_own_document(tmp_path):
    async with serving(Able(config(default_model="m"))) as served:
        process = await asyncio.to_thread(
            subprocess.run,
            [
                sys.executable, "-m", "schemathesis.cli", "run", f"{served.url}/openapi.json", "--max-examples",
                str(examples(4, 20)), "--checks", "not_a_server_error,status_code_conformance,content_type_conformance",
                "--seed", "1", "--no-color",
            ],
            capture_output=True, text=True, timeout=300, check=False, cwd=tmp_path,
        )  # fmt: skip
        assert await alive(served)
    assert process.returncode == 0, process.stdout[-3000:]


values = st.recursive(
    st.none() | st.booleans() | st.integers(-5, 5) | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)
fields = st.sampled_from(
    "model max_tokens temperature top_p n stream stream_options stop seed logit_bias tools tool_choice response_format "
    "logprobs top_logprobs reasoning_effort metadata input text instructions prompt suffix timeout keep_alive options "
    "format images think system thinking stop_sequences query documents top_n raw template context dimensions".split()
)
message = st.fixed_dictionaries(
    {"role": st.sampled_from(["system", "user", "assistant", "tool", "developer", "function", "x"]), "content": values},
    optional={"name": values, "tool_calls": values, "tool_call_id": values, "refusal": values},
)


@pytest.fixture
def able():
    """One server for all examples, and the loop it runs in."""
    with asyncio.Runner() as runner:
        context = serving(Able(config(default_model="m")))
        served = runner.run(context.__aenter__())
        yield runner, served
        runner.run(context.__aexit__(None, None, None))


@settings(max_examples=examples(100, 300), suppress_health_check=list(HealthCheck))
@given(
    path=st.sampled_from(
        "v1/chat/completions v1/completions v1/responses v1/embeddings v1/rerank v1/messages v1/messages/count_tokens "
        "api/chat api/generate api/embed api/embeddings api/show".split()
    ),
    messages=st.lists(message, max_size=3),
    extra=st.dictionaries(fields, values, max_size=4),
)
def test_random_bodies_never_break_the_server(able, path, messages, extra):
    chat = {"model": "m", "messages": messages}
    base = {
        "v1/chat/completions": chat, "v1/messages": {**chat, "max_tokens": 4}, "v1/messages/count_tokens": chat,
        "api/chat": chat, "v1/responses": {"input": messages}, "v1/rerank": {"query": "x", "documents": ["y"]},
        "v1/embeddings": {"input": "x"}, "api/embed": {"model": "m", "input": "x"}, "api/show": {"model": "m"},
    }  # fmt: skip

    runner, served = able

    async def ask():
        async with aiohttp.ClientSession() as session:
            body = base.get(path, {"model": "m", "prompt": "x"}) | extra
            async with session.post(f"{served.url}/{path}", json=body) as response:
                text = await response.text()
                assert response.status in (200, 400, 404), text
                assert "Traceback" not in text
                if response.status != 200:
                    told = json.loads(text)["error"]
                    assert told if path.startswith("api/") else told["message"]

    runner.run(asyncio.wait_for(ask(), WAIT))
