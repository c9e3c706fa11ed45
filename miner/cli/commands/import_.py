"""`miner import`: write a `miner.toml` from another tool's configuration, and name what could not be carried over."""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from miner.cli.output.errors import note
from miner.cli.output.tables import print_json
from miner.cli.parser import UsageError, add_json_option
from miner.errors import ConfigError

if TYPE_CHECKING:
    from miner.cli.imports.draft import Draft, Remark

_TOOLS = {
    "llama-swap": "llama-swap's config.yaml",
    "llama-server": "the presets.ini of llama-server's router",
    "litellm": "the config.yaml of LiteLLM's proxy",
    "ollama": "Ollama's models directory; its files are used in place",
}
_EPILOG = """\
examples:
  miner import llama-swap config.yaml
  miner import llama-server presets.ini -o node.toml
  miner import litellm config.yaml -o -
  miner import ollama
  miner import ollama /usr/share/ollama/.ollama/models

What could not be carried over is listed on standard error, and stands as a
comment in the file. Secrets are not copied: the file names variables of the
environment that hold them.

exit status: 0 success, 2 invalid usage, or a file that cannot be read
"""


def add_parser(new_parser: Callable[..., argparse.ArgumentParser]) -> None:
    """Add the command's parser."""
    parser = new_parser(
        description="Write a miner.toml from the configuration of another tool.",
        epilog=_EPILOG,
        usage=f"miner import {'|'.join(_TOOLS)} [PATH] [options]",
    )
    parser.set_defaults(run=run)
    tools = parser.add_subparsers(title="tools", metavar="TOOL", dest="tool", prog="miner import")
    for name, line in _TOOLS.items():
        tool = tools.add_parser(name, help=line, description=f"Write a miner.toml from {line}.")
        if name == "ollama":
            tool.add_argument(
                "path", metavar="DIRECTORY", nargs="?",
                help="default: OLLAMA_MODELS, else ~/.ollama/models or that of the system's service",
            )  # fmt: skip
        else:
            tool.add_argument("path", metavar="FILE", help=f"{line}")
        tool.add_argument(
            "-o", "--output", metavar="FILE", default="miner.toml",
            help="the file to write; -: standard output; default: miner.toml",
        )  # fmt: skip
        tool.add_argument("--force", action="store_true", help="replace a file that is there")
        add_json_option(tool)


def run(args: argparse.Namespace) -> int:
    """Write the file; return the exit status."""
    output = None if args.output == "-" else Path(args.output).expanduser()
    if output is not None and not args.force and os.path.lexists(output):
        raise UsageError(f"{output} is there already.", operator_hint="Name another file with -o, or add --force.")
    draft = _draft(args.tool, args.path, output)
    text = draft.text()
    _check(text, output or Path("miner.toml"))
    if output is None:
        if not args.json:
            print(text, end="")
    else:
        _write(output, text, force=args.force)
        for name, content in draft.files.items():
            _write(output.parent / name, content, force=args.force)
    if args.json:
        print_json(_described(draft, output, text))
    else:
        note("\n".join(_report(draft, output)))
    return 0


def _draft(tool: str, path: str | None, output: Path | None) -> Draft:
    """Read the other tool's configuration."""
    from miner.cli.imports.paths import PathFinder

    if tool == "ollama":
        from miner.cli.imports.ollama import import_ollama

        draft = import_ollama(Path(path).expanduser() if path else None, output)
    else:
        assert path is not None
        file = Path(path).expanduser()
        finder = PathFinder(file.absolute().parent)
        if tool == "llama-swap":
            from miner.cli.imports.llama_swap import import_llama_swap

            draft = import_llama_swap(file, finder)
        elif tool == "llama-server":
            from miner.cli.imports.llama_server import import_llama_server

            draft = import_llama_server(file, finder)
        else:
            from miner.cli.imports.litellm import import_litellm

            draft = import_litellm(file)
    draft.aliases()
    return draft


def _check(text: str, path: Path) -> None:
    """Check the file as it is read later; variables that are not set count as set."""
    import re

    from miner.config.file.read import parse_config

    names = re.findall(r"\$\{([A-Za-z_][A-Za-z0-9_]*)\}", text)
    environment = dict.fromkeys(names, "http://set-later") | dict(os.environ)
    parse_config(text, path.absolute(), environment)


def _write(path: Path, text: str, *, force: bool) -> None:
    try:
        with path.open("w" if force else "x", encoding="utf-8", newline="\n") as file:
            file.write(text)
    except FileExistsError:
        raise UsageError(
            f"{path} is there already.", operator_hint="Name another file with -o, or add --force."
        ) from None
    except OSError as error:
        raise ConfigError(f"{path} cannot be written: {error.strerror or error}.") from None


def _described(draft: Draft, output: Path | None, text: str) -> dict[str, Any]:
    """The same as `_report` for --json; the file's text where it is not written."""
    remarks = {
        name: [{"key": where, "reason": why} for where, why in dict.fromkeys((each.where, each.why) for each in found)]
        for name, found in (("changed", draft.changed), ("not_carried_over", draft.lost))
    }
    return {
        "file": None if output is None else str(output),
        "text": text if output is None else None,
        "models": sum(1 for _ in draft.sections("models")),
        "backends": sum(1 for _ in draft.sections("backends")),
        **remarks,
        "variables": draft.variables,
        "steps": list(dict.fromkeys(draft.steps)),
    }


def _report(draft: Draft, output: Path | None) -> list[str]:
    """What was written, what is missing, and what to do now."""
    models = sum(1 for _ in draft.sections("models"))
    backends = sum(1 for _ in draft.sections("backends"))
    lines = [f"miner: {output or 'standard output'}: {_count(models, 'model')}, {_count(backends, 'backend')}."]
    lines += _listed("Carried over, but different here", draft.changed)
    lines += _listed("Not carried over", draft.lost)
    if draft.variables:
        lines += ["Set in the environment:", *(f"  {name}: {what}" for name, what in draft.variables.items())]
    if draft.steps:
        lines += ["To do:", *(f"  {step}" for step in dict.fromkeys(draft.steps))]
    if output is not None:
        lines.append(f"Check it with `miner config check --config {output}`.")
    return lines


def _listed(title: str, remarks: Iterable[Remark]) -> list[str]:
    found = list(dict.fromkeys((remark.where, remark.why) for remark in remarks))
    printable = ["".join(char if char.isprintable() else "?" for char in f"  {where}: {why}") for where, why in found]
    return [f"{title} ({len(found)}):", *printable] if found else []


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"
