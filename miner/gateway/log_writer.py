"""LogWriter: lines to a file descriptor, from a thread, so that no request ever waits for a disk or a reader."""

from __future__ import annotations

import asyncio
import os
import queue
import threading

__all__ = ["LogWriter"]

_MOST_BYTES = 8 * 1024 * 1024
"""Of lines that wait to be written; later ones are lost."""
_PAUSE_SECONDS = 0.1
_CLOSE_SECONDS = 2.0


class LogWriter:
    """Writes what it is given, a little later and together. What cannot be written is lost and counted.

    The loop's side (`write`, `close`) and the thread share only the queue and a counter that each changes by one step.
    """

    def __init__(self, fd: int) -> None:
        self.lost = 0
        """Lines that were lost and are not told yet."""
        self._fd = fd
        self._lines: list[bytes] = []
        self._size = 0
        self._due: asyncio.TimerHandle | None = None
        self._queue: queue.SimpleQueue[tuple[list[bytes], int] | None] = queue.SimpleQueue()
        self._waiting = 0
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None

    def write(self, line: bytes) -> None:
        """Take a line, which ends with a newline."""
        if self._waiting + self._size + len(line) > _MOST_BYTES:
            with self._lock:
                self.lost += 1
            return
        self._lines.append(line)
        self._size += len(line)
        if self._due is None:
            self._due = asyncio.get_running_loop().call_later(_PAUSE_SECONDS, self._hand_over)

    async def close(self) -> None:
        """Write what is left, as far as that goes within 2 seconds."""
        if self._due is not None:
            self._due.cancel()
        self._hand_over()
        if self._thread is not None:
            self._queue.put(None)
            await asyncio.to_thread(self._thread.join, _CLOSE_SECONDS)

    def _hand_over(self) -> None:
        self._due = None
        lines, size = self._lines, self._size
        self._lines, self._size = [], 0
        if not lines:
            return
        if self._thread is None:
            # A daemon: one that hangs in a write must not keep the process.
            self._thread = threading.Thread(target=self._work, name="access log", daemon=True)
            self._thread.start()
        with self._lock:
            self._waiting += size
        self._queue.put((lines, size))

    def _work(self) -> None:
        while (item := self._queue.get()) is not None:
            lines, size = item
            with self._lock:
                lost, self.lost = self.lost, 0
            text = b"".join(lines)
            if lost:
                text = b"miner: %d lines of the access log were lost\n" % lost + text
            try:
                while text:
                    text = text[os.write(self._fd, text) :]
            except OSError:  # full disk, closed pipe: perhaps the next one can be written
                with self._lock:
                    self.lost += lost + len(lines)
            with self._lock:
                self._waiting -= size
