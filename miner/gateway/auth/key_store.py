"""KeyStore: the valid API keys, as the environment and the file of `miner keys` have them now."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterator
from pathlib import Path

from miner.config.secrets import secret_text
from miner.errors import ConfigError
from miner.gateway.auth.keys import KeyFile, Keyring, Secret, hash_of, key_path, partition_of, read_keys, secrets_of
from miner.gateway.context import Caller
from miner.gateway.rate_limits import Limits
from miner.gateway.settings import GatewaySettings

logger = logging.getLogger("miner.gateway")

_MIN_LENGTH = 16
_POLL_SECONDS = 0.5
_FRESH_SECONDS = 2.0
"""How old the last check of the file may be; a request after that checks it again."""
_READ_SECONDS = 2.0
"""How long a request waits for a check: a file on a network may hang."""
_TRUST_SECONDS = 10.0
"""How long keys stay valid after their file can no longer be read."""


def has_keys(settings: GatewaySettings) -> bool:
    """Whether clients must send a key. Reads the file.

    Raises:
        ConfigError: keys are set that cannot be used.
    """
    return bool(count_keys(settings))


def count_keys(settings: GatewaySettings) -> dict[str, int]:
    """How many keys there are of each source: of the variable and of the file. Reads the file.

    Raises:
        ConfigError: keys are set that cannot be used.
    """
    counts = {
        "MINER_API_KEYS": len(_environment_keys(settings)),
        str(key_path(settings.api_keys_file)): len(_file_keys(settings).keys),
    }
    return {source: number for source, number in counts.items() if number}


def _environment_keys(settings: GatewaySettings) -> list[str]:
    text = secret_text(settings.api_keys) or ""
    keys = [key.strip() for key in text.split(",") if key.strip()]
    for place, key in enumerate(keys):
        if len(key) < _MIN_LENGTH:
            raise ConfigError(
                f"MINER_API_KEYS: key {place + 1} has {len(key)} characters; {_MIN_LENGTH} are needed.",
                operator_hint='`python -c "import secrets; print(secrets.token_urlsafe())"` creates one.',
            )
    return keys


def _file_keys(settings: GatewaySettings) -> KeyFile:
    """The keys of the file. Where one is named it must exist: a typing error must not open the server."""
    path = key_path(settings.api_keys_file)
    try:
        return read_keys(path)
    except FileNotFoundError:
        if settings.api_keys_file:
            raise ConfigError(
                f"MINER_API_KEYS_FILE={settings.api_keys_file}: there is no such file.",
                operator_hint="`miner keys new NAME` creates it.",
            ) from None
        return KeyFile()


class KeyStore:
    """Looks up keys. A change of the file takes effect within 2 s, even if the watching task has stopped.

    A file that cannot be read, or is not valid, changes nothing for 10 s: it may be being written. After that its keys
    are refused until it can be read again; those of the environment are not. All reads are made in threads.
    """

    def __init__(self, settings: GatewaySettings) -> None:
        self.defaults = Limits()
        """Limits of the file for keys that have none of their own."""
        self.required = True
        """Whether a key is required: once there has been one, until the server stops, whatever happens to the file."""
        self.error = ""
        """Why the file cannot be read."""
        self._settings = settings
        self._path = key_path(settings.api_keys_file)
        self._environment_keys = _environment_keys(settings)
        self._ring = Keyring([])
        self._loaded_version: tuple[int, ...] | None = None
        """The version of the file whose keys are loaded."""
        self._broken_version: tuple[int, ...] | None = None
        """A version of the file that could not be used: it is not read again before it changes."""
        self._missing = False
        self._checked_at = self._confirmed_at = 0.0
        """When the last check ended, and when one last succeeded; on the loop's clock."""
        self._check: asyncio.Task[None] | None = None
        self._check_began = 0.0

    async def load(self) -> None:
        """Read the file for the first time.

        Raises:
            ConfigError: it cannot be used, or one was named and is not there.
        """
        self._loaded_version = await asyncio.to_thread(_version, self._path)
        self._use(await asyncio.to_thread(_file_keys, self._settings))
        self.required = len(self._ring) > 0
        self._checked_at = self._confirmed_at = asyncio.get_running_loop().time()

    async def watch(self) -> None:
        """Check the file twice a second, forever.

        Raises:
            TimeoutError: the file system does not answer.
        """
        while True:
            await asyncio.sleep(_POLL_SECONDS)
            if not await self._checked():
                raise TimeoutError(f"The keys file {self._path} could not be read within {_READ_SECONDS:g} s.")

    def find(self, key: str) -> Caller | None:
        """The caller whose key this is, as of the last check."""
        return self._ring.find(key)

    def find_partition(self, partition: str) -> Caller | None:
        """The caller whose data is stored under this name, as of the last check."""
        return self._ring.by_partition.get(partition)

    @property
    def sources(self) -> dict[str, int]:
        """How many keys there are of each source, as of the last check: of the variable and of the file."""
        in_file = len(self._ring) - len(self._environment_keys)
        counts = {"MINER_API_KEYS": len(self._environment_keys), str(self._path): in_file}
        return {source: number for source, number in counts.items() if number > 0}

    @property
    def is_fresh(self) -> bool:
        """Whether the file was checked within the last 2 s, and could be used."""
        return not self.error and asyncio.get_running_loop().time() - self._checked_at <= _FRESH_SECONDS

    async def refresh(self) -> bool:
        """Check the file now; whether its keys are still valid."""
        await self._checked()
        return asyncio.get_running_loop().time() - self._confirmed_at <= _TRUST_SECONDS

    def unavailable_reason(self) -> str | None:
        """Why the keys of the file are refused; None: they are not."""
        if not self.error or asyncio.get_running_loop().time() - self._confirmed_at <= _TRUST_SECONDS:
            return None
        return self.error

    async def _checked(self) -> bool:
        """Wait for a check, of which there is one at a time; whether it ended in time."""
        loop, check = asyncio.get_running_loop(), self._check
        if check is None or check.done():
            check = self._check = asyncio.create_task(self._check_once(), name="gateway key file")
            self._check_began = loop.time()
        left = self._check_began + _READ_SECONDS - loop.time()
        if left > 0:
            await asyncio.wait({check}, timeout=left)
        if check.done():
            check.result()
        return check.done()

    async def _check_once(self) -> None:
        try:
            await self._load_changes()
        except (ConfigError, OSError) as error:
            if self.error != str(error):
                logger.error(
                    "The keys file cannot be used. Its keys stay valid for %g s, and are refused after that until it "
                    "can be read again: %s", _TRUST_SECONDS, error,
                )  # fmt: skip
            self.error = str(error)
        else:
            self.error = ""
            self._confirmed_at = asyncio.get_running_loop().time()
        self._checked_at = asyncio.get_running_loop().time()

    async def _load_changes(self) -> None:
        """Load the file if it has changed.

        Raises:
            ConfigError, OSError: it cannot be read.
        """
        version = await asyncio.to_thread(_version, self._path)
        if version == self._loaded_version:
            self._missing = False
            return
        if version is None and not self._missing:
            self._missing = True  # perhaps it is just being replaced: the next check decides
            return
        if version is not None and version == self._broken_version:
            raise ConfigError(self.error)
        try:
            file = await asyncio.to_thread(read_keys, self._path) if version is not None else KeyFile()
        except FileNotFoundError:
            return
        except ConfigError:
            self._broken_version = version
            raise
        self._loaded_version, self._broken_version = version, None
        self._use(file)
        count = len(self._ring)
        logger.warning("API keys have changed: %d %s valid; requests need one.", count, "is" if count == 1 else "are")

    def _use(self, file: KeyFile) -> None:
        """Replace the keys of the file by these."""
        self._ring = Keyring(self._secrets(file))
        self.defaults = file.limits
        self.required = self.required or len(self._ring) > 0

    def _secrets(self, file: KeyFile) -> Iterator[Secret]:
        for place, key in enumerate(self._environment_keys):
            digest = hash_of(key)
            yield Secret(digest, Caller(f"MINER_API_KEYS-{place + 1}", partition=partition_of(digest)))
        for entry in file.keys:
            yield from secrets_of(entry)


def _version(path: Path) -> tuple[int, ...] | None:
    """A value that changes with the file; None: there is no file.

    Raises:
        OSError: it cannot be read.
    """
    try:
        found = path.stat()
    except (FileNotFoundError, NotADirectoryError):
        return None
    return found.st_mtime_ns, found.st_ctime_ns, found.st_ino, found.st_size
