"""A LoRA adapter whose effect shows in greedy output, made for a model by its header."""

from __future__ import annotations

from pathlib import Path

import gguf
import numpy as np

from miner.core.models.gguf.header import read_header

STRENGTH = 5.0


def write_adapter(path: Path, model: Path, *, architecture: str | None = None, seed: int = 3) -> Path:
    """Write one of rank 1 on the first layer's feed-forward output: whatever the model says, with it it says something
    else.

    Args:
        architecture: what the adapter says that it is for; default: the model's.
    """
    header = read_header(model)
    tensor = next(each for each in header.tensors if each.name == "blk.0.ffn_down.weight")
    columns, rows = tensor.shape
    writer = gguf.GGUFWriter(str(path), architecture or header.architecture)
    writer.add_type("adapter")
    writer.add_string("adapter.type", "lora")
    writer.add_float32("adapter.lora.alpha", 1.0)
    random = np.random.default_rng(seed)
    writer.add_tensor(f"{tensor.name}.lora_a", random.normal(0, STRENGTH, (1, columns)).astype(np.float32))
    writer.add_tensor(f"{tensor.name}.lora_b", random.normal(0, STRENGTH, (rows, 1)).astype(np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path
