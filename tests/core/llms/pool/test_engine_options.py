"""Models of one file in miner.toml that differ in the options of their engines, on the real engine."""

from __future__ import annotations

import pytest

from miner.config.config import MinerConfig
from miner.core.llms import get_backend
from tests.adapter import write_adapter
from tests.tiny_model import write_tiny_model

pytestmark = pytest.mark.engine

TABLE = """
[defaults]
context = 512
slots = 1
threads = 1
[models.plain]
file = "tiny.gguf"
[models.tuned]
file = "tiny.gguf"
lora = [{ file = "a.gguf", scale = 0.5 }]
[models.scaled]
file = "tiny.gguf"
flags = { "rope-scaling" = "linear", "rope-scale" = 8 }
[models.guessed]
file = "tiny.gguf"
speculation = { type = "draft", file = "tiny.gguf", n_max = 4 }
"""


async def test_one_file_with_other_options_is_another_engine(tmp_path):
    write_adapter(tmp_path / "a.gguf", write_tiny_model(tmp_path / "tiny.gguf"))
    (tmp_path / "miner.toml").write_text(TABLE)
    texts = {}
    async with get_backend("pool", MinerConfig(config=str(tmp_path / "miner.toml"))) as service:
        for name in ("plain", "tuned", "scaled", "guessed"):
            texts[name] = await service.generate("one two three four five", model=name, temperature=0, max_tokens=24)
    assert texts["guessed"] == texts["plain"]
    assert len({texts["plain"], texts["tuned"], texts["scaled"]}) == 3
