"""Which tokens a revoked prefix refuses, what revokes a token, and what is written down. All of it pure."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.foreign import LIBRARIES, library
from tests.tokens import ROOT_KEY, answer, article, ask, chain_of, key_of, mint, text_of, verifier
from tolsey import Macaroon, attenuate
from tolsey.errors import KeyUnknown, TokenForged
from tolsey.ledger.events import Entry, Kind
from tolsey.ledger.revoking import (
    KEEP_NS,
    Handle,
    LinkUnknown,
    Revocation,
    Revoke,
    Unrevoke,
    dropped_before,
    entry_of,
    handle_of,
    refusal_of,
)
from tolsey.token.caveats import parse_expiry
from tolsey.token.chain import ADMIN, Chain
from tolsey.token.macaroon import prefix_id

ARTICLE = article()
CHAIN = chain_of(ARTICLE)


def derived(kind: str, key_id: str) -> bytes | None:
    return key_of(key_id)


def who(chain: Chain, *revoked: str) -> str | None:
    refusal = refusal_of(chain, frozenset(revoked))
    if refusal is None:
        return None
    assert refusal.code == "token_revoked"
    assert refusal.status == 403
    assert refusal.prefix_id in revoked
    return refusal.link or "the root"


# --- which tokens


def test_every_prefix_of_a_chain_revokes_it_and_its_link_is_named() -> None:
    names = [None, *(link.label for link in CHAIN.links[1:])]
    assert names == [None, "team-research-q2", "research-subtask-47", "search-worker-12"]
    found = [who(CHAIN, prefix) for prefix in CHAIN.prefix_ids]
    expected = ["the root"]
    for caveat in ARTICLE.caveats:
        text = str(caveat)
        expected.append(text.split()[2] if text.startswith("label") else expected[-1])
    assert found == expected


def test_the_first_from_the_root_is_named() -> None:
    assert who(CHAIN, CHAIN.prefix_ids[-1], CHAIN.links[2].prefix_id) == "research-subtask-47"


def test_what_is_not_on_the_chain_revokes_nothing() -> None:
    sibling = chain_of(mint("label = a n1").attenuate("label = b n2"))
    assert who(CHAIN) is None
    assert who(CHAIN, "0" * 32, *sibling.prefix_ids) is None
    assert who(chain_of(mint("label = a n1")), sibling.prefix_ids[-1]) is None, "those above go on"


EVASIONS = [
    ["purpose = another"],
    ["method = GET", "method = GET"],
    ["label = fresh n9"],
    ["label = search-worker-12 n3"],
    ["label = x n9", "budget = 50 USD", "label = y n9"],
    ["expires = 2020-01-01"],
    ["unknown = caveat"],
    ["not a caveat"],
]


@pytest.mark.parametrize("name", LIBRARIES)
@pytest.mark.parametrize("caveats", EVASIONS, ids=str)
def test_nothing_that_a_holder_appends_leads_around_it(name: str, caveats: list[str]) -> None:
    """W1 of the review of SatGate: a ban was on the last signature, which any appended caveat makes another."""
    revoked = handle_of(ARTICLE, derived).id
    child = library(name).attenuate(ARTICLE.serialize(), [caveat.encode() for caveat in caveats])
    assert who(chain_of(Macaroon.deserialize(child)), revoked) == "search-worker-12"


def test_nor_a_third_party_caveat_with_its_discharge() -> None:
    child = ask(ARTICLE)
    assert who(verifier().verify(text_of(child, answer())), handle_of(ARTICLE, derived).id) == "search-worker-12"


def test_nor_does_what_the_verifier_remembers() -> None:
    remembering = verifier()
    chains = [remembering.verify(text_of(ARTICLE)) for _ in range(3)]
    assert len(remembering.memory) > 0
    assert who(chains[-1], CHAIN.links[1].prefix_id) == "team-research-q2"


@given(st.lists(st.sampled_from([caveat for caveats in EVASIONS for caveat in caveats]), max_size=6), st.integers(0, 3))
def test_a_link_revokes_all_that_is_made_from_it(caveats: list[str], number: int) -> None:
    child = ARTICLE.attenuate(*caveats)
    revoked = handle_of(ARTICLE, derived, number).id
    assert who(chain_of(child), revoked) is not None


# --- what revokes a token


def test_of_a_token_the_opening_of_its_last_link() -> None:
    first = handle_of(ARTICLE, derived)
    assert first == Handle(CHAIN.links[-1].prefix_id, 3, "search-worker-12", parse_expiry("2026-06-30"))
    assert handle_of(ARTICLE.attenuate("method = GET", "purpose = x"), derived) == first
    child = Macaroon.deserialize(attenuate(ARTICLE.to_text(), label="child", budget="1 USD"))
    assert handle_of(child, derived) != first
    assert handle_of(child, derived, 3) == first


@pytest.mark.parametrize(
    ("number", "label", "expires"),
    [
        (0, None, None),
        (1, "team", None),
        (2, "a", "2026-06-30"),
        (3, "b", "2026-06-30"),
        (4, "c", "2026-05-01"),
    ],
)
def test_a_revocation_ends_with_the_expiry_that_stands_before_it(
    number: int, label: str | None, expires: str | None
) -> None:
    token = mint("label = team n", "expires = 2026-06-30", "expires = tomorrow")
    token = token.attenuate("label = a n", "expires = 2026-07-15", "label = b n", "expires = 2026-05-01", "label = c n")
    token = token.attenuate("expires = 2020-01-01")
    handle = handle_of(token, derived, number)
    assert (handle.number, handle.label) == (number, label)
    assert handle.expires == (None if expires is None else parse_expiry(expires))


def test_the_root_alone_and_a_link_without_a_label() -> None:
    bare = mint()
    assert handle_of(bare, derived) == Handle(prefix_id(bare.signature), 0, None, None)
    assert handle_of(bare.attenuate("expires = 2026-06-30"), derived).expires is None


def test_discharges_are_not_needed() -> None:
    assert handle_of(ask(ARTICLE), derived) == handle_of(ARTICLE, derived)


def test_an_admin_token_is_revoked_in_the_same_way() -> None:
    asked: list[str] = []

    def by_kind(kind: str, key_id: str) -> bytes | None:
        asked.append(kind)
        return key_of(key_id)

    handle_of(mint("label = admin n", kind=ADMIN), by_kind)
    assert asked == [ADMIN]


@pytest.mark.parametrize("number", [-1, 4, 10**9])
def test_a_link_that_is_not_there(number: int) -> None:
    with pytest.raises(LinkUnknown):
        handle_of(ARTICLE, derived, number)


def test_only_a_genuine_token_has_a_handle() -> None:
    forged = Macaroon.mint(root_key=ROOT_KEY + b"!", identifier=ARTICLE.identifier)
    with pytest.raises(TokenForged):
        handle_of(forged, derived)
    with pytest.raises(KeyUnknown):
        handle_of(ARTICLE, lambda kind, key_id: None)
    with pytest.raises(TokenForged):
        handle_of(Macaroon.mint(root_key=b"k", identifier=b"somebody else's"), derived)


# --- what is written down

AT = 1_000


def stands(expires: int | None) -> Revocation:
    return Revocation("p", 5, expires, "before", 1)


@pytest.mark.parametrize(
    ("before", "expires", "written"),
    [
        (None, None, True),
        (None, 2_000, True),
        (None, 1, True),
        (stands(None), None, False),
        (stands(None), 2_000, False),
        (stands(2_000), 2_000, False),
        (stands(2_000), 1_999, False),
        (stands(2_000), 2_001, True),
        (stands(2_000), None, True),
    ],
    ids=str,
)
def test_a_revocation_is_written_once_and_never_made_shorter(
    before: Revocation | None, expires: int | None, written: bool
) -> None:
    entry = entry_of(Revoke("p", expires, "by me"), before, at=AT, owner=7)
    wanted = Entry(Kind.REVOKE, AT, "p", None, 0, 7, "by me", until=expires)
    assert entry == (wanted if written else None)


def test_only_what_is_revoked_is_taken_back() -> None:
    change = Unrevoke("p", "by me: wrong one")
    assert entry_of(change, None, at=AT, owner=7) is None
    for expires in (None, 1, 2_000):
        entry = entry_of(change, stands(expires), at=AT, owner=7)
        assert entry == Entry(Kind.UNREVOKE, AT, "p", None, 0, 7, "by me: wrong one")


def test_it_is_kept_for_a_day_after_it_is_over() -> None:
    assert dropped_before(AT + KEEP_NS) == AT
