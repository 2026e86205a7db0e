"""Law 1: a child never exceeds its parent.

Whatever a holder appends, with our code or a foreign library, known or unknown, well-formed or not, no call is cleared
that the parent's token would have had refused, and every account that the parent charged is charged still. First each
caveat of a catalogue alone, against every refusal; then random chains, calls and attacks. The weaknesses that were
found in another gateway (reference/satgate.md section 3) stand below by their numbers.
"""

from dataclasses import dataclass

import pytest
from hypothesis import event, given, settings
from hypothesis import strategies as st

from tests.foreign import PyMacaroons
from tests.tokens import (
    CENT,
    FREE,
    NOW,
    SUBTASK,
    TEAM,
    WORKER,
    answer,
    article,
    ask,
    call,
    chain_of,
    charged,
    decide,
    mint,
    refused,
    text_of,
    verdict,
    verifier,
)
from tolsey import CaveatWider, Macaroon, attenuate
from tolsey.call import Call
from tolsey.errors import TokenForged
from tolsey.token.chain import Charge
from tolsey.token.verifier import Verifier
from tolsey.units import Amount

SECOND = 1_000_000_000
PRICES = [CENT, Amount(6 * SECOND, "USD"), Amount(3 * SECOND, "sat"), FREE]
CALLS = [
    call(),
    call(query="source=pubmed"),
    call(query=""),
    call(path="/api/v1/ingest", method="POST"),
    call(path="/admin"),
    call(peer="10.1.2.3"),
    call(upstream="llm-1"),
    call(model="gpt-5"),
    call(upstream=None, peer=""),
    call(now=NOW + 365 * 86_400 * SECOND),
    call(now=0),
]

KNOWN = [
    "label = child n",
    "label = lone",
    "budget = 5 USD",
    "budget = 0 USD",
    "budget = 1000000 USD",
    "budget = 100 sat",
    "budget = 20 USD/day",
    "calls = 1000000",
    "calls = 0/month",
    "rate = 1000000/second",
    "rate = 1/day",
    "scope = /*",
    "scope = /api/v1/*",
    "scope = /api/v1/search?source=arxiv",
    "scope = /admin",
    "method = GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS",
    "method = GET",
    "expires = 9999-12-31",
    "expires = 2026-04-02",
    "expires = 2020-01-01",
    "max-price = 1000000 USD",
    "max-price = 0.01 USD",
    "depth = 9999",
    "depth = 0",
    "upstream = *",
    "upstream = llm-*",
    "model = gpt-*",
    "peer = 0.0.0.0/0 ::/0",
    "peer = 10.0.0.0/8",
    "purpose = note 0",
]
UNKNOWN = [
    "",
    "=",
    "note = 0",
    "admin = true",
    "scope=api:*",
    "exp=9999999999999",
    "mc=x",
    "budget = Infinity USD",
    "budget = -1 USD",
    "budget = 20 USD/year",
    "calls = 1e6",
    "calls = 5/minute",
    "rate = 60",
    "rate = 0/second",
    "rate = 60/month",
    "tool = *",
    "Expires = 2030-01-01",
    "scope = /*\nscope = /admin",
    "expires = 2030-01-01\x00",
    "services=search:0",
]
BYTES = [b"\xff\xfe", b"\x00", b"\x02\x00\x00", b"x" * 300, "bu\u200bdget = 5 USD".encode()]
CATALOGUE: list[bytes] = [*(text.encode() for text in KNOWN + UNKNOWN), *BYTES]

BASES = {
    "the article's team": mint(*TEAM),
    "the article's subtask": mint(*TEAM).attenuate(*SUBTASK),
    "the article's worker": article(),
    "no budget": mint("label = root n", "scope = /api/v1/*"),
    "two purses": mint("label = root n", "budget = 10 USD", "budget = 100 sat", "max-price = 5 USD"),
    "sat only": mint("budget = 100 sat", "method = GET"),
    "a holder's own budget": mint("scope = /*").attenuate("budget = 10 USD"),
    "no further Links": mint("label = root n", "budget = 10 USD", "depth = 0").attenuate("label = child n"),
    "an unknown caveat": mint("budget = 10 USD").attenuate("colour = blue"),
    "an approval that is missing": ask(mint("budget = 10 USD")),
    "windows and counts": mint("label = root n", "calls = 9/hour", "rate = 5/minute", "budget = 20 USD/week"),
    "free calls, counted": mint("label = root n", "calls = 100"),
    "free calls at a pace": mint("label = root n", "rate = 5/second"),
    "nothing at all": mint(),
}


def check_law(parent: str, child: str, call: Call, price: Amount, by: Verifier) -> str:
    """Fail if the child gets what the parent does not, or escapes an account that the parent charges."""
    above, below = decide(parent, call, price, by=by), decide(child, call, price, by=by)
    if not isinstance(below, Charge):
        return "refused"
    assert isinstance(above, Charge), f"{parent} was refused ({above}), {child} was cleared"
    assert below.counters[: len(above.counters)] == above.counters
    assert below.rates[: len(above.rates)] == above.rates
    kept = [account for account in above.accounts if account in below.accounts]
    missing = [account for account in above.accounts if account not in below.accounts]
    assert below.accounts[: len(kept)] == tuple(kept)
    assert all(account.limit is None for account in missing), f"escaped: {missing}"
    if missing:
        # The last Link had no budget and was only counted; with one of its own it is counted there.
        assert missing == [above.accounts[-1]]
        stead = below.accounts[len(kept)]
        assert (stead.label, stead.parent) == (missing[0].label, missing[0].parent)
        assert stead.limit is not None
    return "cleared"


@pytest.mark.parametrize("name", BASES)
def test_no_single_caveat_turns_a_refusal_into_a_clearance(name: str) -> None:
    parent = BASES[name].to_text()
    children = [BASES[name].attenuate(caveat).to_text() for caveat in CATALOGUE]
    judge = verifier()
    seen = {check_law(parent, child, call, price, judge) for child in children for call in CALLS for price in PRICES}
    assert "refused" in seen


def test_the_catalogue_is_sharp() -> None:
    """Each known caveat clears somewhere, so the test above is about what it allows; no other one clears anywhere."""
    judge = verifier()
    for caveat in CATALOGUE:
        children = [base.attenuate(caveat) for base in BASES.values()]
        verdicts = {verdict(child, call, price, by=judge) for child in children for call in CALLS for price in PRICES}
        assert ("cleared" in verdicts) is (caveat.decode("latin-1") in KNOWN), caveat


# --- the property


@dataclass(frozen=True)
class Attack:
    """What a holder appends: first-party caveats through some library, or a third-party caveat of its own."""

    by: str
    caveats: tuple[bytes, ...]


USEFUL = st.sampled_from([text.encode() for text in KNOWN])
FIRST_PARTY = st.lists(
    st.one_of(USEFUL, USEFUL, st.sampled_from(CATALOGUE), st.binary(min_size=1, max_size=20)), min_size=1, max_size=3
)
ATTACKS = st.builds(
    Attack, st.sampled_from(["tolsey", "pymacaroons", "third party"]), FIRST_PARTY.map(tuple).map(tuple)
)
TWIN = "approval 1"


def append(token: Macaroon, attack: Attack) -> Macaroon:
    if attack.by == "pymacaroons":
        written = [
            caveat for caveat in attack.caveats if caveat and caveat.decode("utf-8", "ignore").encode() == caveat
        ]
        return Macaroon.deserialize(PyMacaroons().attenuate(token.serialize(), written))
    if attack.by == "third party":
        return ask(token, TWIN, key=b"the holder's own")
    return token.attenuate(*attack.caveats)


@st.composite
def chains(draw: st.DrawFn) -> tuple[Macaroon, list[Macaroon]]:
    """A token, and the discharges that its holder was given."""
    minted = draw(st.lists(st.sampled_from(KNOWN), max_size=5))
    budget = draw(st.sampled_from(["budget = 10 USD", "budget = 10 USD", "budget = 100 sat", "purpose = none"]))
    token = mint("label = root n", budget, *minted)
    discharges = []
    if draw(st.integers(0, 3)) == 0:
        token = ask(token, TWIN)
        if draw(st.booleans()):
            discharges.append(answer(*draw(st.lists(st.sampled_from(KNOWN + UNKNOWN), max_size=2)), identifier=TWIN))
    appended = draw(st.lists(st.sampled_from(KNOWN), max_size=4))
    return token.attenuate(*appended), discharges


@settings(max_examples=300)
@given(chains(), st.lists(ATTACKS, min_size=1, max_size=3), st.data())
def test_nothing_that_a_holder_appends_turns_a_refusal_into_a_clearance(
    chain: tuple[Macaroon, list[Macaroon]], attacks: list[Attack], data: st.DataObject
) -> None:
    token, discharges = chain
    child = token
    for attack in attacks:
        child = append(child, attack)
    own = [answer(*attack.caveats, identifier=TWIN, key=b"the holder's own") for attack in attacks]
    sent = data.draw(st.sampled_from([discharges, [], own[:1], own[:1] + discharges, discharges + own]))
    parent, below = text_of(token, *discharges), text_of(child, *sent)
    judge = verifier()
    outcomes = {check_law(parent, below, call, price, judge) for call in CALLS for price in PRICES}
    event(" and ".join(sorted(outcomes)))


@given(chains(), st.lists(st.sampled_from(KNOWN), max_size=4))
def test_a_narrower_child_is_charged_to_all_its_parent_is(
    chain: tuple[Macaroon, list[Macaroon]], appended: list[str]
) -> None:
    """The purse by itself, also where a call would be refused: limited accounts stay, in order, and first."""
    token, discharges = chain
    try:
        above = chain_of(token, *discharges)
    except Exception:  # noqa: BLE001 - a token that does not verify has no purse
        return
    below = chain_of(token.attenuate(*appended), *discharges)
    for unit in ("USD", "sat"):
        limited = [account for account in above.purse(unit) if account.limit is not None]
        assert [account for account in below.purse(unit) if account.limit is not None][: len(limited)] == limited
    assert below.prefix_ids[: len(above.prefix_ids)] == above.prefix_ids


# --- the weaknesses of another gateway, tried on ours


@pytest.mark.parametrize(
    "appended",
    [
        ["exp=9999999999999", "scope=api:*", "mc=1000000"],
        ["expires = 9999-12-31", "scope = /*", "calls = 1000000"],
        ["expires = 9999-12-31", "scope = /*", "budget = 1000000 USD"],
        ["mc=x"],
        ["expires = x"],
    ],
)
def test_w_n1_the_last_caveat_does_not_win(appended: list[str]) -> None:
    expired = mint("budget = 1 USD", "expires = 2026-03-31", "scope = /api/v1/search")
    assert verdict(expired) == "token_expired"
    assert verdict(expired.attenuate(*appended)) == "token_expired"


def test_w_n1_a_limit_that_is_no_number_is_not_no_limit() -> None:
    token = mint("budget = 1 USD")
    for text in ("budget = x", "budget = NaN USD", "max-price = x", "depth = x", "calls = x"):
        assert verdict(token.attenuate(text)) == "caveat_unknown"


def test_w_n2_appending_does_not_change_the_accounts() -> None:
    """There, each `note=0`, `note=1` was a fresh counter."""
    ids = [account.id for account in charged(article())]
    for n in range(5):
        assert [account.id for account in charged(article().attenuate(f"purpose = {n}"))] == ids
        assert verdict(article().attenuate(f"note={n}")) == "caveat_unknown"
    deeper = charged(article().attenuate("label = more n", "budget = 50 USD"))
    assert [account.id for account in deeper][: len(ids)] == ids


def test_w_n3_an_appended_scope_opens_nothing() -> None:
    basic = mint("scope = /api/basic/read", "budget = 1 USD")
    premium = call(path="/api/premium/read")
    assert refused(basic, premium).status == 403
    assert refused(basic.attenuate("scope = /api/premium/*"), premium).status == 403
    assert refused(basic.attenuate("scope = /*", "scope = /api/premium/read"), premium).status == 403


def test_w_n3_an_appended_budget_raises_nothing() -> None:
    above = charged(mint("budget = 1 USD"))
    assert charged(mint("budget = 1 USD").attenuate("budget = 1000000 USD"))[0] == above[0]


def test_w_n8_signatures_are_compared_in_constant_time(monkeypatch: pytest.MonkeyPatch) -> None:
    import hmac

    real, compared = hmac.compare_digest, []

    def watch(a: bytes, b: bytes) -> bool:
        compared.append((a, b))
        return real(a, b)

    monkeypatch.setattr(hmac, "compare_digest", watch)
    judge, token = verifier(), article()
    for _ in range(3):
        judge.verify(token.to_text())
    text = token.to_text().encode()
    assert compared == [(token.signature, token.signature)] * 2 + [(text, text)], "at last the whole text"


def test_w1_the_prefixes_of_the_ancestors_stay_in_the_chain() -> None:
    """There, one appended caveat made a banned token a new one. Here what was revoked is still among the prefixes."""
    team = chain_of(mint(*TEAM))
    child = chain_of(mint(*TEAM).attenuate(*SUBTASK).attenuate(*WORKER).attenuate("purpose = escape"))
    assert set(team.prefix_ids) < set(child.prefix_ids)
    assert {link.prefix_id for link in team.links} < {link.prefix_id for link in child.links}


def test_w2_a_label_is_no_way_to_an_unlimited_budget() -> None:
    """There, an exhausted root with `label = x` appended had no budget configured, so it was unlimited."""
    root = mint("budget = 10 USD")
    for appended in (["label = x"], ["label = x n", "purpose = y"], ["purpose = y"]):
        accounts = charged(root.attenuate(*appended))
        assert accounts[0] == charged(root)[0]
        assert accounts[0].limit == 10 * SECOND


def test_w2_no_budget_is_not_an_unlimited_budget() -> None:
    assert verdict(mint("label = x n")) == "budget_missing"
    assert verdict(mint()) == "budget_missing"


def test_w4_a_token_of_another_kind_opens_nothing() -> None:
    """There, the unpaid macaroon of a 402 challenge was a capability. Here even the same key would not help."""
    challenge = Macaroon.mint(root_key=b"the root key of the tests", identifier=bytes(66))
    with pytest.raises(TokenForged):
        verifier().verify(challenge.to_text())
    assert verdict(mint("budget = 1 USD", kind="tolsey-admin")) == "token_forged"
    assert verdict(mint("budget = 1 USD"), by=verifier(kind="tolsey-admin")) == "token_forged"


@pytest.mark.parametrize(
    "text",
    [
        "budget = 5",
        "budget_limit = 10",
        "budget_sats = 10",
        "max_calls = 1",
        "routes = /a",
        "methods = GET",
        "source_ip = 10.0.0.0/8",
        "ratelimit = 5/minute",
        "expires = 5m",
        "expires = 1795528809",
        "expires = 1795528809000",
        "scope = api:premium:read",
        "budget_bind = x",
    ],
)
def test_w5_a_caveat_that_is_not_understood_is_never_void(text: str) -> None:
    assert verdict(mint("budget = 5 USD").attenuate(text)) == "caveat_unknown"
    assert verdict(mint("budget = 5 USD", text)) == "caveat_unknown"
    assert verdict(mint("budget = 5 USD").attenuate(text), price=FREE) == "caveat_unknown"


def test_w10_a_child_may_expire_before_its_parent() -> None:
    """There, `expiresIn` was accepted and ignored."""
    child = attenuate(mint(*TEAM).to_text(), label="brief", expires="2026-04-01T12:00:01Z")
    assert verdict(child) == "cleared"
    assert verdict(child, call(now=NOW + SECOND)) == "token_expired"


def test_w18_two_mints_are_two_tokens() -> None:
    """There, two mints in one millisecond were one token. Here the identifier has 16 random bytes."""
    one, two = (mint(*TEAM, nonce=nonce) for nonce in ("A" * 22, "B" * 22))
    assert not set(chain_of(one).prefix_ids) & set(chain_of(two).prefix_ids)


def test_w18_an_identifier_names_its_key() -> None:
    assert verdict(mint("budget = 1 USD", key_id="k2")) == "token_forged"


@pytest.mark.parametrize(
    ("parent", "child"),
    [("scope = /a", "scope = /*"), ("method = GET", "method = GET, POST"), ("budget = 5 USD", "budget = 6 USD")],
)
def test_w18_handing_on_something_wider_is_refused(parent: str, child: str) -> None:
    """There, `is_more_restrictive` said yes to what it did not know."""
    with pytest.raises(CaveatWider):
        attenuate(mint(parent).to_text(), label="child", caveats=[child])


def test_the_article_s_worker_cannot_widen_anything() -> None:
    widened = article().attenuate("scope = /*", "budget = 10000 USD", "expires = 2030-01-01", *WORKER)
    assert verdict(widened, call(query="source=pubmed")) == "caveat_refused"
    assert [account.id for account in charged(widened)][:3] == [account.id for account in charged(article())]
