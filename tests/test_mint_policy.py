"""Mint policy: whom it is for, and the admin token that it amounts to."""

from typing import Any

import pytest

from tests.tokens import ROOT_KEY, verifier
from tolsey.admin.policy import MintPolicy, Provider, choose, is_safe, shown_name, token_of, values_of
from tolsey.token.admin import actions_of
from tolsey.token.admin_caveats import ACTIONS
from tolsey.token.chain import ADMIN

CORP = Provider("corp", "https://id.example", "tolsey", "email", None)
CAVEATS = ("mint-budget = 100 USD", "mint-scope = /api/*", "mint-lifetime = 1d", "action = mint, trail")


def policy(name: str = "p", label: str | None = None, **claims: Any) -> MintPolicy:  # noqa: ANN401 - claims
    wanted = tuple((key, (value,) if isinstance(value, str) else value) for key, value in claims.items())
    return MintPolicy(name, "corp", wanted, CAVEATS, label)


FITS: list[tuple[dict[str, Any], dict[str, Any], bool]] = [
    ({"sub": "alice"}, {"sub": "alice"}, True),
    ({"sub": "alice"}, {"sub": "Alice"}, False),
    ({"sub": "alice"}, {"sub": "alice2"}, False),
    ({"sub": "*"}, {"sub": "anyone"}, True),
    ({"sub": "*"}, {}, False),
    ({"sub": ("a", "b")}, {"sub": "b"}, True),
    ({"sub": "repo:acme/*"}, {"sub": "repo:acme/x:main"}, True),
    ({"sub": "repo:acme/*"}, {"sub": "repo:acme-evil/x"}, False),
    ({"groups": "research"}, {"groups": ["staff", "research"]}, True),
    ({"groups": "research"}, {"groups": "research"}, True),
    ({"groups": "research"}, {"groups": ["staff"]}, False),
    ({"groups": "research"}, {"groups": "staff,research"}, False),
    ({"groups": "research"}, {"groups": {"research": True}}, False),
    ({"groups": "*"}, {"groups": [1, None, True, ["x"]]}, False),
    ({"groups": "*"}, {"groups": []}, False),
    ({"admin": "true"}, {"admin": True}, False),
    ({"a": "1", "b": "2"}, {"a": "1", "b": "2"}, True),
    ({"a": "1", "b": "2"}, {"a": "1"}, False),
    ({"realm_access.roles": "minter"}, {"realm_access": {"roles": ["minter"]}}, True),
    ({"realm_access.roles": "minter"}, {"realm_access.roles": "minter"}, True),
    ({"realm_access.roles": "minter"}, {"realm_access.roles": "x", "realm_access": {"roles": "minter"}}, False),
    ({"realm_access.roles": "minter"}, {"realm_access": "roles"}, False),
    ({"https://x/groups": "g"}, {"https://x/groups": ["g"]}, True),
]


@pytest.mark.parametrize(("wanted", "claims", "fits"), FITS)
def test_whom_a_policy_is_for(wanted: dict[str, Any], claims: dict[str, Any], fits: bool) -> None:
    found = policy(**wanted)
    assert choose([found], "corp", claims) == (found if fits else None)
    assert choose([found], "other", claims) is None


def test_the_first_that_fits_counts() -> None:
    first, second = policy("first", sub="alice"), policy("second", sub="*")
    assert choose([first, second], "corp", {"sub": "alice"}) == first
    assert choose([first, second], "corp", {"sub": "bob"}) == second
    assert choose([second, first], "corp", {"sub": "alice"}) == second
    assert choose([], "corp", {"sub": "alice"}) is None


def token(found: MintPolicy, key: tuple[str, bytes] = ("k1", ROOT_KEY), **claims: Any) -> str:  # noqa: ANN401 - claims
    return token_of(found, CORP, {"sub": "alice", **claims}, key).to_text()


def test_a_policy_amounts_to_an_admin_token() -> None:
    chain = verifier(kind=ADMIN).verify(token(policy(label="{sub}-*")))
    assert [link.label for link in chain.links] == [None, "corp alice"]
    assert [term.text for term in chain.terms] == [*CAVEATS, "mint-label = alice-*"]
    assert actions_of(chain, ACTIONS) == ["mint", "trail"]


def test_it_is_the_same_for_the_same_person() -> None:
    mine = token(policy())
    assert token(policy(), email="new@corp.example", groups=["x"]) == mine
    assert token(policy("other")) != mine
    assert token(policy(), sub="bob") != mine
    # The parts of what tells them apart cannot be moved from one to the other.
    assert token(policy("b"), sub="a\0b") != token(policy("b\0b"), sub="a")


def test_the_account_stays_when_the_rest_of_the_policy_changes() -> None:
    """What it amounts to may change, also in how many caveats it has: only another budget opens another account."""

    def account(found: MintPolicy) -> str:
        return verifier(kind=ADMIN).verify(token(found)).purse("USD")[-1].id

    wider = MintPolicy("p", "corp", (("sub", ("a*",)),), (CAVEATS[0], "mint-scope = /*", "mint-lifetime = 2d"), None)
    assert account(wider) == account(policy(sub="alice"))
    assert account(MintPolicy("p", "corp", (), ("mint-budget = 101 USD", *CAVEATS[1:]), None)) != account(policy())


@pytest.mark.parametrize("value", ["*", "a*b", "a b", "a,b", "", "é", ["a", "b"], None, 7])
def test_no_claim_becomes_a_pattern(value: object) -> None:
    with pytest.raises(ValueError, match="the claim team cannot be put into a label"):
        token(policy(label="{team}-*"), team=value)
    assert "mint-label" not in str(verifier(kind=ADMIN).verify(token(policy(), team=value)).terms)


@pytest.mark.parametrize("subject", ["a\nb = c", "\u2028", "x" * 500, "é" * 200, "a  b", " ", "\ud800"])
def test_a_subject_is_only_a_label(subject: str) -> None:
    chain = verifier(kind=ADMIN).verify(token(policy(), sub=subject))
    assert [term.text for term in chain.terms] == list(CAVEATS)
    assert len(chain.links) == 2


def test_what_entries_call_a_caller() -> None:
    assert shown_name(CORP, {"sub": "8f3a", "email": "alice@corp.example"}) == "alice@corp.example"
    assert shown_name(CORP, {"sub": "8f3a"}) == "8f3a"
    assert shown_name(CORP, {"sub": "8f3a", "email": "a\nb\u202e" + "x" * 200}) == "a?b?" + "x" * 124
    assert values_of({"email": 7}, "email") == []


@pytest.mark.parametrize(
    ("url", "safe"),
    [
        ("https://id.example/realms/x", True),
        ("http://127.0.0.1:8080", True),
        ("http://localhost", True),
        ("http://[::1]:80/x", True),
        ("http://id.example", False),
        ("http://127.0.0.1.example", False),
        ("http://localhost@id.example", False),
        ("ftp://localhost", False),
        ("https://", False),
        ("https://[", False),
        ("/jwks", False),
    ],
)
def test_where_keys_may_be_read(url: str, safe: bool) -> None:
    assert is_safe(url) == safe
