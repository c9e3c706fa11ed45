"""`miner keys`: make, list and revoke the keys of the gateway. A running server takes the change within 2 seconds."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

from miner.cli.output.tables import aligned
from miner.cli.parser import EXIT_STATUS, UsageError, number

if TYPE_CHECKING:
    from pathlib import Path

    from miner.gateway.auth.keys import KeyEntry, KeyFile

__all__ = ["add_parser", "run"]

_EXAMPLES = f"""\
examples:
  miner keys new alice
  miner keys new crawler --requests 60 --tokens 100000 --concurrency 2
  miner keys new intern --model llama3.2 --model qwen3
  miner keys list
  miner keys revoke alice

The key is printed once, on standard output; the file keeps only its hash. The
file is MINER_API_KEYS_FILE, or miner/keys.json in the user's config directory.

{EXIT_STATUS}"""


def add_parser(subparsers: Any) -> None:
    """Add the command's arguments."""
    parser: argparse.ArgumentParser = subparsers.add_parser(
        "keys",
        help="make, list and revoke the keys of the gateway",
        description="Make, list and revoke the keys that clients of `miner serve` send.",
        epilog=_EXAMPLES,
        usage="miner keys new|list|revoke [NAME] [options]",
    )
    parser.set_defaults(run=run)
    actions = parser.add_subparsers(title="actions", metavar="ACTION", dest="action", prog="miner keys")
    new = actions.add_parser("new", help="make a key and print it once", description="Make a key and print it once.")
    new.add_argument("name", metavar="NAME", help="of the key: for the list, the log and the metrics")
    for option, what in _LIMITS.items():
        new.add_argument(
            f"--{option}", metavar="N", type=number, help=f"{what}; default: MINER_RATE_LIMIT_{option.upper()}"
        )
    new.add_argument("--model", metavar="NAME", action="append", help="a model that it may use, again for more; all")
    new.add_argument("--admin", action="store_true", help="with the right to change the server's models")
    listed = actions.add_parser("list", help="list the keys", description="List the keys, which show no secret.")
    listed.add_argument("--json", action="store_true", help="print JSON in place of text")
    revoke = actions.add_parser("revoke", help="make a key worthless", description="Make a key worthless.")
    revoke.add_argument("name", metavar="NAME", help="of the key")
    for action in (new, listed, revoke):
        action.add_argument("--file", metavar="PATH", help="the file of keys (MINER_API_KEYS_FILE)")


_LIMITS = {"requests": "requests a minute", "tokens": "tokens a minute, in and out", "concurrency": "requests at once"}


def run(args: argparse.Namespace) -> int:
    """Do what was asked."""
    if args.action is None:
        raise UsageError("No action was given.", hint="Actions are: new, list, revoke.")
    from miner.gateway.auth.keys import key_path
    from miner.gateway.settings import GatewaySettings

    given = {"api_keys_file": args.file} if args.file is not None else {}
    path = key_path(GatewaySettings(**given).api_keys_file)
    if args.action == "list":
        return _list(path, as_json=args.json)
    return _new(args, path) if args.action == "new" else _revoke(args.name, path)


def _new(args: argparse.Namespace, path: Path) -> int:
    import sys
    from datetime import UTC, datetime

    import msgspec

    from miner.errors import ConfigError
    from miner.gateway.auth.keys import KeyEntry, Limits, check_name, hash_of, locked, new_key, write_keys

    for option in _LIMITS:
        value = getattr(args, option)
        if value is not None and (not isinstance(value, int) or value < 1):
            raise UsageError(f"--{option} {value}: an integer from 1 is needed.")
    key = new_key()
    entry = KeyEntry(
        name=check_name(args.name),
        sha256=hash_of(key).hex(),
        created=datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        limits=Limits(requests=args.requests, tokens=args.tokens, concurrency=args.concurrency),
        models=args.model,
        admin=args.admin,
    )
    with locked(path):
        content = _content(path)
        if any(entry.name == other.name for other in content.keys):
            raise ConfigError(f"There is a key {entry.name!r} already.", hint="Choose another name or revoke it.")
        write_keys(path, msgspec.structs.replace(content, keys=[*content.keys, entry]))
    print(key)
    print(f"miner: this is the only time that the key is shown; its hash is in {path}", file=sys.stderr)
    return 0


def _revoke(name: str, path: Path) -> int:
    import sys

    import msgspec

    from miner.errors import ConfigError
    from miner.gateway.auth.keys import locked, write_keys

    with locked(path):
        content = _content(path)
        left = [entry for entry in content.keys if entry.name != name]
        if len(left) == len(content.keys):
            names = ", ".join(entry.name for entry in content.keys) or "none"
            raise ConfigError(f"There is no key {name!r} in {path}.", hint=f"There is: {names}.")
        write_keys(path, msgspec.structs.replace(content, keys=left))
    print(f"miner: {name} is revoked; {len(left)} keys are left", file=sys.stderr)
    return 0


def _list(path: Path, *, as_json: bool) -> int:
    entries = _content(path).keys
    if as_json:
        import msgspec

        shown = [{**msgspec.to_builtins(entry), "sha256": entry.sha256[:8]} for entry in entries]
        print(msgspec.json.format(msgspec.json.encode(shown), indent=2).decode())
    elif entries:
        rows = [("NAME", "CREATED", "REQUESTS/MIN", "TOKENS/MIN", "AT ONCE", "MODELS", "ADMIN")]
        print(aligned([*rows, *(_row(entry) for entry in entries)], right=frozenset({2, 3, 4})))
    else:
        import sys

        print(f"miner: there are no keys in {path}", file=sys.stderr)
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
