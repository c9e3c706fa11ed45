"""One request as the client sees it, with the definitions of `vllm bench serve`.

Every event of a stream that has a choice is a chunk. TTFT is the time to the first, E2E that to the last, ITL are the
gaps between them, TPOT is (E2E - TTFT) / (output tokens - 1). Events without a choice (usage, `[DONE]`) count for
nothing.

One thing differs: a response of one token has no ITL here, as it has no TPOT. `vllm bench serve` takes the gap from the
opening chunk, or to one that only closes the response, for one, and prints 0.00 where there is no gap at all.
"""

from __future__ import annotations

from time import perf_counter

from miner.errors import MinerError

_TOGETHER = 0.1
"""An opening chunk, which has only the role, came with the first token if that followed within this share of the time
until the opening chunk.

vLLM sends both at once, and its benchmark counts the opening chunk as the first. Other servers send it as soon as they
have the request: there it says nothing of tokens, and is not counted.
"""


class Measurement:
    """What was seen of one request. Times are those of `time.perf_counter`."""

    __slots__ = (
        "_opening", "began", "cached_tokens", "cancelled", "chunks", "code", "completion_tokens", "done", "max_tokens",
        "message", "prompt_tokens", "queue", "retry_after", "text", "times", "turn",
    )  # fmt: skip

    def __init__(self, max_tokens: int = 0, turn: int = 0) -> None:
        self.max_tokens = max_tokens
        self.turn = turn
        self.began = perf_counter()
        self.done = self.began
        """When nothing more was to come."""
        self.times: list[float] = []
        """When each chunk arrived."""
        self.chunks = 0
        """Chunks that carry tokens."""
        self.text: list[str] = []
        self.prompt_tokens: int | None = None
        self.completion_tokens: int | None = None
        """None: the server does not tell."""
        self.cached_tokens: int | None = None
        self.queue: float | None = None
        self.cancelled = False
        self.code: str | None = None
        """Of the error that it ended with."""
        self.message: str | None = None
        self.retry_after: float | None = None
        self._opening: float | None = None

    def begin(self) -> None:
        """The request is sent now."""
        self.began = perf_counter()

    def chunk(self, now: float, *, tokens: bool) -> None:
        """An event with a choice has arrived."""
        if tokens:
            self.chunks += 1
        if not self.times:
            if not tokens:
                self._opening = now
                return
            if self._opening is not None and now - self._opening <= _TOGETHER * (self._opening - self.began):
                self.times.append(self._opening)
        self.times.append(now)

    def finish(self, now: float) -> None:
        """The response is complete; one without any token has its end in the place of its first."""
        self.done = now
        if not self.times:
            self.times.append(now if self._opening is None else self._opening)

    def failed(self, error: MinerError, code: str | None = None) -> None:
        """The request has ended with an error.

        Args:
            code: in the place of the error's own, such as the HTTP status.
        """
        self.done = perf_counter()
        self.code = code or error.code
        self.message = error.message
        self.retry_after = getattr(error, "retry_after", None)

    @property
    def completed(self) -> bool:
        """Whether it ended well, and not because it was cancelled."""
        return self.code is None and not self.cancelled

    @property
    def output_tokens(self) -> int:
        """As the server counts them, else by chunks."""
        return self.chunks if self.completion_tokens is None else self.completion_tokens

    @property
    def ttft(self) -> float | None:
        """Seconds to the first token."""
        return self.times[0] - self.began if self.times else None

    @property
    def e2e(self) -> float | None:
        """Seconds to the last chunk of a completed request."""
        return self.times[-1] - self.began if self.times and self.completed else None

    @property
    def tpot(self) -> float | None:
        """Seconds per output token after the first."""
        count = self.output_tokens
        return (self.times[-1] - self.times[0]) / (count - 1) if self.completed and self.times and count > 1 else None

    @property
    def itl(self) -> list[float]:
        """Seconds between chunks; none of a response of one token."""
        if self.output_tokens < 2:
            return []
        return [after - before for before, after in zip(self.times, self.times[1:], strict=False)]

    @property
    def error(self) -> str | None:
        """The code of the error that it ended with."""
        return self.code
