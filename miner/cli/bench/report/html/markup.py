"""HTML and SVG as text, with everything escaped that was not made here."""

from __future__ import annotations

from html import escape

from miner.cli.output.tables import printable


class Markup(str):
    """Text that is HTML already."""

    __slots__ = ()


def text(value: object, *, limit: int = 2000) -> Markup:
    """Foreign text: escaped, without control characters and marks that turn the direction of writing."""
    return Markup(escape(printable(str(value), limit=limit), quote=True))


def tag(name: str, *content: str, **attributes: object) -> Markup:
    """An element. Content that is no Markup is escaped; an attribute of None is left out; `class_` is `class`."""
    shown = "".join(
        f' {key.rstrip("_").replace("_", "-")}="{escape(str(value), quote=True)}"'
        for key, value in attributes.items()
        if value is not None
    )
    inner = "".join(each if isinstance(each, Markup) else text(each) for each in content)
    return Markup(f"<{name}{shown}>{inner}</{name}>")


def joined(parts: list[Markup]) -> Markup:
    """Several elements after one another."""
    return Markup("".join(parts))
