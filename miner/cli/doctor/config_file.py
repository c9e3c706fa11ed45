"""miner.toml: whether there is one, what is wrong in it, and what it sets."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from miner.cli.doctor.facts import Facts
from miner.cli.doctor.foreign import foreign_reason, is_foreign
from miner.cli.doctor.row import Check, Row, ok, skipped
from miner.cli.doctor.targets import examined_here, targets
from miner.config.file.problems import Problem
from miner.errors import ConfigError, MinerError


def checks() -> list[Check]:
    """The checks of this file."""
    return [Check("miner.toml", "Settings", config_file, 75.0)]


def config_file(facts: Facts) -> Iterator[Row]:
    """What `miner config check` says, and the values that the file sets."""
    from miner.cli.configuration.machine_check import check_here
    from miner.config.file.problems import shown_path

    if facts.config_error is not None:
        yield from _errors(facts.config_error, facts)
        return
    loaded = facts.loaded
    if loaded is None:
        yield ok("miner.toml", "none: the variables say what is served")
        return
    file = shown_path(loaded.path)
    foreign = [kind for kind in {table.kind for table in loaded.content.backends.values()} if is_foreign(kind)]
    for kind in foreign:
        if foreign_reason(kind, facts.options.seconds)[0] is not None:  # why, its row under Backends says
            yield skipped("miner.toml", f"{file} is not examined further: the backend {kind!r} cannot be used")
            return
    notes: list[Problem] = list(loaded.notes)
    try:
        notes += check_here(loaded, facts.settings)
    except ConfigError as error:
        yield from _errors(error, facts)
        return
    content = loaded.content
    counts = {"models": len(content.models), "backends": len(content.backends), "groups": len(content.groups)}
    words = ", ".join(f"{count} {name if count != 1 else name[:-1]}" for name, count in counts.items() if count)
    yield ok("miner.toml", f"{file} is valid: {words or 'no models'}", file=str(loaded.path), **counts, set=_set(facts))
    if not content.models and not any(backend.expose for backend in content.backends.values()):
        yield Row(
            "miner.toml", "problem", f"{file} serves no model", "miner config init --add", "It has no [models.NAME]."
        )
    examined = examined_here(targets(facts))
    for each in notes:
        if _has_its_own_row(each, None if examined is None else examined.name):
            continue
        yield Row(
            _name(each),
            "problem" if _is_missing_model(each) else "note",
            each.located(file).rstrip("."),
            edit_line(file, each),
            each.hint,
            {"file": file, "line": each.line, "key": each.key, "value": each.value},
        )


def _errors(error: Exception, facts: Facts) -> Iterator[Row]:
    from miner.config.file.problems import ConfigFileError, shown_path

    file = shown_path(facts.config_path) if facts.config_path else "miner.toml"
    if isinstance(error, ConfigFileError):
        for each in error.problems:
            yield Row(
                _name(each),
                "problem",
                each.located(file).rstrip("."),
                edit_line(file, each),
                each.hint,
                {"file": file, "line": each.line, "key": each.key, "value": each.value},
            )
    elif isinstance(error, MinerError):
        missing = "There is no configuration file" in error.message
        fix = f"miner config init -o {file}" if missing else f"miner config check --config {file}"
        yield Row("miner.toml", "problem", error.message.rstrip("."), fix, error.hints, {"file": file})
    elif isinstance(error, TimeoutError):
        yield Row(
            "miner.toml",
            "problem",
            f"{file} cannot be read: {error}",
            f"ls -l {file}",
            "A disk on a network that is gone, or a pipe?",
            {"file": file},
        )
    else:
        raise error


def _has_its_own_row(note: Problem, examined: str | None) -> bool:
    """Whether another check tells it: Engines a missing program, and that the model that it examines is missing or was
    trained for less; Exposure who can read a key.
    """
    if note.path[:2] == ("models", examined):
        return _is_missing_model(note) or note.path[2:] == ("context",)
    return note.path[:1] == ("backends",) and note.path[2:] in (("command",), ("key_file",), ("plain_key",))


def _is_missing_model(note: Problem) -> bool:
    """Whether it is about the file that a model stands for."""
    return note.path[:1] == ("models",) and note.path[2:] in ((), ("file",), ("hub",), ("name",))


def _name(problem: Any) -> str:
    key: str = problem.key
    return key or "miner.toml"


def edit_line(file: str, problem: Any) -> str:
    """The command that opens the file at a problem."""
    return f"${{EDITOR:-vi}} +{problem.line} {file}" if problem.line else f"${{EDITOR:-vi}} {file}"


def _set(facts: Facts) -> dict[str, Any]:
    """What the file sets: key -> value, and where it stands."""
    from miner.cli.configuration.effective import tables
    from miner.cli.configuration.settings import described_settings
    from miner.config.config import MinerConfig

    assert facts.loaded is not None
    found: dict[str, Any] = {}
    try:
        for path, table in tables(facts.loaded, described_settings([MinerConfig])):
            for each in table:
                if each.source != "default" and each.value is not None and len(found) < 200:
                    found[".".join(map(str, (*path, each.key)))] = {"value": each.value, "source": each.source}
    except (MinerError, OSError, UnicodeDecodeError, ValueError) as error:
        return {"unknown": f"{type(error).__name__}"}
    return found
