"""Reloader: reads the file again and serves what it says now; a file that is wrong changes nothing."""

from __future__ import annotations

import asyncio
import time
from dataclasses import replace
from pathlib import Path

from miner.config.file.masked import masked
from miner.config.file.read import LoadedConfig, read_config
from miner.core.llms.contract.config_state import ConfigChange, ConfigState
from miner.core.llms.pool.members import Members, Prepared
from miner.core.llms.pool.table import ModelTable
from miner.errors import ConfigError, MinerError

_TABLES = ("variables", "limits", "defaults", "backends", "groups")


class Reloader:
    """The file of a pool. Belongs to one event loop, but for its creation."""

    def __init__(self, members: Members) -> None:
        self._members = members
        self.state = _state_of(members.loaded)
        self._lock = asyncio.Lock()

    async def reload(self, *, complete: bool = True) -> ConfigChange:
        """Read the file, serve what it says and return what has changed.

        Args:
            complete: whether the file is as it is meant to be, and not just being written. If that is not known, an
                error is not remembered, and no model is removed.

        Raises:
            ConfigError: it cannot be served; nothing has changed then.
        """
        async with self._lock:
            try:
                prepared = await asyncio.to_thread(self._prepare)
                if not complete and not prepared.models.keys() >= self._members.table.models.keys():
                    self._members.discard(prepared)
                    raise ConfigError(f"{prepared.loaded.path} has fewer models than before.")
            except ConfigError as error:
                if not complete:
                    raise
                self.state = replace(
                    self.state, error=error.message, hint=error.operator_hint or error.hint, failed_at=time.time()
                )
                raise
            before, old = self._members.table, self._members.loaded
            self._members.serve(prepared)
            self.state = _state_of(prepared.loaded)
            return _change(before, old, self._members.table, prepared.loaded)

    def _prepare(self) -> Prepared:
        try:
            return self._members.prepare(read_config(self.state.path))
        except ConfigError:
            raise
        except MinerError as error:  # what a backend makes of its settings
            raise ConfigError(f"{self.state.path}: {error.message}", operator_hint=error.hints) from error


def _state_of(loaded: LoadedConfig) -> ConfigState:
    return ConfigState(loaded.path, time.time(), others=_others(loaded), content=masked(loaded.written))


def _others(loaded: LoadedConfig) -> tuple[Path, ...]:
    """The files with keys: engines look at theirs by themselves."""
    backends = loaded.content.backends.values()
    return tuple(loaded.directory / Path(each.key_file).expanduser() for each in backends if each.key_file is not None)


def _change(before: ModelTable, old: LoadedConfig, after: ModelTable, new: LoadedConfig) -> ConfigChange:
    kept = [name for name in after.models if name in before.models]

    def has_changed(name: str) -> bool:
        one, other = before.models[name], after.models[name]
        return one.model != other.model or one.holder is not other.holder or one.upstream != other.upstream

    return ConfigChange(
        added=tuple(name for name in after.models if name not in before.models),
        removed=tuple(name for name in before.models if name not in after.models),
        changed=tuple(filter(has_changed, kept)),
        others=tuple(name for name in _TABLES if getattr(old.content, name) != getattr(new.content, name)),
    )
