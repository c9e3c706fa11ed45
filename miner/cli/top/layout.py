"""The lines of `miner top`, for any width from 40 columns: pieces of text with the name of their style."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from miner.cli.memory_taken import gpu_memory, main_memory
from miner.cli.output.sparkline import sparkline
from miner.cli.output.tables import cell_len, printable
from miner.cli.top.view import RequestRow, View
from miner.core.models.memory.verdict import readable

Line = list[tuple[str, str]]
"""Pieces of text, each with its style: "", bold, dim, red, green, yellow, cyan or reverse."""

_STATE_ORDER: dict[str, int] = {
    "failed": 0,
    "unavailable": 1,
    "loading": 2,
    "ready": 3,
    "stopping": 4,
    "sleeping": 5,
    "remote": 6,
}
_STATES = {"ready": "green", "loading": "yellow", "stopping": "yellow", "failed": "red", "unavailable": "red"}


@dataclass(frozen=True, slots=True)
class _Column:
    """A column of a table; those of a higher rank go first where the terminal is too narrow."""

    title: str
    rank: int
    width: int
    right: bool = False


_GPU = _Column("GPU", 4, 9, right=True)
"""Of the models only where one takes GPU memory."""
_MODELS = (
    _Column("NAME", 0, 24), _Column("STATE", 1, 11), _Column("MEMORY", 4, 9, right=True), _GPU,
    _Column("BUSY", 2, 5, right=True), _Column("QUEUED", 5, 6, right=True), _Column("TOK/S", 3, 7, right=True),
    _Column("LAST MINUTE", 6, 30),
)  # fmt: skip
_REQUESTS = (
    _Column("AGO", 3, 5, right=True), _Column("KEY", 4, 14), _Column("MODEL", 1, 20), _Column("TTFT", 2, 7, right=True),
    _Column("TOKENS", 2, 6, right=True), _Column("TOTAL", 5, 7, right=True), _Column("STATUS", 0, 22),
)  # fmt: skip
SORTS: tuple[tuple[str, Callable[[View, Mapping[str, Any]], Any]], ...] = (
    ("NAME", lambda view, model: model["name"]),
    ("STATE", lambda view, model: _STATE_ORDER.get(model.get("state", ""), 9)),
    ("MEMORY", lambda view, model: -main_memory(model)),
    ("GPU", lambda view, model: -gpu_memory(model)),
    ("BUSY", lambda view, model: -(model.get("slots_busy") or 0)),
    ("QUEUED", lambda view, model: -(model.get("queued") or 0)),
    ("TOK/S", lambda view, model: -view.rate_of(model)),
)


@dataclass(slots=True)
class Choice:
    """What the keys have chosen."""

    sort: int = 1
    scroll: int = 0
    paused: bool = False


def frame(view: View, choice: Choice, columns: int, rows: int, *, unicode: bool = True) -> list[Line]:
    """The screen: the node, its models, its requests, the keys."""
    head = node_lines(view, columns)
    foot = _keys(choice, columns)
    room = max(2, rows - len(head) - len(foot) - 3)
    models = sorted_models(view, choice)
    shown = max(1, min(len(models), room // 2 if view.recent or view.running else room))
    choice.scroll = max(0, min(choice.scroll, len(models) - shown))
    part = models[choice.scroll : choice.scroll + shown]
    some = [(f"models {choice.scroll + 1}-{choice.scroll + shown} of {len(models)}", "dim")]
    lines = [*head, some if len(models) > shown else []]
    lines += model_lines(view, part, columns, sort=SORTS[choice.sort][0], unicode=unicode)
    left = rows - len(lines) - len(foot) - 2
    if left > 0:
        lines += [[], *request_lines(view, left, columns)]
    lines = lines[: rows - len(foot)]
    return [*lines, *[[] for _ in range(rows - len(foot) - len(lines))], *foot]


def sorted_models(view: View, choice: Choice) -> list[dict[str, Any]]:
    """The models in the order that was chosen, then by name."""
    key = SORTS[choice.sort][1]
    return sorted(view.models, key=lambda model: (key(view, model), model["name"]))


def node_lines(view: View, columns: int, *, live: bool = True) -> list[Line]:
    """What the node does, in as many lines as that takes.

    Args:
        live: whether events came, of which rates are known.
    """
    pieces: Line = [(f"miner {view.node.get('version', '')}".rstrip(), "bold"), (view.url, "cyan")]
    if view.uptime is not None:
        pieces.append((f"up {_duration(view.uptime)}", ""))
    if live:
        pieces.append((f"{view.requests_per_second:.1f} requests/s", ""))
        pieces.append((f"{view.tokens_per_second:.0f} tokens/s", ""))
    running = len(view.running) if live else view.node.get("requests_running", 0)
    pieces.append((f"{running} running, {view.waiting} waiting", "yellow" if view.waiting else ""))
    total = view.node.get("memory_total")
    pieces.append((f"memory {readable(view.memory)}{f' of {readable(total)}' if total else ''}", ""))
    if view.gpu_memory:
        pieces.append((f"GPU memory {readable(view.gpu_memory)}", ""))
    if view.lost is not None:
        pieces.append((f"NO CONNECTION: {view.lost} Trying again ...", "red"))
    elif view.restarts:
        pieces.append((f"reconnected {view.restarts} time{'s' if view.restarts > 1 else ''}", "yellow"))
    lines: list[Line] = [[]]
    for text, style in pieces:
        used = sum(cell_len(piece) for piece, _ in lines[-1])
        if used and used + 2 + cell_len(text) > columns:
            lines.append([])
            used = 0
        if used:
            lines[-1].append(("  ", ""))
        lines[-1] += [(_fit(text, columns), style)]
    return lines


def model_lines(
    view: View, models: Sequence[Mapping[str, Any]], columns: int, *, sort: str = "", unicode: bool = True
) -> list[Line]:
    """The table of models."""
    rows, gpus = [], bool(view.gpu_memory)
    columns_shown = [column for column in _MODELS if gpus or column is not _GPU]
    for model in models:
        state, slots, busy = model.get("state", "unloaded"), model.get("slots"), model.get("slots_busy") or 0
        sizes, rate = [main_memory(model), *([gpu_memory(model)] if gpus else [])], view.rate_of(model)
        rows.append([
            (model["name"] + ("*" if model.get("default") else ""), ""),
            (state, _STATES.get(state, "dim")),
            *((readable(size) if size else "-", "") for size in sizes),
            (f"{busy}/{slots}" if slots else str(busy or "-"), "bold" if busy else ""),
            (str(model.get("queued") or "-"), "yellow" if model.get("queued") else ""),
            (f"{rate:.0f}" if rate else "-", "bold" if rate else ""),
            (sparkline(list(view.history.get(model["name"], ())), _MODELS[-1].width, unicode=unicode), "green"),
        ])  # fmt: skip
    if not rows:
        return [[("No models." if view.known else "connecting ...", "dim")]]
    return _table(columns_shown, rows, columns, marked=sort)


def request_lines(view: View, most: int, columns: int) -> list[Line]:
    """The table of requests: those that run, then those that have ended."""
    found = [*reversed(view.running.values()), *view.recent][: max(0, most - 1)]
    if not found:
        return [[("No requests since this began.", "dim")]]
    return _table(_REQUESTS, [_request(row) for row in found], columns)


def _request(row: RequestRow) -> Line:
    if row.state == "running":
        status = ("running", "cyan")
    elif row.state == "cancelled":
        status = ("cancelled", "yellow")
    else:
        failed = bool(row.error) or (row.status or 200) >= 400
        status = (f"{row.status or ''} {row.error or ''}".strip() or "finished", "red" if failed else "green")
    age = time.time() - row.at
    return [
        ("" if row.seconds is None else _short(age - row.seconds), "dim"), (row.key, ""), (row.model, ""),
        ("-" if row.first_token is None else _short(row.first_token), ""),
        ("-" if row.tokens is None else str(row.tokens), ""),
        (_short(age if row.seconds is None else row.seconds), ""), status,
    ]  # fmt: skip


def _table(columns: Sequence[_Column], rows: Sequence[Line], width: int, *, marked: str = "") -> list[Line]:
    """A table that fits the width: columns go by their rank, and the widest text of the rest is cut. A text that is
    longer than its column takes what the others leave.
    """
    kept = list(range(len(columns)))
    needs = [
        min(column.width, max(cell_len(column.title), *(cell_len(row[place][0]) for row in rows)))
        for place, column in enumerate(columns)
    ]
    while sum(needs[place] for place in kept) + 2 * (len(kept) - 1) > width and len(kept) > 2:
        kept.remove(max((place for place in kept), key=lambda place: columns[place].rank))
    over = sum(needs[place] for place in kept) + 2 * (len(kept) - 1) - width
    if over > 0:
        widest = max(kept, key=lambda place: needs[place])
        needs[widest] = max(4, needs[widest] - over)
    for place in kept:  # what is left goes to texts that are longer than their column, from the left
        longest = max((cell_len(row[place][0]) for row in rows), default=0)
        more = min(longest - needs[place], -over) if over < 0 else 0
        if more > 0:
            needs[place] += more
            over += more
    heading: Line = [(column.title, "reverse" if column.title == marked else "bold") for column in columns]
    lines = []
    for row in (heading, *rows):
        line: Line = []
        for number, place in enumerate(kept):
            text, style = row[place]
            text = _fit(text, needs[place])
            gap = " " * (needs[place] - cell_len(text))
            before = "  " if number else ""
            right = columns[place].right
            line += [(before + (gap if right else ""), ""), (text, style), ("" if right else gap, "")]
        lines.append(line)
    return lines


def _keys(choice: Choice, columns: int) -> list[Line]:
    text = "q quit  p pause  left/right sort  up/down scroll" if columns >= 50 else "q quit  p pause  arrows sort"
    line: Line = [(text, "dim")]
    if choice.paused:
        line.append(("  PAUSED", "reverse"))
    return [line]


def _fit(text: str, width: int) -> str:
    text = printable(text, limit=10_000)
    while cell_len(text) > width:
        text = f"{text[: max(0, len(text) - 1 - (cell_len(text) - width))].rstrip('~')}~"
        if len(text) <= 1:
            break
    return text


def _short(seconds: float) -> str:
    seconds = max(0.0, seconds)
    if seconds < 10:
        return f"{seconds:.1f}s"
    return f"{seconds:.0f}s" if seconds < 100 else _duration(seconds).replace(" ", "")


def _duration(seconds: float) -> str:
    minutes = int(seconds // 60)
    if minutes < 2:
        return f"{seconds:.0f} s"
    if minutes < 120:
        return f"{minutes} min"
    return f"{minutes // 60} h" if minutes < 2880 else f"{minutes // 1440} d"
