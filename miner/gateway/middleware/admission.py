"""Admission hooks: an operator's own code decides which requests are served, before their bodies are read.

A package registers an async callable as an entry point of the group `miner.admission`. It gets an AdmissionRequest and
returns True (or None) to admit the request and False to refuse it; a RefusedError that it raises is sent to the client
unchanged. Anything else that it raises, and a timeout, refuse too.
"""

from __future__ import annotations

import asyncio
import inspect
import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import entry_points

from miner.core._typing import override
from miner.errors import ConfigError
from miner.gateway.context import RequestContext
from miner.gateway.errors import ErrorBoundary, InternalServerError, RefusedError
from miner.gateway.middleware.base import Middleware

logger = logging.getLogger("miner.gateway")

GROUP = "miner.admission"


@dataclass(frozen=True, slots=True)
class AdmissionRequest:
    """The argument of a hook."""

    id: str
    method: str
    route: str
    """Template of the route: `/v1/models/{model:.+}`; if no route matches, the path."""
    address: str
    key: str
    """Name of the key; "anybody" where there are none."""
    headers: Mapping[str, str]
    """Case-insensitive."""


Hook = Callable[[AdmissionRequest], Awaitable[bool | None]]


def find_hooks() -> list[tuple[str, Hook]]:
    """The installed hooks by name, in the order of their names.

    Raises:
        ConfigError: one cannot be used. The server does not start without it: it would admit what the hook refuses.
    """
    hooks: list[tuple[str, Hook]] = []
    for point in sorted(entry_points(group=GROUP), key=lambda point: point.name):
        try:
            hook = point.load()
        except Exception as error:
            raise ConfigError(
                f"The admission hook {point.name!r} ({point.value}) cannot be loaded: {error!r}.",
                operator_hint="Fix its package or uninstall it.",
            ) from error
        function = hook if inspect.isroutine(hook) else getattr(hook, "__call__", None)  # noqa: B004
        if not inspect.iscoroutinefunction(function):
            raise ConfigError(f"The admission hook {point.name!r} ({point.value}) is not an async callable.")
        hooks.append((point.name, hook))
    return hooks


class Admission(Middleware):
    """Calls the hooks; all of them must admit. Open routes stay open."""

    def __init__(self, hooks: Sequence[tuple[str, Hook]], seconds: float) -> None:
        self._hooks = list(hooks)
        self._seconds = seconds
        """The timeout of each hook."""
        self._abandoned: set[asyncio.Future[bool | None]] = set()

    @override
    async def before_body(self, context: RequestContext) -> None:
        route = context.route
        if route.access == "open":
            return
        request = AdmissionRequest(
            context.id, context.request.method, context.request.path if route.is_fallback else route.path,
            context.peer, context.caller.name, context.request.headers,
        )  # fmt: skip
        for name, hook in self._hooks:
            await self._call(name, hook, request)

    async def _call(self, name: str, hook: Hook, request: AdmissionRequest) -> None:
        try:
            admitted = await self._bounded(hook, request)
        except InternalServerError as error:
            cause = error.__cause__
            logger.error("Request %s: the admission hook %s failed.", request.id, name, exc_info=cause)
            raise _failed() from cause
        except RefusedError:
            raise
        except TimeoutError:
            logger.error("Request %s: the admission hook %s timed out after %g s.", request.id, name, self._seconds)
            raise _failed() from None
        except Exception as error:
            logger.exception("Request %s: the admission hook %s failed.", request.id, name)
            raise _failed() from error
        if admitted is not True and admitted is not None:
            raise RefusedError(403, "not_admitted", "This request is not admitted.")

    async def _bounded(self, hook: Hook, request: AdmissionRequest) -> bool | None:
        """The hook's result. One that does not even end when cancelled is abandoned."""
        task = asyncio.ensure_future(_run(hook, request))
        try:
            done, _ = await asyncio.wait({task}, timeout=self._seconds)
        except asyncio.CancelledError:
            self._abandon(task)
            raise
        if not done:
            self._abandon(task)
            raise TimeoutError
        if task.cancelled():
            raise RuntimeError("the hook cancelled itself")
        return task.result()

    def _abandon(self, task: asyncio.Future[bool | None]) -> None:
        task.cancel()
        self._abandoned.add(task)
        task.add_done_callback(self._forget)

    def _forget(self, task: asyncio.Future[bool | None]) -> None:
        self._abandoned.discard(task)
        if not task.cancelled():
            task.exception()  # retrieved, so that asyncio does not warn


async def _run(hook: Hook, request: AdmissionRequest) -> bool | None:
    with ErrorBoundary():  # here: a SystemExit that leaves a task ends the loop, and the server with it
        return await hook(request)


def _failed() -> RefusedError:
    return RefusedError(503, "admission_failed", "The admission check failed.", retry_after=1)
