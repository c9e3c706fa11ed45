"""KeyStore: the keys that open, as the environment and the file of `miner keys` have them now."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterator
from pathlib import Path

from miner.config.secrets import secret_text
from miner.errors import ConfigError
from miner.gateway.auth.keys import KeyCaller, KeyFile, Keyring, Limits, hash_of, key_path, read_keys
from miner.gateway.settings import GatewaySettings

__all__ = ["KeyStore", "has_keys"]

logger = logging.getLogger("miner.gateway")

_SHORTEST = 16
_POLL_SECONDS = 0.5
_FRESH_SECONDS = 2.0
"""How old the last look at the file may be; who comes later looks again."""
_LOOK_SECONDS = 2.0
"""How long anybody waits for a look: a file of a network may hang."""
_TRUST_SECONDS = 10.0
"""How long the keys of a file hold that cannot be read any more."""


def has_keys(settings: GatewaySettings) -> bool:
    """Whether clients must send a key. Reads the file.

    Raises:
        ConfigError: keys are set that cannot be used.
    """
    return bool(_given_keys(settings)) or bool(_kept_keys(settings).keys)


def _given_keys(settings: GatewaySettings) -> list[str]:
    text = secret_text(settings.api_keys) or ""
    keys = [key.strip() for key in text.split(",") if key.strip()]
    for place, key in enumerate(keys):
        if len(key) < _SHORTEST:
            raise ConfigError(
                f"MINER_API_KEYS: key {place + 1} has {len(key)} characters; {_SHORTEST} are needed.",
                hint='`python -c "import secrets; print(secrets.token_urlsafe())"` makes one.',
            )
    return keys


def _kept_keys(settings: GatewaySettings) -> KeyFile:
    """The keys of the file. Where one is named it must be there: a typing error must not open the door."""
    path = key_path(settings.api_keys_file)
    try:
        return read_keys(path)
    except FileNotFoundError:
        if settings.api_keys_file:
            raise ConfigError(
                f"MINER_API_KEYS_FILE={settings.api_keys_file}: there is no such file.",
                hint="`miner keys new NAME` makes it.",
            ) from None
        return KeyFile()


class KeyStore:
    """Finds whose key it is. A change of the file counts within 2 s, also where nothing watches the file any more.

    A file that cannot be read, or makes no sense, changes nothing for 10 s: somebody may be writing it. After that its
    keys do not count until it can be read again; those of the environment do. All reads are made in threads.
    """

    def __init__(self, settings: GatewaySettings) -> None:
        self.defaults = Limits()
        """Limits of the file for keys that have none of their own."""
        self.needed = True
        """Whether a key is needed: once there has been one, until the server ends, whatever happens to the file."""
        self.problem = ""
        """Why the file cannot be read."""
        self._settings = settings
        self._path = key_path(settings.api_keys_file)
        self._given = _given_keys(settings)
        self._ring = Keyring([])
        self._seen: tuple[int, ...] | None = None
        """The mark of the file that the keys are of."""
        self._bad: tuple[int, ...] | None = None
        """The mark of a file that could not be used: it is not read again before it changes."""
        self._missing = False
        self._looked_at = self._confirmed_at = 0.0
        """When a look ended, and when one found that the keys are those of the file; on the loop's clock."""
        self._look: asyncio.Task[None] | None = None
        self._look_began = 0.0

    async def load(self) -> None:
        """Read the file for the first time.

        Raises:
            ConfigError: it cannot be used, or one was named and is not there.
        """
        self._seen = await asyncio.to_thread(_mark, self._path)
        self._take(await asyncio.to_thread(_kept_keys, self._settings))
        self.needed = len(self._ring) > 0
        self._looked_at = self._confirmed_at = asyncio.get_running_loop().time()

    async def watch(self) -> None:
        """Look at the file twice a second, forever.

        Raises:
            TimeoutError: the file system does not answer.
        """
        while True:
            await asyncio.sleep(_POLL_SECONDS)
            if not await self._looked():
                raise TimeoutError(f"The file of keys {self._path} did not answer within {_LOOK_SECONDS:g} s.")

    def find(self, key: str) -> KeyCaller | None:
        """Whose key this is, as of the last look."""
        return self._ring.find(key)

    @property
    def fresh(self) -> bool:
        """Whether the file was looked at within the last 2 s, and could be used."""
        return not self.problem and asyncio.get_running_loop().time() - self._looked_at <= _FRESH_SECONDS

    async def confirm(self) -> bool:
        """Look at the file now; whether the keys of the file still count."""
        await self._looked()
        return asyncio.get_running_loop().time() - self._confirmed_at <= _TRUST_SECONDS

    @property
    def down(self) -> str | None:
        """Why the keys of the file do not count; None: they do."""
        if not self.problem or asyncio.get_running_loop().time() - self._confirmed_at <= _TRUST_SECONDS:
            return None
        return self.problem

    async def _looked(self) -> bool:
        """Wait for a look, of which there is one at a time; whether it ended in time."""
        loop, look = asyncio.get_running_loop(), self._look
        if look is None or look.done():
            look = self._look = asyncio.create_task(self._look_once(), name="gateway key file")
            self._look_began = loop.time()
        left = self._look_began + _LOOK_SECONDS - loop.time()
        if left > 0:
            await asyncio.wait({look}, timeout=left)
        if look.done():
            look.result()
        return look.done()

    async def _look_once(self) -> None:
        try:
            await self._refresh()
        except (ConfigError, OSError) as error:
            if self.problem != str(error):
                logger.error(
                    "The keys stay as they were for %g s; after that those of the file do not count until it can be "
                    "read again: %s", _TRUST_SECONDS, error,
                )  # fmt: skip
            self.problem = str(error)
        else:
            self.problem = ""
            self._confirmed_at = asyncio.get_running_loop().time()
        self._looked_at = asyncio.get_running_loop().time()

    async def _refresh(self) -> None:
        """Take what the file says if it has changed.

        Raises:
            ConfigError, OSError: it cannot be read.
        """
        mark = await asyncio.to_thread(_mark, self._path)
        if mark == self._seen:
            self._missing = False
            return
        if mark is None and not self._missing:
            self._missing = True  # perhaps it is just being replaced: the next look decides
            return
        if mark is not None and mark == self._bad:
            raise ConfigError(self.problem)
        try:
            kept = await asyncio.to_thread(read_keys, self._path) if mark is not None else KeyFile()
        except FileNotFoundError:
            return
        except ConfigError:
            self._bad = mark
            raise
        self._seen, self._bad = mark, None
        self._take(kept)
        logger.warning("The keys have changed: %d are valid.", len(self._ring))

    def _take(self, kept: KeyFile) -> None:
        """From now on these keys open, and no others of the file."""
        self._ring = Keyring(self._callers(kept))
        self.defaults = kept.limits
        self.needed = self.needed or len(self._ring) > 0

    def _callers(self, kept: KeyFile) -> Iterator[tuple[bytes, KeyCaller]]:
        for place, key in enumerate(self._given):
            yield hash_of(key), KeyCaller(f"MINER_API_KEYS-{place + 1}")
        for entry in kept.keys:
            models = frozenset(entry.models) if entry.models is not None else None
            yield bytes.fromhex(entry.sha256), KeyCaller(entry.name, entry.admin, models, entry.limits, kept=True)


def _mark(path: Path) -> tuple[int, ...] | None:
    """What changes when the file does; None: there is none.

    Raises:
        OSError: it cannot be told.
    """
    try:
        found = path.stat()
    except (FileNotFoundError, NotADirectoryError):
        return None
    return found.st_mtime_ns, found.st_ctime_ns, found.st_ino, found.st_size
