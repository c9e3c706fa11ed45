"""Errors in Ollama's form."""

from __future__ import annotations

import msgspec

from miner.gateway.errors import Failure

__all__ = ["ollama_error"]


def ollama_error(failure: Failure) -> bytes:
    """`{"error": "..."}`, with the words that Ollama's clients look for."""
    text = failure.message
    if failure.code == "context_length_exceeded":
        text = f"the input length exceeds the context length: {text}"
    elif failure.code == "model_not_found":
        text = f"model not found: {text}"
    return msgspec.json.encode({"error": text})
