"""What to pull for a name that is none of a hub: people type Ollama's names, or a page's address."""

from __future__ import annotations

import re

_HUB = {
    "deepseek-r1": "bartowski/DeepSeek-R1-Distill-Qwen-7B-GGUF",
    "embeddinggemma": "ggml-org/embeddinggemma-300M-GGUF",
    "gemma3": "ggml-org/gemma-3-4b-it-GGUF",
    "gemma3:1b": "ggml-org/gemma-3-1b-it-GGUF",
    "gemma3:270m": "ggml-org/gemma-3-270m-it-GGUF",
    "gpt-oss": "ggml-org/gpt-oss-20b-GGUF",
    "llama3.1": "bartowski/Meta-Llama-3.1-8B-Instruct-GGUF",
    "llama3.2": "bartowski/Llama-3.2-3B-Instruct-GGUF",
    "llama3.2:1b": "bartowski/Llama-3.2-1B-Instruct-GGUF",
    "llama3.3": "bartowski/Llama-3.3-70B-Instruct-GGUF",
    "mistral": "bartowski/Mistral-7B-Instruct-v0.3-GGUF",
    "nomic-embed-text": "nomic-ai/nomic-embed-text-v1.5-GGUF",
    "phi4": "bartowski/phi-4-GGUF",
    "qwen2.5": "bartowski/Qwen2.5-7B-Instruct-GGUF",
    "qwen2.5-coder": "bartowski/Qwen2.5-Coder-7B-Instruct-GGUF",
    "qwen3": "unsloth/Qwen3-8B-GGUF",
    "qwen3:0.6b": "unsloth/Qwen3-0.6B-GGUF",
    "qwen3:1.7b": "unsloth/Qwen3-1.7B-GGUF",
    "qwen3:4b": "unsloth/Qwen3-4B-GGUF",
    "smollm2": "bartowski/SmolLM2-1.7B-Instruct-GGUF",
}
"""Ollama's name -> a repository with the same model as GGUF files."""
_NAME = re.compile(r"[A-Za-z0-9][\w.-]*(:[\w.-]+)?")
_PAGE = re.compile(r"(?:https?://)?(?:www\.)?(?:huggingface\.co|hf\.co)/([\w.-]+/[\w.-]+)(?:[/?#].*)?")


def what_to_pull(name: str) -> str | None:
    """What to type instead of a name that is no reference to a hub; None: no idea."""
    page = _PAGE.fullmatch(name)
    if page is not None:
        return f"Type: miner pull hf:{page[1]}"
    if _NAME.fullmatch(name) is None:
        return None
    known = name.lower().removesuffix(":latest")
    repository = _HUB.get(known) or _HUB.get(known.partition(":")[0])
    way = "llama.cpp's models come from a hub, as hf:owner/repo[:quantization]"
    if repository is None:
        return f"{way}. With an Ollama server: miner pull {name} --backend ollama"
    other = "" if known in _HUB else " (another size; the hub has yours too)"
    return f"{way}: miner pull hf:{repository}{other}. With an Ollama server: miner pull {name} --backend ollama"
