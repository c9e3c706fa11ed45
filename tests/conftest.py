"""What holds for all tests."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from tests.blocking import blocking_calls_fail

_KINDS = ("unit", "process", "engine", "vllm", "llama_cpp_python", "templates", "clients", "mixed")

# How long an example takes says more of a busy machine than of what it is about.
settings.register_profile("busy machine", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("busy machine")

if sys.dont_write_bytecode:
    # Each worker would rewrite all tests, and each program that a test starts would compile the whole package again.
    sys.dont_write_bytecode = False
    sys.pycache_prefix = str(Path(__file__).parents[1] / ".pytest_cache" / "pycache")
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
    os.environ["PYTHONPYCACHEPREFIX"] = sys.pycache_prefix


def pytest_xdist_auto_num_workers(config: pytest.Config) -> int | None:
    """Unit tests wait more than they compute: two workers a core."""
    return 2 * (os.cpu_count() or 1) if config.option.markexpr == "unit" else None


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """A test without any of these marks is a unit test."""
    for item in items:
        if not any(item.get_closest_marker(kind) for kind in _KINDS):
            item.add_marker(pytest.mark.unit)


@pytest.fixture(autouse=True)
def _unit_tests_start_no_process(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A test that starts a process is marked, so that `-m unit` stays quick."""
    if request.node.get_closest_marker("unit") is None:
        yield
        return
    started: list[object] = []
    start = subprocess.Popen._execute_child  # type: ignore[attr-defined]

    def noted(self: object, arguments: object, *others: object) -> None:
        started.append(arguments)
        start(self, arguments, *others)

    monkeypatch.setattr(subprocess.Popen, "_execute_child", noted)
    yield
    assert not started, f"mark this test with `process`, or `engine` where it runs a real one: it started {started}"


def pytest_configure() -> None:
    """No test stores anything among the tester's own. Ctrl-C, the key that quits and a hang-up work in programs that
    tests start: a shell that runs the tests in the background, and nohup, have them ignored, and whoever is started
    inherits that.
    """
    os.environ["XDG_STATE_HOME"] = str(Path(__file__).parents[1] / ".pytest_cache" / "state")
    for number, action in (
        (signal.SIGINT, signal.default_int_handler), (signal.SIGQUIT, signal.SIG_DFL), (signal.SIGHUP, signal.SIG_DFL)
    ):  # fmt: skip
        if signal.getsignal(number) is signal.SIG_IGN:
            signal.signal(number, action)


@pytest.fixture
def no_blocking_calls() -> Iterator[None]:
    """The test fails where code of the library blocks the event loop: reads a file, sleeps, waits for a lock."""
    with blocking_calls_fail():
        yield
