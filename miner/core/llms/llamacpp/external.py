"""A llama.cpp server that somebody else runs (LLAMACPP_API_BASE): what it can do, and the queue in front of it.

It can be restarted with another model at any time, on its own: so it is asked again.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable

from msgspec import Struct

from miner.core.http.client import HttpClient
from miner.core.http.errors import parse_error_body
from miner.core.llms.llamacpp.chat_template import Template
from miner.core.llms.llamacpp.dialect import Props
from miner.core.llms.llamacpp.limiter import SlotLimiter
from miner.errors import BackendError

__all__ = ["Facts", "ForeignServer", "template_of"]

_FRESH_SECONDS = 30.0
"""How long its word counts while requests of ours run there."""
_PROBE_SECONDS = 5.0
_IDLE_FRESH_SECONDS = 1.0
"""The same while none does: asking costs a millisecond then, and nobody waits longer for a slot."""

Ask = Callable[[HttpClient], Awaitable[Props]]


class Facts(Struct):
    """What it says of itself."""

    props: Props
    template: Template
    """What was learned of its chat template."""
    embeds: bool | None = None
    ranks: bool | None = None
    """None: it was not asked, and `/props` does not say."""
    probed: float = float("-inf")

    @property
    def capabilities(self) -> frozenset[str]:
        """What it can do, as far as is known: what it was not asked for a while ago is tried."""
        fresh = time.monotonic() - self.probed < _FRESH_SECONDS
        return self.props.capabilities(
            embeds=not (fresh and self.embeds is False), ranks=not (fresh and self.ranks is False)
        )


class ForeignServer:
    """What is known of it. `ask` gets what its `/props` says."""

    def __init__(self) -> None:
        self._facts: Facts | None = None
        self._asked = float("-inf")
        self._limiter: tuple[asyncio.AbstractEventLoop, SlotLimiter] | None = None

    @property
    def capabilities(self) -> frozenset[str] | None:
        """What it could do when it was asked last; None before that."""
        facts = self._facts
        if facts is None:
            return None
        return facts.props.capabilities(embeds=facts.embeds is not False, ranks=facts.ranks is not False)

    def forget(self) -> None:
        """It may have been restarted. What was known stays the best guess until it is asked."""
        self._asked = float("-inf")
        if self._facts is not None:
            self._facts.probed = float("-inf")

    async def facts(self, http: HttpClient, ask: Ask) -> Facts:
        """What it says of itself now, or said a moment ago."""
        now = time.monotonic()
        busy = self._limiter is not None and self._limiter[1].busy > 0
        known = self._facts
        if known is not None and now - self._asked < (_FRESH_SECONDS if busy else _IDLE_FRESH_SECONDS):
            return known
        props = await ask(http)
        if known is None or props != known.props:
            known = self._facts = Facts(props, template_of(props))
        self._asked = now
        return known

    async def probed(self, http: HttpClient, ask: Ask) -> Facts:
        """The same, with what it has to be asked for by requests that do nothing."""
        facts = await self.facts(http, ask)
        now = time.monotonic()
        if now - facts.probed > _FRESH_SECONDS:
            facts.ranks = await _serves(http, "/rerank")
            # Under the pooling of rankings a vector is one score.
            facts.embeds = False if facts.ranks else await _serves(http, "/embeddings")
            facts.probed = now
        return facts

    def refused(self, path: str) -> None:
        """It cannot do what a path is for."""
        if self._facts is None:
            return
        if path == "/rerank":
            self._facts.ranks = False
        else:
            self._facts.embeds = False
        self._facts.probed = time.monotonic()

    async def limiter(self, http: HttpClient, ask: Ask, *, backend: str, max_queue: int, timeout: float) -> SlotLimiter:
        """The queue in front of it, as wide as it has slots."""
        slots = max(1, (await self.facts(http, ask)).props.total_slots)
        loop = asyncio.get_running_loop()
        if self._limiter is None or self._limiter[0] is not loop:
            self._limiter = loop, SlotLimiter(backend, slots, max_queue=max_queue, timeout=timeout)
        limiter = self._limiter[1]
        limiter.resize(slots)
        return limiter


def template_of(props: Props) -> Template:
    """What `/props` says of a chat template."""
    caps = props.chat_template_caps
    return Template(
        asked=props.build_info is not None,
        declares_tools=caps.supports_tools,
        takes_system=caps.supports_system_role,
    )


async def _serves(http: HttpClient, path: str) -> bool | None:
    """Whether it has something behind a path: what it cannot do it refuses before it looks at the body, and an empty
    body afterwards. None: it does not answer that.
    """
    try:
        reply = await http.request("POST", path, b"{}", total=_PROBE_SECONDS, read_only=True)
    except BackendError:
        return None
    return reply.status not in (404, 405, 501) and "Pooling type" not in parse_error_body(reply.body).message
