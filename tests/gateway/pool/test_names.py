"""The models of a table by all their names, in all dialects."""

from __future__ import annotations

import pytest

from tests.gateway.pool.tables import serving_table
from tests.servers.openai_stub import StubServer

MESSAGES = [{"role": "user", "content": "Hi"}]


def table(big, small):
    return f"""
        [defaults]
        model = "small"
        [backends.one]
        kind = "vllm"
        url = "{big.url}"
        [backends.two]
        kind = "openai"
        url = "{small.url}"
        [models.big]
        backend = "one"
        name = "Inner/Big"
        aliases = ["claude-opus-4", "claude-*", "models/big.gguf"]
        description = "The big one."
        [models.small]
        backend = "two"
        name = "inner-small"
        aliases = ["gpt-4o-mini"]
        [models.hidden]
        backend = "two"
        name = "inner-hidden"
        listed = false
        """


@pytest.fixture
async def served(tmp_path):
    async with (
        StubServer(models=["Inner/Big"], reply="Big.") as big,
        StubServer(models=["inner-small", "inner-hidden"], reply="Small.") as small,
        serving_table(tmp_path, table(big, small)) as client,
    ):
        client.big, client.small = big, small
        yield client


@pytest.mark.parametrize("name", ["big", "BIG", "claude-opus-4", "claude-haiku-99", "models/big.gguf", "big:latest"])
@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1/chat/completions", {"messages": MESSAGES}),
        ("/v1/completions", {"prompt": "Hi"}),
        ("/v1/responses", {"input": "Hi"}),
        ("/v1/messages", {"messages": MESSAGES, "max_tokens": 5}),
        ("/api/chat", {"messages": MESSAGES, "stream": False}),
        ("/api/generate", {"prompt": "Hi", "stream": False}),
        ("/v1/embeddings", {"input": "Hi"}),
        ("/embeddings", {"input": "Hi"}),
        ("/completions", {"prompt": "Hi"}),
        ("/v1/messages/count_tokens", {"messages": MESSAGES}),
    ],
)
async def test_a_model_is_served_by_each_of_its_names(served, path, body, name):
    status, answer, _ = await served.ask(path, {"model": name, **body})
    assert status == 200, answer
    if "model" in answer and not path.startswith("/api"):
        assert answer["model"] == "big"
    assert not served.small.generations
    assert all(sent["model"] == "Inner/Big" for sent in served.big.bodies)


async def test_a_request_without_a_name_gets_the_default_of_the_table(served):
    for path, body in (
        ("/v1/chat/completions", {"messages": MESSAGES}), ("/v1/responses", {"input": "Hi"}),
        ("/v1/completions", {"prompt": "Hi"}),
    ):  # fmt: skip
        status, answer, headers = await served.ask(path, body)
        assert (status, answer["model"], headers["X-Miner-Model"]) == (200, "small", "small")
    assert {sent["model"] for sent in served.small.bodies} == {"inner-small"}


async def test_lists_show_what_is_listed_with_its_description(served):
    listed = (await served.get("/v1/models"))["data"]
    assert [model["id"] for model in listed] == ["small", "big", "gpt-4o-mini", "models/big.gguf", "claude-opus-4"]
    assert [model.get("description") for model in listed[:2]] == [None, "The big one."]
    assert [model["owned_by"] for model in listed[:2]] == ["two", "one"]
    assert {model["name"] for model in (await served.get("/api/tags"))["models"]} == {"small", "big"}
    anthropic = await served.get("/v1/models", **{"anthropic-version": "2023-06-01"})
    assert "hidden" not in {model["id"] for model in anthropic["data"]}


async def test_what_is_not_listed_is_served_all_the_same(served):
    status, answer, _ = await served.chat("hidden")
    assert (status, answer["model"]) == (200, "hidden")
    assert (await served.get("/v1/models/hidden"))["id"] == "hidden"
    status, answer, _ = await served.ask("/api/show", {"model": "hidden"})
    assert status == 200


async def test_wildcards_and_aliases_can_be_shown(served):
    assert (await served.get("/v1/models/claude-anything"))["id"] == "big"
    assert (await served.get("/v1/models/gpt-4o-mini"))["id"] == "gpt-4o-mini"
    status, answer, _ = await served.ask("/api/show", {"model": "claude-anything"})
    assert (status, answer["model_info"]["general.architecture"]) == (200, "unknown")


@pytest.mark.parametrize("name", ["other", "/etc/passwd", "../x.gguf", "Inner/Big"])
async def test_what_the_table_does_not_name_is_a_404(served, name):
    status, answer, _ = await served.chat(name)
    assert status == 404
    assert "Available: " in answer["error"]["message"]
    assert "hidden" not in answer["error"]["message"]
    assert not served.big.generations
    assert not served.small.generations


async def test_exposed_models_have_their_own_names(tmp_path):
    async with StubServer(models=["a", "b"], reply="Hi.") as server:
        text = f'[backends.one]\nkind = "openai"\nurl = "{server.url}"\nexpose = true\n[models.mine]\nname = "a"\n'
        async with serving_table(tmp_path, text) as client:
            assert [model["id"] for model in (await client.get("/v1/models"))["data"]] == ["mine", "a", "b"]
            status, answer, _ = await client.chat("b")
            assert (status, answer["model"]) == (200, "b")


async def test_sound_goes_to_the_backend_of_the_model_that_the_body_names(tmp_path):
    async with StubServer(models=["whisper"], reply={"text": "Hello."}) as server, StubServer(models=["chat"]) as other:
        text = f"""
            [backends.chat]
            kind = "vllm"
            url = "{other.url}"
            [backends.sound]
            kind = "vllm"
            url = "{server.url}"
            [models.talk]
            backend = "chat"
            name = "chat"
            [models.ears]
            backend = "sound"
            name = "whisper"
            """
        async with serving_table(tmp_path, text) as client:
            status, answer, _ = await client.ask("/v1/audio/speech", {"model": "ears", "input": "Hi", "voice": "x"})
            assert status == 200, answer
            assert server.bodies == [{"model": "whisper", "input": "Hi", "voice": "x"}]
            form = b'--x\r\nContent-Disposition: form-data; name="file"; filename="a.wav"\r\n\r\nRIFF\r\n--x\r\n'
            form += b'Content-Disposition: form-data; name="model"\r\n\r\nears\r\n--x--\r\n'
            async with client.session.post(
                f"{client.served.v1}/audio/transcriptions",
                data=form,
                headers={"Content-Type": "multipart/form-data; boundary=x"},
            ) as answer:
                assert answer.status == 200
            assert server.generations[-1].body == form.replace(b"\r\n\r\nears\r\n", b"\r\n\r\nwhisper\r\n")
            status, _, _ = await client.ask("/v1/audio/speech", {"model": "nobody", "input": "Hi"})
            assert status == 404
            assert not other.generations
