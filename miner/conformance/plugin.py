"""The pytest plugin: options and the table of results. It is loaded in every project and changes nothing there."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

__all__ = ["backend_under_test"]

_HERE = Path(__file__).parent
_OUTCOMES = pytest.StashKey[dict[str, list[str]]]()
_NOT_CHECKED = pytest.StashKey[dict[str, list[str]]]()
_HEADING = "capability"
_VERDICTS = ("failed", "passed", "unsupported", "not checked")
"""A capability's verdict is the first of these that one of its tests has."""


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the options, with a prefix: the plugin is loaded in all projects of the environment."""
    group = parser.getgroup("miner", "miner: the conformance suite (pytest --pyargs miner.conformance)")
    group.addoption("--miner-backend", metavar="NAME", help="the backend to test, as `miner backends` names it")
    group.addoption("--miner-model", metavar="MODEL", help="the model to use; default: the backend's own")
    group.addoption(
        "--miner-patience",
        metavar="SECONDS",
        type=float,
        default=120.0,
        help="timeout of one step; default: 120",
    )
    group.addoption("--miner-matrix", metavar="FILE", help="write the results to the table in this Markdown file")


def pytest_configure(config: pytest.Config) -> None:
    """Register the marker that ties a test to a capability."""
    config.addinivalue_line("markers", "miner_capability(name): the capability that the test checks")
    config.stash[_OUTCOMES] = {}
    config.stash[_NOT_CHECKED] = {}


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Report a backend that is missing or does not load before any test runs."""
    ours = [item for item in items if item.path.is_relative_to(_HERE)]
    if ours:
        backend_under_test(config)


def backend_under_test(config: pytest.Config) -> Any:
    """Return the class of the backend under test. Raises UsageError (exit 4) if it is missing or does not load."""
    from miner.core.llms.registry import load_backend
    from miner.errors import ConfigError

    name = config.getoption("miner_backend")
    if not name:
        raise pytest.UsageError("--miner-backend NAME is missing: the backend to test (`miner backends` lists them).")
    try:
        backend = load_backend(name)
    except ConfigError as error:
        raise pytest.UsageError(f"--miner-backend {name}: {error}") from None
    if backend.cls is None:
        raise pytest.UsageError(f"--miner-backend {name} cannot be used: {backend.reason}")
    return backend.cls


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Any:
    """Record the outcome of each capability's tests, and why one was not checked."""
    report = yield
    marker = item.get_closest_marker("miner_capability")
    if marker is not None and item.path.is_relative_to(_HERE) and (call.when == "call" or report.failed):
        outcome = _outcome(item, report)
        for capability in marker.args:
            item.config.stash[_OUTCOMES].setdefault(capability, []).append(outcome)
        if outcome == "not checked":
            for reason in (reason for word, reason in item.user_properties if word == outcome):
                item.config.stash[_NOT_CHECKED].setdefault(str(reason), []).append(item.name)
    return report


def _outcome(item: pytest.Item, report: pytest.TestReport) -> str:
    properties = dict(item.user_properties)
    if report.failed:
        return "failed"
    if "not checked" in properties:
        return "not checked"
    return "unsupported" if "refused" in properties else "passed"


def _rows(config: pytest.Config) -> list[tuple[str, str, list[str]]]:
    """Each capability with its verdict and the outcomes of its tests."""
    return [
        (capability, next(verdict for verdict in _VERDICTS if verdict in outcomes), outcomes)
        for capability, outcomes in sorted(config.stash[_OUTCOMES].items())
    ]


def _cell(verdict: str, outcomes: list[str]) -> str:
    """A cell of the table: the verdict, and how many tests had nothing to check."""
    unchecked = outcomes.count("not checked")
    return f"{verdict} ({unchecked} not checked)" if unchecked and verdict == "passed" else verdict


def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:
    """Print the capabilities, and what was not checked and why."""
    rows = _rows(config)
    if not rows:
        return
    name = config.getoption("miner_backend")
    terminalreporter.section(f"capabilities of {name}")
    for capability, verdict, outcomes in rows:
        tests = "1 test" if len(outcomes) == 1 else f"{len(outcomes)} tests"
        unchecked = outcomes.count("not checked")
        more = f", {unchecked} not checked" if unchecked and verdict != "not checked" else ""
        terminalreporter.write_line(f"  {capability:<20} {verdict:<20} ({tests}{more})")
    for reason, names in config.stash[_NOT_CHECKED].items():
        terminalreporter.write_line(f"  not checked ({reason}): {', '.join(names)}")
    file = config.getoption("miner_matrix")
    if file:
        column = config.getoption("miner_model") or ""
        cells = {capability: _cell(verdict, outcomes) for capability, verdict, outcomes in rows}
        write_column(Path(file), f"{name} {column}".strip(), cells)


def write_column(file: Path, name: str, verdicts: Mapping[str, str]) -> None:
    """Write a backend's verdicts to the Markdown table in `file`, as a new column or over its old one."""
    columns = _read_columns(file)
    columns[name] = dict(verdicts)
    rows = sorted({capability for column in columns.values() for capability in column})
    lines = [
        "Results of `pytest --pyargs miner.conformance --miner-backend NAME --miner-matrix FILE`.",
        "`unsupported`: not declared, and refused by name. `not checked`: the backend or model gave nothing to check.",
        "Empty: not run.",
        "",
        f"| {_HEADING} | {' | '.join(columns)} |",
        "|---|" + "---|" * len(columns),
        *(f"| {row} | {' | '.join(column.get(row, '') for column in columns.values())} |" for row in rows),
    ]
    file.write_text("\n".join(lines) + "\n", encoding="utf-8")


def _read_columns(file: Path) -> dict[str, dict[str, str]]:
    if not file.exists():
        return {}
    rows = [
        [cell.strip() for cell in line.strip().strip("|").split("|")]
        for line in file.read_text(encoding="utf-8").splitlines()
        if line.startswith("|") and not line.startswith("|--")
    ]
    if not rows or rows[0][0] != _HEADING:
        return {}
    names = rows[0][1:]
    return {name: {row[0]: row[place + 1] for row in rows[1:]} for place, name in enumerate(names)}
