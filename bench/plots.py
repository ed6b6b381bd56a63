"""Small plots as inline SVG: distributions, bars, scatter plots and curves, for a light and a dark page.

Colours are CSS classes (`s0` .. `s7`), so that the page decides. Knows numbers and names, no results.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from html import escape

WIDTH, HEIGHT = 560, 300
LEFT, RIGHT, TOP, BOTTOM = 58, 16, 14, 44
NUM_COLOURS = 8
MAX_POINTS, MAX_CURVE_POINTS = 1500, 400
"""Of one series of a scatter plot, and of a distribution: more would only make the file large."""

Points = Sequence[tuple[float, float]]


@dataclass(frozen=True, slots=True)
class Axis:
    """A linear or logarithmic scale from low to high onto first .. last pixels."""

    low: float
    high: float
    first: float
    last: float
    is_log: bool = False
    has_ticks: bool = True

    def __call__(self, value: float) -> float:
        low, high, at = (math.log10(v) if self.is_log else v for v in (self.low, self.high, max(value, self._floor)))
        return self.first + (at - low) / (high - low or 1.0) * (self.last - self.first)

    @property
    def _floor(self) -> float:
        return self.low if self.is_log else -math.inf

    @property
    def ticks(self) -> list[float]:
        """Round values inside the scale."""
        if not self.has_ticks:
            return []
        if self.is_log:
            powers = range(math.floor(math.log10(self.low)), math.ceil(math.log10(self.high)) + 1)
            steps = (1, 2, 5) if len(powers) <= 4 else (1,)
            found = [step * 10.0**power for power in powers for step in steps]
        else:
            raw = (self.high - self.low) / 5 or 1.0
            power = 10.0 ** math.floor(math.log10(raw))
            step = next(size * power for size in (1, 2, 2.5, 5, 10) if size * power >= raw * 0.999)
            first = math.ceil(self.low / step - 1e-9)
            found = [step * number for number in range(first, first + 12)]
        return [value for value in found if self.low * 0.999 <= value <= self.high * 1.001]


def _number(value: float) -> str:
    if value >= 10_000:
        return f"{value / 1000:g}k"
    return f"{value:.6g}"


def _range(values: Sequence[float], is_log: bool) -> tuple[float, float]:
    found = [value for value in values if math.isfinite(value) and (not is_log or value > 0)]
    if not found:
        return (0.1, 1.0) if is_log else (0.0, 1.0)
    low, high = min(found), max(found)
    if is_log:
        return low / 1.15, high * 1.15
    return min(0.0, low), high * 1.05 or 1.0


def legend(names: Sequence[str]) -> str:
    """The names of the series beside their colours."""
    keys = [
        f'<span class="key"><i class="s{number % NUM_COLOURS}"></i>{escape(name)}</span>'
        for number, name in enumerate(names)
    ]
    return f'<div class="legend">{"".join(keys)}</div>' if len(names) > 1 else ""


def _frame(
    title: str, x: Axis, y: Axis, x_title: str, y_title: str, body: str, y_text: Callable[[float], str] = _number
) -> str:
    parts = [f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(title)}">']
    for value in y.ticks:
        place = y(value)
        parts.append(f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{place:.1f}" y2="{place:.1f}"/>')
        parts.append(
            f'<text class="tick" x="{LEFT - 6}" y="{place + 3.5:.1f}" text-anchor="end">{y_text(value)}</text>'
        )
    for value in x.ticks:
        parts.append(
            f'<text class="tick" x="{x(value):.1f}" y="{HEIGHT - BOTTOM + 16}" text-anchor="middle">'
            f"{_number(value)}</text>"
        )
    base = HEIGHT - BOTTOM
    parts.append(f'<line class="axis" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{base}" y2="{base}"/>')
    middle = (LEFT + WIDTH - RIGHT) / 2
    parts.append(f'<text class="label" x="{middle}" y="{HEIGHT - 8}" text-anchor="middle">{escape(x_title)}</text>')
    parts.append(
        f'<text class="label" transform="translate(14 {(TOP + base) / 2}) rotate(-90)" text-anchor="middle">'
        f"{escape(y_title)}</text>"
    )
    return "".join([*parts, body, "</svg>"])


def _axes(
    all_points: Sequence[tuple[float, float]], *, log_x: bool, log_y: bool, y_high: float | None = None
) -> tuple[Axis, Axis]:
    low_x, high_x = _range([point[0] for point in all_points], log_x)
    low_y, high_y = _range([point[1] for point in all_points], log_y)
    x = Axis(low_x, high_x, LEFT, WIDTH - RIGHT, log_x)
    return x, Axis(low_y, y_high if y_high is not None else high_y, HEIGHT - BOTTOM, TOP, log_y)


def percent_text(value: float) -> str:
    """A rate as a tick."""
    return f"{100 * value:.0f} %"


def distribution(title: str, series: Mapping[str, Sequence[float]], x_title: str, mark: float) -> str:
    """The share of values at or below x, one line per series, x logarithmic. mark: a value worth a line of its own."""
    lines = {
        name: [(value, (number + 1) / len(values)) for number, value in enumerate(sorted(values))]
        for name, values in series.items()
        if values
    }
    points = [*(point for points in lines.values() for point in points), (mark, 0.0)]
    x, y = _axes(points, log_x=True, log_y=False, y_high=1.0)
    body = [
        f'<line class="mark" x1="{x(mark):.1f}" x2="{x(mark):.1f}" y1="{TOP}" y2="{HEIGHT - BOTTOM}"/>',
        f'<text class="tick" x="{x(mark) + 4:.1f}" y="{TOP + 10}">{_number(mark)}</text>',
        *(_path(_thinned(points), x, y, number) for number, points in enumerate(lines.values())),
    ]
    return legend(list(lines)) + _frame(title, x, y, x_title, "share of answers", "".join(body), percent_text)


def _thinned(points: Points) -> Points:
    step = max(1, len(points) // MAX_CURVE_POINTS)
    return [*points[::step], points[-1]] if step > 1 else points


def _path(points: Points, x: Axis, y: Axis, number: int) -> str:
    places = " ".join(f"{x(a):.1f},{y(b):.1f}" for a, b in points)
    return f'<polyline class="line s{number % NUM_COLOURS}" points="{places}"/>'


def curves(
    title: str,
    series: Mapping[str, Points],
    x_title: str,
    y_title: str,
    *,
    log_x: bool = False,
    is_rate: bool = False,
) -> str:
    """One line with dots per series. is_rate: y is in [0, 1]."""
    lines = {name: sorted(points) for name, points in series.items() if points}
    points = [point for row in lines.values() for point in row]
    x, y = _axes(points, log_x=log_x, log_y=False, y_high=1.0 if is_rate else None)
    body = [_path(points, x, y, number) for number, points in enumerate(lines.values())]
    for number, (name, points) in enumerate(lines.items()):
        body += [_dot(point, x, y, number, name, 2.5) for point in points]
    text = percent_text if is_rate else _number
    return legend(list(lines)) + _frame(title, x, y, x_title, y_title, "".join(body), text)


def scatter(
    title: str,
    series: Mapping[str, Points],
    x_title: str,
    y_title: str,
    *,
    log_x: bool = False,
    log_y: bool = False,
) -> str:
    """One dot per point."""
    kept = {name: points[:: max(1, len(points) // MAX_POINTS)] for name, points in series.items() if points}
    x, y = _axes([p for points in kept.values() for p in points], log_x=log_x, log_y=log_y)
    body = [
        _dot(point, x, y, number, name, 2.0) for number, (name, points) in enumerate(kept.items()) for point in points
    ]
    return legend(list(kept)) + _frame(title, x, y, x_title, y_title, "".join(body))


def _dot(point: tuple[float, float], x: Axis, y: Axis, number: int, name: str, radius: float) -> str:
    tip = f"{escape(name)}: {_number(point[0])}, {_number(round(point[1], 4))}"
    return (
        f'<circle class="dot s{number % NUM_COLOURS}" cx="{x(point[0]):.1f}" cy="{y(point[1]):.1f}" r="{radius}">'
        f"<title>{tip}</title></circle>"
    )


def bars(title: str, groups: Sequence[str], series: Mapping[str, Sequence[float]], y_title: str) -> str:
    """One group of bars per name in groups, one bar per series; rates in [0, 1], NaN draws nothing."""
    values = [value for row in series.values() for value in row if math.isfinite(value)]
    y = Axis(0.0, min(1.0, max([*values, 0.05]) * 1.1), HEIGHT - BOTTOM, TOP)
    # the groups' names stand where ticks would
    x = Axis(0.0, 1.0, LEFT, WIDTH - RIGHT, has_ticks=False)
    room = (WIDTH - LEFT - RIGHT) / max(1, len(groups))
    width = min(26.0, room * 0.84 / max(1, len(series)))
    body: list[str] = []
    for place, group in enumerate(groups):
        centre = LEFT + room * (place + 0.5)
        left = centre - width * len(series) / 2
        for number, (name, row) in enumerate(series.items()):
            value = row[place]
            if not math.isfinite(value):
                continue
            top = y(value)
            body.append(
                f'<rect class="bar s{number % NUM_COLOURS}" x="{left + number * width:.1f}" y="{top:.1f}" '
                f'width="{max(1.0, width - 1.5):.1f}" height="{max(0.5, HEIGHT - BOTTOM - top):.1f}">'
                f"<title>{escape(name)}, {escape(group)}: {100 * value:.1f} %</title></rect>"
            )
        body.append(
            f'<text class="tick" x="{centre:.1f}" y="{HEIGHT - BOTTOM + 16}" text-anchor="middle">'
            f"{escape(group)}</text>"
        )
    return legend(list(series)) + _frame(title, x, y, "", y_title, "".join(body), percent_text)
