"""Architectures that llama.cpp treats alike are in one table, read by the memory estimate and by the pooling."""

from __future__ import annotations

import pytest

from miner.config.config import MinerConfig
from miner.core.llms.llamacpp.models import pooling_of
from miner.core.models.gguf.header import read_model
from miner.core.models.memory.estimate import Load, estimate
from miner.core.models.memory.kv_cache import ENCODERS, cache_shape


def header_of(write_gguf, tmp_path, architecture):
    shape = {"block_count": 2, "embedding_length": 64, "attention.head_count": 4}
    metadata = {"general.architecture": architecture, **{f"{architecture}.{key}": n for key, n in shape.items()}}
    return read_model((write_gguf(tmp_path / "m.gguf", metadata),))


@pytest.mark.parametrize("architecture", sorted(ENCODERS))
def test_an_encoder_has_no_cache_and_embeds(write_gguf, tmp_path, architecture):
    header = header_of(write_gguf, tmp_path, architecture)
    assert cache_shape(header).size(4096, 512) == 0
    assert pooling_of(header, MinerConfig(_env_file=None)) == "mean"


def test_a_decoder_has_a_cache_and_does_not_embed(write_gguf, tmp_path):
    header = header_of(write_gguf, tmp_path, "llama")
    assert cache_shape(header).size(4096, 512) > 0
    assert pooling_of(header, MinerConfig(_env_file=None)) is None


def test_architectures_that_one_of_two_tables_once_lacked():
    assert {"jina-bert-v3", "neo-bert", "nomic-bert-moe", "xlm-roberta", "gemma-embedding"} <= ENCODERS


def test_a_full_cache_of_windowed_layers_grows_with_the_context(write_gguf, tmp_path):
    shape = {"block_count": 6, "embedding_length": 64, "attention.head_count": 4, "attention.sliding_window": 512}
    metadata = {"general.architecture": "gemma3", **{f"gemma3.{key}": n for key, n in shape.items()}}
    header = read_model((write_gguf(tmp_path / "m.gguf", metadata),))
    windowed, full = estimate(header, Load(8192)), estimate(header, Load(8192, swa_full=True))
    assert windowed.checkpoints > 0
    assert full.checkpoints == 0
    assert full.kv_cache == 2 * estimate(header, Load(4096, swa_full=True)).kv_cache > 3 * windowed.kv_cache
