"""What a sub-agent calls: `attenuate` and `inspect`, offline, with the standard library alone.

`attenuate` writes `label` first and `budget` last and refuses what is wider than its parent; `inspect` says what a
token amounts to, and that it is unverified.
"""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.tokens import (
    SUBTASK,
    TEAM,
    WORKER,
    answer,
    article,
    ask,
    call,
    chain_of,
    charged,
    mint,
    prefix_of,
    text_of,
    v1,
    verdict,
)
from tolsey import CaveatInvalid, CaveatWider, Macaroon, TokenMalformed, UnverifiedLink, attenuate, inspect
from tolsey.token.wire import bytes_to_text

SRC = Path(__file__).resolve().parent.parent / "src"
TOKEN = mint(*TEAM).to_text()


def caveats_of(token: str) -> list[str]:
    return [str(caveat) for caveat in Macaroon.deserialize(token).caveats]


# --- attenuate


def test_label_first_and_budget_last() -> None:
    child = attenuate(
        TOKEN,
        label="research-subtask-47",
        budget="500 USD",
        scope="/api/v1/search",
        expires="2026-05-31",
        caveats=["method = GET", "depth = 1"],
    )
    *_, label, scope, expires, method, depth, budget = caveats_of(child)
    assert label.startswith("label = research-subtask-47 ")
    assert [scope, expires] == ["scope = /api/v1/search", "expires = 2026-05-31"]
    assert [method, depth, budget] == ["method = GET", "depth = 1", "budget = 500 USD"]
    assert caveats_of(child)[:4] == list(TEAM)


def test_a_budget_among_the_caveats_is_last_too() -> None:
    """RULES.md T2: so that the prefix id of the token is its account's."""
    child = attenuate(TOKEN, label="child", caveats=["budget = 5 USD", "method = GET"])
    assert caveats_of(child)[-1] == "budget = 5 USD"
    assert charged(child)[-1].id == prefix_of(child)


def test_the_child_clears_what_it_says() -> None:
    child = attenuate(TOKEN, label="worker", scope="/api/v1/search?source=arxiv", budget="50 USD")
    assert verdict(child) == "cleared"
    assert verdict(child, call(query="source=pubmed")) == "caveat_refused"
    assert [account.limit for account in charged(child)] == [10_000 * 10**9, 50 * 10**9]
    assert charged(child)[-1].id == prefix_of(child)


def test_equal_children_are_two_accounts() -> None:
    first, second = (attenuate(TOKEN, label="twin", budget="5 USD") for _ in range(2))
    assert charged(first)[0] == charged(second)[0]
    assert charged(first)[1].id != charged(second)[1].id
    nonces = [caveats_of(token)[4].split()[-1] for token in (first, second)]
    assert nonces[0] != nonces[1]
    assert all(len(nonce) >= 12 for nonce in nonces)


def test_all_but_the_label_is_optional() -> None:
    assert len(caveats_of(attenuate(TOKEN, label="child"))) == 5


@pytest.mark.parametrize("form", [TOKEN, TOKEN.removeprefix("tolsey_"), f"  {TOKEN}\n", bytes_to_text(v1(mint(*TEAM)))])
def test_every_spelling_of_a_token_is_read(form: str) -> None:
    assert attenuate(form, label="child").startswith("tolsey_")
    assert inspect(form).prefix_id == prefix_of(TOKEN)


@pytest.mark.parametrize("token", ["", "x", "tolsey_", "not a token", TOKEN[:-5], TOKEN + "," + TOKEN, "A" * 20_000])
def test_what_is_no_token_is_refused(token: str) -> None:
    with pytest.raises(TokenMalformed):
        attenuate(token, label="child")


@pytest.mark.parametrize("label", ["", " ", " x", "x ", "a\nb", "a\x00b", "x" * 128, "\ud800"])
def test_a_label_that_cannot_be_written_is_refused(label: str) -> None:
    with pytest.raises(CaveatInvalid):
        attenuate(TOKEN, label=label)


@pytest.mark.parametrize(
    "caveat",
    [
        "colour = blue",
        "method",
        "tool = [x]",
        "budget = 5",
        "expires = 5m",
        "label = another",
        "purpose = a\nb",
        "",
    ],
)
def test_a_caveat_that_is_not_known_is_never_written(caveat: str) -> None:
    with pytest.raises(CaveatInvalid):
        attenuate(TOKEN, label="child", caveats=[caveat])


@pytest.mark.parametrize(
    "more",
    [{"budget": "5"}, {"budget": "5 USD/year"}, {"budget": "-5 USD"}, {"scope": "api"}, {"expires": "tomorrow"}],
)
def test_a_value_that_cannot_be_written_is_refused(more: dict[str, str]) -> None:
    with pytest.raises(CaveatInvalid):
        attenuate(TOKEN, label="child", **more)


AS_NARROW = [
    ("budget = 5 USD", "budget = 5 USD"),
    ("budget = 5 USD", "budget = 4.999999999 USD"),
    ("budget = 5 USD", "budget = 0 USD"),
    ("budget = 5 USD", "budget = 100 sat"),
    ("max-price = 1 USD", "max-price = 1 USD"),
    ("max-price = 1 USD", "max-price = 0.5 USD"),
    ("expires = 2026-06-30", "expires = 2026-07-01T00:00:00Z"),
    ("expires = 2026-06-30", "expires = 2026-01-01"),
    ("scope = /a/*", "scope = /a/b"),
    ("scope = /a/*", "scope = /a/b/*, /a/c?x=1"),
    ("scope = /a, /b", "scope = /b"),
    ("scope = /a?x=1", "scope = /a?x=1&y=2"),
    ("method = GET, HEAD", "method = HEAD"),
    ("upstream = search-*", "upstream = search-1, search-eu-*"),
    ("upstream = *", "upstream = *"),
    ("model = gpt-*", "model = gpt-5*, gpt-4o"),
    ("peer = 10.0.0.0/8", "peer = 10.1.0.0/16 10.2.3.4"),
    ("peer = 2001:db8::/32", "peer = 2001:db8:1::/48"),
    ("depth = 2", "depth = 1"),
    ("depth = 1", "depth = 0"),
    ("purpose = a", "purpose = b"),
    ("budget = 20 USD/day", "budget = 20 USD/day"),
    ("budget = 20 USD/day", "budget = 500 USD"),
    ("budget = 20 USD/day", "budget = 30 USD/week"),
    ("calls = 1000", "calls = 1000"),
    ("calls = 1000", "calls = 2000/hour"),
    ("rate = 60/minute", "rate = 60/minute"),
    ("rate = 60/minute", "rate = 100/hour"),
]

WIDER = [
    ("budget = 5 USD", "budget = 5.000000001 USD"),
    ("max-price = 1 USD", "max-price = 1.000000001 USD"),
    ("expires = 2026-06-30", "expires = 2026-07-01T00:00:00.000000001Z"),
    ("expires = 2026-06-30", "expires = 9999-12-31"),
    ("scope = /a/*", "scope = /*"),
    ("scope = /a/*", "scope = /a"),
    ("scope = /a/*", "scope = /a/b, /c"),
    ("scope = /a?x=1", "scope = /a"),
    ("scope = /a?x=1", "scope = /a?x=2"),
    ("method = GET, HEAD", "method = GET, POST"),
    ("upstream = search-*", "upstream = *"),
    ("upstream = search-1", "upstream = search-*"),
    ("model = gpt-5*", "model = gpt-*"),
    ("upstream = a*b", "upstream = a*"),
    ("peer = 10.0.0.0/8", "peer = 0.0.0.0/0"),
    ("peer = 10.0.0.0/8", "peer = ::/0"),
    ("peer = 10.0.0.0/8", "peer = 10.1.1.1 11.1.1.1"),
    ("depth = 2", "depth = 2"),
    ("depth = 1", "depth = 9"),
    ("budget = 20 USD/day", "budget = 20.000000001 USD/day"),
    ("calls = 1000", "calls = 1001"),
    ("calls = 100/hour", "calls = 101/hour"),
    ("rate = 60/minute", "rate = 61/minute"),
]


@pytest.mark.parametrize(("parent", "child"), AS_NARROW)
def test_what_is_as_narrow_is_written(parent: str, child: str) -> None:
    assert child in caveats_of(attenuate(mint(parent).to_text(), label="child", caveats=[child]))


@pytest.mark.parametrize(("parent", "child"), WIDER)
def test_what_is_wider_is_not_written(parent: str, child: str) -> None:
    with pytest.raises(CaveatWider):
        attenuate(mint(parent).to_text(), label="child", caveats=[child])


@pytest.mark.parametrize(("parent", "child"), WIDER)
def test_every_link_above_is_compared(parent: str, child: str) -> None:
    token = (
        mint("label = root n", parent, "purpose = x").attenuate("label = middle n") if "depth" not in parent else None
    )
    if token is None:
        token = mint("label = root n", "purpose = x").attenuate("label = middle n", parent)
    with pytest.raises(CaveatWider):
        attenuate(token.to_text(), label="child", caveats=["purpose = y", child])


def test_the_keywords_are_compared_too() -> None:
    for more in ({"budget": "10001 USD"}, {"scope": "/*"}, {"expires": "2026-07-01"}):
        with pytest.raises(CaveatWider):
            attenuate(TOKEN, label="child", **more)


def test_a_token_that_may_not_be_handed_on_is_not() -> None:
    token = mint("label = root n", "depth = 1").to_text()
    child = attenuate(token, label="child")
    with pytest.raises(CaveatWider, match="depth"):
        attenuate(child, label="grandchild")
    with pytest.raises(CaveatWider, match="depth"):
        attenuate(mint("depth = 0").to_text(), label="child")


def test_a_child_beyond_a_limit_is_not_written() -> None:
    """What no gateway would read is refused here, where somebody can still do something about it."""
    full = {
        "caveats": mint(*["purpose = x"] * 63),
        "Links": mint(*[f"label = l{n} n" for n in range(31)]),
        "bytes": mint(*["purpose = " + "x" * 1000] * 7, "purpose = " + "x" * 980),
        "accounts": mint(*["budget = 5 USD"] * 32),
    }
    for token in full.values():
        chain_of(token)
        with pytest.raises(CaveatInvalid):
            attenuate(token.to_text(), label="child", budget="1 USD", caveats=["purpose = " + "y" * 20])
    with pytest.raises(CaveatInvalid, match="1024 bytes"):
        attenuate(TOKEN, label="child", caveats=["purpose = " + "x" * 1015])
    assert attenuate(mint(*["purpose = x"] * 63).to_text(), label="child")
    assert attenuate(TOKEN, label="child", caveats=["purpose = " + "x" * 1014])


def test_a_parent_with_a_caveat_that_nobody_knows_can_be_handed_on() -> None:
    assert verdict(attenuate(mint(*TEAM).attenuate("colour = blue").to_text(), label="child")) == "caveat_unknown"


# --- inspect


def test_inspect_says_what_the_article_s_worker_amounts_to() -> None:
    seen = inspect(article().to_text())
    assert seen.verified is False
    assert seen.identifier == article().identifier.decode()
    assert seen.prefix_id == chain_of(article()).prefix_ids[-1]
    assert seen.links == (
        UnverifiedLink("team-research-q2", "n1", TEAM[1:]),
        UnverifiedLink("research-subtask-47", "n2", SUBTASK[1:]),
        UnverifiedLink("search-worker-12", "n3", WORKER[1:]),
    )
    assert seen.budgets == ("50 USD",)
    assert seen.expires == "2026-07-01T00:00:00Z"
    assert seen.scope == ("/api/v1/*", "/api/v1/search", "/api/v1/search?source=arxiv")
    assert (seen.max_prices, seen.method, seen.third_parties, seen.discharges, seen.problems) == ((), (), (), 0, ())


def test_inspect_shows_the_least_of_each_unit() -> None:
    token = mint("budget = 9 USD", "budget = 7 sat", "budget = 3 USD", "budget = 8 USD", "max-price = 2 USD")
    seen = inspect(
        token.attenuate("max-price = 1 USD", "expires = 2026-06-30", "expires = 2026-05-31T10:00:00Z").to_text()
    )
    assert seen.budgets == ("3 USD", "7 sat")
    assert seen.max_prices == ("1 USD",)
    assert seen.expires == "2026-05-31T10:00:00Z"


def test_inspect_shows_the_least_of_each_period() -> None:
    token = mint("budget = 9 USD/day", "budget = 20 USD/week", "calls = 9/hour", "calls = 50", "rate = 5/minute")
    seen = inspect(token.attenuate("budget = 8 USD/day", "calls = 7/hour", "calls = 60", "rate = 4/minute").to_text())
    assert seen.budgets == ("8 USD/day", "20 USD/week")
    assert seen.calls == ("7/hour", "50")
    assert seen.rates == ("4/minute",)


def test_inspect_shows_what_a_gateway_will_refuse() -> None:
    seen = inspect(mint("scope = /a").attenuate("colour = blue", b"\xff", "tool = [x]").to_text())
    assert len(seen.problems) == 3
    assert "colour" in seen.problems[0]
    assert "UTF-8" in seen.problems[1]
    assert "tool" in seen.problems[2]
    assert seen.links == (UnverifiedLink(None, None, ("scope = /a", "colour = blue", "\\xff", "tool = [x]")),)


def test_inspect_shows_third_parties_and_counts_discharges() -> None:
    root = ask(mint(*TEAM))
    assert inspect(root.to_text()).third_parties == ("https://approve.example",)
    assert inspect(root.to_text()).discharges == 0
    assert inspect(text_of(root, answer())).discharges == 1


@pytest.mark.parametrize(
    "expires", ["9999-12-31", "9999-12-31T23:59:59-23:59", "0001-01-01T00:00:00+23:59", "0999-01-01"]
)
def test_inspect_reads_every_expiry(expires: str) -> None:
    """`9999-12-31` is what people write for never."""
    seen = inspect(mint(f"expires = {expires}").to_text())
    assert seen.expires is not None
    assert seen.expires.endswith("Z")
    assert len(seen.expires) == len("2026-06-30T00:00:00Z")
    with pytest.raises(CaveatWider):
        attenuate(mint("expires = 0001-01-01").to_text(), label="child", expires="9999-12-31")


def test_inspect_needs_no_genuine_token() -> None:
    genuine = mint(*TEAM)
    forged = Macaroon("", b"any identifier \xff", genuine.caveats, bytes(32))
    assert inspect(forged.to_text()).identifier == "any identifier \\xff"
    with pytest.raises(TokenMalformed):
        inspect("not a token")


# --- the standard library alone

PROGRAM = """
import json, sys
sys.path.insert(0, sys.argv[1])
from tolsey import Delegation, Macaroon, attenuate, inspect
from tolsey.refusals import BudgetExhausted, read_refusal
root = Macaroon.mint(root_key=b"key", identifier=b"tolsey:1:k:AAAAAAAAAAAAAAAAAAAAAA:1", location="here")
root = root.attenuate("budget = 5 USD")
child = attenuate(root.to_text(), label="child", budget="1 USD", scope="/a", expires="2026-06-30")
assert Macaroon.deserialize(child).to_text() == child
assert inspect(child).budgets == ("1 USD",)
with Delegation(child).delegate("grandchild", budget="0.5 USD") as held:
    assert inspect(held.token).budgets == ("0.5 USD",)
said = b'{"type": "urn:tolsey:problem:budget_exhausted", "code": "budget_exhausted", "status": 402}'
assert type(read_refusal(said)) is BudgetExhausted
stdlib = sys.stdlib_module_names | {"__main__", "tolsey"}
print(json.dumps(sorted({name.split(".")[0] for name in sys.modules} - stdlib)))
"""


def test_the_sdk_needs_the_standard_library_alone() -> None:
    """An isolated interpreter that sees src/ and no site-packages."""
    command = [sys.executable, "-S", "-I", "-W", "error", "-c", PROGRAM, str(SRC)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == []


def test_a_third_party_caveat_without_pynacl_says_what_to_install() -> None:
    program = PROGRAM + (
        "\nfrom tolsey.errors import DischargeInvalid\n"
        "try:\n"
        "    root.attenuate_third_party(location='x', key=b'k', identifier=b'i', nonce=bytes(24))\n"
        "except DischargeInvalid as error:\n"
        "    print(error)\n"
    )
    command = [sys.executable, "-S", "-I", "-c", program, str(SRC)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stderr
    assert "pip install pynacl" in done.stdout
