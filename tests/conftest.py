"""What holds for all tests."""

from __future__ import annotations

import signal
from collections.abc import Iterator

import pytest

from tests.blocking import blocking_calls_fail


def pytest_configure() -> None:
    """Ctrl-C works in the programs that tests start: a shell that runs the tests in the background has it ignored, and
    whoever is started inherits that.
    """
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture
def no_blocking_calls() -> Iterator[None]:
    """The test fails where code of the library blocks the event loop: reads a file, sleeps, waits for a lock."""
    with blocking_calls_fail():
        yield
