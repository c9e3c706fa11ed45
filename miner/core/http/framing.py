"""From bytes to messages: server-sent events and newline-delimited JSON, whatever the chunking.

Pure: no I/O, no JSON. A decoder is fed what arrived and gives back the payloads that are complete.
"""

from __future__ import annotations

__all__ = ["MAX_MESSAGE_BYTES", "FramingError", "NDJSONDecoder", "SSEDecoder"]

MAX_MESSAGE_BYTES = 32 * 1024 * 1024
"""A message longer than this is taken for garbage: no engine sends one, and a line without end must not fill memory."""


class FramingError(ValueError):
    """The stream holds no message where one must be."""


class _LineBuffer:
    """Keeps the incomplete tail. Pieces without a newline are collected, not concatenated: a message of many
    pieces costs one copy.
    """

    __slots__ = ("_held", "_parts")

    def __init__(self) -> None:
        self._parts: list[bytes] = []
        self._held = 0

    def _collect(self, piece: bytes) -> None:
        self._parts.append(piece)
        self._held += len(piece)
        if self._held > MAX_MESSAGE_BYTES:
            raise FramingError(f"a message of more than {MAX_MESSAGE_BYTES} bytes without an end")

    def _take(self, piece: bytes) -> bytes:
        if not self._parts:
            return piece
        self._parts.append(piece)
        data = b"".join(self._parts)
        self._parts.clear()
        self._held = 0
        return data


class NDJSONDecoder(_LineBuffer):
    """Newline-delimited JSON: one payload for each line that is not blank."""

    __slots__ = ()

    def feed(self, piece: bytes) -> list[bytes]:
        """The complete lines after this piece."""
        if b"\n" not in piece:
            if piece:
                self._collect(piece)
            return []
        lines = self._take(piece).split(b"\n")
        tail = lines.pop()
        if tail:
            self._collect(tail)
        return [line for line in lines if line and not line.isspace()]

    def flush(self) -> list[bytes]:
        """The last line, if the stream ended without a newline."""
        tail = self._take(b"")
        return [tail] if tail.strip() else []


class SSEDecoder(_LineBuffer):
    r"""Server-sent events: the `data` of each event; comments and other fields are skipped.

    Both engines write one `data:` line for each event and `\n` line ends; that is the short way. `\r\n`, events of
    several lines and `data:` without a space are understood too.
    """

    __slots__ = ("_carriage", "_fault")

    def __init__(self) -> None:
        super().__init__()
        self._carriage = False
        self._fault: FramingError | None = None

    def feed(self, piece: bytes) -> list[bytes]:
        """The payloads of the events that are complete after this piece; those before a fault come before it."""
        if self._fault is not None:
            raise self._fault
        if self._carriage or b"\r" in piece:
            piece = self._without_carriage_returns(piece)
        if b"\n" not in piece:
            if piece:
                self._collect(piece)
            return []
        text = self._take(piece)
        if text.startswith(b"data: ") and text.endswith(b"\n\n"):
            # Nearly every read is so: whole events of one line each. The count of line ends tells them from others.
            payloads = text[6:-2].split(b"\n\ndata: ")
            if text.count(b"\n") == 2 * len(payloads):
                return payloads
        blocks = text.split(b"\n\n")
        tail = blocks.pop()
        if tail:
            self._collect(tail)
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
                    self._fault = error
                    break
                if payload is not None:
                    payloads.append(payload)
        return payloads

    def flush(self) -> list[bytes]:
        """The last event, if the stream ended without the blank line; it may be cut short."""
        if self._fault is not None:
            raise self._fault
        tail = self._take(b"")
        before, _, last = tail.rpartition(b"\n")
        payload = _payload(before if b"data:".startswith(last) else tail)
        return [] if payload is None else [payload]

    def _without_carriage_returns(self, piece: bytes) -> bytes:
        r"""`\r\n` and `\r` become `\n`; a `\r` at the very end may be half of a pair and waits."""
        if self._carriage:
            piece = b"\r" + piece
        self._carriage = piece.endswith(b"\r")
        if self._carriage:
            piece = piece[:-1]
        return piece.replace(b"\r\n", b"\n").replace(b"\r", b"\n")


def _payload(block: bytes) -> bytes | None:
    """The data of one event, its lines joined; None where it has none."""
    data = []
    for line in block.split(b"\n"):
        if line.startswith(b"data:"):
            data.append(line[6:] if line[5:6] == b" " else line[5:])
        elif line and not line.startswith((b":", b"event:", b"id:", b"retry:")):
            raise FramingError(f"not a server-sent event: {line[:80]!r}")
    return b"\n".join(data) if data else None
