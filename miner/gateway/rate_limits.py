"""Rate limits, and one account per client of what it has used, in bounded memory."""

from __future__ import annotations

import ipaddress
from collections import OrderedDict
from dataclasses import dataclass
from typing import Annotated

import msgspec

_MAX_ACCOUNTS = 10_000
"""Clients that are remembered. Only idle ones are forgotten; their allowance is full again then."""

_Count = Annotated[int, msgspec.Meta(ge=1)]


class Limits(msgspec.Struct, kw_only=True, frozen=True, omit_defaults=True, forbid_unknown_fields=True):
    """Limits of a client; None: no limit here, a more general one may apply."""

    requests: _Count | None = None
    """Requests per minute."""
    tokens: _Count | None = None
    """Tokens per minute, input and output together."""
    concurrency: _Count | None = None
    """Concurrent requests."""

    def over(self, general: Limits) -> Limits:
        """These limits, and those of `general` where there is none here."""
        return Limits(
            requests=self.requests or general.requests,
            tokens=self.tokens or general.tokens,
            concurrency=self.concurrency or general.concurrency,
        )


NO_LIMITS = Limits()


class TokenBucket:
    """A token bucket: it refills evenly and allows a burst of one minute; it may go negative."""

    __slots__ = ("_at", "_left", "_limit")

    def __init__(self, limit: float, now: float) -> None:
        self._limit = limit
        self._left = limit
        self._at = now

    def left(self, limit: float, now: float) -> float:
        """The rest of the allowance at `now` (seconds), by a limit per minute that may have changed."""
        if limit != self._limit:
            self._left += limit - self._limit
            self._limit = limit
        self._left = min(limit, self._left + (now - self._at) * limit / 60)
        self._at = now
        return self._left

    def use(self, amount: float) -> None:
        """Take `amount`; a negative one is put back."""
        self._left -= amount

    def seconds_until(self, wanted: float) -> float:
        """Seconds until `wanted` will be left, if nothing is used meanwhile."""
        return max(0.0, (wanted - self._left) * 60 / self._limit)


class Account:
    """Usage of one client: running requests, and its buckets."""

    __slots__ = ("requests", "running", "tokens")

    def __init__(self) -> None:
        self.running = 0
        self.requests: TokenBucket | None = None
        self.tokens: TokenBucket | None = None


class Accounts:
    """One account per client, the least recently used forgotten first."""

    def __init__(self, limit: int = _MAX_ACCOUNTS) -> None:
        self._limit = limit
        self._accounts: OrderedDict[str, Account] = OrderedDict()

    def __len__(self) -> int:
        return len(self._accounts)

    def of(self, client: str) -> Account:
        """The account of this client."""
        account = self._accounts.get(client)
        if account is None:
            account = self._accounts[client] = Account()
            while len(self._accounts) > self._limit and self._forget_one():
                pass
        self._accounts.move_to_end(client)
        return account

    def _forget_one(self) -> bool:
        """Forget the oldest without running requests, which are bounded by the number of connections."""
        for client, account in self._accounts.items():
            if not account.running:
                del self._accounts[client]
                return True
        return False


@dataclass(frozen=True, slots=True)
class TokenEstimate:
    """Tokens that a request is expected to use at most."""

    prompt: int = 0
    completion: int = 0

    @property
    def total(self) -> int:
        """Prompt and completion."""
        return self.prompt + self.completion


@dataclass(slots=True)
class Reservation:
    """The share of its client's account that a request has reserved."""

    account: Account
    limits: Limits
    requests: int = 1
    """Number that it counts as for `concurrency`."""
    estimate: TokenEstimate | None = None
    """None until the body is read."""
    tokens: int = 0
    """Tokens reserved by the estimate: at most the whole limit."""


def client_of(address: str) -> str:
    """The client behind an address; IPv6 by /64, usually one customer's prefix."""
    if ":" not in address:
        return address
    try:
        ip = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return address
    if ip.version == 4:
        return str(ip)
    mapped = ip.ipv4_mapped
    return str(mapped) if mapped is not None else str(ipaddress.ip_network((ip, 64), strict=False))
