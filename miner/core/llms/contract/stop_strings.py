"""Stop strings, matched on our side of the engine.

llama.cpp (and Ollama, whose runner it is) holds back text that may become a stop string, loses it when max_tokens ends
the response, and does not report which string matched. So stop strings are not sent to them: the text is matched here,
and closing the stream stops the engine.
"""

from __future__ import annotations

from collections.abc import Sequence

from miner.core.wire import LLMChunk, TokenLogprob


class StopWatcher:
    """Ends one response at the first stop string in its content. Reasoning and tool calls are not searched.

    Only text that may still become a stop string is held back, with its log probabilities. Of several strings the one
    that is complete first matches, and of those the longest, so chunk boundaries make no difference.

    Attributes:
        matched: the string that ended the response; None until then.
    """

    __slots__ = ("_held", "_pieces", "_stops", "matched")

    def __init__(self, stops: Sequence[str]) -> None:
        self._stops = sorted(set(stops), key=len, reverse=True)
        self._held = ""
        self._pieces: list[tuple[int, list[TokenLogprob] | None]] = []
        """Length and log probabilities of each piece of the held text."""
        self.matched: str | None = None

    def feed(self, chunk: LLMChunk, out: list[LLMChunk]) -> bool:
        """Append what a chunk releases to `out`; return whether a stop string ended the response.

        Other fields of a chunk are released in order, after the text before them.
        """
        content = chunk.content
        if content is None:
            if chunk.reasoning is not None or chunk.tool_calls is not None or chunk.finish_reason is not None:
                self.flush(out)  # a stop string does not span it
            elif self._held and chunk.logprobs is not None:
                self._pieces.append((0, chunk.logprobs))
                chunk.logprobs = None
                if chunk == _EMPTY:
                    return False
            out.append(chunk)
            return False
        text = self._held + content
        end = self._find(text)
        if end is not None:
            self._add(content, chunk)
            self._release(text, end, out)
            self._held, self._pieces = "", []
            return True
        keep = self._possible(text)
        last = chunk.finish_reason is not None or chunk.tool_calls is not None
        if not self._held and (not keep or last):  # nearly every chunk
            out.append(chunk)
            return False
        self._add(content, chunk)
        self._held = text
        self._release(text, len(text) if last else len(text) - keep, out)
        chunk.content = None
        if chunk != _EMPTY:
            out.append(chunk)
        return False

    def flush(self, out: list[LLMChunk]) -> None:
        """Release the held text: the response has ended, or a chunk without text follows."""
        if self._held:
            self._release(self._held, len(self._held), out)

    def _add(self, content: str, chunk: LLMChunk) -> None:
        self._pieces.append((len(content), chunk.logprobs))
        chunk.logprobs = None

    def _find(self, text: str) -> int | None:
        """Position of the first complete stop string."""
        first: int | None = None  # its end
        for stop in self._stops:
            place = text.find(stop)
            if place >= 0 and (first is None or place + len(stop) < first):
                first = place + len(stop)
                self.matched = stop
        return None if first is None or self.matched is None else first - len(self.matched)

    def _possible(self, text: str) -> int:
        """Length of the longest suffix of the text that is a prefix of a stop string."""
        longest = 0
        for stop in self._stops:
            place = text.find(stop[0], max(0, len(text) - len(stop) + 1))
            while place >= 0 and len(text) - place > longest:
                if stop.startswith(text[place:]):
                    longest = len(text) - place
                    break
                place = text.find(stop[0], place + 1)
        return longest

    def _release(self, text: str, upto: int, out: list[LLMChunk]) -> None:
        """Release the text up to a place. A token's log probability is released with its first character."""
        logprobs: list[TokenLogprob] = []
        begins = 0
        rest: list[tuple[int, list[TokenLogprob] | None]] = []
        for length, entries in self._pieces:
            if begins < upto or (begins == upto == len(text)):
                logprobs += entries or ()
                if begins + length > upto:
                    rest.append((begins + length - upto, None))
            else:
                rest.append((length, entries))
            begins += length
        self._held, self._pieces = text[upto:], rest
        if upto or logprobs:
            out.append(LLMChunk(content=text[:upto] or None, logprobs=logprobs or None))


_EMPTY = LLMChunk()
