"""Charts as SVG: lines with markers, in a fixed coordinate system that scales with the page."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Literal

from msgspec import Struct, field

from miner.cli.bench.report.html.axis import Axis
from miner.cli.bench.report.html.markup import Markup, tag

WIDTH, HEIGHT = 460, 300
_LEFT, _RIGHT, _TOP, _BOTTOM = 60, 18, 30, 44
_DASHES = ("", "7 4", "2 3", "9 3 2 3")
_APART = 46
"""Between two ticks of the x axis, so that their texts do not touch on a phone."""


class Point(Struct, frozen=True):
    """A value with what is said of it."""

    x: float
    y: float
    tip: str
    label: str = ""
    """Stands beside it."""


class Series(Struct):
    """A line."""

    name: str
    points: list[Point]
    colour: str
    """Class of the style sheet: `s1` to `s6` for kinds, `r1` to `r6` for what is ordered."""
    shape: int = 0
    """Of its markers."""
    dash: int = 0
    line: bool = True
    markers: bool = True
    hollow: bool = False
    stepped: bool = False
    faint: bool = False
    """Not in the legend, and of no interest to the pointer."""


class Chart(Struct):
    """What is drawn, and how it is read without eyes."""

    title: str
    caption: str
    """What is to be seen, in a line or two."""
    summary: str
    """The same with all that is drawn."""
    x: Axis
    y: Axis
    series: list[Series]
    hover: Literal["x", "near"] = "near"
    """What the pointer finds: what all lines have at its x, or the nearest point."""
    limit: tuple[float, str] | None = None
    """A horizontal line with its name."""
    key: list[Markup] = field(default_factory=list)


def figure(chart: Chart) -> Markup:
    """The chart as a figure with its caption."""
    return tag(
        "figure",
        tag("figcaption", tag("strong", chart.title), tag("span", chart.caption)),
        _svg(chart),
    )


def legend(series: Sequence[Series]) -> Markup:
    """Each line once, with its dash and marker."""
    items = [
        tag("li", _sample(each), tag("span", each.name))
        for each in {each.name: each for each in series if not each.faint}.values()
    ]
    return tag("ul", *items, class_="legend")


def _svg(chart: Chart) -> Markup:
    parts = [_grid(chart), *(_line(chart, each) for each in chart.series), *_labels(chart)]
    if chart.limit is not None:
        parts.insert(1, _limit(chart, *chart.limit))
    parts.append(tag("line", class_="cursor", x1=0, x2=0, y1=_TOP, y2=HEIGHT - _BOTTOM, visibility="hidden"))
    parts.append(tag("circle", class_="halo", r=7, cx=0, cy=0, visibility="hidden"))
    return tag(
        "svg", *parts, viewBox=f"0 0 {WIDTH} {HEIGHT}", role="img", tabindex=0,
        aria_label=f"{chart.title}. {chart.summary}", data_chart=_data(chart),
    )  # fmt: skip


def _data(chart: Chart) -> str:
    """What the script shows under the pointer: positions and texts."""
    lines = [
        {
            "name": each.name,
            "colour": each.colour,
            "points": [[*_place(chart, point.x, point.y), point.tip] for point in each.points],
        }
        for each in chart.series
        if not each.faint and each.points
    ]
    return json.dumps({"hover": chart.hover, "lines": lines}, separators=(",", ":"))


def _place(chart: Chart, x: float, y: float) -> tuple[float, float]:
    across = _LEFT + chart.x.at(x) * (WIDTH - _LEFT - _RIGHT)
    down = HEIGHT - _BOTTOM - chart.y.at(y) * (HEIGHT - _TOP - _BOTTOM)
    return round(across, 1), round(down, 1)


def _grid(chart: Chart) -> Markup:
    bottom, end = HEIGHT - _BOTTOM, WIDTH - _RIGHT
    parts = []
    for tick in chart.y.ticks:
        down = _place(chart, chart.x.low, tick)[1]
        parts.append(tag("line", class_="grid", x1=_LEFT, x2=end, y1=down, y2=down))
        parts.append(tag("text", chart.y.text(tick), class_="tick", x=_LEFT - 7, y=down + 4, text_anchor="end"))
    last = -1e9
    for tick in chart.x.ticks:
        across = _place(chart, tick, chart.y.low)[0]
        if across - last < _APART:
            continue
        last = across
        parts.append(tag("line", class_="grid", x1=across, x2=across, y1=bottom, y2=bottom + 4))
        anchor = "end" if across > end - 12 else "middle"
        shift = 10 if anchor == "end" else 0
        parts.append(
            tag("text", chart.x.text(tick), class_="tick", x=across + shift, y=bottom + 18, text_anchor=anchor)
        )  # fmt: skip
    parts.append(tag("line", class_="axis", x1=_LEFT, x2=end, y1=bottom, y2=bottom))
    parts.append(tag("text", chart.y.label, class_="name", x=4, y=15))
    parts.append(tag("text", chart.x.label, class_="name", x=end, y=HEIGHT - 6, text_anchor="end"))
    return tag("g", *parts, aria_hidden="true")


def _limit(chart: Chart, value: float, name: str) -> Markup:
    if not chart.y.low <= value <= chart.y.high:
        return Markup("")
    down = _place(chart, chart.x.low, value)[1]
    return tag(
        "g",
        tag("line", class_="limit", x1=_LEFT, x2=WIDTH - _RIGHT, y1=down, y2=down),
        tag("text", name, class_="tick", x=_LEFT + 3, y=down - 5),
    )  # fmt: skip


def _line(chart: Chart, series: Series) -> Markup:
    places = [_place(chart, point.x, point.y) for point in series.points]
    parts = []
    if series.line and len(places) > 1:
        parts.append(
            tag("path", d=_path(places, stepped=series.stepped), class_="line",
                stroke_dasharray=_DASHES[series.dash % len(_DASHES)] or None)
        )  # fmt: skip
    if series.markers:
        parts += [_marker(series, *place) for place in places]
    return tag("g", *parts, class_=f"{series.colour}{' faint' if series.faint else ''}", aria_hidden="true")


def _path(places: Sequence[tuple[float, float]], *, stepped: bool) -> str:
    (x, y), *rest = places
    steps = [f"M{x:g} {y:g}"]
    for across, down in rest:
        steps.append(f"H{across:g}V{down:g}" if stepped else f"L{across:g} {down:g}")
    return "".join(steps)


def _marker(series: Series, x: float, y: float) -> Markup:
    """A circle, square, triangle or rhombus."""
    size = 2.6 if series.faint else 4.6
    kind = "mark hollow" if series.hollow else "mark"
    if series.shape % 4 == 0:
        return tag("circle", class_=kind, cx=f"{x:g}", cy=f"{y:g}", r=size)
    outline = {
        1: ((-1, -1), (1, -1), (1, 1), (-1, 1)),
        2: ((0, -1.25), (1.2, 1), (-1.2, 1)),
        3: ((0, -1.35), (1.35, 0), (0, 1.35), (-1.35, 0)),
    }[series.shape % 4]
    drawn = " ".join(f"{x + size * 0.92 * dx:.1f},{y + size * 0.92 * dy:.1f}" for dx, dy in outline)
    return tag("polygon", class_=kind, points=drawn)


def _labels(chart: Chart) -> list[Markup]:
    """Words beside points: below, right, left or above, wherever there is neither a point nor another word."""
    points = [_place(chart, point.x, point.y) for series in chart.series for point in series.points]
    taken = [(x - 6, y - 6, x + 6, y + 6) for x, y in points]
    parts = []
    for series in chart.series:
        for point in series.points:
            if not point.label:
                continue
            x, y = _place(chart, point.x, point.y)
            wide = 7.5 * len(point.label)
            places = [(x, y + 20), (x + wide / 2 + 10, y + 5), (x - wide / 2 - 10, y + 5), (x, y - 11), (x, y + 34)]
            boxes = [(at - wide / 2, down - 10, at + wide / 2, down + 1) for at, down in places]
            free = [
                place
                for place, box in zip(places, boxes, strict=True)
                if box[3] < HEIGHT - _BOTTOM and not any(_touch(box, each) for each in taken)
            ]
            at, down = (free or places)[0]
            taken.append((at - wide / 2, down - 10, at + wide / 2, down + 1))
            parts.append(
                tag("text", point.label, class_="label", x=f"{at:g}", y=f"{down:g}", text_anchor="middle",
                    aria_hidden="true")
            )  # fmt: skip
    return parts


def _touch(one: tuple[float, float, float, float], other: tuple[float, float, float, float]) -> bool:
    return one[0] < other[2] and other[0] < one[2] and one[1] < other[3] and other[1] < one[3]


def _sample(series: Series) -> Markup:
    """A piece of the line for the legend."""
    parts = []
    if series.line:
        dash = _DASHES[series.dash % len(_DASHES)] or None
        parts.append(tag("path", d="M1 7H33", class_="line", stroke_dasharray=dash))
    if series.markers:
        parts.append(_marker(series, 17, 7))
    return tag(
        "svg", tag("g", *parts, class_=series.colour), viewBox="0 0 34 14", width=34, height=14, aria_hidden="true"
    )
