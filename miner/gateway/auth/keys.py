"""API keys: the keys file, what a key may do, and a look-up in constant time.

The file is JSON and holds no key, only hashes. A generated key has 256 random bits, so one round of SHA-256 is enough
against guessing.
"""

from __future__ import annotations

import hashlib
import hmac
import os
import re
import secrets
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

import msgspec

from miner.core.llms.contract.rules import Policy
from miner.errors import ConfigError
from miner.gateway.context import Caller
from miner.gateway.rate_limits import NO_LIMITS, Limits

_NAME = re.compile(r"[A-Za-z0-9._@-]{1,64}")
_RESERVED = re.compile(r"(miner[-_.])?api[-_.]keys([-_.].*)?|anybody|nobody", re.IGNORECASE)
"""Names of the environment's keys, and of callers without one."""
_PREFIX = "mk-"


class KeyEntry(msgspec.Struct, kw_only=True, frozen=True, omit_defaults=True, forbid_unknown_fields=True):
    """One key, as the file holds it."""

    name: str
    sha256: str
    """Hex digits of the key's hash."""
    created: str = ""
    """Day and time, UTC, as ISO 8601 writes them."""
    limits: Limits = NO_LIMITS
    models: list[str] | None = None
    """Models that it may use; None: all."""
    admin: bool = False
    priority: Literal["interactive", "batch"] = "interactive"
    """Whether its requests wait behind those of others."""
    unsupported: Policy | None = None
    """What becomes of unsupported parameters; None: as MINER_SERVE_UNSUPPORTED says."""


class KeyFile(msgspec.Struct, kw_only=True, frozen=True, omit_defaults=True, forbid_unknown_fields=True):
    """The key file."""

    version: int = 1
    limits: Limits = NO_LIMITS
    """Limits of every key that has none of its own; they override those of the settings."""
    keys: list[KeyEntry] = []


def key_path(setting: str | None) -> Path:
    """Where the file is: as set, or in the user's config directory."""
    if setting:
        return Path(setting).expanduser()
    directory = os.environ.get("XDG_CONFIG_HOME", "")
    base = Path(directory) if os.path.isabs(directory) else Path("~/.config").expanduser()
    return base / "miner" / "keys.json"


def new_key() -> str:
    """A new random key."""
    return _PREFIX + secrets.token_urlsafe(32)


def hash_of(key: str) -> bytes:
    """The hash under which a key is stored."""
    # A header may hold bytes that are not UTF-8.
    return hashlib.sha256(key.encode("utf-8", "surrogateescape")).digest()


def partition_of(digest: bytes) -> str:
    """The name under which a key's data is stored: it gives away neither the key nor the hash that is compared."""
    return hashlib.blake2b(digest, digest_size=16, person=b"miner store").hexdigest()


def check_name(name: str) -> str:
    """The same name, if it is valid.

    Raises:
        ConfigError: it is not fit for logs, or reserved.
    """
    if not _NAME.fullmatch(name):
        raise ConfigError(f"{name!r} cannot name a key.", hint="Use up to 64 letters, digits and any of `. _ @ -`.")
    if _RESERVED.fullmatch(name):
        raise ConfigError(f"{name!r} cannot name a key: the name is reserved.", hint="Choose another name.")
    return name


def read_keys(path: Path) -> KeyFile:
    """The file's content.

    Raises:
        ConfigError: it is not a keys file, or cannot be read.
        FileNotFoundError: there is none.
    """
    try:
        read = msgspec.json.decode(path.read_bytes(), type=KeyFile)
    except FileNotFoundError:
        raise
    except OSError as error:
        raise ConfigError(f"The keys file {path} cannot be read: {error.strerror or error}.") from None
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise ConfigError(
            f"The keys file {path} is not valid: {error}.", operator_hint="`miner keys` writes it."
        ) from None
    if read.version != 1:
        raise ConfigError(f"The keys file {path} has version {read.version}; this miner reads version 1.")
    names: set[str] = set()
    for entry in read.keys:
        check_name(entry.name)
        if entry.name in names:
            raise ConfigError(f"The keys file {path} has two keys named {entry.name!r}.")
        names.add(entry.name)
        if not re.fullmatch("[0-9a-f]{64}", entry.sha256):
            raise ConfigError(f"The keys file {path}: sha256 of {entry.name!r} is not 64 hex digits.")
    return read


def write_keys(path: Path, content: KeyFile) -> None:
    """Replace the file atomically, readable by its owner only.

    Raises:
        ConfigError: it cannot be written.
    """
    data = msgspec.json.format(msgspec.json.encode(content), indent=2) + b"\n"
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        fd, temporary = tempfile.mkstemp(dir=path.parent, prefix=".keys-")
        try:
            with os.fdopen(fd, "wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, path)
        except OSError:
            os.unlink(temporary)
            raise
    except OSError as error:
        raise ConfigError(f"The keys file {path} cannot be written: {error.strerror or error}.") from None


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Keep other commands from changing the file meanwhile, where the system has file locks."""
    try:
        import fcntl
    except ImportError:
        yield
        return
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        fd = os.open(path.with_name(f".{path.name}.lock"), os.O_RDWR | os.O_CREAT, 0o600)
    except OSError as error:
        raise ConfigError(f"The keys file {path} cannot be written: {error.strerror or error}.") from None
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)
        yield
    finally:
        os.close(fd)


class Keyring:
    """Keys by their hashes."""

    def __init__(self, keys: Iterable[tuple[bytes, Caller]]) -> None:
        # Hashed again with a secret of this process, so that the time of a lookup reveals nothing about a guess.
        self._secret = secrets.token_bytes(32)
        self._callers = {self._blind(digest): (digest, caller) for digest, caller in keys}
        self.by_partition = {caller.partition: caller for _, caller in self._callers.values()}

    def __len__(self) -> int:
        return len(self._callers)

    def find(self, key: str) -> Caller | None:
        """The caller whose key this is."""
        digest = hash_of(key)
        found = self._callers.get(self._blind(digest))
        if found is None or not hmac.compare_digest(found[0], digest):
            return None
        return found[1]

    def _blind(self, digest: bytes) -> bytes:
        return hashlib.blake2b(digest, key=self._secret, digest_size=32).digest()
