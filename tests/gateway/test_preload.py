"""Models that are loaded before the first request."""

from __future__ import annotations

import pytest

from miner.gateway.preload import preload
from tests.gateway.serving import Parrot, config, serving


class PromptOnly(Parrot):
    async def generate(self, prompt):
        return prompt


@pytest.mark.parametrize("kind", [Parrot, PromptOnly])
async def test_preloading_a_small_backend_ends(kind, caplog):
    async with serving(kind(config())) as served:
        served.gateway.phase = "starting"
        await preload(served.gateway)
        assert served.gateway.phase == "serving"
    assert not caplog.records
