"""Adding to a `miner.toml` what the machine has besides: with tomlkit, so that comments and layout stay."""

from __future__ import annotations

import re
from collections.abc import Collection
from typing import Any

from miner.cli.configuration.machine import Machine
from miner.cli.model_store import Row
from miner.config.file.merge import LOCAL, with_defaults
from miner.config.file.read import LoadedConfig
from miner.errors import ConfigError


def extended(loaded: LoadedConfig, machine: Machine, served: Collection[str]) -> tuple[str, list[str]]:
    """The text of a file with the models and servers that it does not have yet, and what was added.

    Args:
        served: local models that its models are already.

    Raises:
        ConfigError: tomlkit is not installed.
    """
    try:
        import tomlkit
    except ModuleNotFoundError as error:
        raise ConfigError(
            "Changing a file needs the package tomlkit, which is not installed.",
            operator_hint='Install it with: pip install "llm-service-backends[serve]"',
        ) from error
    document: Any = tomlkit.parse(loaded.text)
    content, added = loaded.content, list[str]()
    urls = {backend.url for backend in content.backends.values()}
    kinds = {backend.kind for backend in content.backends.values() if backend.url is None and backend.command is None}
    for server in machine.servers:
        if server.url in urls or server.kind in kinds - {LOCAL}:
            continue
        name = _free(server.kind if server.kind != LOCAL else "llama-server", content.backends)
        table = tomlkit.table()
        table.update({"kind": server.kind, "url": server.url, "expose": True})
        _table(document, "backends").add(name, table)
        added.append(f"[backends.{name}]")
    local = _local_backend(loaded)
    if added:
        _keep_backends(loaded, document)
    names = {name.lower() for name in content.models}
    rows = [row for row in machine.models if row.name.lower() not in names and row.name not in served]
    taken = {name.lower() for name in content.models}
    taken |= {alias.lower() for model in content.models.values() for alias in model.aliases}
    for name, row in short_names(rows).items():
        free = _free(name, taken)
        table = tomlkit.table()
        table.update({"backend": local, "file": row.name})
        _table(document, "models").add(free, table)
        added.append(f"[models.{free}]")
    return tomlkit.dumps(document), added


def _keep_backends(loaded: LoadedConfig, document: Any) -> None:
    """Name the backends of the models for which another one could now be meant."""
    for name, model in loaded.content.models.items():
        merged = with_defaults(model, loaded.content)
        if model.backend is None and loaded.content.defaults.backend is None:
            document["models"][name]["backend"] = merged.backend


def _local_backend(loaded: LoadedConfig) -> str:
    """The backend that starts engines; where the file has none, "llamacpp" stands for one."""
    for name, backend in loaded.content.backends.items():
        if backend.kind == LOCAL and backend.url is None and backend.command is None:
            return name
    return LOCAL


def _table(document: Any, name: str) -> Any:
    import tomlkit

    if name not in document:
        document.add(name, tomlkit.table(is_super_table=True))
    return document[name]


def _free(name: str, taken: Collection[str]) -> str:
    while name in taken:
        name += "-2"
    return name


def short_names(rows: list[Row]) -> dict[str, Row]:
    """A short name for each model: the last part of its own, or all of it where two end alike."""
    last = [_clean(row.name.rpartition("/")[2]).lower() for row in rows]
    names: dict[str, Row] = {}
    for row, short in zip(rows, last, strict=True):
        name = short if last.count(short) == 1 else _clean(row.name).lower()
        while name in names:
            name += "-2"
        names[name] = row
    return names


def _clean(name: str) -> str:
    return re.sub(r"[^\w./:-]+", "-", name)[:200].strip("-") or "model"
