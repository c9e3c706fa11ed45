"""`miner config check`: everything that is wrong with the file and the settings, at once."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from miner.cli.configuration.settings import (
    DescribedSetting,
    all_classes,
    described_settings,
    find_setting,
    mistyped_variables,
    unreadable_dotenv,
)
from miner.cli.output.errors import note
from miner.cli.output.style import is_terminal
from miner.cli.output.tables import print_json
from miner.cli.parser import overrides
from miner.config.config import MinerConfig
from miner.config.file.find import FILE_NAME, config_paths, find_config
from miner.config.file.problems import MOST, ConfigFileError, shown_path
from miner.errors import ConfigError

if TYPE_CHECKING:
    from miner.config.file.problems import Problem
    from miner.config.file.read import LoadedConfig


def check(args: argparse.Namespace) -> int:
    """Check what `args` name; return the exit status.

    Raises:
        ConfigError: something is wrong; its hint has all the rest.
    """
    described = described_settings(all_classes(), args)
    invalid = [each for each in described if each.problem]
    broken = unreadable_dotenv()
    path = find_config(find_setting("config", described).value)
    loaded: LoadedConfig | None = None
    notes: list[Problem] = []
    error: ConfigError | None = None
    try:
        loaded, notes = _read(path, args, settings_are_valid=not invalid and broken is None)
    except ConfigError as found:
        error = found
    file = shown_path(path) if path is not None else None
    if broken is not None or invalid or error is not None:
        wrong = _all_of(broken, invalid, error)
        if not args.json:
            raise wrong
        print_json(
            {"file": file, "valid": False, "errors": _described_errors(broken, invalid, error, file), "notes": []}
        )
        note(f"miner: {wrong}")
        return 2
    assert loaded is not None
    assert file is not None
    notes.sort(key=lambda each: each.line or 0)
    mistyped = mistyped_variables()
    if args.json:
        shown = [*(_described(each, file) for each in notes), *({"message": line} for line in mistyped)]
        print_json({"file": file, "valid": True, "errors": [], "notes": shown, **_counts(loaded)})
        return 0
    counts = ", ".join(f"{count} {name if count != 1 else name[:-1]}" for name, count in _counts(loaded).items())
    print(f"{file} is valid: {counts}.")
    for each in notes:
        print(f"note: {each.located(file)} {each.hint or ''}".rstrip())
    for line in mistyped:
        print(f"note: {line}")
    if is_terminal(sys.stderr):
        note(f"Next: `miner serve{'' if args.config is None else f' --config {args.config}'}`.")
    return 0


def _read(
    path: Path | None, args: argparse.Namespace, *, settings_are_valid: bool
) -> tuple[LoadedConfig, list[Problem]]:
    """The file and the notes on it; those on this machine only where the settings are valid too."""
    from miner.cli.configuration.machine_check import check_here
    from miner.config.file.read import read_config

    if path is None:
        places = " nor ".join(map(str, config_paths()))
        raise ConfigError(
            f"There is no configuration file: neither {places} is there.",
            operator_hint="Name one with --config or MINER_CONFIG, or write one: `miner config init`.",
        )
    loaded = read_config(path)
    here = check_here(loaded, MinerConfig(**overrides(args))) if settings_are_valid else []
    return loaded, [*loaded.notes, *here]


def _all_of(broken: str | None, invalid: list[DescribedSetting], error: ConfigError | None) -> ConfigError:
    """One error for all that is wrong."""
    lines = [*filter(None, [broken]), *(each.complaint for each in invalid)]
    if error is not None and not lines:
        return error
    if isinstance(error, ConfigFileError):
        file = shown_path(error.path)
        lines += [f"{each.located(file)} {each.hint or ''}".rstrip() for each in error.problems[:MOST]]
    elif error is not None:
        lines.append(str(error))
    return ConfigError(lines[0], operator_hint="\n  ".join(lines[1:]) or None)


def _described_errors(
    broken: str | None, invalid: list[DescribedSetting], error: ConfigError | None, file: str | None
) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = [] if broken is None else [{"message": broken, "hint": None}]
    found += [
        {
            "variable": each.variable, "value": each.value, "from": each.source, "message": each.problem,
            "hint": f"It takes {each.allowed}.",
        }
        for each in invalid
    ]  # fmt: skip
    if isinstance(error, ConfigFileError):
        found += [_described(problem, file or FILE_NAME) for problem in error.problems]
    elif error is not None:
        found.append({"message": error.message, "hint": error.hints})
    return found


def _counts(loaded: LoadedConfig) -> dict[str, int]:
    content = loaded.content
    return {"models": len(content.models), "backends": len(content.backends), "groups": len(content.groups)}


def _described(problem: Problem, file: str) -> dict[str, Any]:
    return {
        "file": file, "line": problem.line, "key": problem.key or None, "value": problem.value,
        "message": problem.message, "hint": problem.hint,
    }  # fmt: skip
