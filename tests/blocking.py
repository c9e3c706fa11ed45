"""Blocking calls of the library on an event loop, found by BlockBuster: the fixture `no_blocking_calls` fails on them.

BlockBuster raises where the call is made. What swallows exceptions on the way (`health()` never raises) would hide
that, so each call is noted too, and the test fails at its end.
"""

from __future__ import annotations

import traceback
from collections.abc import Iterator
from contextlib import contextmanager

import blockbuster.blockbuster
from blockbuster import BlockBuster
from blockbuster.blockbuster import BlockBusterFunction

__all__ = ["blocking_calls_fail"]

_SCANNED = ["miner"]
_NOT_SCANNED = ["miner.core.tests", "miner.conformance"]
# What BlockBuster does not know, by name of the function: a file that is opened, a process that is started or awaited.
_MORE = (
    "builtins.open", "io.open", "io.FileIO.read", "io.FileIO.readall", "os.open", "os.fsync", "os.waitpid",
    "subprocess.Popen._execute_child", "fcntl.flock", "socket.getaddrinfo", "shutil.rmtree",
)  # fmt: skip
_IMPORTS = ("<frozen importlib._bootstrap>", {"_find_and_load"})
_SOURCE_LINES = ("linecache.py", {"updatecache", "checkcache"})  # a traceback that is logged, and cached


@contextmanager
def blocking_calls_fail() -> Iterator[list[str]]:
    """Fail on blocking calls that code of miner makes where an event loop runs; gives where they were, so far.

    Imports are let through: a package is imported once.
    """
    found: list[str] = []

    class Noted(Exception):
        def __init__(self, function: str) -> None:
            super().__init__(f"blocking call of {function} on the event loop")
            found.append(f"{function}\n" + "".join(traceback.format_stack(limit=12)[:-2]))

    watch = BlockBuster(_SCANNED, excluded_modules=_NOT_SCANNED)
    for name in _MORE:
        watch.functions[name] = BlockBusterFunction(None, name, scanned_modules=_SCANNED, excluded_modules=_NOT_SCANNED)
    for function in watch.functions.values():
        function.can_block_in(*_IMPORTS).can_block_in(*_SOURCE_LINES)
    raised = blockbuster.blockbuster.BlockingError
    blockbuster.blockbuster.BlockingError = Noted  # type: ignore[misc, assignment]
    watch.activate()
    try:
        yield found
    finally:
        watch.deactivate()
        blockbuster.blockbuster.BlockingError = raised  # type: ignore[misc]
    assert not found, f"{len(found)} blocking calls on the event loop:\n\n" + "\n\n".join(found)
