"""What `miner show` prints of a model."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

from miner.cli.output.style import columns
from miner.cli.output.tables import aligned, printable
from miner.cli.output.wrap import wrapped

if TYPE_CHECKING:
    from miner.core.model_card import ModelCard

TEXTS = ("template", "system", "license", "parameters")
"""What an option prints alone."""
_SHOWN = ("chat", "tools", "images", "reasoning", "embeddings", "rerank", "suffix", "json_schema", "logprobs")
"""Capabilities that a person asks for; --json has all."""


def described(details: dict[str, Any], card: ModelCard) -> dict[str, Any]:
    """What --json prints: the details of the store, and the card of the model."""
    known = {key.replace(" ", "_").lower(): value for key, value in details.items()}
    return known | {
        "chat_template": bool(card.template),
        "capabilities": sorted(card.info.capabilities or ()),
        "template": card.template or None,
        "system": card.system or None,
        "sampling": card.parameters,
        "licenses": card.licenses,
        "created_from": card.parent or known.get("created_from"),
    }


def card_details(card: ModelCard) -> dict[str, Any]:
    """The details of a model that is in no store here."""
    info = card.info
    return {
        "name": info.id,
        "aliases": ", ".join(info.aliases) or None,
        "description": info.description,
        "size": info.size,
        "architecture": info.architecture,
        "parameters": info.parameters,
        "quantization": info.quantization,
        "context length": info.context_length,
        "embedding length": info.dimensions,
        "loaded": info.loaded,
    }


def print_details(details: dict[str, Any], card: ModelCard) -> None:
    """Print the details as a table of names and values."""
    able = card.info.capabilities or frozenset()
    shown = dict(details)
    words = [word for word in _SHOWN if word in able]
    if "emulated" in able and "tools" in words:
        words[words.index("tools")] = "tools (described in the prompt: its template has none)"
    shown["capabilities"] = ", ".join(words) or None
    shown["system"] = card.system or None
    shown["sampling"] = ", ".join(f"{name} {_value(value)}" for name, value in card.parameters.items()) or None
    if card.licenses:
        shown["license"] = " ".join(card.licenses[0].split())
    if card.template and "chat template" not in details:
        shown["chat template"] = f"yes, {len(card.template)} characters (--template prints it)"
    rows = [(key, _text(key, value)) for key, value in shown.items() if value is not None]
    width = columns(sys.stdout)
    room = 500 if width is None else max(20, width - max(len(key) for key, _ in rows) - 2)
    lines = []
    for key, text in rows:
        # A longer word, such as a path, stays whole: it can be copied.
        pieces = wrapped(printable(text, limit=500), room).splitlines() or [""]
        lines += [(key if not number else "", piece) for number, piece in enumerate(pieces)]
    print(aligned(lines))


def text_of(card: ModelCard, name: str) -> str:
    """One of TEXTS; "" if the model has none. Control characters are replaced, but for newlines and tabs."""
    match name:
        case "template":
            text = card.template
        case "system":
            text = card.system
        case "license":
            text = "\n\n".join(card.licenses)
        case _:
            text = "\n".join(f"{key} {_value(value)}" for key, value in card.parameters.items())
    return "".join(char if char.isprintable() or char in "\n\t" else "?" for char in text)


def count(number: int | None) -> str:
    """Format a parameter count, such as 1.24 B."""
    if not number:
        return "?"
    for size, unit in ((10**9, "B"), (10**6, "M"), (10**3, "K")):
        if number >= size:
            return f"{number / size:.3g} {unit}" if number < 1000 * size else f"{number // size} {unit}"
    return str(number)


def _text(key: str, value: Any) -> str:
    from miner.core.models.memory.verdict import readable

    if key == "size":
        return f"{readable(value)} ({value} bytes)"
    if key == "parameters":
        return count(value)
    return {True: "yes", False: "no"}[value] if isinstance(value, bool) else str(value)


def _value(value: Any) -> str:
    return (
        ", ".join(map(repr, value))
        if isinstance(value, list)
        else repr(value)
        if isinstance(value, str)
        else str(value)
    )
