"""`tolsey report`: what it shows of tallies, and that nothing a caller is called does harm anywhere."""

import csv
import io
import shlex
import stat
import time
from html.parser import HTMLParser
from pathlib import Path

import pytest

from tests.cli import answer, invoke, refusal
from tests.cli_books import TEAM, open_book
from tolsey.cli.proposing import config_diff, enforced
from tolsey.cli.report_page import COLOURS, MAX_ROWS, bars, spends, table_of
from tolsey.ledger.report import Groups
from tolsey.ledger.tallies import Counts, TallyKey
from tolsey.ledger.windows import DAY, HOUR, SECOND
from tolsey.store.tallies import tally_row
from tolsey.token.caveats import format_time
from tolsey.units import NANO

KEY = TallyKey(
    "observe", True, "team/worker", "team", "", "GET", "/api/v1/search", "/api/v1/search", "search", "", "", "USD", ""
)
HOSTILE = "\x1b[2J=1+1'\"; <script>alert(1)</script>\n$(touch x) \u202e"
STRANGER = KEY._replace(verified=False, agent=HOSTILE, team="=cmd", code="token_missing")
TODAY = time.time_ns() // DAY * DAY // HOUR


def counted(calls: int, errors: int = 0, cost: int = 0, *, us: int = 20_000) -> Counts:
    found = Counts()
    for n in range(calls):
        found.add(cost=cost, failed=n < errors, us=us)
    return found


@pytest.fixture
def tallied(config: Path, c: tuple[str, str]) -> tuple[str, str]:
    """A gateway that has observed a worker on three days, a stranger today, and refused one enforced call."""
    answer(*TEAM, *c)
    enforced_key = KEY._replace(mode="enforce", agent="other", team="other", code="budget_exhausted")
    rows = [tally_row("w1", TODAY - 24 * day, KEY, counted(10, 1, NANO // 100)) for day in range(3)]
    rows += [tally_row("w2", TODAY, KEY._replace(code="rate_limited"), counted(2, 0, NANO // 100))]
    rows += [tally_row("w1", TODAY, STRANGER, counted(4, cost=NANO // 1000, us=40_000_000))]
    rows += [tally_row("w1", TODAY, enforced_key, counted(1, 1))]
    rows += [tally_row("w1", TODAY - 24 * 30, KEY._replace(agent="of old"), counted(1))]
    ledger = open_book(config)
    ledger.tally(rows)
    ledger.close()
    return c


def test_the_table(tallied: tuple[str, str]) -> None:
    status, out, err = invoke("report", *tallied)
    assert status == 0
    assert err.startswith(f"from {format_time(time.time_ns() - 7 * DAY)[:11]}")
    lines = out.splitlines()
    assert lines[0].split()[:9] == ["agent", "verified", "calls", "errors", "share", "spend", "p50", "p95", "refused"]
    figures = [" ".join(line.split()) for line in lines[1:4]]
    assert figures[0] == "team/worker yes 32 3 9.4% 0.32 USD ≤ 30 ms ≤ 30 ms 0 2"
    assert figures[1].endswith(" no 4 0 0.0% 0.004 USD > 30000 ms > 30000 ms 0 4")
    assert figures[2] == "other yes 1 1 100.0% 0 USD ≤ 30 ms ≤ 30 ms 1 0"
    assert lines[5] == "enforcement would have refused:"
    assert [line.split()[0] for line in lines[7:]] == ["code", "token_missing", "rate_limited"]
    assert all(line.isprintable() for line in lines)


def test_the_document(tallied: tuple[str, str]) -> None:
    found = answer("report", "--by", "team", "--since", "40d", *tallied)
    assert found["by"] == ["team"]
    assert found["groups"][0] == {
        "team": "team",
        "calls": 33,
        "errors": 3,
        "spend": {"USD": "0.32"},
        "p50_ms": 30,
        "p95_ms": 30,
        "refused": 0,
        "would_refuse": 2,
    }
    assert [group["p50_ms"] for group in found["groups"]] == [30, None, 30]
    assert found["would_refuse"] == [
        {"code": "token_missing", "agent": HOSTILE, "verified": False, "calls": 4},
        {"code": "rate_limited", "agent": "team/worker", "verified": True, "calls": 2},
    ]


def test_the_time_and_the_agent_can_be_chosen(tallied: tuple[str, str]) -> None:
    today = format_time(TODAY * HOUR)
    found = answer("report", "--by", "agent,hour", "--since", today, "--agent", "team/worker", *tallied)
    assert found["since"] == today
    assert [(group["agent"], group["hour"], group["calls"]) for group in found["groups"]] == [
        ("team/worker", f"{today[:16]}Z", 12)
    ]
    until = answer("report", "--until", format_time((TODAY - 24) * HOUR + SECOND), *tallied)["groups"]
    assert [group["calls"] for group in until] == [20]


def test_csv_has_no_formula(tallied: tuple[str, str]) -> None:
    status, out, err = invoke("report", "--csv", "--by", "agent,team", *tallied)
    assert (status, err) == (0, "")
    rows = list(csv.reader(io.StringIO(out)))
    assert rows[0][:6] == ["agent", "verified", "team", "calls", "errors", "spend_USD"]
    assert rows[1] == ["team/worker", "yes", "team", "32", "3", "0.32", "30", "30", "0", "2"]
    assert rows[2][2:] == ["'=cmd", "4", "0", "0.004", ">30000", ">30000", "0", "4"]
    assert rows[2][0].startswith("\\x1b[2J=1+1")


def test_each_proposal_can_be_minted(tallied: tuple[str, str]) -> None:
    status, out, _ = invoke("report", "--propose", *tallied)
    assert status == 0
    assert all(line.isprintable() for line in out.splitlines())
    commands = [shlex.split(line, comments=True) for line in out.splitlines()]
    minted = [words for words in commands if words]
    assert [words[5] for words in minted] == ["team/worker", "2J-1+1-script-alert-1-/script-touch-x"]
    assert minted[0][6:] == [
        *("--budget", "0.12 USD/day", "--scope", "/api/v1/search"),
        *("--caveat", "method = GET", "--caveat", "max-price = 0.01 USD"),
    ]
    for words in minted:
        assert words[:4] == ["tolsey", "mint", *tallied]
        assert invoke(*words[1:])[0] == 0
    assert "p95 of the 3 days with spend in USD: 0.12 USD" in out


def test_proposals_as_a_document(tallied: tuple[str, str]) -> None:
    found = answer("report", "--propose", "--agent", "team/worker", *tallied)
    (proposal,) = found["proposals"]
    assert found["percentile"] == 95
    budget = {"budget": "0.12 USD/day", "unit": "USD", "period": "day", "percentile": "0.12", "periods": 3, "room": "0"}
    assert proposal["budgets"] == [budget]
    assert proposal["max_price"] == "0.01 USD"
    assert proposal["command"].startswith("tolsey mint -c ")
    assert (found["config_diff"], found["note"][:10]) == ("", "the config")


class Markup(HTMLParser):
    """What a page is made of."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.attributes: set[str] = set()
        self.texts: list[str] = []
        self.feed(page)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.attributes |= {name for name, _ in attrs}

    def handle_data(self, data: str) -> None:
        self.texts.append(data)


def test_a_page_is_made_of_our_own_markup(tallied: tuple[str, str], tmp_path: Path) -> None:
    file = tmp_path / "report.html"
    by = ("--by", "agent,team")
    assert invoke("report", "--html", str(file), *by, *tallied) == (0, f"wrote {file}\n", "")
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    page = file.read_text("utf-8")
    found = Markup(page)
    plain = invoke("report", "--html", str(tmp_path / "plain"), *by, "--agent", "team/worker", *tallied)
    assert plain[0] == 0
    assert found.tags == Markup((tmp_path / "plain").read_text("utf-8")).tags
    assert not found.tags & {"script", "link", "img", "iframe", "a", "object", "form"}
    assert not {name for name in found.attributes if name.startswith("on")} | found.attributes & {"src", "href"}
    assert any("<script>alert(1)</script>" in text for text in found.texts)
    assert all(line.isprintable() for line in page.splitlines())
    assert "http://" not in page
    assert "team/worker: 0.32 USD" in found.texts
    assert any(text.startswith("without a token, ") and text.endswith(": 0.004 USD") for text in found.texts)
    assert refusal("report", "--html", str(file), *tallied)["code"] == "file_unusable"


@pytest.mark.parametrize("period", ["hour", "day"])
def test_a_plot_of_spend(period: str) -> None:
    groups = Groups([period, "agent", "verified"])
    agents = [("a", True), ("a", False), *((f"agent {n}", True) for n in range(len(COLOURS)))]
    for n, (agent, verified) in enumerate(agents):
        groups.add(TODAY + 3 * 24, KEY._replace(agent=agent, verified=verified), counted(1, cost=(99 - n) * NANO))
    groups.add(TODAY, KEY._replace(agent="a"), counted(1, cost=NANO))
    plot = spends(groups, TODAY - 30, TODAY + 5 * 24)
    found = Markup(plot)
    assert plot.count("<rect") == len(COLOURS) + 1
    assert [text for text in found.texts if text.endswith(" USD") and not text.startswith("20")] == [
        *("945 USD", "a: 100 USD", "without a token, a: 98 USD"),
        *(f"agent {n}: {97 - n} USD" for n in range(len(COLOURS) - 3)),
        "all others: 273 USD",
    ]
    width = float(plot.partition('<rect x="0.00"')[2].partition('width="')[2].partition('"')[0])
    assert width == pytest.approx(800 * 0.85 / (3 * 24 + 1 if period == "hour" else 4), abs=0.01)


def test_a_page_has_only_so_many_rows() -> None:
    groups = Groups(["agent"])
    for n in range(MAX_ROWS + 5):
        groups.add(TODAY, KEY._replace(agent=f"agent {n}"), counted(1))
    assert bars(("agent",), groups.found()).endswith("<p>and 5 more rows</p>")
    rows = [[str(n)] for n in range(MAX_ROWS)]
    assert "more rows" not in table_of(("n",), rows, ("n",))
    assert table_of(("n",), [*rows, ["x"]], ("n",)).endswith("<p>and 1 more rows</p>")


def test_where_nothing_worked(tallied: tuple[str, str]) -> None:
    status, out, err = invoke("report", "--propose", "--agent", "other", *tallied)
    assert (status, out) == (0, "")
    assert "none of these calls was observed and worked" in err


def test_where_nothing_was_counted(config: Path, c: tuple[str, str], tmp_path: Path) -> None:
    answer(*TEAM, *c)
    for words in ((), ("--propose",)):
        status, out, err = invoke("report", *words, *c)
        assert (status, out) == (0, "")
        assert 'set mode = "observe" on a route' in err
    assert answer("report", *c)["groups"] == []
    assert invoke("report", "--csv", *c)[1].count("\n") == 1
    assert invoke("report", "--html", str(tmp_path / "p"), *c)[0] == 0
    assert "no calls were counted" in (tmp_path / "p").read_text("utf-8")


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (("--by", "colour"), "--by: 'colour' is no dimension; known are agent"),
        (("--csv",), "--json is for all but --csv"),
        (("--propose", "--html", "x"), "choose one of --csv, --html, --payments and --propose"),
    ],
)
def test_a_command_line_that_is_not_understood(words: tuple[str, ...], text: str, c: tuple[str, str]) -> None:
    assert text in refusal("report", *words, *c, status=2)["detail"]


# --- the change of the config

OBSERVING = """\
[server]
port = 8402
mode = "observe"  # for now
[[upstream]]
name = "x"
url = "http://127.0.0.1:9"
headers = { Authorization = "Bearer secret" }
[[route]]
path = "/a"
methods = ["GET"]
upstream = "x"
[[route]] # two
path = "/b"
mode = 'observe'
price = "1 USD"
[[route]]
mode = "public"
"""


def test_the_diff_changes_modes_and_nothing_else() -> None:
    new = enforced(OBSERVING)
    assert new is not None
    assert config_diff("tolsey.toml", OBSERVING, new).splitlines() == [
        "--- tolsey.toml",
        "+++ tolsey.toml",
        "@@ -2,3 +2,3 @@",
        " port = 8402",
        '-mode = "observe"  # for now',
        '+mode = "enforce"  # for now',
        " [[upstream]]",
        "@@ -13,3 +13,3 @@",
        ' path = "/b"',
        "-mode = 'observe'",
        '+mode = "enforce"',
        ' price = "1 USD"',
    ]


@pytest.mark.parametrize(
    "text",
    [
        'server.mode = "observe"\n',
        'server = { mode = "observe" }\n',
        'route = [{ mode = "observe" }]\n',
        '[server]\nx = """\nmode = "observe"\n"""\n',
    ],
)
def test_a_config_written_otherwise_is_left_alone(text: str) -> None:
    assert enforced(text) is None


def test_the_diff_of_a_config_that_observes(tallied: tuple[str, str], config: Path) -> None:
    text = config.read_text("utf-8")
    free = 'path = "/api/v1/free"\nmethods = ["GET"]\nupstream = "search"\n'
    observing = text.replace(f'{free}price = "0 USD"\n', f'{free}mode = "observe"\nprice = "0 USD"\n')
    config.write_text(observing, "utf-8")
    diff = answer("report", "--propose", *tallied)["config_diff"]
    assert [line for line in diff.splitlines() if line[0] in "+-"] == [
        *("--- tolsey.toml", "+++ tolsey.toml"),
        *('-mode = "observe"', '+mode = "enforce"'),
    ]
    assert invoke("report", "--propose", *tallied)[1].endswith(f"change the config:\n{diff}")
    config.write_text(enforced(observing) or "", "utf-8")
    assert invoke("check", *tallied, env={"SEARCH_API_KEY": "k"})[0] == 0
    config.write_text(observing.replace('mode = "observe"', "'mode' = \"observe\""), "utf-8")
    assert invoke("report", "--propose", *tallied)[2].startswith("the config is not written with one key a line")


def test_a_last_line_without_an_end() -> None:
    text = '[server]\nmode = "observe"'
    assert config_diff("c", text, text.replace("observe", "enforce")).splitlines()[3:] == [
        " [server]",
        '-mode = "observe"',
        "\\ No newline at end of file",
        '+mode = "enforce"',
        "\\ No newline at end of file",
    ]


def test_a_key_of_another_table_is_left_alone() -> None:
    text = '[other]\nmode = "observe"\n'
    assert enforced(text) == text
    assert config_diff("c", text, text) == ""
