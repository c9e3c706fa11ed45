"""The backends of miner.toml that no other check examines: a row for each, so that none is missing without a word."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator

from miner.cli.doctor.backends import named_backends
from miner.cli.doctor.config_file import edit_line
from miner.cli.doctor.facts import Facts
from miner.cli.doctor.row import Check, Row, skipped
from miner.config.file.problems import Problem, shown_path
from miner.config.file.schema import Backend


def checks_of_tables(facts: Facts, group: str, examined: Collection[str]) -> list[Check]:
    """A check for each table of the file whose name is not in `examined`."""
    if facts.loaded is None:
        return []
    tables = facts.loaded.content.backends
    return [Check(name, group, _check(name, table)) for name, table in tables.items() if name not in examined]


def _check(name: str, table: Backend) -> Callable[[Facts], Iterator[Row]]:
    def look(facts: Facts) -> Iterator[Row]:
        used = table.expose or name in named_backends(facts)
        if table.command is not None:
            yield _command(name, table, facts, used=bool(used))
        elif not used:
            yield skipped(name, "no model uses it")
        else:
            yield skipped(
                name,
                "another model of the engines here is examined; `--model` names one of these",
                fix="miner doctor --model NAME",
            )

    return look


def _command(name: str, table: Backend, facts: Facts, *, used: bool) -> Row:
    """Whether the program of a command is there. It is not started."""
    from miner.core.llms.pool.command_engine import command_spec

    loaded = facts.loaded
    assert loaded is not None
    problem = command_spec(name, table, loaded.directory, None).problem()
    if problem is None:
        return skipped(name, "`miner serve` starts it on demand: see it with `miner doctor --url`")
    located = loaded.located(Problem(problem.text, ("backends", name, "command"), hint=problem.operator_hint))
    file = shown_path(loaded.path)
    return Row(
        name,
        "problem" if used else "note",
        located.located(file).rstrip("."),
        edit_line(file, located),
        located.hint,
        {"file": file, "line": located.line, "key": located.key, "program": (table.command or [""])[0]},
    )
