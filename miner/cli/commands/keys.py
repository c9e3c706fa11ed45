"""`miner keys`: create, change, rotate, list and revoke API keys of the gateway. A running gateway rereads the file
within 2 s.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from miner.cli.guess import nearest
from miner.cli.output.errors import note
from miner.cli.output.style import columns
from miner.cli.output.tables import aligned, name_values, print_json
from miner.cli.parser import UsageError, add_json_option, number, overrides
from miner.errors import ConfigError, InvalidRequestError

if TYPE_CHECKING:
    from contextlib import AbstractContextManager
    from pathlib import Path

    from miner.gateway.auth.keys import KeyEntry, KeyFile

_EPILOG = """\
examples:
  miner keys new alice
  miner keys new crawler --requests 60 --tokens 100000 --concurrency 2
  miner keys new intern --model llama3.2 --model qwen3
  miner keys update crawler --requests 120 --tokens none
  miner keys rotate alice --grace 1h
  miner keys list
  miner keys revoke alice

A key is printed once, on standard output; the file stores only its hash. The
file is MINER_API_KEYS_FILE, or miner/keys.json in the user's config directory.
A running gateway applies the change within 2 s.

exit status: 0 success, 2 invalid usage or setting
"""
_LIMITS = {
    "requests": "requests per minute",
    "tokens": "input and output tokens per minute",
    "concurrency": "concurrent requests",
}
_NONE = "none"
"""Clears what `update` sets."""


def add_parser(new_parser: Callable[..., argparse.ArgumentParser]) -> None:
    """Add the command's parser."""
    parser = new_parser(
        description="Create, change, rotate, list and revoke API keys for clients of `miner serve`.",
        epilog=_EPILOG,
        usage="miner keys ACTION [NAME] [options]",
    )
    parser.set_defaults(run=run, flags={"api_keys_file": "file"})
    actions = parser.add_subparsers(title="actions", metavar="ACTION", dest="action", prog="miner keys")

    def action(name: str, line: str, *, named: bool = True) -> argparse.ArgumentParser:
        added: argparse.ArgumentParser = actions.add_parser(
            name, help=line, description=f"{line[:1].upper()}{line[1:]}."
        )
        if named:
            added.add_argument("name", metavar="NAME", help="name of the key in the list, the log and the metrics")
        return added

    new = action("new", "create a key and print it")
    update = action("update", "change what a key may do; the key stays the same")
    rotate = action("rotate", "replace a key by a new one, which is printed")
    shown = [
        new, update, rotate, action("list", "list the keys, without secrets", named=False),
        action("show", "show what a key may do"), action("revoke", "revoke a key"),
    ]  # fmt: skip
    _add_rights(new)
    new.add_argument("--admin", action="store_true", help="allow the admin routes, such as loading a model")
    _add_rights(update, clears=True)
    update.add_argument(
        "--admin", action=argparse.BooleanOptionalAction, help="allow the admin routes, such as loading a model"
    )
    rotate.add_argument(
        "--grace", metavar="TIME", default="0", help="how long the old key works too: seconds, 30m, 24h; default: 0"
    )
    for each in shown:
        each.add_argument("--file", metavar="FILE", help="the file of keys (MINER_API_KEYS_FILE)")
        add_json_option(each)


def _add_rights(parser: argparse.ArgumentParser, *, clears: bool = False) -> None:
    """Add the options of what a key may do.

    Args:
        clears: those that are not given stay as they are, and `none` clears one.
    """
    clear = f"; {_NONE}: " if clears else "; default: "
    add = parser.add_argument
    for option, unit in _LIMITS.items():
        add(f"--{option}", metavar="N", type=number, help=f"{unit}{clear}MINER_RATE_LIMIT_{option.upper()}")
    add(
        "-m", "--model", metavar="NAME", action="append",
        help=f"model that the key may use; can be repeated{clear}all",
    )  # fmt: skip
    none = (_NONE,) if clears else ()
    add(
        "--priority", choices=("interactive", "batch", *none), default=None if clears else "interactive",
        help=f"batch: its requests wait behind those of other keys{clear}interactive",
    )  # fmt: skip
    add(
        "--unsupported", choices=("refuse", "default", "skip", *none),
        help=f"what becomes of parameters that are not supported{clear}MINER_SERVE_UNSUPPORTED",
    )  # fmt: skip


def run(args: argparse.Namespace) -> int:
    """Run the action; return the exit status."""
    from miner.gateway.auth.keys import key_path
    from miner.gateway.settings import GatewaySettings

    return _ACTIONS[args.action](args, key_path(GatewaySettings(**overrides(args)).api_keys_file))


def _new(args: argparse.Namespace, path: Path) -> int:
    import msgspec

    from miner.gateway.auth.keys import KeyEntry, check_name, hash_of, new_key, timestamp, write_keys
    from miner.gateway.rate_limits import Limits

    key = new_key()
    entry = KeyEntry(
        name=check_name(args.name),
        sha256=hash_of(key).hex(),
        created=timestamp(time.time()),
        limits=Limits(**{option: _limit(option, getattr(args, option)) for option in _LIMITS}),
        models=args.model,
        admin=args.admin,
        priority=args.priority,
        unsupported=args.unsupported,
    )
    with _locked(path):
        content = _content(path)
        if any(entry.name == other.name for other in content.keys):
            raise ConfigError(
                f"A key named {entry.name!r} exists already.",
                operator_hint=f"Choose another name. `miner keys rotate {entry.name}` makes a new key of this one, "
                f"`miner keys update {entry.name} --admin` changes its rights.",
            )
        write_keys(path, msgspec.structs.replace(content, keys=[*content.keys, entry]))
    _print_secret(args, key, entry, path)
    what = "accepts it within 2 s" if content.keys else "requires a key within 2 s"
    note(f"miner: A gateway with this file {what}. For commands: export MINER_KEY=KEY")
    if not entry.admin:
        note(f"miner: ps, top, logs and load need the admin right: miner keys update {entry.name} --admin")
    return 0


def _update(args: argparse.Namespace, path: Path) -> int:
    """Change what is given; say what has changed."""
    import msgspec

    limits = {
        option: None if getattr(args, option) == _NONE else _limit(option, getattr(args, option))
        for option in _LIMITS
        if getattr(args, option) is not None
    }
    changes: dict[str, Any] = {}
    if args.model is not None:
        if _NONE in args.model and len(args.model) > 1:
            raise UsageError(f"--model {_NONE}: clears the list, and cannot stand beside other models.")
        changes["models"] = None if args.model == [_NONE] else args.model
    if args.priority is not None:
        changes["priority"] = "interactive" if args.priority == _NONE else args.priority
    if args.unsupported is not None:
        changes["unsupported"] = None if args.unsupported == _NONE else args.unsupported
    if args.admin is not None:
        changes["admin"] = args.admin
    if not limits and not changes:
        raise UsageError(
            "Nothing to change.", operator_hint=f"Such as: miner keys update {args.name} --requests 60 --tokens {_NONE}"
        )

    def change(entry: KeyEntry) -> KeyEntry:
        own = msgspec.structs.replace(entry.limits, **limits)
        return msgspec.structs.replace(entry, limits=own, **changes)

    before, after = _change(path, args.name, change)
    told = [
        f"{name} {old} -> {new}"
        for (name, old), (_, new) in zip(_facts(before), _facts(after), strict=True)
        if old != new
    ]
    note(f"miner: {after.name}: {', '.join(told) or 'it was so already, nothing has changed'}.")
    if args.json:
        print_json(_described(after))
    return 0


def _rotate(args: argparse.Namespace, path: Path) -> int:
    from miner.core.llms.contract.request import seconds_of
    from miner.gateway.auth.keys import new_key, rotated

    try:
        grace = seconds_of(number(args.grace), "--grace")
    except InvalidRequestError as error:
        raise UsageError(error.message) from None
    if grace < 0:
        raise UsageError(f"--grace {args.grace}: must not be negative.")
    key = new_key()
    _, entry = _change(path, args.name, lambda entry: rotated(entry, key, grace))
    _print_secret(args, key, entry, path)
    if entry.former:
        note(f"miner: The old key of {entry.name} works until {entry.former[-1].until}.")
    else:
        note(f"miner: The old key of {entry.name} is refused from now on (by a running gateway within 2 s).")
    return 0


def _revoke(args: argparse.Namespace, path: Path) -> int:
    import msgspec

    from miner.gateway.auth.keys import write_keys

    with _locked(path):
        content = _content(path)
        gone = _find(content, args.name, path)
        kept = [entry for entry in content.keys if entry is not gone]
        write_keys(path, msgspec.structs.replace(content, keys=kept))
    note(f"miner: Revoked {args.name}; {_count(len(kept))} left.")
    if args.json:
        print_json({"name": args.name, "revoked": True})
    return 0


def _list(args: argparse.Namespace, path: Path) -> int:
    entries = _content(path).keys
    if args.json:
        print_json({"keys": [_described(entry) for entry in entries]})
    elif entries:
        rows = [("NAME", "CREATED", "REQUESTS/MIN", "TOKENS/MIN", "CONCURRENT", "MODELS", "ADMIN")]
        print(
            aligned(
                [*rows, *(_row(entry) for entry in entries)], right=frozenset({2, 3, 4}), columns=columns(sys.stdout)
            )
        )
    else:
        note(f"miner: There are no keys in {path}. `miner keys new NAME` creates one.")
    return 0


def _show(args: argparse.Namespace, path: Path) -> int:
    entry = _find(_content(path), args.name, path)
    if args.json:
        print_json(_described(entry))
        return 0
    rows = [("name", entry.name), ("created", entry.created or "-"), *_facts(entry)]
    rows += [("old key", f"works until {former.until}") for former in entry.former]
    print(name_values(rows, columns=columns(sys.stdout)))
    return 0


_ACTIONS: dict[str, Callable[[argparse.Namespace, Path], int]] = {
    "new": _new, "update": _update, "rotate": _rotate, "list": _list, "show": _show, "revoke": _revoke,
}  # fmt: skip


def _limit(option: str, value: Any) -> int | None:
    """A limit, if it is one.

    Raises:
        UsageError: it is not.
    """
    if value is not None and (not isinstance(value, int) or value < 1):
        raise UsageError(f"--{option} {value}: must be an integer of at least 1.")
    return value


def _change(path: Path, name: str, change: Callable[[KeyEntry], KeyEntry]) -> tuple[KeyEntry, KeyEntry]:
    """Change one entry of the file; return it as it was and as it is."""
    import msgspec

    from miner.gateway.auth.keys import write_keys

    with _locked(path):
        content = _content(path)
        before = _find(content, name, path)
        after = change(before)
        keys = [after if entry is before else entry for entry in content.keys]
        write_keys(path, msgspec.structs.replace(content, keys=keys))
    return before, after


def _locked(path: Path) -> AbstractContextManager[None]:
    """Keep other commands from changing the file meanwhile; say so if one is at it."""
    from miner.gateway.auth.keys import locked

    return locked(path, lambda: note(f"miner: Waiting for another `miner keys` that changes {path} ..."))


def _find(content: KeyFile, name: str, path: Path) -> KeyEntry:
    """The entry of this name.

    Raises:
        ConfigError: there is none.
    """
    found = next((entry for entry in content.keys if entry.name == name), None)
    if found is None:
        names = [entry.name for entry in content.keys]
        hint = nearest(name, names) or f"Keys: {', '.join(names) or 'none'}."
        if name.startswith("MINER_API_KEYS-"):
            hint = "Keys of MINER_API_KEYS are changed there."
        raise ConfigError(f"No key named {name!r} in {path}.", operator_hint=hint)
    return found


def _print_secret(args: argparse.Namespace, key: str, entry: KeyEntry, path: Path) -> None:
    """Print the key, this once."""
    if args.json:
        print_json({"key": key, **_described(entry)})
    else:
        print(key)
    note(f"miner: The key is shown only once; its hash is in {path}.")


def _described(entry: KeyEntry) -> dict[str, Any]:
    """The entry as JSON: of its hashes only what tells them apart."""
    import msgspec

    shown: dict[str, Any] = {**msgspec.to_builtins(entry), "sha256": entry.sha256[:8]}
    shown.pop("partition", None)
    if entry.former:
        shown["former"] = [{"sha256": each.sha256[:8], "until": each.until} for each in entry.former]
    return shown


def _facts(entry: KeyEntry) -> list[tuple[str, str]]:
    """What the key may do, in words."""
    limits = [getattr(entry.limits, option) for option in _LIMITS]
    return [
        *((unit, "no limit of its own" if limit is None else str(limit))
          for unit, limit in zip(_LIMITS.values(), limits, strict=True)),
        ("models", _models(entry, ", ")),
        ("priority", entry.priority),
        ("unsupported parameters", entry.unsupported or "as MINER_SERVE_UNSUPPORTED says"),
        ("admin", "yes" if entry.admin else "no"),
    ]  # fmt: skip


def _models(entry: KeyEntry, between: str) -> str:
    """The models that the key may use; empty names mean none."""
    return "all" if entry.models is None else between.join(filter(None, entry.models)) or "none"


def _row(entry: KeyEntry) -> Sequence[str]:
    limits = (getattr(entry.limits, option) for option in _LIMITS)
    return (
        entry.name, entry.created, *("-" if limit is None else str(limit) for limit in limits), _models(entry, ","),
        "yes" if entry.admin else "-",
    )  # fmt: skip


def _count(number: int) -> str:
    return "1 key is" if number == 1 else f"{number} keys are"


def _content(path: Path) -> KeyFile:
    from miner.gateway.auth.keys import KeyFile, read_keys

    try:
        return read_keys(path)
    except FileNotFoundError:
        return KeyFile()
