"""Rates: what each client has used of its requests and tokens a minute, in bounded memory."""

from __future__ import annotations

import ipaddress
from collections import OrderedDict
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from miner.core.wire import TokenUsage
    from miner.gateway.context import RequestContext

__all__ = ["Account", "Accounts", "Bucket", "subject_of", "told_usage"]

_MOST = 10_000
"""Clients that are remembered. One that is forgotten begins again, which only idle ones are."""


class Bucket:
    """An allowance that refills evenly; a whole minute's may be used at once. It can go into debt."""

    __slots__ = ("_at", "_left", "_limit")

    def __init__(self, limit: float, now: float) -> None:
        self._limit = limit
        self._left = limit
        self._at = now

    def left(self, limit: float, now: float) -> float:
        """What is left now, of a limit that may have changed."""
        if limit != self._limit:
            self._left += limit - self._limit
            self._limit = limit
        self._left = min(limit, self._left + (now - self._at) * limit / 60)
        self._at = now
        return self._left

    def use(self, amount: float) -> None:
        """Take from it."""
        self._left -= amount

    def seconds_until(self, wanted: float) -> float:
        """When that much will be there, if nobody takes from it."""
        return max(0.0, (wanted - self._left) * 60 / self._limit)


class Account:
    """What one client uses."""

    __slots__ = ("requests", "running", "tokens")

    def __init__(self) -> None:
        self.running = 0
        self.requests: Bucket | None = None
        self.tokens: Bucket | None = None


class Accounts:
    """One account for each client; of too many the one that was idle longest is forgotten."""

    def __init__(self, most: int = _MOST) -> None:
        self._most = most
        self._accounts: OrderedDict[str, Account] = OrderedDict()

    def __len__(self) -> int:
        return len(self._accounts)

    def of(self, subject: str) -> Account:
        """The account of this client."""
        account = self._accounts.get(subject)
        if account is None:
            account = self._accounts[subject] = Account()
            while len(self._accounts) > self._most and self._forget_one():
                pass
        self._accounts.move_to_end(subject)
        return account

    def _forget_one(self) -> bool:
        """Forget the oldest that has nothing running. What runs is bounded elsewhere, by connections."""
        for subject in self._accounts:
            if not self._accounts[subject].running:
                del self._accounts[subject]
                return True
        return False


def subject_of(address: str) -> str:
    """By what a client without a key is known: its address; of IPv6 the part that one customer has whole."""
    if ":" not in address:
        return address
    try:
        whole = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return address
    if whole.version == 4:
        return str(whole)
    mapped = whole.ipv4_mapped
    return str(mapped) if mapped is not None else str(ipaddress.ip_network((whole, 64), strict=False))


def told_usage(context: RequestContext) -> TokenUsage | None:
    """What the backend said of the request's tokens; None: nothing, or only zeros, as a backend of text alone may."""
    usage = context.usage
    return usage if usage is not None and (usage.prompt_tokens or usage.completion_tokens) else None
