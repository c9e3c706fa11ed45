"""Pulling a model."""

from __future__ import annotations

from tests.gateway.apis.ollama.client import send
from tests.gateway.serving import Parrot, config, post, serving


async def test_pulling_needs_the_admin_right():
    key = "a-key-of-sixteen-characters"
    async with serving(Parrot(config()), api_keys=key) as served:
        keyless = await send(served, "/", method="HEAD")
        async with post(served, {"model": "x"}, "/api/pull", headers={"Authorization": f"Bearer {key}"}) as response:
            refused = response.status, await response.json()
    assert keyless[0] == 401
    assert refused[0] == 403
    assert list(refused[1]) == ["error"]
