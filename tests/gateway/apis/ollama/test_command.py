"""The requests of Ollama's own command, with every field that its Go structs write, empty ones too."""

from __future__ import annotations

import re

import pytest

from tests.gateway.apis.ollama.client import send
from tests.gateway.apis.ollama.test_models import demo
from tests.gateway.serving import serving

SHOW = {"system": "", "template": "", "verbose": False, "options": None, "name": ""}
EMPTY = {"prompt": "", "suffix": "", "system": "", "template": "", "options": None}
CREATE = {"name": ""}
RFC3339 = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z")


@pytest.mark.engine
async def test_run_with_set_and_save(tmp_path):
    options = {"temperature": 0, "num_predict": 4, "stop": ["</s>"]}
    said = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hi"}]
    async with serving(demo(tmp_path)) as served:
        [shown] = (await send(served, "/api/show", {"model": "demo", **SHOW}))[2]
        [loaded] = (await send(served, "/api/generate", {"model": "demo", **EMPTY, "keep_alive": "5m0s"}))[2]
        chat = {"model": "demo", "messages": said, "options": options, "keep_alive": "5m0s"}
        lines = (await send(served, "/api/chat", chat))[2]
        answer = {"role": "assistant", "content": "".join(line["message"]["content"] for line in lines)}
        save = {"model": "mine", "from": shown["details"]["parent_model"] or "demo", "parameters": options,
                "system": "Be brief.", "messages": [*said[1:], answer], **CREATE}  # fmt: skip
        saved = (await send(served, "/api/create", save))[2]
        [again] = (await send(served, "/api/show", {"model": "mine", **SHOW}))[2]
        [ready] = (await send(served, "/api/generate", {"model": "mine", **EMPTY}))[2]
        more = [*again["messages"], {"role": "user", "content": "And?"}]
        last = (await send(served, "/api/chat", {"model": "mine", "messages": more, "options": {}}))[2][-1]
        piped = (await send(served, "/api/generate", {**EMPTY, "model": "mine", "prompt": "Hi", "options": {}}))[2][-1]
        [listed] = (await send(served, "/api/tags", method="GET"))[2]
        [running] = (await send(served, "/api/ps", method="GET"))[2]
        [stopped] = (await send(served, "/api/generate", {"model": "mine", **EMPTY, "keep_alive": 0}))[2]
        removed = await send(served, "/api/delete", {"model": "", "name": "mine"}, "DELETE")
        gone = await send(served, "/api/show", {"model": "mine", **SHOW})
    assert (loaded["done_reason"], ready["done_reason"], stopped["done_reason"]) == ("load", "load", "unload")
    assert lines[-1]["done"]
    assert saved[-1] == {"status": "success"}
    assert again["messages"] == save["messages"]
    assert again["system"] == "Be brief."
    assert {line.split(maxsplit=1)[0] for line in again["parameters"].splitlines()} == set(options)
    assert (last["eval_count"], piped["eval_count"]) == (4, 4)
    assert piped["context"]
    for model in listed["models"]:
        assert RFC3339.fullmatch(model["modified_at"])
        assert len(model["digest"]) == 64
        assert model["size"] > 0
    for model in running["models"]:
        assert RFC3339.fullmatch(model["expires_at"])
        assert len(model["digest"]) == 64
    assert removed[0] == 200
    assert gone[0] == 404


@pytest.mark.engine
async def test_options_of_llama_cpp_alone_reach_it(tmp_path):
    options = {"num_predict": 2, "typical_p": 0.9, "mirostat": 1, "repeat_last_n": 32, "penalize_newline": True}
    body = {"model": "demo", "messages": [{"role": "user", "content": "Hi"}], "options": options}
    async with serving(demo(tmp_path)) as served:
        status, headers, lines = await send(served, "/api/chat", body)
    assert status == 200
    assert lines[-1]["done"]
    assert headers["X-Miner-Ignored-Params"] == "options.penalize_newline"
