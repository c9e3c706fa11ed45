"""What listens on this machine: a port's address, program and process, as far as the system says it."""

from __future__ import annotations

import json
import os
import re
import socket
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from miner.cli.doctor.facts import Facts

_SECONDS = 2.0
_LISTEN = "0A"
_LOOPBACK = {"0.0.0.0": "127.0.0.1", "::": "::1"}


@dataclass(frozen=True, slots=True)
class Listener:
    """A socket that accepts connections."""

    address: str
    port: int
    pid: int | None = None
    program: str | None = None

    @property
    def is_wildcard(self) -> bool:
        """Whether it accepts connections to all addresses of this machine."""
        return self.address in ("0.0.0.0", "::")

    @property
    def owner(self) -> str:
        """Its program and process, in words."""
        if self.pid is None:
            return "another user's process" if os.geteuid() else "a process"
        return f"{self.program or '?'} (pid {self.pid})"


def listeners(root: Path = Path("/")) -> list[Listener]:
    """All TCP listeners; empty where the system does not list them in /proc. The process is known for one's own only,
    or to root.
    """
    found: dict[str, tuple[str, int]] = {}
    for name, family in (("tcp", socket.AF_INET), ("tcp6", socket.AF_INET6)):
        try:
            lines = (root / "proc/net" / name).read_text(encoding="ascii", errors="replace").splitlines()[1:]
        except OSError:
            continue
        for line in lines:
            parts = line.split()
            if len(parts) > 9 and parts[3] == _LISTEN:
                address, _, port = parts[1].partition(":")
                found[parts[9]] = _address(address, family), int(port, 16)
    owners = dict(_owners(set(found), root)) if found else {}
    return [Listener(address, port, *owners.get(inode, (None, None))) for inode, (address, port) in found.items()]


def _address(hexadecimal: str, family: int) -> str:
    """The kernel prints each 32-bit word in the byte order of the machine."""
    raw = bytes.fromhex(hexadecimal)
    if sys.byteorder == "little":
        raw = b"".join(raw[at : at + 4][::-1] for at in range(0, len(raw), 4))
    return socket.inet_ntop(family, raw)


def _owners(inodes: set[str], root: Path) -> Iterator[tuple[str, tuple[int, str]]]:
    for process in (root / "proc").iterdir():
        if not process.name.isdecimal():
            continue
        try:
            links = list((process / "fd").iterdir())
            name = (process / "comm").read_text(encoding="utf-8", errors="replace").strip()
        except OSError:  # another user's, or it has ended
            continue
        for link in links:
            try:
                target = os.readlink(link)
            except OSError:
                continue
            match = re.fullmatch(r"socket:\[(\d+)\]", target)
            if match and match[1] in inodes:
                yield match[1], (int(process.name), name)


def node_address(facts: Facts) -> tuple[str, int]:
    """Host and port at which the node of these settings is reached from here."""
    host = facts.gateway.serve_host.strip("[]")
    return _LOOPBACK.get(host, host), facts.gateway.serve_port


def node_url(facts: Facts) -> str:
    """The same as a URL."""
    host, port = node_address(facts)
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def our_node(facts: Facts) -> str | None:
    """The URL of the node of these settings if it runs."""
    url = node_url(facts)
    return url if is_node(url) else None


def is_node(url: str) -> bool:
    """Whether `miner serve` responds at a URL."""
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(f"{url}/livez", timeout=_SECONDS) as response:
            found = json.loads(response.read(1000))
    except (OSError, ValueError):
        return False
    return bool(found == {"status": "ok"})
