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
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal, NamedTuple

import msgspec

from miner.core.file_errors import way_out
from miner.core.file_replacement import replace_file, resolved
from miner.core.llms.contract.rules import Policy
from miner.errors import ConfigError
from miner.gateway.context import Caller
from miner.gateway.rate_limits import NO_LIMITS, Limits

_NAME = re.compile(r"[A-Za-z0-9._@-]{1,64}")
_RESERVED = re.compile(r"(miner[-_.])?api[-_.]keys([-_.].*)?|anybody|nobody", re.IGNORECASE)
"""Names of the environment's keys, and of callers without one."""
_HASH, _PARTITION = re.compile("[0-9a-f]{64}"), re.compile("[0-9a-f]{32}")
_ANOTHER_FILE = "Name a file, on a disk of this machine: MINER_API_KEYS_FILE, or --file."
_PREFIX = "mk-"
_VERSIONS = (1, 2)
_LOCK_SECONDS = 30.0
"""How long a command waits for another one that changes the file."""
_SILENT_SECONDS = 1.0
_LOCK_POLL_SECONDS = 0.05


class _Version(msgspec.Struct):
    version: int = 1


class FormerSecret(msgspec.Struct, kw_only=True, frozen=True, forbid_unknown_fields=True):
    """What a key was before it was rotated. Works until its time has come."""

    sha256: str
    """Hex digits of its hash."""
    until: str
    """Day and time, UTC, as ISO 8601 writes them."""


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
    partition: str | None = None
    """The name under which its data is stored, of a key that was rotated; None: `partition_of` its hash."""
    former: list[FormerSecret] = []
    """What it was before, as far as that may still be used."""


class KeyFile(msgspec.Struct, kw_only=True, frozen=True, omit_defaults=True, forbid_unknown_fields=True):
    """The key file."""

    version: int = 1
    """2: a key was rotated (`partition`, `former`), which version 1 does not have; without one the file is as readable
    as before."""
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
        if path.exists() and not path.is_file():  # a pipe would be waited for, a device is endless
            what = "is a directory" if path.is_dir() else "is no regular file"
            raise ConfigError(f"The keys file {path} {what}.", operator_hint=_ANOTHER_FILE)
        data = path.read_bytes()
        version = msgspec.json.decode(data, type=_Version).version
        if version > max(_VERSIONS):  # before the fields, which may be others there
            raise ConfigError(
                f"The keys file {path} has version {version}; this miner reads versions 1 and 2.",
                operator_hint="A newer miner has written it: update this one, or set MINER_API_KEYS_FILE.",
            )
        if version not in _VERSIONS:
            raise _damaged(path, f" has version {version}, which there is not")
        read = msgspec.json.decode(data, type=KeyFile)
    except FileNotFoundError:
        raise
    except OSError as error:
        hint = way_out(error, path)
        raise ConfigError(
            f"The keys file {path} cannot be read: {error.strerror or error}.", operator_hint=hint
        ) from None
    except RecursionError:
        raise _damaged(path, " is not valid: it is nested too deeply") from None
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise _damaged(path, f" is not valid: {error}") from None
    _check_entries(path, read)
    return read


def _check_entries(path: Path, read: KeyFile) -> None:
    """What the types do not say: an entry that two would share is nobody's.

    Raises:
        ConfigError: the file is damaged.
    """
    names: set[str] = set()
    owners: dict[str, str] = {}
    for entry in read.keys:
        try:
            check_name(entry.name)
        except ConfigError as error:
            raise _damaged(path, f" is not valid: {error.message.rstrip('.')}") from None
        if entry.name in names:
            raise _damaged(path, f" has two keys named {entry.name!r}")
        names.add(entry.name)
        hashes = [entry.sha256, *(former.sha256 for former in entry.former)]
        if not all(_HASH.fullmatch(each) for each in hashes):
            raise _damaged(path, f": sha256 of {entry.name!r} is not 64 hex digits")
        if entry.partition is not None and not _PARTITION.fullmatch(entry.partition):
            raise _damaged(path, f": partition of {entry.name!r} is not 32 hex digits")
        for each in {*hashes, entry.partition or partition_of(bytes.fromhex(entry.sha256))}:
            if (owner := owners.setdefault(each, entry.name)) != entry.name:
                what = "partition" if _PARTITION.fullmatch(each) else "sha256"
                raise _damaged(path, f" has {owner!r} and {entry.name!r} with one {what}")
        if entry.created and _seconds(entry.created) is None:
            raise _damaged(path, f": created={entry.created!r} of {entry.name!r} is not a time")
        for former in entry.former:
            if _seconds(former.until) is None:
                raise _damaged(path, f": until={former.until!r} of {entry.name!r} is not a time")


def _damaged(path: Path, what: str) -> ConfigError:
    return ConfigError(
        f"The keys file {path}{what}.",
        operator_hint="Restore a copy of it, or move it away and create the keys again with `miner keys new NAME`.",
    )


def write_keys(path: Path, content: KeyFile) -> None:
    """Replace the file atomically; it stays whose it is. Former secrets whose time is over are left out.

    Raises:
        ConfigError: it cannot be written.
    """
    now = time.time()
    kept = [
        msgspec.structs.replace(key, former=[each for each in key.former if (_seconds(each.until) or 0.0) > now])
        for key in content.keys
    ]
    version = 2 if any(key.partition is not None or key.former for key in kept) else 1
    content = msgspec.structs.replace(content, keys=kept, version=version)
    data = msgspec.json.format(msgspec.json.encode(content), indent=2) + b"\n"
    try:
        resolved(path).parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        replace_file(path, data)
    except OSError as error:
        hint = way_out(error, path)
        raise ConfigError(
            f"The keys file {path} cannot be written: {error.strerror or error}.", operator_hint=hint
        ) from None


@contextmanager
def locked(path: Path, waiting: Callable[[], None] = lambda: None) -> Iterator[None]:
    """Keep other commands from changing the file meanwhile, where the system has file locks.

    Args:
        waiting: called once, when another command has held the lock for 1 s.

    Raises:
        ConfigError: another command holds it for 30 s, or there can be no lock.
    """
    try:
        import fcntl
    except ImportError:
        yield
        return
    file = resolved(path)  # whatever link leads to it, there is one lock
    lock = file.with_name(f".{file.name}.lock")
    began, told = time.monotonic(), False
    try:
        file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        fd = _opened(lock, file)
    except OSError as error:
        message = f"The keys file {path} cannot be written: {lock}: {error.strerror or error}."
        raise ConfigError(message, operator_hint=way_out(error, lock)) from None
    try:
        while True:
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                waited = time.monotonic() - began
            except OSError as error:
                message = f"The keys file {path} cannot be locked: {error.strerror or error}."
                raise ConfigError(message, operator_hint=_ANOTHER_FILE) from None
            if waited > _LOCK_SECONDS:
                raise ConfigError(
                    f"Another `miner keys` has held the keys file {path} for {_LOCK_SECONDS:g} s; nothing was changed.",
                    operator_hint=f"Wait for it, or stop it: `fuser {lock}` says which process it is.",
                )
            if waited > _SILENT_SECONDS and not told:
                told = True
                waiting()
            time.sleep(_LOCK_POLL_SECONDS)
        yield
    finally:
        os.close(fd)


def _opened(lock: Path, file: Path) -> int:
    """Open the lock of a file. A new one belongs to the file's owner, who could not use it otherwise."""
    flags = os.O_RDWR | os.O_NOFOLLOW
    try:
        fd = os.open(lock, flags | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        return os.open(lock, flags)
    with suppress(OSError):
        owner = file.stat()
        os.fchown(fd, owner.st_uid, owner.st_gid)
    return fd


def rotated(entry: KeyEntry, key: str, grace: float) -> KeyEntry:
    """The entry with another key. Its data stays its own.

    Args:
        key: the new one.
        grace: seconds for which the present one works beside it; 0: neither it nor any former one works from now on.
    """
    former: list[FormerSecret] = []
    if grace > 0:
        former = [*entry.former, FormerSecret(sha256=entry.sha256, until=timestamp(time.time() + grace))]
    partition = entry.partition or partition_of(bytes.fromhex(entry.sha256))
    return msgspec.structs.replace(entry, sha256=hash_of(key).hex(), partition=partition, former=former)


def timestamp(seconds: float) -> str:
    """Seconds since 1970 as the file writes times, rounded up."""
    return datetime.fromtimestamp(-(-seconds // 1), UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _seconds(time_text: str) -> float | None:
    """Seconds since 1970; None: it is not a time."""
    try:
        found = datetime.fromisoformat(time_text)
    except ValueError:
        return None
    return (found if found.tzinfo is not None else found.replace(tzinfo=UTC)).timestamp()


class Secret(NamedTuple):
    """One key that clients may send."""

    digest: bytes
    caller: Caller
    until: float | None = None
    """Seconds since 1970 until which it works; None: it does not end."""


def secrets_of(entry: KeyEntry) -> Iterator[Secret]:
    """The keys that an entry stands for: the one of now, and the former ones."""
    digest = bytes.fromhex(entry.sha256)
    caller = Caller(
        entry.name, entry.admin, frozenset(entry.models) if entry.models is not None else None, entry.limits,
        entry.priority == "batch", entry.unsupported, revocable=True,
        partition=entry.partition or partition_of(digest),
    )  # fmt: skip
    yield Secret(digest, caller)
    for former in entry.former:
        yield Secret(bytes.fromhex(former.sha256), caller, _seconds(former.until))


class Keyring:
    """Keys by their hashes."""

    def __init__(self, keys: Iterable[Secret]) -> None:
        # Hashed again with a secret of this process, so that the time of a lookup reveals nothing about a guess.
        self._secret = secrets.token_bytes(32)
        self._keys = {self._blind(key.digest): key for key in keys}
        self.by_partition = {key.caller.partition: key.caller for key in self._keys.values()}

    def __len__(self) -> int:
        return len(self.by_partition)

    def find(self, key: str) -> Caller | None:
        """The caller whose key this is."""
        digest = hash_of(key)
        found = self._keys.get(self._blind(digest))
        if found is None or not hmac.compare_digest(found.digest, digest):
            return None
        if found.until is not None and time.time() >= found.until:
            return None
        return found.caller

    def _blind(self, digest: bytes) -> bytes:
        return hashlib.blake2b(digest, key=self._secret, digest_size=32).digest()
