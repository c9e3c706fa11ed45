"""Redaction: what a client does not read of an error: where things are on the operator's machine and network."""

from __future__ import annotations

import re

__all__ = ["redacted"]

_ADDRESS = re.compile(r"(?: at)? (?:https?|unix)://[^\s,;'\"]+")
_ROOTS = (
    r"Applications|Library|System|Users|Volumes|app|bin|boot|cache|content|data|dev|docker|etc|export|gpfs|home|kaggle|"
    r"lib|lib64|lustre|media|mnt|nas|nfs|nix|opt|private|proc|root|run|sbin|scratch|sdcard|snap|srv|storage|sys|tmp|"
    r"usr|var|vol|volume\d*|work|workspaces?"
)
_SUFFIXES = (
    "bin|cfg|conf|env|ggml|gguf|h5|ini|jinja|json|jsonl|log|mmproj|"
    "onnx|pem|py|pt|pth|safetensors|so|sock|toml|txt|ya?ml"
)
_PART = r"[\w.@+~%=-]+"
_PATH = re.compile(
    rf"(?<![\w/.:#%?&=~-])(?:"
    rf"/(?:{_ROOTS})(?:/{_PART})+/?"  # below a directory that machines have
    rf"|~/(?:{_PART}/)*{_PART}"
    rf"|(?!/(?:api|v1|admin)/)/(?:{_PART}/)+{_PART}\.(?:{_SUFFIXES})\b"  # a file, wherever it is
    rf"|[A-Za-z]:[\\/](?:[^\\/:*?\"'<>|\s]+[\\/])*[^\\/:*?\"'<>|\s]+"
    rf")"
)
_QUOTED = re.compile(rf"(?<=(['\"`]))(?:/(?:{_ROOTS})/|~/|[A-Za-z]:[\\/])[^'\"`\n]+(?=\1)")
"""One with spaces in it."""


def redacted(text: str) -> str:
    """The text without addresses and file paths. Routes (`/api/chat`) and places in JSON (`#/properties/a`) are the
    client's own, and stay.
    """
    return _PATH.sub("<path>", _QUOTED.sub("<path>", _ADDRESS.sub("", text)))
