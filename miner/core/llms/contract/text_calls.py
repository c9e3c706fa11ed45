"""Tool calls that an engine left in the text: its parser is for another family's format, or its template has none.

Text is held back from where a call may begin: at the marker of a known format anywhere, or where a reply begins as the
JSON of a call. At the reply's end it becomes calls of the request's tools, with arguments that are valid under their
schemas; any other text stays text.
"""

from __future__ import annotations

import re
from contextlib import aclosing
from typing import Final

from miner.core.llms.contract.stream import Batches
from miner.core.llms.contract.tools import tool_names
from miner.core.llms.contract.unparsed_reply import parse_tool_calls
from miner.core.wire import ChatRequest, LLMChunk, ToolCall

MARKERS: Final = (
    "<tool_call>", "<|tool_call|>", "<|tool_call>", "[TOOL_CALLS]", "<function=", "<|python_tag|>",
    "<｜tool▁calls▁begin｜>", "<｜tool▁call▁begin｜>", "<|tool_calls_section_begin|>", "<|START_ACTION|>",
)  # fmt: skip
"""Hermes and Qwen, Granite, Gemma, Mistral, Qwen3-Coder, Llama, DeepSeek, Kimi, Command R."""
_FIRST: Final = tuple({marker[0] for marker in MARKERS})
_LONGEST: Final = max(map(len, MARKERS))
_JSON: Final = re.compile(
    r'\s*\[?\s*\{\s*"(?:name|function|tool_name)"\s*:\s*"([^"\\]*)"\s*,\s*"(?:arguments|parameters)"'
)
_JSON_BEGUN: Final = re.compile(
    r'\s*(?:\[\s*)?(?:\{\s*(?:"[a-z_]*"?\s*:?\s*(?:"[^"\\]*"?\s*(?:,\s*(?:"[a-z]*"?)?)?)?)?)?\Z'
)


def may_call(request: ChatRequest) -> bool:
    """Return whether a reply may hold calls by itself: those that must come are constrained."""
    return request.tools is not None and request.tool_choice in (None, "auto") and request.response_format is None


async def calls_of_text(batches: Batches, request: ChatRequest) -> Batches:
    """The same reply with the calls in its text as `tool_calls`, in the last chunk."""
    finder = _Finder(request)
    async with aclosing(batches):
        async for batch in batches:
            for chunk in batch:
                if chunk.tool_calls is not None:
                    finder.count += sum("id" in call for call in chunk.tool_calls)
                if chunk.content is not None:
                    chunk.content = finder.feed(chunk.content) or None
                if chunk.finish_reason is not None:
                    text, calls = finder.end()
                    chunk.content = (chunk.content or "") + text or None
                    if calls:
                        chunk.tool_calls = [*(chunk.tool_calls or ()), *calls]
                        chunk.finish_reason, chunk.stop_sequence = "tool_calls", None
            if kept := [chunk for chunk in batch if chunk != _EMPTY]:
                yield kept


_EMPTY = LLMChunk()


class _Finder:
    """Holds back what may be a call.

    Attributes:
        count: calls that the engine found itself.
    """

    def __init__(self, request: ChatRequest) -> None:
        self._request = request
        self._names = tool_names(request.tools)
        self._held = ""
        self._begins = True
        """Nothing but white space was delivered."""
        self._is_call = False
        self.count = 0

    def feed(self, text: str) -> str:
        """Return what is certainly text."""
        if self._is_call:
            self._held += text
            return ""
        if not self._held and not self._begins and not any(first in text for first in _FIRST):
            return text  # nearly every piece
        text, self._held = self._held + text, ""
        if self._begins and self._is_json(text):
            self._held = text
            return ""
        found = [place for marker in MARKERS if (place := text.find(marker)) >= 0]
        end = min(found, default=len(text) - _overlap(text))
        self._is_call = bool(found)
        self._held = text[end:]
        self._begins = self._begins and not text[:end].strip()
        return text[:end]

    def _is_json(self, text: str) -> bool:
        """Whether a reply that begins so is the JSON of a call, or may become it."""
        found = _JSON.match(text)
        self._is_call = found is not None and found[1] in self._names
        return self._is_call or (found is None and bool(text.strip()) and _JSON_BEGUN.match(text) is not None)

    def end(self) -> tuple[str, list[ToolCall]]:
        """Return the rest, as text or as calls."""
        held, self._held = self._held, ""
        if not self._is_call:
            return held, []
        text, calls = parse_tool_calls(held, self._request)
        for call in calls:
            call["index"] += self.count
        return text, calls


def _overlap(text: str) -> int:
    """The number of last characters that may begin a marker."""
    sizes = range(min(_LONGEST - 1, len(text)), 0, -1)
    return next((size for size in sizes if any(marker.startswith(text[-size:]) for marker in MARKERS)), 0)
