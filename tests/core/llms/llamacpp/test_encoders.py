"""A model that only embeds generates nothing: that is the caller's mistake, found before the engine is asked."""

from __future__ import annotations

import gguf
import numpy as np
import pytest

from miner.core.llms.llm_llamacpp import LlamaCppService
from miner.errors import UnsupportedFeatureError
from tests.core.services import MESSAGES, settings


def write_encoder(path):
    """Write a file whose header is all that is looked at."""
    writer = gguf.GGUFWriter(str(path), "bert")
    writer.add_context_length(512)
    writer.add_embedding_length(8)
    writer.add_block_count(1)
    writer.add_feed_forward_length(8)
    writer.add_head_count(1)
    writer.add_pooling_type(gguf.PoolingType.MEAN)
    writer.add_tensor("token_embd.weight", np.zeros((4, 8), np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


@pytest.mark.parametrize(
    "call",
    [
        lambda service: service.generate("x"),
        lambda service: service.generate("x", raw=True),
        lambda service: service.chat_completion(MESSAGES),
        lambda service: service.stream(messages=MESSAGES).collect(),
    ],
)
async def test_an_encoder_does_not_generate(tmp_path, call):
    path = write_encoder(tmp_path / "encoder.gguf")
    async with LlamaCppService(settings(model_path=str(path))) as service:
        with pytest.raises(UnsupportedFeatureError, match="'encoder' does not generate text"):
            await call(service)
        (info,) = await service.list_models()
        assert info.capabilities is not None
        assert "embeddings" in info.capabilities
        assert not info.capabilities & {"chat", "tools", "stop", "images"}
