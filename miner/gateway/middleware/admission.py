"""Admission: an operator's own code decides who is let in, before the body of a request is read.

A package registers an async callable as an entry point of the group `miner.admission`. It gets an AdmissionRequest and
returns True (or None) to let it in and False to refuse it; a RefusedError that it raises goes to the client as it is.
Anything else it raises, and taking too long, refuses too.
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
from miner.gateway.contained import Contained
from miner.gateway.context import RequestContext
from miner.gateway.errors import InternalServerError, RefusedError
from miner.gateway.middleware.base import Middleware

__all__ = ["GROUP", "Admission", "AdmissionRequest", "Hook", "find_hooks"]

logger = logging.getLogger("miner.gateway")

GROUP = "miner.admission"


@dataclass(frozen=True, slots=True)
class AdmissionRequest:
    """What a hook sees."""

    id: str
    method: str
    route: str
    """As the table has it: `/v1/models/{model:.+}`; of what no route matches, the path."""
    address: str
    key: str
    """Name of the key; "anybody" where there are none."""
    headers: Mapping[str, str]
    """All of them, without regard to case."""


Hook = Callable[[AdmissionRequest], Awaitable[bool | None]]


def find_hooks() -> list[tuple[str, Hook]]:
    """The installed hooks by name, in the order of their names.

    Raises:
        ConfigError: one cannot be used. The server does not start without it: it would let in whom it keeps out.
    """
    hooks: list[tuple[str, Hook]] = []
    for point in sorted(entry_points(group=GROUP), key=lambda point: point.name):
        try:
            hook = point.load()
        except Exception as error:
            raise ConfigError(
                f"The admission hook {point.name!r} ({point.value}) cannot be loaded: {error!r}.",
                hint="Mend its package or uninstall it.",
            ) from error
        asks = hook if inspect.isroutine(hook) else getattr(hook, "__call__", None)  # noqa: B004
        if not inspect.iscoroutinefunction(asks):
            raise ConfigError(f"The admission hook {point.name!r} ({point.value}) is no async callable.")
        hooks.append((point.name, hook))
    return hooks


class Admission(Middleware):
    """Asks the hooks; all of them must agree. Routes that are open to anybody stay so."""

    def __init__(self, hooks: Sequence[tuple[str, Hook]], seconds: float) -> None:
        self._hooks = list(hooks)
        self._seconds = seconds
        """For each hook."""
        self._late: set[asyncio.Future[bool | None]] = set()

    @override
    async def admit(self, context: RequestContext) -> None:
        route = context.route
        if route.access == "open":
            return
        seen = AdmissionRequest(
            context.id, context.request.method, context.request.path if route.method == "*" else route.path,
            context.peer, context.caller.name, context.request.headers,
        )  # fmt: skip
        for name, hook in self._hooks:
            await self._ask(name, hook, seen)

    async def _ask(self, name: str, hook: Hook, seen: AdmissionRequest) -> None:
        try:
            answer = await self._bounded(hook, seen)
        except InternalServerError as error:
            cause = error.__cause__
            logger.error("Request %s: the admission hook %s failed.", seen.id, name, exc_info=cause)
            raise _unanswered() from cause
        except RefusedError:
            raise
        except TimeoutError:
            logger.error("Request %s: the admission hook %s did not answer within %g s.", seen.id, name, self._seconds)
            raise _unanswered() from None
        except Exception as error:
            logger.exception("Request %s: the admission hook %s failed.", seen.id, name)
            raise _unanswered() from error
        if answer is not True and answer is not None:
            raise RefusedError(403, "not_admitted", "This request is not admitted.")

    async def _bounded(self, hook: Hook, seen: AdmissionRequest) -> bool | None:
        """The hook's answer. One that does not even end when cancelled is left to itself."""
        task = asyncio.ensure_future(_answer(hook, seen))
        try:
            done, _ = await asyncio.wait({task}, timeout=self._seconds)
        except asyncio.CancelledError:
            self._let_go(task)
            raise
        if not done:
            self._let_go(task)
            raise TimeoutError
        if task.cancelled():
            raise RuntimeError("the hook cancelled itself")
        return task.result()

    def _let_go(self, task: asyncio.Future[bool | None]) -> None:
        task.cancel()
        self._late.add(task)
        task.add_done_callback(self._forget)

    def _forget(self, task: asyncio.Future[bool | None]) -> None:
        self._late.discard(task)
        if not task.cancelled():
            task.exception()  # seen, so that nobody warns of it


async def _answer(hook: Hook, seen: AdmissionRequest) -> bool | None:
    with Contained():  # here: a SystemExit that leaves a task ends the loop, and the server with it
        return await hook(seen)


def _unanswered() -> RefusedError:
    return RefusedError(503, "admission_failed", "Whether to admit this request could not be decided.", retry_after=1)
