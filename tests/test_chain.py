"""A chain, Link by Link: prefix ids, accounts and purses, who refuses, and what discharges add.

Accounts are worked out by hand here. The fine print is RULES.md T1 to T13.
"""

from hashlib import sha256

import pytest

from tests.tokens import (
    CENT,
    FREE,
    ORACLE,
    SUBTASK,
    TEAM,
    THIRD_KEY,
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
from tolsey.errors import DischargeInvalid, DischargeMissing, TokenForged, TokenMalformed
from tolsey.token.chain import (
    ADMIN,
    CAPABILITY,
    Account,
    Chain,
    Identifier,
    Link,
    parse_identifier,
    write_identifier,
)
from tolsey.token.macaroon import Macaroon
from tolsey.token.wire import Limits, bytes_to_text
from tolsey.units import Amount

NANO = 1_000_000_000
SAT = Amount(1, "sat")


def prefixes(token: Macaroon) -> list[str]:
    """Every prefix id of a token, by appending its caveats to the bare one again."""
    made = Macaroon.mint(root_key=b"the root key of the tests", identifier=token.identifier)
    steps = [made, *[made := made.attenuate(caveat.cid) for caveat in token.caveats]]
    return [sha256(step.signature).hexdigest()[:32] for step in steps]


# --- identifiers


@pytest.mark.parametrize("kind", [CAPABILITY, ADMIN])
@pytest.mark.parametrize("minted", [0, 1, 64])
def test_an_identifier_is_read_as_it_was_written(kind: str, minted: int) -> None:
    written = write_identifier(kind, "k-1_A", "A" * 22, minted)
    assert written == f"{kind}:1:k-1_A:{'A' * 22}:{minted}".encode()
    assert parse_identifier(written) == Identifier(kind, "k-1_A", minted)


@pytest.mark.parametrize(
    "identifier",
    [
        b"",
        b"tolsey",
        b"tolsey:1:k1:AAAAAAAAAAAAAAAAAAAAAA",
        b"tolsey:2:k1:AAAAAAAAAAAAAAAAAAAAAA:0",
        b"tolsey:1::AAAAAAAAAAAAAAAAAAAAAA:0",
        b"tolsey:1:k1:AAAAAAAAAAAAAAAAAAAAA:0",
        b"tolsey:1:k1:AAAAAAAAAAAAAAAAAAAAAAA:0",
        b"tolsey:1:k1:AAAAAAAAAAAAAAAAAAAAAA:",
        b"tolsey:1:k1:AAAAAAAAAAAAAAAAAAAAAA:-1",
        b"tolsey:1:k1:AAAAAAAAAAAAAAAAAAAAAA:00",
        b"tolsey:1:k1:AAAAAAAAAAAAAAAAAAAAAA:1000",
        b"tolsey:1:k1:AAAAAAAAAAAAAAAAAAAAAA:0\n",
        b"tolsey:1:k1:AAAAAAAAAAAAAAAAAAAAAA:0:0",
        b"tolsey:1:k.1:AAAAAAAAAAAAAAAAAAAAAA:0",
        b"tolsey:1:" + b"k" * 33 + b":AAAAAAAAAAAAAAAAAAAAAA:0",
        b"Tolsey:1:k1:AAAAAAAAAAAAAAAAAAAAAA:0",
        b"tolsey-l402:1:k1:AAAAAAAAAAAAAAAAAAAAAA:0",
        b"tolsey:1:k1:AAAAAAAAAAAAAAAAAAAAA\xff:0",
        "tolsey:1:k1:AAAAAAAAAAAAAAAAAAAAAA:٣".encode(),
        bytes(66),
    ],
)
def test_any_other_identifier_is_not_ours(identifier: bytes) -> None:
    with pytest.raises(TokenForged):
        parse_identifier(identifier)
    with pytest.raises(TokenForged):
        verifier().verify(Macaroon.mint(root_key=b"the root key of the tests", identifier=identifier).to_text())


# --- links and prefix ids


def test_a_label_opens_a_link() -> None:
    token = article()
    ids = prefixes(token)
    chain = chain_of(token)
    assert chain.prefix_ids == tuple(ids)
    assert chain.links == (
        Link(None, None, ids[0]),
        Link("team-research-q2", "n1", ids[1]),
        Link("research-subtask-47", "n2", ids[5]),
        Link("search-worker-12", "n3", ids[8]),
    )


def test_a_token_without_caveats_has_a_prefix_id() -> None:
    """RULES.md T3: so that a root can be revoked."""
    assert chain_of(mint()).prefix_ids == tuple(prefixes(mint()))
    assert len(chain_of(mint()).prefix_ids) == 1


def test_appending_keeps_every_prefix_id() -> None:
    parent, child = chain_of(mint(*TEAM)), chain_of(mint(*TEAM).attenuate(*SUBTASK))
    assert child.prefix_ids[: len(parent.prefix_ids)] == parent.prefix_ids
    assert child.links[: len(parent.links)] == parent.links


def test_a_nonce_keeps_two_equal_children_apart() -> None:
    one, two = (charged(mint(*TEAM).attenuate(f"label = twin {n}", "budget = 5 USD")) for n in ("a", "b"))
    assert one[0] == two[0]
    assert (one[1].label, one[1].limit) == (two[1].label, two[1].limit)
    assert one[1].id != two[1].id


# --- accounts and purses


def test_a_call_is_charged_to_every_budget_above_it() -> None:
    ids = prefixes(article())
    assert charged(article()) == (
        Account(ids[4], "USD", None, "team-research-q2", 10_000 * NANO),
        Account(ids[7], "USD", ids[4], "research-subtask-47", 500 * NANO),
        Account(ids[10], "USD", ids[7], "search-worker-12", 50 * NANO),
    )


def test_a_link_without_a_budget_is_counted_without_a_limit() -> None:
    token = mint(*TEAM).attenuate("label = middle n", "method = GET").attenuate(*WORKER)
    ids = prefixes(token)
    assert charged(token) == (
        Account(ids[4], "USD", None, "team-research-q2", 10_000 * NANO),
        Account(ids[5], "USD", ids[4], "middle", None),
        Account(ids[9], "USD", ids[5], "search-worker-12", 50 * NANO),
    )


def test_two_budgets_of_a_link_are_two_accounts() -> None:
    token = mint("label = root n", "budget = 9 USD", "budget = 3 USD")
    ids = prefixes(token)
    assert charged(token) == (
        Account(ids[2], "USD", None, "root", 9 * NANO),
        Account(ids[3], "USD", ids[2], "root", 3 * NANO),
    )


def test_two_purses() -> None:
    """RULES.md T11: each unit has its own accounts; a Link with a budget in the other unit alone is only counted."""
    token = mint("label = root n", "budget = 9 USD", "budget = 700 sat").attenuate("label = child m", "budget = 50 sat")
    ids = prefixes(token)
    assert charged(token, price=CENT) == (
        Account(ids[2], "USD", None, "root", 9 * NANO),
        Account(ids[4], "USD", ids[2], "child", None),
    )
    assert charged(token, price=SAT) == (
        Account(ids[3], "sat", None, "root", 700 * NANO),
        Account(ids[5], "sat", ids[3], "child", 50 * NANO),
    )


@pytest.mark.parametrize("first", [[], ["scope = /*"], ["purpose = root"]])
def test_link_0_is_an_account_only_if_it_holds_something(first: list[str]) -> None:
    token = mint(*first, "label = root n", "budget = 9 USD")
    got = charged(token)
    assert [account.label for account in got] == ([None] if first else []) + ["root"]
    assert got[-1].limit == 9 * NANO


def test_a_budget_in_link_0() -> None:
    token = mint("budget = 9 USD")
    assert charged(token) == (Account(prefixes(token)[1], "USD", None, None, 9 * NANO),)


def test_a_free_call_needs_no_budget_and_charges_nobody() -> None:
    assert decide(mint("label = root n"), price=FREE) == ((), (), ())
    assert decide(article(), price=FREE) == ((), (), ())


def test_a_priced_call_needs_a_budget_of_the_minter() -> None:
    """RULES.md T10: one that a holder appended only restricts."""
    bare = mint("label = root n", "scope = /*")
    assert refused(bare).code == "budget_missing"
    for appended in (["budget = 1000000 USD"], ["label = child n", "budget = 1000000 USD"]):
        assert refused(bare.attenuate(*appended)).code == "budget_missing"
        assert verdict(bare.attenuate(*appended), price=FREE) == "cleared"


@pytest.mark.parametrize("minted", range(5))
def test_the_minter_wrote_the_first_n_caveats(minted: int) -> None:
    token = mint("scope = /*", "method = GET", "budget = 5 USD", "purpose = x", minted=minted)
    assert verdict(token) == ("cleared" if minted >= 3 else "budget_missing")


def test_a_third_party_caveat_counts_among_the_minter_s() -> None:
    for minted, wanted in ((1, "budget_missing"), (2, "cleared")):
        token = ask(mint(minted=minted)).attenuate("budget = 5 USD")
        assert verdict(text_of(token, answer())) == wanted


def test_a_token_with_fewer_caveats_than_its_minter_wrote_is_refused() -> None:
    with pytest.raises(TokenMalformed, match="fewer"):
        verifier().verify(mint("budget = 5 USD", minted=2).to_text())


def test_a_price_in_a_unit_that_the_minter_did_not_give_is_refused() -> None:
    refusal = refused(article(), price=SAT)
    assert (refusal.code, refusal.unit) == ("budget_missing", "sat")


def test_an_appended_budget_in_another_unit_refuses() -> None:
    """RULES.md T11: there is no rate, and `sat` must not leave `USD` free."""
    child = mint(*TEAM).attenuate("label = child n", "budget = 50 sat")
    for price in (CENT, SAT):
        assert refused(child, price=price).code == "budget_missing"
    refusal = refused(child)
    assert (refusal.link, refusal.caveat) == ("child", "budget = 50 sat")
    assert refusal.prefix_id == prefixes(child)[5]
    assert verdict(child, price=FREE) == "cleared"


def test_a_budget_of_nothing_clears_and_leaves_it_to_the_ledger() -> None:
    assert charged(mint("budget = 0 USD"))[0].limit == 0


# --- who refuses


def test_a_refusal_names_link_and_caveat() -> None:
    refusal = refused(article(), call(query="source=pubmed"))
    assert (refusal.code, refusal.status) == ("caveat_refused", 403)
    assert (refusal.link, refusal.prefix_id) == ("search-worker-12", prefixes(article())[8])
    assert refusal.caveat == "scope = /api/v1/search?source=arxiv"
    assert "source" in refusal.detail


def test_a_refusal_by_link_0_has_no_label() -> None:
    refusal = refused(mint("method = POST", "budget = 5 USD"))
    assert (refusal.link, refusal.prefix_id) == (None, prefixes(mint("method = POST", "budget = 5 USD"))[0])


@pytest.mark.parametrize(
    ("appended", "first"),
    [
        (["method = POST", "expires = 2020-01-01", "colour = blue"], "method = POST"),
        (["expires = 2020-01-01", "colour = blue", "method = POST"], "expires = 2020-01-01"),
        (["colour = blue", "method = POST", "expires = 2020-01-01"], "colour = blue"),
        (["purpose = x", "label = next n", "scope = /x", "depth = 0"], "scope = /x"),
    ],
)
def test_the_first_refusal_in_chain_order_wins(appended: list[str], first: str) -> None:
    assert refused(mint(*TEAM).attenuate(*appended)).caveat == first


def test_a_clearing_refusal_comes_before_the_price() -> None:
    token = mint("max-price = 0.001 USD", "method = POST")
    assert refused(token).caveat == "method = POST"
    assert refused(token, call(method="POST")).caveat == "max-price = 0.001 USD"


# --- limits


def test_a_token_has_at_most_32_links() -> None:
    """Link 0, before the first label, is one of them."""
    fits = mint(*[f"label = l{n} n" for n in range(31)])
    assert len(chain_of(fits).links) == 32
    with pytest.raises(TokenMalformed, match="32 Links"):
        chain_of(fits.attenuate("label = one more n"))


def test_a_token_has_at_most_32_accounts() -> None:
    fits = mint(*["budget = 5 USD"] * 32)
    assert len(charged(fits)) == 32
    with pytest.raises(TokenMalformed, match="32 budgets"):
        chain_of(fits.attenuate("budget = 5 USD"))


def test_links_and_accounts_can_be_limited_further() -> None:
    judge = verifier(Limits(links=3, accounts=2))
    assert verdict(mint(*TEAM).attenuate(*SUBTASK), by=judge) == "cleared"
    assert verdict(article(), by=judge) == "token_malformed"
    assert verdict(mint(*TEAM).attenuate(*["budget = 1 USD"] * 2), by=judge) == "token_malformed"


@pytest.mark.parametrize("count", [8, 9])
def test_a_token_has_at_most_8_discharges(count: int) -> None:
    token = mint("budget = 5 USD")
    for n in range(count):
        token = ask(token, f"approval {n}")
    discharges = [token.bind(answer(identifier=f"approval {n}")) for n in range(count)]
    together = bytes_to_text(token.serialize() + b"".join(d.serialize() for d in discharges))
    apart = ",".join(m.to_text() for m in (token, *discharges))
    wanted = "cleared" if count == 8 else "token_malformed"
    assert [verdict(together), verdict(apart)] == [wanted, wanted]


# --- discharges


def test_the_caveats_of_a_discharge_hold_too() -> None:
    token = ask(mint(*TEAM))
    assert verdict(text_of(token, answer("method = GET", "max-price = 0.01 USD"))) == "cleared"
    assert verdict(text_of(token, answer("method = POST"))) == "caveat_refused"
    assert verdict(text_of(token, answer("max-price = 0.009 USD"))) == "caveat_refused"
    assert verdict(text_of(token, answer("expires = 2026-04-01T12:00:00Z"))) == "token_expired"
    assert verdict(text_of(token, answer("colour = blue"))) == "caveat_unknown"
    assert charged(text_of(token, answer())) == charged(mint(*TEAM))


def test_a_discharge_may_say_what_it_is_for() -> None:
    """`purpose` never refuses, and RULES.md T7 does not name it among what may not stand in a discharge."""
    assert verdict(text_of(ask(mint(*TEAM)), answer("purpose = approved by a human"))) == "cleared"


@pytest.mark.parametrize(
    "text", ["label = x n", "budget = 5 USD", "budget = 5 USD/day", "calls = 5", "rate = 5/minute", "depth = 3"]
)
def test_what_counts_or_opens_something_may_not_stand_in_a_discharge(text: str) -> None:
    """RULES.md T7."""
    token = ask(mint(*TEAM))
    refusal = refused(text_of(token, answer(text)))
    assert (refusal.code, refusal.caveat) == ("caveat_unknown", text)
    assert verdict(text_of(token, answer(text)), price=FREE) == "caveat_unknown"


def test_a_refusal_by_a_discharge_names_the_link_that_asked_for_it() -> None:
    token = ask(mint(*TEAM).attenuate("label = child n")).attenuate("label = grandchild n")
    refusal = refused(text_of(token, answer("method = POST")))
    assert (refusal.link, refusal.caveat) == ("child", "method = POST")


@pytest.mark.parametrize("between", [[], ["purpose = x"], ["label = x n"], ["method = GET"]])
def test_discharges_refuse_in_the_order_in_which_they_were_asked_for(between: list[str]) -> None:
    token = ask(ask(mint("budget = 5 USD", "method = GET"), "first").attenuate(*between), "second")
    discharges = answer("scope = /one", identifier="first"), answer("scope = /two", identifier="second")
    for sent in (discharges, discharges[::-1]):
        assert refused(text_of(token, *sent)).caveat == "scope = /one"
    late = token.attenuate("scope = /three")
    assert refused(text_of(late, answer(identifier="first"), answer("scope = /two", identifier="second"))).caveat == (
        "scope = /two"
    )
    assert refused(text_of(late, *[answer(identifier=i) for i in ("first", "second")])).caveat == "scope = /three"


def test_caveats_of_one_discharge_refuse_in_order() -> None:
    token = ask(mint(*TEAM))
    assert refused(text_of(token, answer("scope = /one", "scope = /two"))).caveat == "scope = /one"


def nested(depth: int, *last: str) -> tuple[Macaroon, list[Macaroon]]:
    """A token whose discharge asks for another, and so on `depth` times; the last discharge has caveats."""
    discharges = [ask(answer(identifier=f"step {n}"), f"step {n + 1}") for n in range(1, depth)]
    return ask(mint(*TEAM), "step 1"), [*discharges, answer(*last, identifier=f"step {depth}")]


@pytest.mark.parametrize("depth", range(1, 9))
def test_discharges_nest(depth: int) -> None:
    root, discharges = nested(depth, "method = GET")
    assert verdict(text_of(root, *discharges)) == "cleared"
    assert verdict(text_of(root, *reversed(discharges))) == "cleared"
    assert verdict(text_of(root, *discharges[:-1])) == "discharge_missing"
    root, discharges = nested(depth, "method = POST")
    assert verdict(text_of(root, *discharges)) == "caveat_refused"


def invalid(*macaroons: Macaroon) -> None:
    with pytest.raises(DischargeInvalid):
        verifier().verify(bytes_to_text(b"".join(m.serialize() for m in macaroons)))


def test_an_unused_discharge_is_refused() -> None:
    plain, root = mint(*TEAM), ask(mint(*TEAM))
    invalid(plain, plain.bind(answer()))
    invalid(root, root.bind(answer()), root.bind(answer(identifier="another")))
    invalid(root, root.bind(answer()), mint(*TEAM))


def test_a_discharge_is_used_once() -> None:
    """Two caveats that ask for the same one need two, and two with one identifier are refused."""
    root = ask(ask(mint(*TEAM)))
    with pytest.raises(DischargeMissing):
        verifier().verify(text_of(root, answer()))
    invalid(root, root.bind(answer()), root.bind(answer()))
    invalid(root, root.bind(answer()), root.bind(answer("purpose = another")))


def test_a_discharge_that_asks_for_itself_is_refused_without_recursion() -> None:
    root = ask(mint(*TEAM))
    with pytest.raises(DischargeMissing):
        verifier().verify(text_of(root, ask(answer())))


def test_discharges_that_ask_for_each_other_are_refused() -> None:
    root = ask(mint(*TEAM), "one")
    one, two = ask(answer(identifier="one"), "two"), ask(answer(identifier="two"), "one")
    with pytest.raises(DischargeMissing):
        verifier().verify(text_of(root, one, two))


def test_a_discharge_that_was_tampered_with_is_refused() -> None:
    root = ask(mint(*TEAM))
    bound = root.bind(answer("method = POST"))
    without = Macaroon(bound.location, bound.identifier, (), bound.signature)
    invalid(root, without)
    invalid(root, bound.attenuate("method = GET"))
    invalid(root, answer())
    invalid(root, mint("purpose = another").bind(answer()))
    invalid(root.attenuate("purpose = later"), root.bind(answer()))
    invalid(root, root.bind(answer(key=THIRD_KEY + b"!")))


@pytest.mark.parametrize("vid", [b"v", b"v" * 39, b"v" * 72, b"v" * 200])
def test_a_third_party_caveat_without_a_key_of_ours_is_refused(vid: bytes) -> None:
    """Anyone can append one; nobody can then answer it."""
    asked = ask(mint(*TEAM))
    caveat = asked.caveats[-1]._replace(vid=vid)
    sound = Macaroon("", asked.identifier, (*asked.caveats[:-1], caveat), b"")
    from tolsey.token.macaroon import mac_after

    root = Macaroon("", sound.identifier, sound.caveats, mac_after(mint(*TEAM).signature, caveat))
    with pytest.raises(DischargeInvalid):
        verifier().verify(text_of(root, answer()))


def test_discharges_open_no_account_and_change_no_prefix() -> None:
    root = ask(mint(*TEAM))
    plain: Chain = chain_of(root, answer())
    busy = chain_of(root, answer("method = GET", "purpose = x", "expires = 2030-01-01"))
    assert (plain.prefix_ids, plain.links, plain.budgets) == (busy.prefix_ids, busy.links, busy.budgets)
    assert root.caveats[-1].location == ORACLE.encode()
