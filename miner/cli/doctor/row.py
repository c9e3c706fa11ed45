"""What a check finds, and what a check is."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from miner.cli.doctor.facts import Facts

Verdict = Literal["ok", "note", "problem", "skipped"]


@dataclass(frozen=True, slots=True)
class Row:
    """One finding: a line on the screen, an object in the JSON."""

    name: str
    """Of the check, or of what it found; lower case unless it is a name of the user's."""
    verdict: Verdict
    summary: str
    """What was found, in a sentence without a full stop; of a skipped one: why."""
    fix: str | None = None
    """The line that fixes it: a command to paste, or a line of a file."""
    hint: str | None = None
    """More words, where the line alone does not say enough."""
    seen: Mapping[str, Any] = field(default_factory=dict)
    """The values that were looked at: JSON values, without secrets."""


@dataclass(frozen=True, slots=True)
class Check:
    """Something to look at. It may yield any number of rows; those that it yielded before it crashes or hangs stay."""

    name: str
    group: str
    run: Callable[[Facts], Iterable[Row] | AsyncGenerator[Row, None]]
    """Runs in a thread of its own, an asynchronous one on an event loop of its own: it may block."""
    seconds: float = 15.0
    """After which it counts as hung."""


def ok(name: str, summary: str, /, **seen: Any) -> Row:
    """Nothing is wrong."""
    return Row(name, "ok", summary, seen=seen)


def skipped(name: str, why: str, /, *, fix: str | None = None, **seen: Any) -> Row:
    """Not looked at, and why."""
    return Row(name, "skipped", why, fix, seen=seen)
