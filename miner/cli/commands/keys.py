"""`miner keys`: create, list and revoke API keys of the gateway. A running gateway rereads the file within 2 s."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from miner.cli.output.errors import note
from miner.cli.output.tables import aligned
from miner.cli.parser import UsageError, add_json_option, number, overrides
from miner.errors import ConfigError

if TYPE_CHECKING:
    from pathlib import Path

    from miner.gateway.auth.keys import KeyEntry, KeyFile

_EPILOG = """\
examples:
  miner keys new alice
  miner keys new crawler --requests 60 --tokens 100000 --concurrency 2
  miner keys new intern --model llama3.2 --model qwen3
  miner keys list
  miner keys revoke alice

The key is printed once, on standard output; the file stores only its hash. The
file is MINER_API_KEYS_FILE, or miner/keys.json in the user's config directory.
A running gateway applies the change within 2 s.

exit status: 0 success, 2 invalid usage or setting
"""
_LIMITS = {
    "requests": "requests per minute",
    "tokens": "input and output tokens per minute",
    "concurrency": "concurrent requests",
}


def add_parser(new_parser: Callable[..., argparse.ArgumentParser]) -> None:
    """Add the command's parser."""
    parser = new_parser(
        description="Create, list and revoke API keys for clients of `miner serve`.",
        epilog=_EPILOG,
        usage="miner keys new|list|revoke [NAME] [options]",
    )
    parser.set_defaults(run=run, flags={"api_keys_file": "file"})
    actions = parser.add_subparsers(title="actions", metavar="ACTION", dest="action", prog="miner keys")
    new = actions.add_parser("new", help="create a key and print it", description="Create a key and print it.")
    new.add_argument("name", metavar="NAME", help="name of the key in the list, the log and the metrics")
    for option, unit in _LIMITS.items():
        new.add_argument(
            f"--{option}", metavar="N", type=number, help=f"{unit}; default: MINER_RATE_LIMIT_{option.upper()}"
        )
    new.add_argument(
        "-m",
        "--model",
        metavar="NAME",
        action="append",
        help="model that the key may use; can be repeated; default: all",
    )
    new.add_argument(
        "--priority", choices=("interactive", "batch"), default="interactive",
        help="batch: its requests wait behind those of other keys; default: interactive",
    )  # fmt: skip
    new.add_argument(
        "--unsupported", choices=("refuse", "default", "skip"),
        help="what becomes of parameters that are not supported; default: MINER_SERVE_UNSUPPORTED",
    )  # fmt: skip
    new.add_argument("--admin", action="store_true", help="allow the admin routes, such as loading a model")
    listed = actions.add_parser("list", help="list the keys", description="List the keys, without secrets.")
    add_json_option(listed)
    revoke = actions.add_parser("revoke", help="revoke a key", description="Revoke a key.")
    revoke.add_argument("name", metavar="NAME", help="name of the key")
    for action in (new, listed, revoke):
        action.add_argument("--file", metavar="PATH", help="the file of keys (MINER_API_KEYS_FILE)")


def run(args: argparse.Namespace) -> int:
    """Run the action; return the exit status."""
    if args.action is None:
        raise UsageError("No action given.", operator_hint="Actions: new, list, revoke.")
    from miner.gateway.auth.keys import key_path
    from miner.gateway.settings import GatewaySettings

    path = key_path(GatewaySettings(**overrides(args)).api_keys_file)
    if args.action == "list":
        return _list(path, as_json=args.json)
    return _new(args, path) if args.action == "new" else _revoke(args.name, path)


def _new(args: argparse.Namespace, path: Path) -> int:
    import msgspec

    from miner.gateway.auth.keys import KeyEntry, check_name, hash_of, locked, new_key, write_keys
    from miner.gateway.rate_limits import Limits

    for option in _LIMITS:
        value = getattr(args, option)
        if value is not None and (not isinstance(value, int) or value < 1):
            raise UsageError(f"--{option} {value}: must be an integer of at least 1.")
    key = new_key()
    entry = KeyEntry(
        name=check_name(args.name),
        sha256=hash_of(key).hex(),
        created=datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        limits=Limits(requests=args.requests, tokens=args.tokens, concurrency=args.concurrency),
        models=args.model,
        admin=args.admin,
        priority=args.priority,
        unsupported=args.unsupported,
    )
    with locked(path):
        content = _content(path)
        if any(entry.name == other.name for other in content.keys):
            raise ConfigError(
                f"A key named {entry.name!r} exists already.", operator_hint="Choose another name or revoke it."
            )
        write_keys(path, msgspec.structs.replace(content, keys=[*content.keys, entry]))
    print(key)
    note(f"miner: The key is shown only once; its hash is in {path}.")
    return 0


def _revoke(name: str, path: Path) -> int:
    import msgspec

    from miner.gateway.auth.keys import locked, write_keys

    with locked(path):
        content = _content(path)
        kept = [entry for entry in content.keys if entry.name != name]
        if len(kept) == len(content.keys):
            names = ", ".join(entry.name for entry in content.keys) or "none"
            raise ConfigError(f"No key named {name!r} in {path}.", operator_hint=f"Keys: {names}.")
        write_keys(path, msgspec.structs.replace(content, keys=kept))
    note(f"miner: Revoked {name}; {len(kept)} keys are left.")
    return 0


def _list(path: Path, *, as_json: bool) -> int:
    entries = _content(path).keys
    if as_json:
        import msgspec

        shown = [{**msgspec.to_builtins(entry), "sha256": entry.sha256[:8]} for entry in entries]
        print(msgspec.json.format(msgspec.json.encode(shown), indent=2).decode())
    elif entries:
        rows = [("NAME", "CREATED", "REQUESTS/MIN", "TOKENS/MIN", "CONCURRENT", "MODELS", "ADMIN")]
        print(aligned([*rows, *(_row(entry) for entry in entries)], right=frozenset({2, 3, 4})))
    else:
        note(f"miner: There are no keys in {path}.")
    return 0


def _row(entry: KeyEntry) -> tuple[str, ...]:
    limits = (entry.limits.requests, entry.limits.tokens, entry.limits.concurrency)
    models = "all" if entry.models is None else ",".join(entry.models)
    return (
        entry.name, entry.created, *("-" if limit is None else str(limit) for limit in limits), models,
        "yes" if entry.admin else "-",
    )  # fmt: skip


def _content(path: Path) -> KeyFile:
    from miner.gateway.auth.keys import KeyFile, read_keys

    try:
        return read_keys(path)
    except FileNotFoundError:
        return KeyFile()
