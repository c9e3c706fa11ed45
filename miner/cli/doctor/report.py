"""All that the doctor found: counts, what to do first, the exit status, and the JSON object."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from miner.cli.doctor.redact import Redaction
from miner.cli.doctor.row import Row, Verdict
from miner.cli.doctor.runner import Done
from miner.core.counted import counted

VERDICTS: tuple[Verdict, ...] = ("problem", "note", "ok", "skipped")
_ROWS_OF_ONE_KIND = 40
"""Rows of one check: a file can have thousands of errors."""


@dataclass(frozen=True, slots=True)
class Found:
    """A row with its group."""

    group: str
    row: Row
    seconds: float | None
    """That its check took."""


@dataclass(frozen=True, slots=True)
class Report:
    """The rows in the order of the checks, without secrets."""

    found: tuple[Found, ...]
    strict: bool = False

    @classmethod
    def of(cls, done: Sequence[Done], redact: Redaction, *, strict: bool) -> Report:
        """The report on these checks."""
        return cls(tuple(_found(done, redact)), strict)

    def count(self, verdict: Verdict) -> int:
        """How many rows have it."""
        return sum(each.row.verdict == verdict for each in self.found)

    @property
    def exit_status(self) -> int:
        """1: there are problems; with `strict` also notes."""
        return 1 if self.count("problem") or (self.strict and self.count("note")) else 0

    @property
    def first(self) -> Row | None:
        """What to do first: the first problem, else the first note, that has a line which fixes it."""
        for verdict in ("problem", "note"):
            rows = [each.row for each in self.found if each.row.verdict == verdict]
            if rows:
                return next((row for row in rows if row.fix), rows[0])
        return None

    @property
    def summary(self) -> str:
        """Such as "3 problems, 1 note"."""
        parts = [counted(self.count(verdict), verdict) for verdict in ("problem", "note") if self.count(verdict)]
        return ", ".join(parts) or "nothing is wrong"

    def as_json(self) -> dict[str, Any]:
        """One object: checks, summary."""
        first = self.first
        return {
            "checks": [
                {
                    "name": each.row.name,
                    "group": each.group,
                    "verdict": each.row.verdict,
                    "summary": each.row.summary,
                    "seen": dict(each.row.seen),
                    "fix": each.row.fix,
                    "hint": each.row.hint,
                    "seconds": None if each.seconds is None else round(each.seconds, 3),
                }
                for each in self.found
            ],
            "summary": {
                **{verdict: self.count(verdict) for verdict in VERDICTS},
                "text": self.summary,
                "first": None if first is None else {"name": first.name, "fix": first.fix},
                "strict": self.strict,
                "exit_code": self.exit_status,
            },
        }


def _on_one_line(text: str | None) -> Any:
    return None if text is None else " ".join(text.split())


def _found(done: Sequence[Done], redact: Redaction) -> Iterator[Found]:
    for each in done:
        rows = each.rows[:_ROWS_OF_ONE_KIND]
        if left := len(each.rows) - len(rows):
            worst: Verdict = "problem" if any(row.verdict == "problem" for row in each.rows[len(rows) :]) else "note"
            rows = [*rows, Row(each.check.name, worst, f"{left} more of this kind are left out")]
        for row in rows:
            clean = replace(
                row,
                name=redact(row.name),
                summary=redact(_on_one_line(row.summary)),
                fix=redact(row.fix),
                hint=redact(_on_one_line(row.hint)),
                seen=redact(row.seen),
            )
            yield Found(each.check.group, clean, each.seconds)
