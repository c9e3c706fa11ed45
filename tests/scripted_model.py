"""A model that says what it is told to, on the real engine: each token of a script is followed by the next one, and all
others by the first. With the chat template and the special tokens of a family it says what a model of that family says,
so that the engine's own parser reads it.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

import gguf
import numpy as np

WIDTH, HEADS, HIDDEN, CONTEXT = 1024, 8, 32, 16384
"""Each token has a dimension of its own."""
_PIECE = 4
"""Bytes of most tokens of the script."""
_SHOWN = [*range(33, 127), *range(161, 173), *range(174, 256)]
_LETTERS = {byte: chr(byte) for byte in _SHOWN} | {
    byte: chr(256 + place) for place, byte in enumerate(byte for byte in range(256) if byte not in _SHOWN)
}
"""The letter of each byte in byte-level vocabularies (GPT-2)."""


def write_scripted_model(path: Path, script: str, *, template: str, end: str, special: Sequence[str] = ()) -> Path:
    """Write it.

    Args:
        end: the token that ends a reply.
        special: the other special tokens of the family's format. One that the script repeats is text from then on.
    """
    markers = list(dict.fromkeys([end, *special]))
    tokens = ["<unk>", *markers, *_LETTERS.values()]
    kinds = [gguf.TokenType.CONTROL, *(_kind(marker) for marker in markers), *[gguf.TokenType.NORMAL] * 256]
    pieces = _pieces(script, markers)
    tokens += [piece for piece in pieces if piece not in tokens]
    kinds += [gguf.TokenType.NORMAL] * (len(tokens) - len(kinds))
    assert len(tokens) <= WIDTH
    chain = [*map(tokens.index, pieces), tokens.index(end)]

    embedding = np.zeros((len(tokens), WIDTH), np.float32)
    np.fill_diagonal(embedding, 1.0)
    output = np.zeros_like(embedding)
    output[chain[0]] = embedding.sum(axis=0)
    for before, after in pairwise(chain):
        output[chain[0]] -= embedding[before]
        output[after] += embedding[before]

    writer = gguf.GGUFWriter(str(path), "llama")
    writer.add_name("scripted")
    writer.add_context_length(CONTEXT)
    writer.add_embedding_length(WIDTH)
    writer.add_block_count(1)
    writer.add_feed_forward_length(HIDDEN)
    writer.add_head_count(HEADS)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list(tokens)
    writer.add_token_types([int(kind) for kind in kinds])
    writer.add_token_merges([f"{_LETTERS[0]} {_LETTERS[1]}"])  # there must be one
    writer.add_eos_token_id(tokens.index(end))
    writer.add_add_bos_token(False)
    writer.add_chat_template(template)
    shapes = {f"blk.0.attn_{part}.weight": (WIDTH, WIDTH) for part in ("q", "k", "v", "output")} | {
        "blk.0.ffn_gate.weight": (HIDDEN, WIDTH), "blk.0.ffn_up.weight": (HIDDEN, WIDTH),
        "blk.0.ffn_down.weight": (WIDTH, HIDDEN),
    }  # fmt: skip
    for name, shape in shapes.items():
        writer.add_tensor(name, np.zeros(shape, np.float16))  # what was before changes nothing
    for name in ("output_norm.weight", "blk.0.attn_norm.weight", "blk.0.ffn_norm.weight"):
        writer.add_tensor(name, np.ones(WIDTH, np.float32))
    writer.add_tensor("token_embd.weight", embedding.astype(np.float16))
    writer.add_tensor("output.weight", output.astype(np.float16))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def _kind(marker: str) -> gguf.TokenType:
    """Gemma's own file has its tokens of tools as user-defined ones, which are text of a reply."""
    return gguf.TokenType.USER_DEFINED if "tool_call" in marker or '"' in marker else gguf.TokenType.CONTROL


def _pieces(script: str, markers: Sequence[str]) -> list[str]:
    """The script as tokens of which none comes twice."""
    used: set[str] = set()
    pieces = []
    while script:
        left = [marker for marker in markers if marker not in used]
        piece = next((marker for marker in left if script.startswith(marker)), None)
        size = len(piece or "")
        if piece is None:
            stops = [place for marker in markers if (place := script.find(marker)) > 0]
            longest = min([*stops, len(script)])
            sizes = [*range(min(_PIECE, longest), 1, -1), *range(_PIECE + 1, longest + 1), 1]
            # No single letters: one of these may end the prompt.
            size = next(n for n in sizes if _encoded(script[:n]) not in used and longest - n != 1)
            piece = _encoded(script[:size])
        used.add(piece)
        pieces.append(piece)
        script = script[size:]
    return pieces


def _encoded(text: str) -> str:
    return "".join(_LETTERS[byte] for byte in text.encode())
