"""The figures as a picture: one bar for each contestant and job, from the least to the greatest a line. SVG, pure."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from bench.figures import Spread

_WIDTH, _LEFT, _BAR, _GAP = 860, 230, 13, 4
_COLOURS = ("#2b6cb0", "#b7791f", "#2f855a", "#9b2c2c")

Rows = Sequence[tuple[str, Sequence[Spread | None]]]
"""A name, and a figure for each series."""


def bars(title: str, series: Sequence[str], rows: Rows) -> str:
    """A bar chart, the greatest figure as wide as the picture allows."""
    most = max((one.high for _, found in rows for one in found if one), default=1.0)
    scale = (_WIDTH - _LEFT - 150) / most
    parts = [_text(10, 22, title, size=15, weight="bold")]
    for number, name in enumerate(series):
        x = _LEFT + number * 150
        parts += [_bar(x, 34, 12, 12, number), _text(x + 17, 44, name)]
    y = 60
    for name, found in rows:
        shown = [(number, one) for number, one in enumerate(found) if one]
        parts.append(_text(_LEFT - 10, y + 11, name, anchor="end"))
        for number, one in shown:
            middle = y + _BAR / 2
            parts += [
                _bar(_LEFT, y, one.mid * scale, _BAR, number),
                f'<path d="M{_LEFT + one.low * scale:.1f} {middle}H{_LEFT + one.high * scale:.1f}" stroke="#000"/>',
                _text(_LEFT + one.high * scale + 6, y + 11, f"{one.mid:,.2f}"),
            ]
            y += _BAR + 1
        y += _GAP + (0 if shown else _BAR)
    head = f'<svg xmlns="http://www.w3.org/2000/svg" width="{_WIDTH}" height="{y + 6}" viewBox="0 0 {_WIDTH} {y + 6}">'
    style = '<rect width="100%" height="100%" fill="#fff"/><g font-family="sans-serif" font-size="12">'
    return "\n".join([head, style, *parts, "</g></svg>", ""])


def _bar(x: float, y: float, width: float, height: float, series: int) -> str:
    colour = _COLOURS[series % len(_COLOURS)]
    return f'<rect x="{x}" y="{y}" width="{max(width, 1):.1f}" height="{height}" fill="{colour}"/>'


def _text(x: float, y: float, text: str, *, anchor: str = "start", size: int = 12, weight: str = "normal") -> str:
    return (
        f'<text x="{x:.1f}" y="{y}" text-anchor="{anchor}" font-size="{size}" font-weight="{weight}">'
        f"{escape(text)}</text>"
    )
