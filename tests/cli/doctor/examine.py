"""Runs `miner doctor --json` in a process of its own, and finds rows in what it prints."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Examined:
    """What a run printed."""

    status: int
    checks: list[dict[str, Any]]
    summary: dict[str, Any]
    text: str
    err: str

    def row(self, name: str, verdict: str | None = None) -> dict[str, Any]:
        """The row of a name (a regular expression), of this verdict if one is given."""
        found = [
            row for row in self.checks
            if re.fullmatch(name, row["name"]) and verdict in (None, row["verdict"])
        ]  # fmt: skip
        names = [(row["name"], row["verdict"], row["summary"]) for row in self.checks]
        assert found, f"no row {name} ({verdict}) in {names}"
        return found[0]

    def problems(self) -> list[str]:
        """The names of the problems."""
        return [row["name"] for row in self.checks if row["verdict"] == "problem"]


def examine(miner: Any, *arguments: str, **settings: str) -> Examined:
    """Run it; nothing leaves this machine."""
    done = miner("doctor", "--json", *arguments, **({"HF_HUB_OFFLINE": "1"} | settings))
    assert done.returncode in (0, 1), done.stderr.decode()
    found = json.loads(done.stdout)
    assert found["summary"]["exit_code"] == done.returncode
    assert list(found) == ["checks", "summary"]
    for row in found["checks"]:
        assert row["verdict"] in ("ok", "note", "problem", "skipped")
        assert row["summary"], row
        assert not (row["verdict"] == "problem" and not (row["fix"] or row["hint"])), row
    return Examined(
        done.returncode, found["checks"], found["summary"], done.stdout.decode(), done.stderr.decode()
    )  # fmt: skip
