"""`miner config show`: what is in force, and where each value comes from."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable, Sequence
from typing import Any

from miner.cli.configuration.effective import Value, tables
from miner.cli.configuration.settings import (
    DescribedSetting,
    all_classes,
    described_settings,
    find_setting,
    mistyped_variables,
    unreadable_dotenv,
    value_text,
)
from miner.cli.guess import nearest
from miner.cli.output.errors import note
from miner.cli.output.style import Style, columns
from miner.cli.output.tables import aligned, print_json, printable
from miner.cli.output.wrap import cell_len, wrapped
from miner.cli.parser import UsageError
from miner.config.file.find import find_config
from miner.config.file.lines import KeyPath
from miner.config.file.problems import key_text, shown_path, toml_text
from miner.config.file.read import LoadedConfig, read_config
from miner.errors import ConfigError

_FIRST = ("LLM_BACKEND", "DEFAULT_MODEL", "MODELS_DIR", "MINER_SERVE_HOST", "MINER_SERVE_PORT", "MINER_API_KEYS")
"""What is always shown: what people look for first."""
_GROUPS = {
    "MinerConfig": "all commands", "GatewaySettings": "miner serve",
    "VLLMCommandConfig": "miner vllm", "NodeConfig": "commands with --url",
}  # fmt: skip
_WIDEST_VALUE = 60
_NARROWEST_SOURCE = 24
_WIDEST_TEXT = 100

Table = tuple[KeyPath, list[Value]]


def show(args: argparse.Namespace) -> int:
    """Print what `args` ask for; return the exit status.

    Raises:
        ConfigError: the file is invalid; the settings have been printed then.
        UsageError: there is nothing of that name.
    """
    described = described_settings(all_classes(), args)
    loaded, error = _file(described)
    if error is not None and (args.json or args.name is not None):
        raise error
    if loaded is not None:
        described = described_settings(all_classes(), args, loaded)
    found = list(tables(loaded, described)) if loaded is not None else []
    if args.changed:
        found = [(place, [each for each in values if each.source != "default"]) for place, values in found]
    if args.name is not None:
        return _show_one(args, described, loaded, found)
    if args.json:
        _print_json(loaded, found, [each for each in described if each.changed or not args.changed])
        return 0
    if loaded is not None:
        print(f"# {loaded.path}")
        _print_tables(found, only_set=not args.all)
    elif error is None:
        print("# No miner.toml: the environment, .env and the defaults decide.")
    _print_settings(described, args)
    if error is not None:
        raise error
    return 0


def _file(described: Sequence[DescribedSetting]) -> tuple[LoadedConfig | None, ConfigError | None]:
    path = find_config(find_setting("config", described).value)
    try:
        return (read_config(path) if path is not None else None), None
    except ConfigError as error:
        return None, error


def _show_one(
    args: argparse.Namespace, described: list[DescribedSetting], loaded: LoadedConfig | None, found: list[Table]
) -> int:
    """What has this name: tables of the file, else a setting."""
    matching = [each for each in found if args.name in each[0]] or [
        each for each in found if args.name.lower() in [str(key).lower() for key in each[0]]
    ]
    if matching:
        if args.json:
            _print_json(loaded, matching, [])
            return 0
        print(f"# {loaded.path}" if loaded is not None else "")
        _print_tables(matching, only_set=args.changed)
        return 0
    try:
        setting = find_setting(args.name, described)
    except UsageError as error:
        if loaded is None:
            raise
        names = [*loaded.content.models, *loaded.content.backends, *loaded.content.groups]
        hint = nearest(args.name, names) or error.operator_hint or ""
        if not hint.startswith("Did"):
            hint = f"It has: {', '.join(names) or 'none'}. {hint}"
        raise UsageError(
            f"{shown_path(loaded.path)} has no model, backend or group {args.name!r}, and there is no such setting.",
            operator_hint=hint,
        ) from None
    if args.json:
        _print_json(loaded, [], [setting])
    else:
        _print_setting(setting)
    return 0


def as_json(setting: DescribedSetting) -> dict[str, Any]:
    """A setting as an object."""
    return {
        "name": setting.name, "variable": setting.variable, "value": setting.value, "from": setting.source,
        "default": setting.default, "allowed": setting.allowed, "description": setting.description,
        "secret": setting.secret, "problem": setting.problem,
    }  # fmt: skip


def _print_json(loaded: LoadedConfig | None, found: Iterable[Table], settings: Iterable[DescribedSetting]) -> None:
    shown: dict[str, Any] = {"file": str(loaded.path) if loaded is not None else None}
    for (kind, *rest), values in found:
        table = {value.key: {"value": value.value, "from": value.source} for value in values}
        shown.setdefault(str(kind), {}).update({rest[0]: table} if rest else table)
    described = [as_json(each) for each in settings]
    print_json({**shown, "settings": described} if described or not found else shown)


def _print_tables(found: Iterable[Table], *, only_set: bool = False) -> None:
    """Print the values of each table; `only_set`: without those that nothing sets."""
    style = Style(sys.stdout)
    for place, values in found:
        if only_set:
            values = [each for each in values if each.source != "default"]
            if not values and place == ("limits",):
                continue
        rows = [
            (f"  {each.key}", "-" if each.value is None else printable(toml_text(each.value), limit=60), each.source)
            for each in values
        ]
        print(f"\n{style.bold(f'[{key_text(place)}]')}\n{_columns(rows) if rows else ''}")


def _columns(rows: Sequence[tuple[str, str, str]]) -> str:
    """Rows of name, value and source as columns, the last of which wraps where the terminal is narrow; where it has no
    room at all, as `NAME = VALUE` with the source below.
    """
    width = columns(sys.stdout)
    text = aligned(rows)
    if width is None or max(map(cell_len, text.splitlines())) <= width:
        return text
    indent = max(cell_len(name) for name, _, _ in rows) + max(cell_len(value) for _, value, _ in rows) + 4
    if width - indent >= _NARROWEST_SOURCE:
        sources = [wrapped(source, width - indent).splitlines() for _, _, source in rows]
        return aligned(
            [
                (name if not number else "", value if not number else "", line)
                for (name, value, _), lines in zip(rows, sources, strict=True)
                for number, line in enumerate(lines)
            ]
        )
    return "\n".join(
        f"{wrapped(f'{name.strip()} = {value}', width, '  ')}\n{wrapped(source, width, '    ')}"
        for name, value, source in rows
    )


def _print_settings(described: list[DescribedSetting], args: argparse.Namespace) -> None:
    style = Style(sys.stdout)
    shown = [each for each in described if args.all or each.changed or (not args.changed and each.variable in _FIRST)]
    if not shown:
        print("All settings have their defaults.")
    for group, title in _GROUPS.items():
        rows = [_row(each, style) for each in shown if each.group == group]
        if rows:
            print(f"\n{style.bold(f'# Settings of {title}')}\n{_columns(rows)}")
    for line in filter(None, (unreadable_dotenv(), *mistyped_variables(), _unused_file(described))):
        note(f"note: {line}")
    if len(shown) < len(described):
        note(
            "\nAll settings: `miner config show --all`. One, and what it is for: `miner config show LLAMACPP_PARALLEL`."
        )


def _unused_file(described: Sequence[DescribedSetting]) -> str | None:
    """That a backend is chosen beside a file, which then has no effect."""
    backend = find_setting("llm_backend", described)
    path = find_config(find_setting("config", described).value)
    if path is None or not backend.changed or backend.value == "pool":
        return None
    return f"{shown_path(path)} has no effect: LLM_BACKEND={backend.text} ({backend.source}) is set."


def _row(setting: DescribedSetting, style: Style) -> tuple[str, str, str]:
    value = printable(setting.text, limit=_WIDEST_VALUE)
    source = style.dim(setting.source) if not setting.changed else setting.source
    if setting.problem:
        source = f"{source}  {style.red(f'invalid: {setting.problem}')}"
    return f"  {setting.variable}", value, source


def _print_setting(setting: DescribedSetting) -> None:
    style = Style(sys.stdout)
    width = min(columns(sys.stdout) or _WIDEST_TEXT, _WIDEST_TEXT)
    print(f"{style.bold(setting.variable)} = {printable(setting.text, limit=1000)}")
    facts = {"from": setting.source, "default": value_text(setting.default), "takes": setting.allowed}
    if setting.problem:
        facts = {"invalid": style.red(setting.problem), **facts}
    for name, text in facts.items():
        print(f"  {name:9}{wrapped(text, width, ' ' * 11).lstrip()}")
    print(wrapped(setting.description, width, "  "))
