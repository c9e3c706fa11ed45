"""Stream framing: server-sent events and newline-delimited JSON, however the bytes are chunked.

No I/O and no JSON: a decoder is fed the received bytes and returns the payloads that are complete.
"""

from __future__ import annotations

from miner.core.http.transport_errors import FramingError

MAX_MESSAGE_BYTES = 32 * 1024 * 1024
"""A longer message is an error: no engine sends one, and an endless line must not fill memory."""


class _LineBuffer:
    """Buffers an incomplete message; its pieces are joined once, so that many of them cost one copy."""

    __slots__ = ("_buffered", "_parts")

    def __init__(self) -> None:
        self._parts: list[bytes] = []
        self._buffered = 0

    def _append(self, piece: bytes) -> None:
        self._parts.append(piece)
        self._buffered += len(piece)
        if self._buffered > MAX_MESSAGE_BYTES:
            raise FramingError(f"a message is longer than {MAX_MESSAGE_BYTES} bytes")

    def _join(self, piece: bytes) -> bytes:
        if not self._parts:
            return piece
        self._parts.append(piece)
        data = b"".join(self._parts)
        self._parts.clear()
        self._buffered = 0
        return data


class NDJSONDecoder(_LineBuffer):
    """Newline-delimited JSON: one payload for each line that is not blank."""

    __slots__ = ()

    def feed(self, piece: bytes) -> list[bytes]:
        """Return the lines that this piece completes."""
        if b"\n" not in piece:
            if piece:
                self._append(piece)
            return []
        lines = self._join(piece).split(b"\n")
        tail = lines.pop()
        if tail:
            self._append(tail)
        return [line for line in lines if line and not line.isspace()]

    def flush(self) -> list[bytes]:
        """Return the last line, if the stream ended without a newline."""
        tail = self._join(b"")
        return [tail] if tail.strip() else []


class SSEDecoder(_LineBuffer):
    r"""Server-sent events: the `data` of each event; comments and other fields are skipped.

    vLLM and llama.cpp write one `data:` line per event and `\n` line ends: that is the fast path. `\r\n`, events of
    several lines and `data:` without a space are accepted too.
    """

    __slots__ = ("_carriage", "_error")

    def __init__(self) -> None:
        super().__init__()
        self._carriage = False
        self._error: FramingError | None = None

    def feed(self, piece: bytes) -> list[bytes]:
        """Return the payloads of the events that this piece completes. Those before a malformed one are returned first;
        the next call raises FramingError.
        """
        if self._error is not None:
            raise self._error
        if self._carriage or b"\r" in piece:
            piece = self._without_carriage_returns(piece)
        if b"\n" not in piece:
            if piece:
                self._append(piece)
            return []
        text = self._join(piece)
        if text.startswith(b"data: ") and text.endswith(b"\n\n"):
            # Nearly every read: complete events of one line each, which the number of line ends proves.
            payloads = text[6:-2].split(b"\n\ndata: ")
            if text.count(b"\n") == 2 * len(payloads):
                return payloads
        blocks = text.split(b"\n\n")
        tail = blocks.pop()
        if tail:
            self._append(tail)
        payloads = []
        for block in blocks:
            if block.startswith(b"data: ") and b"\n" not in block:
                payloads.append(block[6:])
            else:
                try:
                    payload = _payload(block)
                except FramingError as error:
                    if not payloads:
                        raise
                    self._error = error
                    break
                if payload is not None:
                    payloads.append(payload)
        return payloads

    def flush(self) -> list[bytes]:
        """Return the last event, if the stream ended without the blank line; it may be truncated."""
        if self._error is not None:
            raise self._error
        tail = self._join(b"")
        before, _, last = tail.rpartition(b"\n")
        payload = _payload(before if b"data:".startswith(last) else tail)
        return [] if payload is None else [payload]

    def _without_carriage_returns(self, piece: bytes) -> bytes:
        r"""Replace `\r\n` and `\r` by `\n`; a `\r` at the very end is held back, as it may be half of a pair."""
        if self._carriage:
            piece = b"\r" + piece
        self._carriage = piece.endswith(b"\r")
        if self._carriage:
            piece = piece[:-1]
        return piece.replace(b"\r\n", b"\n").replace(b"\r", b"\n")


def _payload(block: bytes) -> bytes | None:
    """Return the data of one event, its lines joined; None for an event without data."""
    data = []
    for line in block.split(b"\n"):
        if line.startswith(b"data:"):
            data.append(line[6:] if line[5:6] == b" " else line[5:])
        elif line and not line.startswith((b":", b"event:", b"id:", b"retry:")):
            raise FramingError(f"not a server-sent event: {line[:80]!r}")
    return b"\n".join(data) if data else None
