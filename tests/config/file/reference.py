"""The tables of keys in docs/configuration.md. `python -m tests.config.file.reference` writes them anew."""

from __future__ import annotations

import re

from miner.config.file.json_schema import allowed, raw_schema, resolved
from tests.paths import ROOT

PAGE = ROOT / "docs" / "configuration.md"
TABLES = {
    "limits": "Limits", "backends": "Backend", "models": "Model", "defaults": "Defaults", "sampling": "Sampling",
    "speculation": "Speculation", "lora": "Lora", "price": "Prices", "groups": "Group",
}  # fmt: skip
"""Marker on the page -> class of the schema."""


def table_of(name: str) -> str:
    """The rows of a table; those of [defaults] are what models do not have."""
    node = raw_schema()["$defs"][TABLES[name]]
    shared = raw_schema()["$defs"]["Model"]["properties"] if name == "defaults" else {}
    rows = ["| key | what it takes | what it does |", "|---|---|---|"]
    for key, value in node["properties"].items():
        if key in shared:
            continue
        described = value.get("description") or resolved(value).get("description", "")
        default = value.get("default")
        if default not in (None, [], {}, "") and "efault" not in described:
            described = f"{described} Default: {str(default).lower() if isinstance(default, bool) else default}."
        needed = " (required)" if key in node.get("required", ()) else ""
        rows.append(f"| `{key}`{needed} | {_cell(allowed(value))} | {_cell(described)} |")
    return "\n".join(rows)


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")


def rewritten(page: str) -> str:
    """The page with all its tables as they are now."""
    for name in TABLES:
        page = re.sub(
            rf"(<!-- keys: {name} -->\n)[^<]*(?:<(?!!--)[^<]*)*(<!-- end -->)",
            lambda match, name=name: f"{match[1]}{table_of(name)}\n{match[2]}",
            page,
            flags=re.DOTALL,
        )
    return page


if __name__ == "__main__":
    PAGE.write_text(rewritten(PAGE.read_text()))
