"""The node of commands that have --url and --key: where they are not given, MINER_URL and MINER_KEY are."""

from __future__ import annotations

import argparse
import os
import shlex
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

if TYPE_CHECKING:
    from miner.config.node import NodeConfig

KEY_SETTING = "--key or MINER_KEY"
"""Where a key stands, for errors about one."""

_SAY_AT_ONCE = ("doctor",)
"""Commands that do nothing but talk to the node, with connections of their own."""
_unsaid: list[str] = []
"""The notice that is due when the command first talks to its node."""


def settle_node(args: argparse.Namespace) -> None:
    """Complete --url and --key of a command that has them. What opens the connection says so (`say_node`): no command
    talks to a server silently.

    --backend and --config mean this machine. A command whose default is this machine's gateway has `default_gateway`,
    one that takes no key on its command line `key_for` instead.

    Raises:
        ConfigError: MINER_URL is no URL.
    """
    from miner.config.secrets import without_password
    from miner.errors import ConfigError

    if getattr(args, "backend", None) or getattr(args, "config", None):
        return
    try:
        url = _config().url
    except ConfigError:
        return  # .env is no text: commands that need a setting say so, `miner doctor` and those with --url do without
    if args.url is None and url is not None:
        if not url.startswith(("http://", "https://")):
            raise ConfigError(
                f"MINER_URL={without_password(url)!r}: must start with http:// or https://.",
                operator_hint="Such as http://127.0.0.1:8088; unset it to have commands work on this machine.",
            )
        args.url = url
        _unsaid.append(f"miner: talking to {without_password(url)} (MINER_URL)")
        if args.command in _SAY_AT_ONCE:
            say_node()
    default_gateway = getattr(args, "default_gateway", False)
    if args.key is None and (args.url is not None or default_gateway) and not hasattr(args, "own_key"):
        args.key = key_for(args.url)


def say_node() -> None:
    """Say that MINER_URL has chosen the server that is talked to now; once."""
    from miner.cli.output.errors import note

    while _unsaid:
        note(_unsaid.pop())


def key_for(url: str | None) -> str | None:
    """MINER_KEY for the server of a command (None: this machine's gateway): where MINER_URL is set, for that alone."""
    from miner.cli.output.errors import note
    from miner.config.secrets import secret_text

    config = _config()
    if config.key is None or config.url is None or (url is not None and _origin(url) == _origin(config.url)):
        return secret_text(config.key)
    note("miner: MINER_KEY is for MINER_URL, and not sent to another server: --key is.")
    return None


def source_of(key: str) -> str:
    """Where the key of a command came from, for errors about it: MINER_KEY or --key."""
    from miner.config.secrets import secret_text

    return "MINER_KEY" if (secret_text(_config().key) or "").strip() == key.strip() else "--key"


def url_words(url: str) -> str:
    """` --url URL` for a command that is to talk to the same server; nothing where MINER_URL says so."""
    return "" if _config().url == url else f" --url {shlex.quote(url)}"


def _config() -> NodeConfig:
    """The settings; of the environment alone where `.env` is a pipe: one that nobody writes to would block, and what is
    read here would be lost to the command.
    """
    from miner.config.node import NodeConfig

    return NodeConfig(_env_file=None) if os.path.exists(".env") and not os.path.isfile(".env") else NodeConfig()


def _origin(url: str) -> tuple[str, str]:
    parts = urlsplit(url)
    return parts.scheme, parts.netloc.rpartition("@")[2].lower()
