"""Whether a reply that has ended is one: its end mark came, the engine did not give up, nothing was lost."""

from __future__ import annotations

from miner.core.http.errors import Upstream, interrupted
from miner.core.llms.contract.unparsed_reply import LostReplyError
from miner.core.llms.openai.response import ChatMapper
from miner.errors import BackendUnavailableError

__all__ = ["check_end"]


def check_end(mapper: ChatMapper, upstream: Upstream, *, ended: bool) -> None:
    """Make sure that the reply that just ended is one."""
    if ended and mapper.finished is not None and mapper.lost is None and not mapper.aborted:
        return
    where = f"{upstream.backend} at {upstream.shown_url}"
    if mapper.aborted:
        said = f"{where} aborted the request: it is shutting down"
        if mapper.delivered:
            raise interrupted(f"{said}.", upstream, 200)
        raise BackendUnavailableError(f"{said}.", hint="Try again later.", engine_died=True, **upstream.details(200))
    if not ended or mapper.finished is None:
        raise interrupted(f"{where} closed the stream before it was complete.", upstream, 200)
    if mapper.lost is not None:
        raise LostReplyError(
            f"{where} lost its reply: {mapper.lost}.",
            hint="Its tool or reasoning parser may have swallowed it.",
            **upstream.details(200),
        )
