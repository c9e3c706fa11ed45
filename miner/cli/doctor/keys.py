"""The API keys of the node: their strength, and who can read their files."""

from __future__ import annotations

import hashlib
import math
import os
import re
import stat
from collections import Counter
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

from miner.cli.doctor.facts import Facts
from miner.cli.doctor.row import Check, Row, ok
from miner.config.secrets import secret_text
from miner.core.counted import counted
from miner.errors import ConfigError

_GROUP = "Exposure"
_SHORTEST = 16
_ENOUGH_BITS = 64
"""Beyond what can be guessed over a network."""
_COMMON = """
    password admin administrator changeme change-me secret default example test token apikey api-key your-api-key
    letmein qwerty welcome miner ollama vllm llama openai sk-test sk-local sk-no-key-required no-key none dummy foo bar
    12345 123456 0123456789 abcdef abcdefghijklmnop deadbeef
""".split()
_NEW = "miner keys new NAME"
_NEW_VALUE = "export MINER_API_KEYS=$(python -c 'import secrets; print(secrets.token_urlsafe())')"


def checks() -> list[Check]:
    """The checks of this file."""
    return [
        Check("API keys", _GROUP, strength),
        Check("keys file", _GROUP, keys_file),
        Check("key files", _GROUP, key_files),
    ]


def strength(facts: Facts) -> Iterator[Row]:
    """Whether the keys of MINER_API_KEYS could be guessed."""
    keys = [key.strip() for key in (secret_text(facts.gateway.api_keys) or "").split(",") if key.strip()]
    if not keys:
        yield ok("API keys", "MINER_API_KEYS has none")
        return
    weak = [(number, why) for number, key in enumerate(keys, 1) if (why := weakness(key)) is not None]
    seen = {"keys": len(keys), "weak": len(weak), "lengths": [len(key) for key in keys]}
    for number, why in weak:
        yield Row("API keys", "problem", f"key {number} of MINER_API_KEYS {why}", _NEW_VALUE, seen=seen)
    for key, count in Counter(keys).items():
        if count > 1:
            yield Row(
                "API keys",
                "note",
                f"key {keys.index(key) + 1} stands there {count} times: its clients share one limit",
                _NEW,
                seen=seen,
            )
    others = {
        name: value
        for name, value in facts.variables.items()
        if name.upper() != "MINER_API_KEYS" and len(value) >= _SHORTEST and value in keys
    }
    if others:
        yield Row(
            "API keys",
            "problem",
            f"a key of MINER_API_KEYS is that of {', '.join(others)} too: clients learn it",
            _NEW_VALUE,
            seen=seen,
        )
    if not weak and not others:
        yield ok("API keys", f"{len(keys)} in MINER_API_KEYS, none that could be guessed", **seen)


def weakness(key: str) -> str | None:
    """Why a key could be guessed; None: it could not. The words never have the key."""
    if len(key) < _SHORTEST:
        return f"has {len(key)} characters; {_SHORTEST} are needed, and `miner serve` refuses it"
    plain = re.sub(r"[^a-z0-9]", "", key.lower())
    for word in _COMMON:
        bare = re.sub(r"[^a-z0-9]", "", word)
        if (bare and plain.replace(bare, "") in ("", "sk")) or (len(bare) > 4 and len(plain.replace(bare, "")) < 8):
            return "is made of common words"
    if any(plain == (plain[:size] * (len(plain) // size + 1))[: len(plain)] for size in range(1, len(plain) // 2 + 1)):
        return "repeats a few characters"
    steps = {ord(after) - ord(before) for before, after in pairwise(plain)}
    if len(steps) <= 2 and steps <= {1, -1, 0, -9, 9, -25, 25}:
        return "counts up or down"
    if bits(key) < _ENOUGH_BITS:
        return f"has little variety (about {bits(key):.0f} bits; {_ENOUGH_BITS} cannot be guessed)"
    return None


def bits(key: str) -> float:
    """Entropy by the frequencies of its characters: an upper bound that words and repetitions stay below."""
    counts = Counter(key)
    each = -sum(count / len(key) * math.log2(count / len(key)) for count in counts.values())
    return each * len(key)


def keys_file(facts: Facts) -> Iterator[Row]:
    """The file of `miner keys`."""
    from miner.gateway.auth.keys import key_path, read_keys

    try:
        path = key_path(facts.gateway.api_keys_file)
    except RuntimeError as error:
        yield Row("keys file", "problem", f"it cannot be looked for: {error}", "export HOME=/path/to/home")
        return
    seen: dict[str, Any] = {"file": str(path)}
    try:
        content = read_keys(path)
    except FileNotFoundError:
        if facts.gateway.api_keys_file:
            yield Row(
                "keys file",
                "problem",
                f"MINER_API_KEYS_FILE={path}: there is no such file, and `miner serve` does not start",
                _NEW,
                seen=seen,
            )
        else:
            yield ok("keys file", f"none at {path}", **seen)
        return
    except ConfigError as error:
        yield Row(
            "keys file", "problem", error.message.rstrip("."), f"mv {path} {path}.broken && {_NEW}", error.hints, seen
        )
        return
    admins = [entry.name for entry in content.keys if entry.admin]
    seen |= {"keys": len(content.keys), "admins": admins}
    common = {hashlib.sha256(word.encode()).hexdigest() for word in _COMMON}
    guessed = [entry.name for entry in content.keys if entry.sha256 in common]
    for name in guessed:
        yield Row(
            "keys file", "problem", f"the key of {name!r} is a common word", f"miner keys revoke {name}", seen=seen
        )
    row = _mode_row("keys file", path, holds="hashes", seen=seen)
    if row is not None:
        yield row
    elif not guessed:
        yield ok("keys file", f"{counted(len(content.keys), 'key')}, {len(admins)} with the admin right", **seen)


def key_files(facts: Facts) -> Iterator[Row]:
    """The files that miner.toml takes keys from, and the file itself where it holds one."""
    loaded, rows = facts.loaded, []
    if loaded is not None:
        for name, backend in loaded.content.backends.items():
            if backend.key_file:
                path = loaded.directory / Path(backend.key_file).expanduser()
                rows.append(_mode_row(f"key_file of {name}", path, holds="a key", seen={"file": str(path)}))
        if any(backend.plain_key for backend in loaded.content.backends.values()):
            rows.append(_mode_row("plain_key", loaded.path, holds="a key", seen={"file": str(loaded.path)}))
    found = [row for row in rows if row is not None]
    yield from found or [ok("key files", "none that others can read" if rows else "none")]


def _mode_row(name: str, path: Path, *, holds: str, seen: dict[str, Any]) -> Row | None:
    if os.name == "nt":
        return None
    try:
        mode = stat.S_IMODE(path.stat().st_mode)
    except OSError as error:
        return Row(name, "problem", f"{path} cannot be read: {error.strerror}", f"ls -l {path}", seen=seen)
    seen["mode"] = f"{mode:04o}"
    if mode & 0o022:
        return Row(
            name,
            "problem",
            f"{path} holds {holds} and can be changed by other users (mode {mode:04o})",
            f"chmod 600 {path}",
            seen=seen,
        )
    if mode & 0o044:
        return Row(
            name,
            "note" if holds == "hashes" else "problem",
            f"{path} holds {holds} and can be read by other users (mode {mode:04o})",
            f"chmod 600 {path}",
            seen=seen,
        )
    return None
