"""A report as one HTML page: no script, nothing from elsewhere, and no text of a caller's that becomes markup."""

from collections.abc import Iterable, Mapping, Sequence
from html import escape
from typing import TYPE_CHECKING, Final

from tolsey.cli.output import printable
from tolsey.ledger.report import day_text, hour_text
from tolsey.units import format_nano

if TYPE_CHECKING:
    from tolsey.ledger.report import Group, Groups

COLOURS: Final = ("#2f6fb7", "#d9822b", "#3a9a5b", "#b5477e", "#7a5bc4", "#9a7b1f", "#2b9aa3", "#8a8f98")
"""Of the agents in a plot, readable on white and on black. The last is for all further ones."""

_Agent = tuple[str, str]
"""An agent's name, and whether it was verified."""

OTHERS: Final[_Agent] = ("all others", "")

MAX_ROWS: Final = 200
"""The most rows of a table; `--csv` has all."""

_WIDTH, _HEIGHT = 800, 180

_STYLE = """
:root { color-scheme: light dark; --ink: #1c2024; --soft: #5d666f; --line: #d5d9de; --back: #fff; --box: #f4f5f7 }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e6e8ea; --soft: #a0a8b0; --line: #3a4048; --back: #16191d; --box: #20242a }
}
body { font: 15px/1.5 system-ui, sans-serif; color: var(--ink); background: var(--back); margin: 2rem auto;
  max-width: 70rem; padding: 0 1rem }
h1 { font-size: 1.5rem; margin: 0 } h2 { font-size: 1.15rem; margin: 2.2rem 0 .6rem }
p, figcaption { color: var(--soft); margin: .2rem 0; overflow-wrap: anywhere }
figure { margin: 1rem 0 } svg { width: 100%; height: auto } svg text { fill: var(--soft); font-size: 12px }
svg .axis { stroke: var(--line) }
.wide { overflow-x: auto } table { border-collapse: collapse; width: 100% }
th, td { text-align: left; padding: .25rem .8rem .25rem 0; border-bottom: 1px solid var(--line);
  overflow-wrap: break-word; max-width: 22rem; vertical-align: top }
th { color: var(--soft); font-weight: 600 } .n { text-align: right; white-space: nowrap }
td.plot { width: 35% } .bar { display: block; height: .9rem; margin-top: .3rem; border-radius: 2px }
.key { display: inline-block; width: .8rem; height: .8rem; border-radius: 2px; margin-right: .4rem }
figcaption span { display: inline-block; margin-right: 1.2rem; overflow-wrap: anywhere }
pre { background: var(--box); padding: .7rem; border-radius: 4px; white-space: pre-wrap; overflow-wrap: anywhere;
  margin: .3rem 0 1.2rem }
"""


def text(value: str) -> str:
    """Somebody's text, to stand between tags or in quotes: no markup, and nothing that turns a line around."""
    return escape(printable(value), quote=True)


def page(title: str, sections: Iterable[str]) -> str:
    """The whole page, of sections that are markup."""
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'\">"
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{text(title)}</title><style>{_STYLE}</style></head>\n<body><h1>{text(title)}</h1>\n"
        + "\n".join(sections)
        + "\n</body></html>\n"
    )


def section(head: str, note: str, body: str) -> str:
    """A section with its head; `body` is markup."""
    return f"<section><h2>{text(head)}</h2><p>{text(note)}</p>{body}</section>"


def table_of(heads: Sequence[str], rows: Sequence[Sequence[str]], figures: Sequence[str]) -> str:
    """A table; the columns named in `figures` end together."""
    numeric = [head in figures for head in heads]
    shown = "".join(f"<tr>{_cells('td', row, numeric)}</tr>" for row in rows[:MAX_ROWS])
    head = _cells("th", heads, numeric)
    return f'<div class="wide"><table><thead><tr>{head}</tr></thead><tbody>{shown}</tbody></table></div>{_more(rows)}'


def _more(rows: Sequence[object]) -> str:
    return f"<p>and {len(rows) - MAX_ROWS} more rows</p>" if len(rows) > MAX_ROWS else ""


def _cells(tag: str, cells: Sequence[str], numeric: Sequence[bool]) -> str:
    opening = {True: f'<{tag} class="n">', False: f"<{tag}>"}
    return "".join(f"{opening[right]}{text(cell)}</{tag}>" for cell, right in zip(cells, numeric, strict=True))


def bars(heads: Sequence[str], groups: Sequence["Group"]) -> str:
    """Calls of groups as bars, those with most first."""
    ordered = sorted(groups, key=lambda group: -group.calls)[:MAX_ROWS]
    most = max((group.calls for group in ordered), default=1)
    rows = []
    for group in ordered:
        width = max(0.5, round(100 * group.calls / most, 1))
        bar = f'<td class="plot"><span class="bar" style="width:{width}%;background:{COLOURS[0]}"></span></td>'
        values = "".join(f"<td>{text(value or '-')}</td>" for value in group.values)
        rows.append(f'<tr>{values}<td class="n">{group.calls}</td>{bar}</tr>')
    names = "".join(f"<th>{text(head)}</th>" for head in heads)
    head = f'<tr>{names}<th class="n">calls</th><th></th></tr>'
    return f'<div class="wide"><table><thead>{head}</thead><tbody>{"".join(rows)}</tbody></table></div>{_more(groups)}'


def spends(found: "Groups", since: int, until: int) -> str:
    """Spend over time by agent, one plot for each unit. `found` is told apart by hour or day, agent and verified, from
    the hour `since` to before `until`.
    """
    hourly = found.by[0] == "hour"
    times = [(hour_text if hourly else day_text)(hour) for hour in range(since, until, 1 if hourly else 24)]
    times = sorted({*times, day_text(until - 1)}) if not hourly else times
    seen = [group.values[0] for group in found.found()]
    times = [time for time in times if seen[0] <= time <= seen[-1]] if seen else []
    plots = []
    for unit in found.units():
        spent: dict[_Agent, dict[str, int]] = {}
        for group in found.found():
            time, agent, verified = group.values
            if group.spend.get(unit):
                spent.setdefault((agent, verified), {})[time] = group.spend[unit]
        if spent:
            plots.append(_plot(unit, times, _largest(spent)))
    return "".join(plots)


def _largest(spent: Mapping[_Agent, Mapping[str, int]]) -> dict[_Agent, dict[str, int]]:
    """As many as there are colours, those that spent most first; what the others spent is put together."""
    agents = sorted(spent, key=lambda agent: (-sum(spent[agent].values()), agent))
    kept = agents if len(agents) <= len(COLOURS) else agents[: len(COLOURS) - 1]
    found = {agent: dict(spent[agent]) for agent in kept}
    for agent in agents[len(kept) :]:
        others = found.setdefault(OTHERS, {})
        for time, nano in spent[agent].items():
            others[time] = others.get(time, 0) + nano
    return found


def _name(agent: _Agent) -> str:
    return f"{'without a token, ' if agent[1] == 'no' else ''}{agent[0] or '-'}"


def _plot(unit: str, times: Sequence[str], spent: Mapping[_Agent, Mapping[str, int]]) -> str:
    most = max(sum(each.get(time, 0) for each in spent.values()) for time in times)
    step = _WIDTH / len(times)
    rects = []
    for place, time in enumerate(times):
        top = float(_HEIGHT)
        for colour, (agent, each) in zip(COLOURS, spent.items(), strict=False):
            nano = each.get(time, 0)
            if nano:
                height = _HEIGHT * nano / most
                top -= height
                hint = text(f"{time}, {_name(agent)}: {format_nano(nano)} {unit}")
                rects.append(
                    f'<rect x="{place * step:.2f}" y="{top:.2f}" width="{step * 0.85:.2f}" height="{height:.2f}"'
                    f' fill="{colour}"><title>{hint}</title></rect>'
                )
    base = _HEIGHT + 0.5
    legend = "".join(
        f'<span><i class="key" style="background:{colour}"></i>'
        f"{text(f'{_name(agent)}: {format_nano(sum(each.values()))} {unit}')}</span>"
        for colour, (agent, each) in zip(COLOURS, spent.items(), strict=False)
    )
    return (
        f'<figure><svg viewBox="0 -18 {_WIDTH} {_HEIGHT + 38}" role="img" aria-label="spend in {text(unit)}">'
        f'<line class="axis" x1="0" x2="{_WIDTH}" y1="0" y2="0"/>'
        f'<text x="0" y="-5">{format_nano(most)} {text(unit)}</text>'
        f'{"".join(rects)}<line class="axis" x1="0" x2="{_WIDTH}" y1="{base}" y2="{base}"/>'
        f'<text x="0" y="{_HEIGHT + 16}">{text(times[0])}</text>'
        f'<text x="{_WIDTH}" y="{_HEIGHT + 16}" text-anchor="end">{text(times[-1])}</text></svg>'
        f"<figcaption>{legend}</figcaption></figure>"
    )


def commands(proposals: Iterable[tuple[str, str]]) -> str:
    """What proposals rest on, and their command lines."""
    return "".join(f"<p>{text(reason)}</p><pre>{text(line)}</pre>" for reason, line in proposals)


def lines(several: str) -> str:
    """A text of several lines."""
    return "<pre>" + "\n".join(text(line) for line in several.splitlines()) + "</pre>"
