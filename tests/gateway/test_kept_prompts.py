"""Two keys share a beginning, over swaps: nobody sees more of the other than that its tokens were there."""

from __future__ import annotations

import aiohttp
import pytest

from miner.config.config import MinerConfig
from miner.core.llms import get_backend
from tests.gateway.middleware.test_rate_limit import keys, of
from tests.gateway.serving import post, serving
from tests.tiny_model import write_tiny_model

pytestmark = pytest.mark.engine

SHARED = "You answer questions about ships and lighthouses. " * 16
SECRET = "The password of the tower is swordfish. " * 4


@pytest.fixture
def service(tmp_path, monkeypatch):
    """The models `a` and `b`, and memory for one, by a file."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    for name in "ab":
        write_tiny_model(tmp_path / f"{name}.gguf")
    (tmp_path / "miner.toml").write_text("""
        [limits]
        max_loaded = 1
        kv_cache = "64MiB"
        [backends.local]
        kind = "llamacpp"
        [defaults]
        context = 2048
        slots = 2
        threads = 1
        [models.a]
        file = "./a.gguf"
        [models.b]
        file = "./b.gguf"
        """)
    return get_backend("pool", MinerConfig(_env_file=None, config=str(tmp_path / "miner.toml")))


async def chat(served, key, model, *texts, **more):
    roles = ("system", "user", "assistant", "user")
    messages = [{"role": role, "content": text} for role, text in zip(roles, texts, strict=False)]
    body = {"model": model, "messages": messages, "max_tokens": 24, "temperature": 0, **more}
    async with post(served, body, headers=of(key)) as answer:
        assert answer.status == 200, await answer.text()
        return await answer.json()


def cached(answer):
    return answer["usage"]["prompt_tokens_details"]["cached_tokens"]


async def test_keys_share_tokens_and_no_text(service, tmp_path):
    keys(anna={}, bert={})
    async with serving(service) as served:
        own = await chat(served, "anna", "a", SHARED, SECRET)
        fresh = (await chat(served, "bert", "b", SHARED, "Hi"))["choices"][0]["message"]["content"]
        (file,) = [file for run in (tmp_path / "cache" / "miner" / "kv").iterdir() for file in run.iterdir()]
        assert (file.stat().st_mode & 0o777, file.parent.stat().st_mode & 0o777) == (0o600, 0o700)

        # The same tokens at the beginning, and a reply as if nobody else had been there.
        other = await chat(served, "bert", "a", SHARED, "Hi")
        assert other["usage"]["prompt_tokens"] - 60 <= cached(other) < other["usage"]["prompt_tokens"]
        assert other["choices"][0]["message"]["content"] == fresh
        # Whose conversation it is goes on with all of it.
        text = own["choices"][0]["message"]["content"]
        await chat(served, "bert", "b", SHARED, "Hi")
        again = await chat(served, "anna", "a", SHARED, SECRET, text, "And then?")
        assert cached(again) >= own["usage"]["prompt_tokens"]

        # A slot of the client's choice is read anew from where its prompt differs.
        chosen = await chat(served, "bert", "a", SHARED, "Hi", id_slot=0)
        assert chosen["choices"][0]["message"]["content"] == fresh

        async with aiohttp.ClientSession(headers=of("bert")) as session:
            for action in ("save", "restore", "erase"):
                for name in (file.name, "new"):
                    path = f"{served.url}/slots/0?action={action}&model=a"
                    async with session.post(path, json={"filename": name}) as answer:
                        assert answer.status in (404, 405), await answer.text()
            async with session.get(f"{served.url}/slots?model=a") as answer:
                assert "swordfish" not in await answer.text()


async def test_the_status_says_what_is_kept(service):
    async with serving(service) as served:
        async with post(served, {"model": "a", "prompt": SHARED, "max_tokens": 2}, "/v1/completions") as answer:
            assert answer.status == 200
        async with post(served, {"model": "b", "prompt": "Hi", "max_tokens": 2}, "/v1/completions") as answer:
            assert answer.status == 200
        async with aiohttp.ClientSession() as session, session.get(f"{served.url}/admin/engines") as answer:
            engines = {engine["model"]: engine for engine in (await answer.json())["engines"]}
        assert "kept: 1 prompt" in engines["a"]["kv_cache"]
