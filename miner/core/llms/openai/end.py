"""Whether a reply that has ended is one: its end mark came, the engine did not give up, nothing was lost."""

from __future__ import annotations

from miner.core.http.errors import Upstream
from miner.core.llms.contract.malformed import LostReplyError
from miner.core.llms.openai.response import ChatMapper
from miner.errors import BackendUnavailableError, StreamInterruptedError

__all__ = ["check_end", "interrupted"]


def check_end(mapper: ChatMapper, upstream: Upstream, *, ended: bool) -> None:
    """Make sure that the reply that just ended is one."""
    if ended and mapper.finished is not None and mapper.lost is None and not mapper.aborted:
        return
    where = f"{upstream.backend} at {upstream.shown_url}"
    if mapper.aborted:
        said = f"{where} aborted the request: it is shutting down"
        if mapper.delivered:
            raise interrupted(said, upstream)
        raise BackendUnavailableError(f"{said}.", hint="Try again later.", engine_died=True, **upstream.details(200))
    if not ended or mapper.finished is None:
        raise interrupted(f"{where} ended its answer without the end mark", upstream)
    if mapper.lost is not None:
        raise LostReplyError(
            f"{where} lost its reply: {mapper.lost}.",
            hint="Its tool or reasoning parser may have swallowed it.",
            **upstream.details(200),
        )


def interrupted(said: str, upstream: Upstream, status: int = 200) -> StreamInterruptedError:
    """The error for a stream that broke off."""
    return StreamInterruptedError(
        f"{said}.",
        hint="What had arrived is in the error's `partial`; the engine's log says why it stopped.",
        **upstream.details(status),
    )
