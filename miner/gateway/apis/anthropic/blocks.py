"""Content blocks that the service has no form for: what Anthropic's own servers write into a conversation (their tool
calls and results), and types that are not known here.
"""

from __future__ import annotations

from typing import Any

import msgspec

from miner.errors import InvalidRequestError
from miner.gateway.apis.anthropic.schema import KNOWN_BLOCKS, KNOWN_SOURCES, ForeignBlock
from miner.gateway.request_body import decode, json_of

_TAG: str = ForeignBlock.__struct_config__.tag  # type: ignore[assignment]
_READABLE = (
    "title", "url", "source", "page_age", "text", "stdout", "stderr", "return_code", "error_code", "error_message",
    "tool_name", "content", "data", "lines", "tool_references",
)  # fmt: skip
"""Fields of results with text that a model can read, in the order in which it reads them."""
_DEEPEST = 8


def decode_request(body: bytes, decoder: msgspec.json.Decoder[Any], foreign: dict[str, Any]) -> Any:
    """`decode`, with blocks of unknown types as a ForeignBlock each.

    Raises:
        InvalidRequestError: as `decode`.
    """
    try:
        return decode(body, decoder, foreign)
    except InvalidRequestError as error:
        if not (error.param or "").startswith("messages["):
            raise
        wrapped = _with_foreign_blocks(body)
        if wrapped is None:
            raise
        foreign.clear()
        return decode(wrapped, decoder, foreign)


def _with_foreign_blocks(body: bytes) -> bytes | None:
    """The body with its unknown blocks wrapped; None if it has none."""
    request = json_of(body)
    messages, found = request.get("messages"), False
    # Of a field that occurs twice, the last one is read: it may be no list.
    for message in messages if isinstance(messages, list) else ():
        blocks = message.get("content") if isinstance(message, dict) else None
        lists = [blocks] if isinstance(blocks, list) else []
        lists += [
            block["content"]
            for block in lists[0] if isinstance(block, dict) and isinstance(block.get("content"), list)
            and block.get("type") == "tool_result"
        ] if lists else []  # fmt: skip
        for one in lists:
            for place, block in enumerate(one):
                if isinstance(block, dict) and _is_foreign(block):
                    one[place] = {"type": _TAG, "block": block}
                    found = True
    return msgspec.json.encode(request) if found else None


def _is_foreign(block: dict[str, Any]) -> bool:
    kind, source = block.get("type"), block.get("source")
    if not isinstance(kind, str):
        return False  # the decoder says what is missing
    if kind not in KNOWN_BLOCKS:
        return True
    return kind in ("image", "document") and isinstance(source, dict) and source.get("type") not in KNOWN_SOURCES[kind]


def readable(content: Any, depth: int = 0) -> str:
    """The text in the content of a result; nothing of what only Anthropic can decrypt."""
    if isinstance(content, str):
        return content
    if isinstance(content, int) and not isinstance(content, bool):
        return str(content)
    if depth > _DEEPEST:
        return ""
    parts = []
    if isinstance(content, list):
        parts = [readable(item, depth + 1) for item in content]
    elif isinstance(content, dict):
        parts = [readable(content[name], depth + 1) for name in _READABLE if name in content]
    return "\n".join(filter(None, parts))
