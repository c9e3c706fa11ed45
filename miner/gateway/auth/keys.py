"""Keys: what a key may do, the file that holds their hashes, and looking one up without telling how near a guess was.

The file is JSON and holds no key, only hashes. A key of ours has 256 random bits, so one round of SHA-256 is enough:
nobody finds it by trying.
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
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import msgspec

from miner.errors import ConfigError
from miner.gateway.context import Caller

__all__ = [
    "KeyCaller", "KeyEntry", "KeyFile", "Keyring", "Limits", "check_name", "hash_of", "key_path", "locked", "new_key",
    "read_keys", "write_keys",
]  # fmt: skip

_NAME = re.compile(r"[A-Za-z0-9._@-]{1,64}")
_TAKEN = re.compile(r"(miner[-_.])?api[-_.]keys([-_.].*)?|anybody|nobody", re.IGNORECASE)
"""How the keys of the environment are called, and who has none."""
_PREFIX = "mk-"

Count = Annotated[int, msgspec.Meta(ge=1)]


class Limits(msgspec.Struct, kw_only=True, frozen=True, omit_defaults=True, forbid_unknown_fields=True):
    """What a key may use; None: what holds for all."""

    requests: Count | None = None
    """Requests a minute."""
    tokens: Count | None = None
    """Tokens a minute, in and out together."""
    concurrency: Count | None = None
    """Requests at once."""


NO_LIMITS = Limits()


class KeyEntry(msgspec.Struct, kw_only=True, frozen=True, omit_defaults=True, forbid_unknown_fields=True):
    """One key, as the file holds it."""

    name: str
    sha256: str
    """Hex digits of the key's hash."""
    created: str = ""
    """Day and time, UTC, as ISO 8601 writes them."""
    limits: Limits = Limits()
    models: list[str] | None = None
    """Models that it may use; None: all."""
    admin: bool = False


class KeyFile(msgspec.Struct, kw_only=True, frozen=True, omit_defaults=True, forbid_unknown_fields=True):
    """The whole file."""

    version: int = 1
    limits: Limits = Limits()
    """Of every key that has none of its own; before those of the settings."""
    keys: list[KeyEntry] = []


@dataclass(frozen=True, slots=True)
class KeyCaller(Caller):
    """A caller with a key, and what that key may use."""

    limits: Limits = NO_LIMITS
    kept: bool = False
    """The key stands in the file, which can revoke it."""


def key_path(stated: str | None) -> Path:
    """Where the file is: as stated, or in the user's config directory."""
    if stated:
        return Path(stated).expanduser()
    directory = os.environ.get("XDG_CONFIG_HOME", "")
    base = Path(directory) if os.path.isabs(directory) else Path("~/.config").expanduser()
    return base / "miner" / "keys.json"


def new_key() -> str:
    """A key that nobody has."""
    return _PREFIX + secrets.token_urlsafe(32)


def hash_of(key: str) -> bytes:
    """The hash by which a key is known."""
    # What a client sent as a header may be no text at all.
    return hashlib.sha256(key.encode("utf-8", "surrogateescape")).digest()


def check_name(name: str) -> str:
    """The same name, fit for logs.

    Raises:
        ConfigError: it is not.
    """
    if not _NAME.fullmatch(name):
        raise ConfigError(f"{name!r} cannot name a key.", hint="Use up to 64 letters, digits and any of `. _ @ -`.")
    if _TAKEN.fullmatch(name):
        raise ConfigError(
            f"{name!r} cannot name a key: logs and limits know others by such names.", hint="Choose another name."
        )
    return name


def read_keys(path: Path) -> KeyFile:
    """The file's content.

    Raises:
        ConfigError: it is no file of keys, or cannot be read.
        FileNotFoundError: there is none.
    """
    try:
        read = msgspec.json.decode(path.read_bytes(), type=KeyFile)
    except FileNotFoundError:
        raise
    except OSError as error:
        raise ConfigError(f"The file of keys {path} cannot be read: {error.strerror or error}.") from None
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise ConfigError(f"The file of keys {path} is not valid: {error}.", hint="`miner keys` writes it.") from None
    if read.version != 1:
        raise ConfigError(f"The file of keys {path} has version {read.version}; this miner reads version 1.")
    names: set[str] = set()
    for entry in read.keys:
        check_name(entry.name)
        if entry.name in names:
            raise ConfigError(f"The file of keys {path} has two keys named {entry.name!r}.")
        names.add(entry.name)
        if not re.fullmatch("[0-9a-f]{64}", entry.sha256):
            raise ConfigError(f"The file of keys {path}: sha256 of {entry.name!r} is not 64 hex digits.")
    return read


def write_keys(path: Path, content: KeyFile) -> None:
    """Put the content in place of the file, all at once and for its owner's eyes alone.

    Raises:
        ConfigError: it cannot be written.
    """
    data = msgspec.json.format(msgspec.json.encode(content), indent=2) + b"\n"
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        fd, made = tempfile.mkstemp(dir=path.parent, prefix=".keys-")
        try:
            with os.fdopen(fd, "wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            os.replace(made, path)
        except OSError:
            os.unlink(made)
            raise
    except OSError as error:
        raise ConfigError(f"The file of keys {path} cannot be written: {error.strerror or error}.") from None


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Keep other commands from changing the file meanwhile, where the system can."""
    try:
        import fcntl
    except ImportError:
        yield
        return
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        fd = os.open(path.with_name(f".{path.name}.lock"), os.O_RDWR | os.O_CREAT, 0o600)
    except OSError as error:
        raise ConfigError(f"The file of keys {path} cannot be written: {error.strerror or error}.") from None
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)
        yield
    finally:
        os.close(fd)


class Keyring:
    """Keys by their hashes."""

    def __init__(self, keys: Iterable[tuple[bytes, KeyCaller]]) -> None:
        # Under a secret of this process nobody can choose where a guess falls, so the time of a look-up tells nothing.
        self._secret = secrets.token_bytes(32)
        self._callers = {self._blind(digest): (digest, caller) for digest, caller in keys}

    def __len__(self) -> int:
        return len(self._callers)

    def find(self, key: str) -> KeyCaller | None:
        """Whose key this is."""
        digest = hash_of(key)
        found = self._callers.get(self._blind(digest))
        if found is None or not hmac.compare_digest(found[0], digest):
            return None
        return found[1]

    def _blind(self, digest: bytes) -> bytes:
        return hashlib.blake2b(digest, key=self._secret, digest_size=32).digest()
