"""A gateway over several backends: its concurrency is that of whoever answers, and what one cannot another does."""

from __future__ import annotations

from miner.core.llms import get_backend
from miner.core.llms.LLMService import LLMService
from tests.gateway.serving import config, post, serving
from tests.servers.openai_stub import StubServer
from tests.servers.ports import closed_port

CHAT = {"messages": [{"role": "user", "content": "Hi"}]}


class Narrow(LLMService):
    """Works on three requests at once."""

    name = "ollama"  # the name decides who rests

    @property
    def concurrency(self):
        return 3

    async def generate(self, prompt, model=None):
        return "narrow"


def chained(vllm, **given):
    settings = {"llm_fallbacks": "ollama", "max_retries": 0, "vllm_api_base": f"{vllm}/v1", **given}
    return get_backend("vllm", config(**settings))


async def test_the_concurrency_is_that_of_whoever_answers():
    service = chained(f"http://127.0.0.1:{closed_port()}")
    service._all()[1] = Narrow(service.config)
    async with serving(service) as served:
        assert served.gateway.queue.permits.limit == 256  # vLLM does not say
        for most in (256, 3):  # the first request finds out that it is down
            async with post(served, CHAT) as answer:
                assert (await answer.json())["choices"][0]["message"]["content"] == "narrow"
            assert served.gateway.queue.permits.limit == most
    fixed = chained(f"http://127.0.0.1:{closed_port()}")
    fixed._all()[1] = Narrow(fixed.config)
    async with serving(fixed, serve_max_running=5) as served:
        for _ in range(2):
            async with post(served, CHAT) as answer:
                assert answer.status == 200
            assert served.gateway.queue.permits.limit == 5


async def test_what_the_first_cannot_another_does():
    done = {"model": "m", "response": "", "done": True, "done_reason": "unload"}
    async with StubServer() as vllm, StubServer(reply=done) as ollama:
        async with serving(chained(vllm.url, ollama_base_url=ollama.url)) as served:
            async with post(served, b"", "/admin/models/m/unload") as answer:
                assert (answer.status, await answer.json()) == (200, {"model": "m", "unloaded": True})
            async with post(served, b"", "/admin/models/m/reset") as answer:
                assert answer.status == 400
        assert ollama.bodies == [{"model": "m", "keep_alive": 0, "stream": False}]
