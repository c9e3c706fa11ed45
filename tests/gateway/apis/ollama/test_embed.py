"""Embeddings, one and several."""

from __future__ import annotations

import ollama
import pytest

from tests.gateway.apis.ollama.client import Loader
from tests.gateway.serving import serving


async def test_embeddings():
    async with serving(Loader()) as served:
        api = ollama.AsyncClient(served.url)
        async with api:
            made = await api.embed("small", ["one", "three"], truncate=False, dimensions=3)
            one = await api.embed("small", "one")
            old = await api.embeddings("small", "four")
            none = await api.embed("small", [])
            with pytest.raises(ollama.ResponseError, match=r"input\[1\]") as caught:
                await api.embed("small", ["one", ""])
            short = await api.embed("small", "one", dimensions=2)
            with pytest.raises(ollama.ResponseError, match="dimensions"):
                await api.embed("small", "one", dimensions=4)
    assert made.embeddings == [[1.0, 2.0, 3.0], [1.0, 2.0, 5.0]]
    assert made.prompt_eval_count == 5
    assert short.embeddings[0] == pytest.approx([1 / 5**0.5, 2 / 5**0.5])
    assert one.embeddings == [[1.0, 2.0, 3.0]]
    assert old.embedding == [1.0, 2.0, 4.0]
    assert none.embeddings == []
    assert caught.value.status_code == 400
