"""The client's address, behind proxies too, and whether an address is of this machine.

Any client can send `X-Forwarded-For`. So it counts only from the proxies that the operator trusts, and of it only what
those wrote: the right-most address that is none of theirs.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterator
from typing import TYPE_CHECKING

from miner.errors import ConfigError

if TYPE_CHECKING:
    from multidict import CIMultiDictProxy

_Address = ipaddress.IPv4Address | ipaddress.IPv6Address
_Network = ipaddress.IPv4Network | ipaddress.IPv6Network

_PROXY_HEADER = re.compile(
    r"via|cdn-loop|true-client-ip|(x-)?(real|client|cluster-client|remote|originating|source)-(ip|addr|address|host)"
    r"|(x-)?original-.+|.*forward(ed|er)?(-.*)?|.*proxy.*|(x-)?remote-(user|name|email|groups)|x-auth-request-.+"
    r"|x-scheme|x-url-scheme|front-end-https|x-ssl-.+|ssl-client-.+|x-client-(cert|verify|dn).*|x-ms-client-principal.*"
    r"|(x-)?pomerium-.+|x-authentik-.+|x-webauth-.+|x-kong-.+"
    r"|(cf|tailscale|ngrok|fly|fastly|x-envoy|x-amzn|x-amz-cf|x-azure|x-appengine|x-arr|x-vercel|x-nf|x-varnish"
    r"|x-cloud|x-goog|x-lhr|x-zrok|x-pinggy|x-bore|x-playit|x-tunnel|localtonet)-.+",
    re.IGNORECASE,
)
"""Names of headers that proxies, tunnels and content networks add."""
_MAX_HOPS = 32
_PAIR = re.compile(r'\s*for\s*=\s*("(?:[^"\\]|\\.)*"|[^;,\s]*)\s*', re.IGNORECASE)


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach the address."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def is_proxied(headers: CIMultiDictProxy[str]) -> bool:
    """Whether any header shows that a proxy, tunnel or content network forwarded the request."""
    return any(_PROXY_HEADER.fullmatch(name) for name in headers)


class TrustedProxies:
    """The proxies whose forwarding headers count.

    Args:
        text: addresses and networks, separated by commas.

    Raises:
        ConfigError: one of them is neither.
    """

    def __init__(self, text: str) -> None:
        self._networks: list[_Network] = []
        for item in filter(None, (item.strip() for item in text.split(","))):
            try:
                self._networks.append(ipaddress.ip_network(item))
            except ValueError as error:
                raise ConfigError(
                    f"MINER_SERVE_TRUSTED_PROXIES: {item!r} is neither an address nor a network: {error}.",
                    hint="Give such as 127.0.0.1, 10.0.0.0/8 or fd00::/8.",
                ) from None

    def client(self, peer: str, headers: CIMultiDictProxy[str]) -> str:
        """The client's address: the peer's, or what trusted proxies forward."""
        if not self._networks or not self._trusts(_address(peer)):
            return peer
        chains = [list(_forwarded_for(headers)), list(_forwarded(headers))]
        found = {self._first_untrusted(peer, chain) for chain in chains if chain}
        # A proxy writes one of the two headers and may pass on the other as the client wrote it: where they disagree,
        # neither can be believed.
        return found.pop() if len(found) == 1 else peer

    def _first_untrusted(self, peer: str, chain: list[str]) -> str:
        """From the right, the first address that is not a trusted proxy's; what is no address ends the search."""
        known = peer
        for hop in reversed(chain[-_MAX_HOPS:]):
            address = _address(hop)
            if address is None:
                return known
            known = str(address)
            if not self._trusts(address):
                return known
        return known

    def _trusts(self, address: _Address | None) -> bool:
        return address is not None and any(address in network for network in self._networks)


def _address(text: str) -> _Address | None:
    """An address as proxies write it: with a port, in brackets, IPv4 inside IPv6."""
    text = text.strip()
    if text.startswith("["):
        text = text[1:].partition("]")[0]
    elif text.count(":") == 1:
        text = text.partition(":")[0]
    try:
        address = ipaddress.ip_address(text.partition("%")[0])
    except ValueError:
        return None
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return mapped if mapped is not None else address


def _forwarded_for(headers: CIMultiDictProxy[str]) -> Iterator[str]:
    for line in headers.getall("X-Forwarded-For", ()):
        yield from line.split(",")


def _forwarded(headers: CIMultiDictProxy[str]) -> Iterator[str]:
    """The `for` of each element of RFC 7239's header; "" where one has none."""
    for line in headers.getall("Forwarded", ()):
        for element in _split(line, ","):
            found = [match for match in (_PAIR.fullmatch(pair) for pair in _split(element, ";")) if match]
            yield found[0].group(1).strip('"') if len(found) == 1 else ""


def _split(text: str, mark: str) -> list[str]:
    """Split at a mark that stands outside of quotes."""
    return re.findall(rf'(?:[^"{mark}]|"(?:[^"\\]|\\.)*"|")+', text)
