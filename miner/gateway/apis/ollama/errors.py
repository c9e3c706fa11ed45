"""Errors in Ollama's form."""

from __future__ import annotations

import re

import msgspec

from miner.gateway.errors import Failure, shortened

_MISSING = re.compile(r"^There is no model (['\"]).*?\1\.")


def ollama_error(failure: Failure) -> bytes:
    """`{"error": "..."}`, with the phrases that Ollama's clients search for."""
    text = failure.message
    if failure.code == "context_length_exceeded":
        text = f"the input length exceeds the context length: {text}"
    elif failure.code == "model_not_found" and failure.model:
        name = shortened(failure.model)
        more = _MISSING.sub("", text).strip()
        text = f"model '{name}' not found" + (f". {more}" if more else "")
    elif failure.code == "model_not_found":
        text = f"model not found: {text}"
    return msgspec.json.encode({"error": text})


def error_line(failure: Failure) -> bytes:
    """The same as the last line of a stream."""
    return ollama_error(failure) + b"\n"
