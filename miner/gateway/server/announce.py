"""What `miner serve` says of itself: where it serves what, when it is ready, and how it ended.

Each message is one record: a line of the log, an object with all details in its JSON form, and a few short lines on a
terminal.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import signal
import socket
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from miner import __version__
from miner.core.counted import counted
from miner.core.llms.LLMService import LLMService
from miner.core.model_card import ModelState
from miner.errors import MinerError
from miner.gateway.auth.key_store import KeyStore
from miner.gateway.client_address import is_loopback
from miner.gateway.endpoints.health import NotReady, not_ready
from miner.gateway.errors import ErrorBoundary
from miner.gateway.server.sockets import url_of
from miner.gateway.state import Gateway

logger = logging.getLogger("miner.gateway")

_JUST_LOGGED = 3
"""Lines."""
_LONGEST_PAUSE = 15.0
_STATES_SECONDS = 5.0
"""How long what the models do may take to find out."""
_SHOWN = 8
"""Models that are named."""
_BROKEN = ("failed", "unavailable")
_WIDEST_REASON = 200
_NARROW = 60
"""Columns below which only what fits is shown."""


def tell(message: str, screen: str | None = None, *, level: int = logging.INFO, **details: Any) -> None:
    """Log a message.

    Args:
        message: for the log.
        screen: the same for a terminal, in several lines.
        details: what its JSON form has besides.
    """
    logger.log(level, "%s", message, extra={"screen": screen, "details": details})


class Announcer:
    """Says where the gateway serves, and when it is ready."""

    def __init__(self, gateway: Gateway, keys: KeyStore | None, sockets: Sequence[socket.socket], began: float) -> None:
        """
        Args:
            keys: the API keys; None: there are none by construction.
            began: when the process began to start the server, on the monotonic clock.
        """
        self._gateway = gateway
        self._keys = keys
        self._urls = [url_of(sock) for sock in sockets]
        self._url = _reachable(self._urls[0])
        self._began = began

    def listening(self) -> None:
        """Connections are accepted."""
        gateway, service = self._gateway, self._gateway.service
        state = service.config_state
        served, url = what_is_served(service), self._url
        preloaded = (
            [name or "the default model" for name in service.preloaded] if gateway.settings.serve_preload else []
        )
        keys = keys_in_words(self._keys, local=is_loopback(gateway.settings.serve_host))
        rows = [("serves", served), ("keys", keys)]
        if not key_counts(self._keys):
            rows.append(("a key", "miner keys new NAME"))
        rows.append(("docs", f"{url}/docs"))
        if preloaded:
            rows.append(("loading", _listed(preloaded)))
        message = f"Serving at {' and '.join(self._urls)} with {served}."
        if preloaded:
            message += f" Loading {_listed(preloaded)}."
        tell(
            message, "\n".join([f"miner {__version__} at {' and '.join(self._urls)}", *_rows(rows)]),
            event="serving", addresses=self._urls, version=__version__, served=served,
            config=None if state is None else str(state.path), keys=key_counts(self._keys), preload=preloaded,
            docs=f"{url}/docs",
        )  # fmt: skip
        gateway.background.start("announcement", self._wait_until_ready, ends=True)

    async def _wait_until_ready(self) -> None:
        """Tell when the gateway is ready, and once why it is not."""
        gateway, pause, told = self._gateway, 0.5, False
        await gateway.started.wait()
        while (problem := await not_ready(gateway)) is not None:
            if gateway.phase == "draining":
                return
            if not told:
                self._not_ready(problem)
                told = True
            await asyncio.sleep(pause)
            pause = min(2 * pause, _LONGEST_PAUSE)
        self._ready(await self._states())

    def _not_ready(self, problem: NotReady) -> None:
        why = f"{problem.reason.rstrip('.')}.{f' {problem.hint}' if problem.hint else ''}"
        log = self._gateway.log
        if any(problem.reason in json.loads(line.data)["message"] for line in log.lines(most=_JUST_LOGGED)):
            why = "the line before says why."  # the backend has logged it
        tell(
            f"Not ready yet: {why}", f"Not ready yet: {why}", level=logging.WARNING, event="not_ready",
            reason=problem.reason, hint=problem.hint,
        )  # fmt: skip

    async def _states(self) -> list[ModelState]:
        try:
            async with asyncio.timeout(_STATES_SECONDS):
                with ErrorBoundary():
                    return await self._gateway.service.model_states()
        except (TimeoutError, MinerError):
            return []  # `/readyz` and the first request say what is wrong

    def _ready(self, states: list[ModelState]) -> None:
        seconds, url = time.monotonic() - self._began, self._url
        models = [_described(state) for state in states]
        shown = [state for state in states if state.listed]
        words = _listed([_in_words(state) for state in shown]) or what_is_served(self._gateway.service)
        keyed = self._keys is not None and self._keys.required
        model = _model_to_name(states)
        chat = f"miner chat --url {url}{f' -m {model}' if model else ''}{' --key KEY' if keyed else ''}"
        lines = [f"Ready after {seconds:.1f} s.", *_rows([(_name(state), _facts(state)) for state in shown[:_SHOWN]])]
        if len(shown) > _SHOWN:
            lines.append(f"  and {len(shown) - _SHOWN} more: miner ps --all")
        lines.append(f"Try: {chat}")
        if _columns() >= _NARROW:
            lines.append(f" or: {_curl(url, model, keyed=keyed)}")
        tell(
            f"Ready after {seconds:.1f} s: {words}. Try: {chat}", "\n".join(lines), event="ready",
            seconds=round(seconds, 3), models=models, addresses=self._urls, keys=key_counts(self._keys), next=chat,
        )  # fmt: skip


@dataclass(slots=True)
class Shutdown:
    """How requests ended."""

    finished: int = 0
    """Requests in flight that were done within the grace period."""
    cancelled: int = 0
    """Those that were not, and ended with an error."""
    seconds: float = 0.0
    """How long they were waited for."""


def tell_end(reason: int | BaseException, shutdown: Shutdown, ran: float, status: int) -> None:
    """Say how and why the server ended.

    Args:
        reason: the signal, or the error.
        ran: seconds that it served.
    """
    if isinstance(reason, BaseException):
        error = str(reason) or type(reason).__name__
        tell(
            f"Stopped by an error after {duration(ran)}: {error} (exit status {status})",
            level=logging.CRITICAL, event="stopped", error=error, uptime=round(ran, 3),
            exit_status=status,
        )  # fmt: skip
        return
    name = signal.Signals(reason).name
    requests = "no requests were running"
    if shutdown.finished or shutdown.cancelled:
        finished = counted(shutdown.finished, "request")
        requests = f"{finished} finished in {shutdown.seconds:.1f} s, {shutdown.cancelled} cancelled"
    why = " (its terminal was closed)" if name == "SIGHUP" else ""
    message = f"Stopped by {name}{why} after {duration(ran)}: {requests}. Exit status {status}."
    tell(
        message, message, event="stopped", signal=name, uptime=round(ran, 3), requests_finished=shutdown.finished,
        requests_cancelled=shutdown.cancelled, drain_seconds=round(shutdown.seconds, 3), exit_status=status,
    )  # fmt: skip


def duration(seconds: float) -> str:
    """Seconds in words: `3.2 s`, `5 min`, `7 h 5 min`, `3 d 4 h`."""
    if seconds < 120:
        return f"{seconds:.1f} s"
    minutes = int(seconds // 60)
    if minutes < 120:
        return f"{minutes} min"
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours < 48 else f"{hours // 24} d {hours % 24} h"


def what_is_served(service: LLMService) -> str:
    """What is served, in words."""
    state = service.config_state
    if state is None:
        return ", then ".join(service.backend_names)
    exposed = [f"all of {name}" for name, table in state.content.get("backends", {}).items() if table.get("expose")]
    return f"{state.path}: {', '.join([*state.content.get('models', {}), *exposed]) or 'no models'}"


def key_counts(keys: KeyStore | None) -> dict[str, int]:
    """How many API keys there are, by their source; empty: none is required."""
    return {} if keys is None or not keys.required else keys.sources


def keys_in_words(keys: KeyStore | None, *, local: bool) -> str:
    """Whether clients need an API key, and where these come from.

    Args:
        local: whether only this machine can reach the server.
    """
    counts = key_counts(keys)
    if counts:
        return ", ".join(f"{number} of {source}" for source, number in counts.items())
    if keys is not None and keys.required:
        return "required; none is valid now"
    return "not needed on this machine" if local else "NONE: who can reach it can use it"


def _described(state: ModelState) -> dict[str, Any]:
    known = {"context_length": state.context_length, "slots": state.slots or None, "backend": state.backend or None}
    return {"name": state.name, "state": state.state} | {name: value for name, value in known.items() if value}


def _name(state: ModelState) -> str:
    return f"{state.name}*" if state.default else state.name


def _facts(state: ModelState) -> str:
    parts = [state.backend] if state.backend else []
    if state.context_length:
        parts.append(f"{state.context_length} tokens")
    if state.slots:
        parts.append(f"{state.slots} slot{'s' if state.slots != 1 else ''}")
    why = f": {' '.join(state.reason.split())[:_WIDEST_REASON]}" if state.state in _BROKEN and state.reason else ""
    return ", ".join([*parts, state.state]) + why


def _in_words(state: ModelState) -> str:
    return f"{_name(state)} ({_facts(state)})"


def _listed(names: Sequence[str]) -> str:
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(names[:_SHOWN]) + more


def _rows(rows: Sequence[tuple[str, str]]) -> list[str]:
    """Labels and values, below each other; values that are too long begin on a line of their own."""
    width, columns = max((len(label) for label, _ in rows), default=0), _columns()
    lines = []
    for label, value in rows:
        line = f"  {label.ljust(width)}  {value}"
        lines += [line] if len(line) <= columns else [f"  {label}", f"    {value}"]
    return lines


def _columns() -> int:
    try:
        return os.get_terminal_size(2).columns or 80
    except OSError:
        return 80


def _reachable(url: str) -> str:
    """An address that clients on this machine can call."""
    return url.replace("//0.0.0.0:", "//127.0.0.1:").replace("//[::]:", "//[::1]:")


def _model_to_name(states: Sequence[ModelState]) -> str | None:
    """The model that a request has to name; None: there is a default."""
    if not states or any(state.default for state in states):
        return None
    usable = [state for state in states if state.state not in _BROKEN and state.listed]
    return min(usable, key=lambda state: state.state != "ready").name if usable else None


def _curl(url: str, model: str | None, *, keyed: bool) -> str:
    key = " -H 'Authorization: Bearer KEY'" if keyed else ""
    named = "" if model is None else f'"model": "{model}", '
    body = f'{{{named}"messages": [{{"role": "user", "content": "Hi"}}]}}'
    return f"curl {url}/v1/chat/completions{key} -d '{body}'"
