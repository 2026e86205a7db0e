"""What each first-party caveat means: the spellings that are read, those that are refused, and every edge.

What cannot be read refuses every call (`caveat_unknown`); nothing is ever ignored.
"""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.tokens import CALL, CENT, call, charged, mint, refused, verdict
from tolsey.call import METHODS, parse_pattern
from tolsey.errors import CaveatInvalid
from tolsey.token.caveats import (
    CAVEAT_NAMES,
    BudgetCaveat,
    Depth,
    Expires,
    Label,
    MaxPrice,
    Meaning,
    Method,
    Model,
    Purpose,
    Scope,
    Upstream,
    format_time,
    glob_matches,
    parse_caveat,
    parse_expiry,
    split_caveat,
)
from tolsey.units import MAX_NANO, Amount, Budget

SECOND = 1_000_000_000
BUDGET = "budget = 10 USD"


def usd(nano: int) -> Amount:
    return Amount(nano, "USD")


def scope(*texts: str) -> Scope:
    return Scope(tuple(map(parse_pattern, texts)))


MEANS: dict[str, Meaning] = {
    "label = team-research-q2 8f3kQ": Label("team-research-q2", "8f3kQ"),
    "label = alone": Label("alone", None),
    "label = two words and = 8f3kQ": Label("two words and =", "8f3kQ"),
    "label = a=b n": Label("a=b", "n"),
    "label = wide   n": Label("wide", "n"),
    "label = ünïcode 語": Label("ünïcode", "語"),
    "label = " + "x" * 128: Label("x" * 128, None),
    "label = " + "語" * 42 + " n": Label("語" * 42, "n"),
    "budget = 500 USD": BudgetCaveat(Budget(usd(500 * SECOND))),
    "budget=500 USD": BudgetCaveat(Budget(usd(500 * SECOND))),
    "budget   =   500   USD   ": BudgetCaveat(Budget(usd(500 * SECOND))),
    "budget = 0 USD": BudgetCaveat(Budget(usd(0))),
    "budget = 0.000000001 USD": BudgetCaveat(Budget(usd(1))),
    "budget = 9223372036.854775807 sat": BudgetCaveat(Budget(Amount(MAX_NANO, "sat"))),
    "max-price = 0.05 USD": MaxPrice(usd(50_000_000)),
    "depth = 0": Depth(0),
    "depth = 2": Depth(2),
    "depth = 9999": Depth(9999),
    "purpose = Q2 literature review": Purpose("Q2 literature review"),
    "purpose = a = b": Purpose("a = b"),
    "scope = /api/v1/search?source=arxiv": scope("/api/v1/search?source=arxiv"),
    "scope = /*": scope("/*"),
    "scope = /a, /b,  /c": scope("/a", "/b", "/c"),
    "scope = /a /b": scope("/a", "/b"),
    "scope = /a,,": scope("/a,"),
    "scope=/a?b=c": scope("/a?b=c"),
    "method = GET": Method(("GET",)),
    "method = GET, HEAD": Method(("GET", "HEAD")),
    "method = GET HEAD": Method(("GET", "HEAD")),
    "upstream = search": Upstream(("search",)),
    "model = gpt-5*, claude-*": Model(("gpt-5*", "claude-*")),
    "upstream = search-*, *": Upstream(("search-*", "*")),
    "expires = 1970-01-01": Expires(86_400 * SECOND),
    "expires = 1970-01-01T00:00:01Z": Expires(SECOND),
    "expires = 1970-01-01t00:00:01z": Expires(SECOND),
    "expires = 1970-01-01T00:00:00.000000001Z": Expires(1),
    "expires = 1970-01-01T00:00:00.5Z": Expires(SECOND // 2),
    "expires = 1970-01-01T02:00:00+02:00": Expires(0),
    "expires = 1969-12-31T22:30:00-01:30": Expires(0),
    "expires = 1969-12-31T23:59:59.999999999Z": Expires(-1),
    "expires = 2000-02-29": Expires(951_868_800 * SECOND),
    "expires = 9999-12-31": Expires(253_402_300_800 * SECOND),
}

NAMELESS = [
    "",
    " ",
    "=",
    "= value",
    "scope",
    "scope /a",
    "scope: /a",
    "scope =",
    "scope =  ",
    "Scope = /a",
    "SCOPE = /a",
    "scope\t= /a",
    "sco pe = /a",
    "scópe = /a",
    "scope; = /a",
    "-scope = /a",
    "colour = blue",
    "time < 2030-01-01",
    "expires_at = 2030-01-01",
    "maxprice = 1 USD",
    "max_price = 1 USD",
    "routes = /a",
    "services=search:0",
]

CONTROLS = ["\x00", "\n", "\r", "\t", "\x0b", "\x1b", "\x7f", "\x85", "\u2028", "\u2029"]

WRONG_VALUES = [
    "label = " + "x" * 129,
    "label = " + "語" * 43,
    "budget = 500",
    "budget = USD",
    "budget = USD 500",
    "budget = $500",
    "budget = 500USD",
    "budget = 500 usd",
    "budget = 500 XAU",
    "budget = 500 USD EUR",
    "budget = 1e400 USD",
    "budget = 1e3 USD",
    "budget = -1 USD",
    "budget = +1 USD",
    "budget = NaN USD",
    "budget = inf USD",
    "budget = 0x10 USD",
    "budget = 1_000 USD",
    "budget = 1,000 USD",
    "budget = 0.0000000001 USD",
    "budget = 1. USD",
    "budget = .5 USD",
    "budget = 00.5 USD",
    "budget = ٣ USD",
    "budget = ⁵ USD",
    "budget = 9223372036.854775808 USD",
    "budget = 99999999999999999999 USD",
    "budget = " + "9" * 900 + " USD",
    "budget = 20 USD/year",
    "budget = 20 USD/",
    "budget = 20/day USD",
    "max-price = 5",
    "max-price = -5 USD",
    "max-price = 5 USD/day",
    "depth = -1",
    "depth = 1.5",
    "depth = +1",
    "depth = 01",
    "depth = 1 2",
    "depth = 10000",
    "depth = ٣",
    "depth = many",
    "scope = api",
    "scope = ,",
    "scope = /a , /b",
    "scope = /a//b",
    "scope = /a*",
    "scope = /../a",
    "scope = https://host/a",
    "scope = /ü",
    "method = get",
    "method = *",
    "method = TRACE",
    "method = CONNECT",
    "method = GET,HEAD",
    "method = GET; HEAD",
    "upstream = se?rch",
    "upstream = [ab]",
    "model = gpt 5,,",
    "model = gpt?5",
    "upstream = ü",
    "peer = localhost",
    "peer = 10.0.0.1/8",
    "peer = 10.0.0.0/33",
    "peer = 10.0.0",
    "peer = 010.0.0.0/8",
    "peer = 10.0.0.0-10.0.0.9",
    "peer = 10.0.0.0/8,192.168.0.0/16",
    "expires = tomorrow",
    "expires = 5m",
    "expires = 1795528809",
    "expires = 20260630",
    "expires = 2026-6-30",
    "expires = 2026-02-29",
    "expires = 2026-13-01",
    "expires = 0000-01-01",
    "expires = 2026-W26-2",
    "expires = 2026-06-30T18:00Z",
    "expires = 2026-06-30T18:00:00",
    "expires = 2026-06-30 18:00:00Z",
    "expires = 2026-06-30T24:00:00Z",
    "expires = 2026-06-30T23:59:60Z",
    "expires = 2026-06-30T18:00:00,5Z",
    "expires = 2026-06-30T18:00:00.Z",
    "expires = 2026-06-30T18:00:00.0000000001Z",
    "expires = 2026-06-30T18:00:00+2:00",
    "expires = 2026-06-30T18:00:00+24:00",
    "expires = 2026-06-30T18:00:00+0200",
    "expires = \uff12\uff10\uff12\uff16-06-30",
]


@pytest.mark.parametrize("text", MEANS)
def test_a_caveat_is_read(text: str) -> None:
    assert parse_caveat(text.encode()) == MEANS[text]
    assert parse_caveat(f"  {text} ".encode()) == MEANS[text]


@pytest.mark.parametrize("text", [*NAMELESS, *WRONG_VALUES])
def test_a_caveat_that_is_not_understood_refuses_every_call(text: str) -> None:
    with pytest.raises(CaveatInvalid):
        parse_caveat(text.encode())
    refusal = refused(mint(BUDGET).attenuate(text))
    assert (refusal.code, refusal.caveat) == ("caveat_unknown", text)


@pytest.mark.parametrize("control", CONTROLS)
@pytest.mark.parametrize("text", ["{}purpose = a", "purpose{} = a", "purpose = {}a", "purpose = a{}", "label = a{}b n"])
def test_control_characters_and_line_breaks_refuse(control: str, text: str) -> None:
    with pytest.raises(CaveatInvalid):
        parse_caveat(text.format(control).encode())
    assert verdict(mint(BUDGET).attenuate(text.format(control))) == "caveat_unknown"


@pytest.mark.parametrize("cid", [b"\xff", b"purpose = \xc3", b"purpose = \xed\xa0\x80", b"purpose = \xc0\xaf"])
def test_what_is_not_utf_8_refuses(cid: bytes) -> None:
    with pytest.raises(CaveatInvalid):
        parse_caveat(cid)
    assert verdict(mint(BUDGET).attenuate(cid)) == "caveat_unknown"


def test_every_name_of_the_design_is_known() -> None:
    assert set(CAVEAT_NAMES) == {
        "label", "budget", "scope", "method", "expires", "max-price", "calls",
        "rate", "depth", "tool", "model", "upstream", "peer", "purpose", "tag", "once",
    }  # fmt: skip


def is_read(cid: bytes) -> bool:
    try:
        parse_caveat(cid)
    except CaveatInvalid:
        return False
    return True


@given(st.binary(max_size=60))
def test_any_bytes_are_read_or_refused(cid: bytes) -> None:
    assert is_read(cid) is (verdict(mint(BUDGET).attenuate(cid)) != "caveat_unknown")


@given(st.sampled_from(CAVEAT_NAMES), st.text(st.characters(exclude_categories=["Cs"]), max_size=60))
def test_any_value_of_a_known_name_is_read_or_refused(name: str, value: str) -> None:
    cid = f"{name} = {value}".encode()
    assert is_read(cid) is (verdict(mint(BUDGET).attenuate(cid)) != "caveat_unknown")


def test_a_caveat_is_split_at_the_first_equals_sign() -> None:
    assert split_caveat(b"purpose = a = b") == ("purpose", "a = b")
    assert split_caveat(b"purpose==") == ("purpose", "=")


# --- expires


@pytest.mark.parametrize(
    ("written", "end"),
    [
        ("2026-06-30", "2026-07-01T00:00:00Z"),
        ("2026-12-31", "2027-01-01T00:00:00Z"),
        ("2028-02-28", "2028-02-29T00:00:00Z"),
        ("2026-06-30T18:00:00Z", "2026-06-30T18:00:00Z"),
        ("2026-06-30T18:00:00.000000007Z", "2026-06-30T18:00:00.000000007Z"),
        ("2026-06-30T18:00:00+02:00", "2026-06-30T16:00:00Z"),
        ("2026-06-30T18:00:00-02:00", "2026-06-30T20:00:00Z"),
    ],
)
def test_a_token_expires_at_that_nanosecond(written: str, end: str) -> None:
    token, at = mint(BUDGET, f"expires = {written}"), parse_expiry(end)
    assert verdict(token, call(now=at - 1)) == "cleared"
    assert verdict(token, call(now=at)) == "token_expired"
    assert verdict(token, call(now=at + 1)) == "token_expired"


def test_the_earliest_expiry_holds_in_whatever_order() -> None:
    early, late = "expires = 2026-04-01T12:00:01Z", "expires = 2030-01-01"
    for caveats in ((early, late), (late, early)):
        token = mint(BUDGET).attenuate(*caveats)
        assert verdict(token) == "cleared"
        assert verdict(token, call(now=CALL.now + SECOND)) == "token_expired"


@given(st.integers(-62_135_596_800, 253_402_300_799))
def test_a_written_time_is_read_back(second: int) -> None:
    assert parse_expiry(format_time(second * SECOND)) == second * SECOND


# --- max-price


def test_a_quote_may_be_as_high_as_max_price() -> None:
    token = mint(BUDGET, "max-price = 0.05 USD")
    assert verdict(token, price=usd(50_000_000)) == "cleared"
    assert verdict(token, price=usd(50_000_001)) == "caveat_refused"
    assert verdict(token, price=usd(0)) == "cleared"


def test_a_quote_in_another_unit_is_above_max_price() -> None:
    token = mint("budget = 10 USD", "budget = 10 sat", "max-price = 1 USD")
    assert verdict(token, price=Amount(1, "sat")) == "caveat_refused"
    assert verdict(token, price=Amount(1, "USD")) == "cleared"


def test_every_max_price_holds() -> None:
    for caveats in (("max-price = 1 USD", "max-price = 2 USD"), ("max-price = 2 USD", "max-price = 1 USD")):
        token = mint(BUDGET).attenuate(*caveats)
        assert verdict(token, price=usd(SECOND)) == "cleared"
        assert verdict(token, price=usd(SECOND + 1)) == "caveat_refused"


# --- depth


@pytest.mark.parametrize("allowed", range(4))
def test_depth_counts_the_links_after_it(allowed: int) -> None:
    token = mint("label = root n", f"depth = {allowed}", BUDGET)
    for _ in range(allowed):
        token = token.attenuate("label = child n")
        assert verdict(token) == "cleared"
    assert verdict(token.attenuate("label = one too many n")) == "caveat_refused"
    assert verdict(token.attenuate("purpose = not a Link")) == "cleared"


def test_depth_before_the_first_label_counts_from_link_0() -> None:
    assert verdict(mint(BUDGET, "depth = 0")) == "cleared"
    assert verdict(mint(BUDGET, "depth = 0").attenuate("label = child n")) == "caveat_refused"


def test_a_deeper_depth_only_restricts() -> None:
    child = mint("label = root n", "depth = 2", BUDGET).attenuate("label = child n", "depth = 9")
    assert verdict(child.attenuate("label = grandchild n")) == "cleared"
    assert verdict(child.attenuate("label = grandchild n", "label = more n")) == "caveat_refused"


# --- method, upstream, peer


@pytest.mark.parametrize("method", METHODS)
def test_method_allows_what_it_names(method: str) -> None:
    token = mint(BUDGET, "method = GET, POST")
    wanted = "cleared" if method in ("GET", "POST") else "caveat_refused"
    assert verdict(token, call(method=method)) == wanted


def test_several_caveats_of_a_name_are_all_asked() -> None:
    token = mint(BUDGET, "method = GET, POST").attenuate("method = POST, PUT")
    allowed = [method for method in METHODS if verdict(token, call(method=method)) == "cleared"]
    assert allowed == ["POST"]


@pytest.mark.parametrize(
    ("glob", "matching", "other"),
    [
        ("search", ["search"], ["", "Search", "search-1", "re-search"]),
        ("*", ["", "search", "*"], []),
        ("search-*", ["search-", "search-1", "search-*"], ["search", "research-1"]),
        ("*-1", ["-1", "search-1"], ["1", "search-1-2"]),
        ("s*h", ["sh", "search", "shsh"], ["s", "h", "searches"]),
        ("a*a", ["aa", "aba", "aaa"], ["a", "ab"]),
        ("ab*ba", ["abba", "abxba"], ["aba"]),
        ("a*b*c", ["abc", "aXbYc", "abbc", "abcbc"], ["ac", "acb", "abX"]),
        ("*a*", ["a", "bab"], ["", "b"]),
        ("a**b", ["ab", "axb"], ["a"]),
        ("a*b*b", ["abb", "axbxb"], ["ab", "aab"]),
        ("*ab*ab*", ["abab", "xabxabx"], ["ab", "aba"]),
    ],
)
def test_globs(glob: str, matching: list[str], other: list[str]) -> None:
    assert [text for text in matching + other if glob_matches(glob, text)] == matching


def test_upstream_is_the_route_s() -> None:
    token = mint(BUDGET, "upstream = search, llm-*")
    for name, wanted in {"search": "cleared", "llm-1": "cleared", "ingest": "caveat_refused"}.items():
        assert verdict(token, call(upstream=name)) == wanted
    assert verdict(token, call(upstream=None)) == "caveat_refused"


@pytest.mark.parametrize(
    ("networks", "inside", "outside"),
    [
        ("10.0.0.0/8", ["10.0.0.0", "10.255.255.255", "::ffff:10.1.2.3"], ["9.255.255.255", "11.0.0.0", "::10.1.2.3"]),
        ("10.1.2.3", ["10.1.2.3", "::ffff:10.1.2.3"], ["10.1.2.2", "10.1.2.4", "::ffff:10.1.2.4"]),
        ("0.0.0.0/0", ["1.2.3.4", "::ffff:1.2.3.4"], ["2001:db8::1"]),
        ("::/0", ["2001:db8::1"], ["1.2.3.4", "::ffff:1.2.3.4"]),
        ("2001:db8::/32, 10.0.0.0/8", ["2001:db8::1", "2001:DB8:0:0::1", "10.1.1.1"], ["2001:db9::1", "127.0.0.1"]),
        ("10.0.0.0/8", [], ["", "unix", "10.1", "10.1.1.1:80", "[::1]", "localhost"]),
    ],
)
def test_peer_is_the_socket_s_address(networks: str, inside: list[str], outside: list[str]) -> None:
    token = mint(BUDGET, f"peer = {networks}")
    cleared = [p for p in inside + outside if verdict(token, call(peer=p)) == "cleared"]
    assert cleared == inside


# --- scope


@pytest.mark.parametrize(
    ("path", "query", "wanted"),
    [
        ("/a", "", "cleared"),
        ("/b/1", "x=1", "cleared"),
        ("/b/1", "x=2", "caveat_refused"),
        ("/b/2", "", "cleared"),
        ("/c", "", "caveat_refused"),
        ("/A", "", "caveat_refused"),
        ("/a/", "", "caveat_refused"),
    ],
)
def test_one_alternative_of_a_scope_must_match(path: str, query: str, wanted: str) -> None:
    token = mint(BUDGET, "scope = /a, /b/1?x=1, /b/2")
    assert verdict(token, call(path=path, query=query)) == wanted


# --- what never refuses


@pytest.mark.parametrize("text", ["label = anyone n", "purpose = anything", "budget = 0 USD"])
def test_label_purpose_and_budget_never_refuse_here(text: str) -> None:
    token = mint(BUDGET, "label = root n").attenuate(text)
    assert charged(token, price=CENT)[0].limit == 10 * SECOND
