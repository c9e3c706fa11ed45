"""The tokens of a model for fill-in-the-middle: before the text, at its gap, and where the gap's text begins.

llama.cpp takes them from the settings of the file, else from the vocabulary by their names (`src/llama-vocab.cpp`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

from miner.core.models.gguf.values import U64

SETTINGS = (
    ("tokenizer.ggml.fim_pre_token_id", "tokenizer.ggml.prefix_token_id"),
    ("tokenizer.ggml.fim_suf_token_id", "tokenizer.ggml.suffix_token_id"),
    ("tokenizer.ggml.fim_mid_token_id", "tokenizer.ggml.middle_token_id"),
)
"""Of each token: the setting that has its id, and the setting of older files."""
_FILES = (
    ("tokenizer.ggml.fim_rep_token_id", ("<|fim_repo|>", "<|repo_name|>", "<fim-repo>", "<REPO>", "<reponame>")),
    ("tokenizer.ggml.fim_sep_token_id", ("<|file_sep|>",)),
)
"""The same for the tokens of a repository and its files."""
NAMES = (
    ("<|fim_prefix|>", "<|fim_suffix|>", "<|fim_middle|>"),  # Qwen
    ("<fim-prefix>", "<fim-suffix>", "<fim-middle>"),
    ("<fim_prefix>", "<fim_suffix>", "<fim_middle>"),  # Granite, StarCoder
    ("<｜fim▁begin｜>", "<｜fim▁hole｜>", "<｜fim▁end｜>"),  # DeepSeek
    ("<PRE>", "<SUF>", "<MID>"),
    ("▁<PRE>", "▁<SUF>", "▁<MID>"),  # CodeLlama
    ("<|code_prefix|>", "<|code_suffix|>", "<|code_middle|>"),  # GLM-4.5
    ("<|prefix|>", "<|suffix|>", "<|middle|>"),  # Falcon-H1-Tiny-Coder
)


class FimTokens(NamedTuple):
    """Token ids: a prompt is prefix, the text before the gap, suffix, the text after it, middle."""

    prefix: int
    suffix: int
    middle: int
    repository: int | None = None
    """Begins the other files of a repository; None: the model has no such token."""
    file: int | None = None
    """Begins one of these files."""


def fim_tokens(number: Callable[[str], int | None], vocabulary: bytes) -> FimTokens | None:
    """Return a model's tokens; None if it has not all three.

    Args:
        number: the value of a setting that is an integer.
        vocabulary: the array of its tokens as the file has it, each text with its length before it.
    """
    found: list[int] = []
    for place, (setting, old) in enumerate(SETTINGS):
        token = number(setting)
        if token is None:
            token = number(old)
        if token is None:
            token = _by_name(vocabulary, [names[place] for names in NAMES])
        if token is None:
            return None
        found.append(token)
    files = [number(setting) for setting, _ in _FILES]
    for place, (_, names) in enumerate(_FILES):
        if files[place] is None:
            files[place] = _by_name(vocabulary, names)
    return FimTokens(*found, *files)


def _by_name(vocabulary: bytes, names: Sequence[str]) -> int | None:
    """The id of the first token that has one of these names."""
    starts = []
    for name in names:
        text = name.encode()
        at = vocabulary.find(U64.pack(len(text)) + text)
        if at >= 0:
            starts.append(at)
    return _index_at(vocabulary, min(starts)) if starts else None


def _index_at(vocabulary: bytes, wanted: int) -> int | None:
    """The index of the text that begins there; None if none does."""
    at = index = 0
    while at < wanted:
        at += U64.size + U64.unpack_from(vocabulary, at)[0]
        index += 1
    return index if at == wanted else None
