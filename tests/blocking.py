"""Blocking calls of the library on an event loop, found by BlockBuster: the fixture `no_blocking_calls` fails on them.

BlockBuster raises where the call is made, and what swallows exceptions on the way (`health()` never raises) hides that.
So here the call is noted and made, and the test fails at its end.
"""

from __future__ import annotations

import socket
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import blockbuster.blockbuster
from blockbuster import BlockBuster
from blockbuster.blockbuster import BlockBusterFunction, BlockingError

__all__ = ["blocking_calls_fail"]

_SCANNED = ["miner"]
_NOT_SCANNED = ["miner.core.tests", "miner.conformance"]
# What BlockBuster does not know, by name of the function: a file that is opened, a process that is started or awaited.
_MORE = (
    "builtins.open", "io.open", "io.FileIO.read", "io.FileIO.readall", "os.open", "os.fsync", "os.waitpid",
    "subprocess.Popen._execute_child", "fcntl.flock", "shutil.rmtree",
)  # fmt: skip
_IMPORTS = ("<frozen importlib._bootstrap>", {"_find_and_load"})
_SOURCE_LINES = ("linecache.py", {"updatecache", "checkcache"})  # a traceback that is logged, and cached


def _asks_nobody(*_: Any, flags: int = 0, **__: Any) -> bool:
    return bool(flags & socket.AI_NUMERICHOST)


@contextmanager
def blocking_calls_fail(*, besides: Sequence[str] = ()) -> Iterator[list[str]]:
    """Fail at the end if code of miner made blocking calls where an event loop runs; gives where they were, so far.

    Imports are let through: a package is imported once. `besides`: parts of paths of modules that may block.
    """
    found: list[str] = []

    def noting(modules: Any, excluded: Any, function: Callable[..., Any], name: str, *more: Any) -> Callable[..., Any]:
        check = wrap(modules, excluded, lambda *args, **kwargs: None, name, *more)

        def wrapper(*args: Any, **kwargs: Any) -> Any:
            try:
                check(*args, **kwargs)
            except BlockingError:
                stack = traceback.extract_stack()[:-1]
                if not any(part in frame.filename for frame in stack for part in besides):
                    found.append(f"{name}\n" + "".join(traceback.format_list(stack[-15:])))
            return function(*args, **kwargs)

        return wrapper

    watch = BlockBuster(_SCANNED, excluded_modules=_NOT_SCANNED)
    for name in _MORE:
        watch.functions[name] = BlockBusterFunction(None, name, scanned_modules=_SCANNED, excluded_modules=_NOT_SCANNED)
    watch.functions["socket.getaddrinfo"] = BlockBusterFunction(
        None, "socket.getaddrinfo", scanned_modules=_SCANNED, excluded_modules=_NOT_SCANNED,
        can_block_predicate=_asks_nobody,
    )  # fmt: skip
    for function in watch.functions.values():
        function.can_block_in(*_IMPORTS).can_block_in(*_SOURCE_LINES)
    wrap, blockbuster.blockbuster._wrap_blocking = blockbuster.blockbuster._wrap_blocking, noting
    try:
        watch.activate()
        yield found
    finally:
        blockbuster.blockbuster._wrap_blocking = wrap
        watch.deactivate()
    assert not found, f"{len(found)} blocking calls on the event loop:\n\n" + "\n\n".join(found)
