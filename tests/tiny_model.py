"""A model of a few hundred kilobytes with random weights, which the real engine loads in no time and which says nothing
sensible: for tests that need an engine and no sense.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import gguf
import numpy as np

WIDTH, HEADS, LAYERS, HIDDEN, CONTEXT = 64, 4, 1, 128, 2048
CHATML = (
    "{% for message in messages %}<|im_start|>{{ message.role }}\n{{ message.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)

_TOKENS = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256))]
_KINDS = [gguf.TokenType.UNKNOWN, gguf.TokenType.CONTROL, gguf.TokenType.CONTROL, *[gguf.TokenType.BYTE] * 256]


def write_tiny_model(path: Path, *, fim: Literal["names", "ids"] | None = None, context: int = CONTEXT) -> Path:
    """Write it; bytes are its only tokens, and it answers at any length.

    Args:
        fim: whether it has tokens for fill-in-the-middle, to be found by their names or by the file's settings.
        context: for how many tokens it was trained; a token takes a tenth of a millisecond, or more in a long context.
    """
    tokens, kinds = [*_TOKENS], [*_KINDS]
    if fim is not None:
        first = len(tokens)
        tokens += [f"<|fim_{part}|>" if fim == "names" else f"<{part}>" for part in ("prefix", "suffix", "middle")]
        kinds += [gguf.TokenType.CONTROL] * 3
    writer = _begin(path, "llama", tokens, kinds, context)
    writer.add_feed_forward_length(HIDDEN)
    writer.add_head_count(HEADS)
    if fim == "ids":
        for place, part in enumerate(("pre", "suf", "mid")):
            writer.add_uint32(f"tokenizer.ggml.fim_{part}_token_id", first + place)
    shapes = {
        "token_embd.weight": (len(tokens), WIDTH), "output_norm.weight": (WIDTH,),
        "output.weight": (len(tokens), WIDTH),
        "blk.0.attn_norm.weight": (WIDTH,), "blk.0.ffn_norm.weight": (WIDTH,),
        **{f"blk.0.attn_{part}.weight": (WIDTH, WIDTH) for part in ("q", "k", "v", "output")},
        "blk.0.ffn_gate.weight": (HIDDEN, WIDTH), "blk.0.ffn_up.weight": (HIDDEN, WIDTH),
        "blk.0.ffn_down.weight": (WIDTH, HIDDEN),
    }  # fmt: skip
    return _finish(writer, path, shapes)


def write_recurrent_model(path: Path) -> Path:
    """The same with a state (Mamba) instead of a KV cache."""
    inner, state, rank, kernel = 2 * WIDTH, 16, 4, 4
    writer = _begin(path, "mamba", _TOKENS, _KINDS)
    writer.add_feed_forward_length(0)
    writer.add_head_count(0)
    writer.add_ssm_conv_kernel(kernel)
    writer.add_ssm_inner_size(inner)
    writer.add_ssm_state_size(state)
    writer.add_ssm_time_step_rank(rank)
    shapes: dict[str, tuple[int, ...]] = {
        "token_embd.weight": (len(_TOKENS), WIDTH), "output_norm.weight": (WIDTH,),
        "output.weight": (len(_TOKENS), WIDTH), "blk.0.attn_norm.weight": (WIDTH,),
        "blk.0.ssm_in.weight": (2 * inner, WIDTH), "blk.0.ssm_conv1d.weight": (inner, kernel),
        "blk.0.ssm_conv1d.bias": (inner,), "blk.0.ssm_x.weight": (rank + 2 * state, inner),
        "blk.0.ssm_dt.weight": (inner, rank), "blk.0.ssm_dt.bias": (inner,), "blk.0.ssm_a": (inner, state),
        "blk.0.ssm_d": (inner,), "blk.0.ssm_out.weight": (WIDTH, inner),
    }  # fmt: skip
    return _finish(writer, path, shapes)


def _begin(
    path: Path, architecture: str, tokens: list[str], kinds: list[gguf.TokenType], context: int = CONTEXT
) -> gguf.GGUFWriter:
    writer = gguf.GGUFWriter(str(path), architecture)
    writer.add_name("tiny")
    writer.add_context_length(context)
    writer.add_embedding_length(WIDTH)
    writer.add_block_count(LAYERS)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_tokenizer_model("llama")
    writer.add_token_list(tokens)
    writer.add_token_scores([0.0] * len(tokens))
    writer.add_token_types([int(kind) for kind in kinds])
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_chat_template(CHATML)
    return writer


def _finish(writer: gguf.GGUFWriter, path: Path, shapes: dict[str, tuple[int, ...]]) -> Path:
    random = np.random.default_rng(7)
    for name, shape in shapes.items():
        norm = name.endswith("norm.weight")
        weights = np.ones(shape, np.float32) if norm else random.normal(0, 0.3, shape).astype(np.float32)
        if name == "output.weight":
            # Letters and spaces are what it says: never a token that ends the reply, nor a torn character.
            said = {3 + ord(letter) for letter in "abcdefghijklmnopqrstuvwxyz "}
            weights[[row for row in range(len(weights)) if row not in said]] = 0.0
            weights *= 4
        elif name.endswith("ssm_a"):
            weights = -np.abs(weights)
        writer.add_tensor(name, weights)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path
