"""What the tests of all importers need."""

import re
from pathlib import Path

from miner.cli.imports.draft import Draft
from miner.config.file.read import parse_config
from miner.config.file.schema import ConfigFile


def checked(draft: Draft, **environment: str) -> ConfigFile:
    """The file that a draft becomes, as it is read later; variables without a value count as set."""
    draft.aliases()
    text = draft.text()
    known = dict.fromkeys(re.findall(r"\$\{(\w+)\}", text), "http://set-later") | environment
    return parse_config(text, Path("miner.toml"), known).content


def lost(draft: Draft) -> dict[str, str]:
    """What the report says is not carried over: where, without the names inside of tables -> why."""
    return {remark.where.partition(" (with ")[0]: remark.why for remark in draft.lost}


def named(draft: Draft, key: str) -> bool:
    """Whether the report names a key, alone or with others."""
    return any(
        key in re.split(r"[.\s(),]+", remark.where) for remark in [*draft.lost, *draft.changed]
    )  # fmt: skip
