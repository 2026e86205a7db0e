"""Admin tokens: their vocabulary, what they allow, and that whoever narrows one can never mint more with it."""

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from tests.tokens import KEY_ID, NOW, call, mint, refused, text_of, verdict, verifier
from tolsey import CaveatInvalid, CaveatWider, Macaroon, attenuate, inspect
from tolsey.call import parse_pattern
from tolsey.errors import Refusal, TokenForged
from tolsey.token.admin import (
    Charge,
    actions_of,
    bound,
    charge_of,
    charge_of_grant,
    clear_act,
    refuse_minting,
)
from tolsey.token.admin_caveats import (
    ACTIONS,
    Action,
    AdminMeaning,
    MintBudget,
    MintLabel,
    MintLifetime,
    MintScope,
    parse_admin_caveat,
)
from tolsey.token.caveats import Depth, Expires, Label, Purpose, format_time, parse_expiry
from tolsey.token.chain import ADMIN, Chain
from tolsey.units import NANO, Amount, parse_budget

HOUR = 3600 * NANO
DAY = 24 * HOUR

MEANS: dict[str, AdminMeaning] = {
    "label = ops n": Label("ops", "n"),
    "expires = 2026-06-30": Expires(parse_expiry("2026-06-30")),
    "depth = 1": Depth(1),
    "purpose = nightly mint": Purpose("nightly mint"),
    "action = mint": Action(("mint",)),
    "action = mint, trail report": Action(("mint", "trail", "report")),
    "mint-budget = 100 USD": MintBudget((parse_budget("100 USD"),)),
    "mint-budget = 100 USD, 20 sat/day": MintBudget((parse_budget("100 USD"), parse_budget("20 sat/day"))),
    "mint-scope = /api/v1/search": MintScope((parse_pattern("/api/v1/search"),)),
    "mint-scope = /a/*, /b": MintScope((parse_pattern("/a/*"), parse_pattern("/b"))),
    "mint-lifetime = 30m": MintLifetime(HOUR // 2),
    "mint-lifetime = 2w": MintLifetime(14 * DAY),
    "mint-label = team-*, ops": MintLabel(("team-*", "ops")),
}

NO_CAVEATS = [
    *("budget = 1 USD", "scope = /a", "method = GET", "calls = 1", "rate = 1/day", "model = x", "tag = a=b"),
    *("max-price = 1 USD", "upstream = x", "tool = x", "Action = mint", "actions = mint", "mint = all"),
    *("action = ", "action = ,", "action = minting", "action = mint trail *", "action = *"),
    *("mint-budget = 100", "mint-budget = 1 USD, 2 USD", "mint-budget = 1 USD, 2 USD/day", "mint-budget = -1 USD"),
    *("mint-budget = 1 USD 2 sat", "mint-budget = 1e3 USD", "mint-budget = all"),
    *("mint-scope = a", "mint-scope = /a/../b", "mint-lifetime = 1", "mint-lifetime = 0d", "mint-lifetime = 100000d"),
    *("mint-lifetime = 1 d", "mint-lifetime = 1s", "mint-label = <b>", "mint-label = ", "peer = everywhere"),
]


@pytest.mark.parametrize("text", MEANS)
def test_a_caveat_means(text: str) -> None:
    assert parse_admin_caveat(text.encode()) == MEANS[text]


@pytest.mark.parametrize("text", NO_CAVEATS)
def test_what_is_not_understood_is_not_a_caveat_and_refuses(text: str) -> None:
    with pytest.raises(CaveatInvalid):
        parse_admin_caveat(text.encode())
    assert all(code(admin(text), action) == "caveat_unknown" for action in ACTIONS)


def admin(*caveats: str) -> Macaroon:
    """An admin token as `tolsey init` prints it, with these caveats appended."""
    return mint("label = admin n0", kind=ADMIN).attenuate(*caveats)


def chain_of(token: Macaroon) -> Chain:
    return verifier(kind=ADMIN).verify(text_of(token))


def code(token: Macaroon, action: str, *, now: int = NOW, peer: str = "127.0.0.1") -> str:
    refusal = clear_act(chain_of(token), action, call(now=now, peer=peer))
    return "cleared" if refusal is None else refusal.code


ALLOWS: list[tuple[tuple[str, ...], str, str]] = [
    ((), "mint", "cleared"),
    (("action = mint",), "mint", "cleared"),
    (("action = mint",), "trail", "caveat_refused"),
    (("action = mint, trail", "action = trail, void"), "trail", "cleared"),
    (("action = mint, trail", "action = trail, void"), "mint", "caveat_refused"),
    (("action = mint, trail", "action = trail, void"), "void", "caveat_refused"),
    (("expires = 2026-04-01T12:00:00Z",), "keys", "token_expired"),
    (("expires = 2026-04-01T12:00:01Z",), "keys", "cleared"),
    (("peer = 10.0.0.0/8",), "keys", "caveat_refused"),
    (("peer = 127.0.0.1/32",), "keys", "cleared"),
    (("depth = 0",), "keys", "cleared"),
    (("depth = 0", "label = child n"), "keys", "caveat_refused"),
    (("purpose = x",), "keys", "cleared"),
    (("mint-budget = 0 USD", "mint-scope = /a"), "keys", "cleared"),
    (("scope = /*",), "keys", "caveat_unknown"),
]


@pytest.mark.parametrize(("caveats", "action", "wanted"), ALLOWS)
def test_an_admin_token_allows(caveats: tuple[str, ...], action: str, wanted: str) -> None:
    assert code(admin(*caveats), action) == wanted


def test_the_actions_are_those_that_every_caveat_allows() -> None:
    token = admin("action = mint, trail, keys", "action = keys mint")
    assert actions_of(chain_of(token), ACTIONS) == ["keys", "mint"]
    assert actions_of(chain_of(admin()), ACTIONS) == list(ACTIONS)


def test_neither_kind_opens_what_the_other_does() -> None:
    with pytest.raises(TokenForged):
        verifier(kind=ADMIN).verify(text_of(mint("label = team n", "budget = 10 USD")))
    assert verdict(admin()) == "token_forged"
    assert refused(mint("label = team n", "action = mint", "budget = 10 USD")).code == "caveat_unknown"


ASKED = ("label = team-a n1", "scope = /api/v1/search", "expires = 2026-04-02T11:59:59Z", "budget = 40 USD")
"""A token to be minted at `NOW`, with a day of life less a second."""


def decide(token: Macaroon, texts: tuple[str, ...] = ASKED) -> list[Charge] | Refusal:
    """What minting takes, or why it is refused."""
    chain = chain_of(token)
    whole = bound(chain, texts, NOW)
    return refuse_minting(chain, whole, NOW) or charge_of(chain, whole)


def without(name: str, *instead: str) -> tuple[str, ...]:
    return (*(text for text in ASKED if not text.startswith(name)), *instead)


MINTS: list[tuple[tuple[str, ...], tuple[str, ...], str]] = [
    (("mint-scope = /api/v1/search",), ASKED, ""),
    (("mint-scope = /api/v1/*",), ASKED, ""),
    (("mint-scope = /other /api/v1/*",), ASKED, ""),
    (("mint-scope = /api/v1/*", "mint-scope = /other"), ASKED, "mint-scope = /other"),
    (("mint-scope = /api/v1/*",), without("scope", "scope = /api/v1/search /other"), "mint-scope = /api/v1/*"),
    (("mint-scope = /api/v1/*",), without("scope", "scope = /*", "scope = /api/v1/x"), ""),
    (("mint-scope = /api/v1/*",), without("scope"), ""),
    (("mint-lifetime = 24h",), ASKED, ""),
    (("mint-lifetime = 24h",), without("expires", "expires = 2026-04-02T12:00:00Z"), ""),
    (("mint-lifetime = 24h",), without("expires", "expires = 2026-04-02T12:00:01Z"), "mint-lifetime = 24h"),
    (("mint-lifetime = 24h",), without("expires"), ""),
    (("mint-label = team-*",), ASKED, ""),
    (("mint-label = team-*", "mint-label = *-b"), ASKED, "mint-label = *-b"),
    (("mint-budget = 100 USD",), ASKED, "40 USD"),
    (("mint-budget = 1 USD",), ASKED, "40 USD"),
    (("mint-budget = 100 sat",), ASKED, "mint-budget = 100 sat"),
    (("mint-budget = 100 USD", "mint-budget = 100 sat"), ASKED, "mint-budget = 100 sat"),
    (("mint-budget = 100 USD, 5 sat",), ASKED, "40 USD"),
    (("mint-budget = 100 USD",), without("budget"), ""),
    (("mint-budget = 100 USD",), without("budget", "budget = 1 USD/day"), "mint-budget = 100 USD"),
    (("mint-budget = 100 USD/day",), without("budget", "budget = 1 USD/day"), "mint-budget = 100 USD/day"),
    (("mint-budget = 100 USD/day",), without("budget", "budget = 1 USD/day", "budget = 9 USD"), "9 USD"),
    (("mint-budget = 100 USD",), without("budget", "budget = 9 USD", "budget = 8 USD"), "8 USD"),
    ((), without("budget", "budget = 1 USD/day"), ""),
    ((), (), ""),
]
"""The caveats of an admin token, what it is to mint, and what is taken for it, or the caveat that refuses."""


@pytest.mark.parametrize(("caveats", "asked", "wanted"), MINTS)
def test_minting_is_bound(caveats: tuple[str, ...], asked: tuple[str, ...], wanted: str) -> None:
    found = decide(admin("label = ops n1", *caveats), asked or ASKED)
    if isinstance(found, Refusal):
        assert (found.code, found.caveat, found.link) == ("caveat_refused", wanted, "ops")
    else:
        assert ", ".join(str(Amount(nano, accounts[-1].unit)) for accounts, nano in found) == wanted


def test_what_is_left_out_is_written_into_the_token() -> None:
    chain = chain_of(
        admin("mint-scope = /api/* /b", "mint-scope = /api/v1/*", "mint-lifetime = 2d", "mint-lifetime = 1h")
    )
    assert bound(chain, ["label = a n", "budget = 1 USD"], NOW) == [
        "label = a n",
        "scope = /api/* /b",
        "scope = /api/v1/*",
        f"expires = {format_time(NOW + HOUR)}",
        "budget = 1 USD",
    ]
    assert bound(chain_of(admin()), ["label = a n"], NOW) == ["label = a n"]


def test_the_mint_budget_is_an_account_of_each_link() -> None:
    chain = chain_of(admin("label = ops n1", "mint-budget = 100 USD", "label = bot n2", "mint-budget = 10 USD/day"))
    charges = charge_of(chain, ASKED)
    assert isinstance(charges, list)
    ((accounts, nano),) = charges
    assert nano == 40 * NANO
    assert [(a.label, a.limit, a.period) for a in accounts] == [
        ("admin", None, None),
        ("ops", 100 * NANO, None),
        ("bot", 10 * NANO, "day"),
    ]
    assert [a.parent for a in accounts] == [None, accounts[0].id, accounts[1].id]


GRANTS: list[tuple[tuple[str, ...], str]] = [
    ((), "nothing"),
    (("mint-budget = 100 USD",), "taken"),
    (("mint-budget = 100 sat",), "caveat_refused"),
    (("mint-scope = /*",), "caveat_refused"),
    (("mint-lifetime = 1d",), "caveat_refused"),
    (("mint-label = *",), "caveat_refused"),
]


@pytest.mark.parametrize(("caveats", "wanted"), GRANTS)
def test_a_grant_is_bound_as_minting_is(caveats: tuple[str, ...], wanted: str) -> None:
    found = charge_of_grant(chain_of(admin(*caveats)), Amount(5 * NANO, "USD"))
    assert (found.code if isinstance(found, Refusal) else "nothing" if found is None else "taken") == wanted


WIDE = ("mint-budget = 1 sat", "mint-scope = /*", "mint-label = *", "expires = 9999-12-31", "mint-lifetime = 9999w")
CAVEATS = st.sampled_from([*MEANS, *NO_CAVEATS[:12], *WIDE, f"action = {' '.join(ACTIONS)}"])
TEXTS = st.sampled_from([ASKED, *(asked for _, asked, _ in MINTS if asked)])


@example(held=["mint-budget = 100 USD", "label = ops n"], added=["mint-budget = 100 USD"], action="mint", texts=ASKED)
@given(
    held=st.lists(CAVEATS, max_size=4),
    added=st.lists(CAVEATS, min_size=1, max_size=4),
    action=st.sampled_from(ACTIONS),
    texts=TEXTS,
)
def test_law_1_for_admins(held: list[str], added: list[str], action: str, texts: tuple[str, ...]) -> None:
    """Whatever is appended, nothing is allowed that was not, and every account with a limit that paid pays still. One
    without is in the ledger to be counted alone, and a budget that its Link is given later takes its place.
    """
    parent, child = admin(*held), admin(*held, *added)
    if code(child, action) == "cleared":
        assert code(parent, action) == "cleared"
    above, below = chain_of(parent), chain_of(child)
    if refuse_minting(below, texts, NOW) is None:
        assert refuse_minting(above, texts, NOW) is None
    after, before = charge_of(below, texts), charge_of(above, texts)
    if isinstance(after, list):
        assert isinstance(before, list)
        charged = [(account, nano) for accounts, nano in after for account in accounts]
        limited = [(each, nano) for accounts, nano in before for each in accounts if each.limit is not None]
        assert all(each in charged for each in limited)


WIDER = [
    ("action = mint", "action = mint, keys"),
    ("mint-budget = 100 USD", "mint-budget = 101 USD"),
    ("mint-budget = 100 USD", "mint-budget = 5 sat"),
    ("mint-scope = /api/v1/*", "mint-scope = /api/*"),
    ("mint-lifetime = 1d", "mint-lifetime = 25h"),
    ("mint-label = team-*", "mint-label = *"),
    ("expires = 2026-06-30", "expires = 2026-07-01"),
]


@pytest.mark.parametrize(("held", "added"), WIDER)
def test_it_is_handed_on_offline_and_never_wider(held: str, added: str) -> None:
    text = attenuate(text_of(admin()), label="ops", caveats=[held])
    with pytest.raises(CaveatWider):
        attenuate(text, label="bot", caveats=[added])
    child = attenuate(text, label="bot", caveats=[held])
    assert inspect(child).problems == ()
    assert [link.label for link in inspect(child).links] == ["admin", "ops", "bot"]
    assert [link.label for link in verifier(kind=ADMIN).verify(child).links] == [None, "admin", "ops", "bot"]


def test_what_limits_calls_is_not_written_into_an_admin_token() -> None:
    text = text_of(admin())
    for budget, scope, caveats in (("1 USD", None, ()), (None, "/a", ()), (None, None, ("method = GET",))):
        with pytest.raises(CaveatInvalid, match="is not a caveat of an admin token; known are label, expires"):
            attenuate(text, label="x", budget=budget, scope=scope, caveats=caveats)
    with pytest.raises(CaveatInvalid, match="'action' is not a caveat we know"):
        attenuate(text_of(mint("label = a n")), label="x", caveats=["action = mint"])
    assert inspect(text_of(admin("scope = /a"))).problems
    assert KEY_ID in inspect(text).identifier
