"""HEAD where GET is served, and `/v1` routes without their `/v1`."""

from __future__ import annotations

import re

import aiohttp
import pytest

from miner.gateway.app import ROUTES
from miner.gateway.routing import with_derived
from tests.gateway.serving import Parrot, config, post, serving

USER = [{"role": "user", "content": "hi"}]
GETS = [route.path for route in with_derived(ROUTES) if route.method == "GET"]


@pytest.mark.parametrize("path", GETS)
async def test_head_has_the_status_and_headers_of_get_and_no_body(path: str):
    path = re.sub(r"\{[^}]*\}", "polly", path)
    async with (
        serving(Parrot(config(default_model="polly"))) as served,
        aiohttp.ClientSession() as session,
        session.get(served.url + path) as got,
        session.head(served.url + path) as head,
    ):
        assert (head.status, head.content_type) == (got.status, got.content_type)
        assert await head.read() == b""


BODIES = {
    "/chat/completions": {"messages": USER},
    "/responses": {"input": "hi"},
    "/messages": {"messages": USER, "max_tokens": 3},
}


@pytest.mark.parametrize("path", BODIES)
async def test_a_base_url_without_v1_works(path: str):
    async with serving(Parrot(config(default_model="polly"))) as served:
        async with post(served, {"model": "polly", **BODIES[path]}, path) as answer:
            assert answer.status == 200, await answer.text()
            assert "You said" in await answer.text()
        async with post(served, {"model": "polly"}, path) as answer:
            short = answer.status, (await answer.json()).keys()
        async with post(served, {"model": "polly"}, f"/v1{path}") as answer:
            assert short == (answer.status, (await answer.json()).keys())
        async with post(served, {"model": "polly", **BODIES[path]}, f"/v1/v1{path}") as answer:
            assert answer.status == 404


async def test_every_path_of_v1_is_served_without_it():
    table = {(route.method, route.path) for route in with_derived(ROUTES)}
    assert {(method, path.removeprefix("/v1")) for method, path in table if path.startswith("/v1/")} <= table
    assert len(table) == len(with_derived(ROUTES))


async def test_one_model_without_v1():
    async with (
        serving(Parrot(config(default_model="polly"))) as served,
        aiohttp.ClientSession() as session,
        session.get(f"{served.url}/models/polly") as answer,
    ):
        assert (answer.status, (await answer.json())["id"]) == (200, "polly")
