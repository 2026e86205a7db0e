"""A chain that was cleared before is cleared by less, and says the same."""

from hypothesis import given, settings
from hypothesis import strategies as st

from tests.tokens import TEAM, call, chain_of, mint
from tolsey.call import Call
from tolsey.errors import Refusal
from tolsey.token.caveats import Expires, format_time
from tolsey.token.clearing import clear, conditions_of, ends_of
from tolsey.units import NANO

APPENDED = [
    "label = next n",
    "scope = /api/v1/*",
    "scope = /api/v1/search",
    "scope = /api/v1/search?source=arxiv",
    "expires = 2026-06-30",
    "expires = 2099-12-31",
    "method = GET POST",
    "method = POST",
    "max-price = 1 USD",
    "max-price = 2 USD",
    "depth = 1",
    "depth = 8",
    "peer = 10.0.0.0/8",
    "upstream = search",
    "tag = team=*",
    "colour = blue",
]
CALLS = [
    call(),
    call(query="source=x"),
    call(method="POST"),
    call(path="/api/v1/find"),
    call(path="/other"),
    call()._replace(now=4_000_000_000 * NANO),
    call()._replace(upstream="search", peer="10.1.1.1"),
]


@settings(max_examples=200)
@given(st.lists(st.sampled_from(APPENDED), max_size=8), st.permutations(CALLS))
def test_a_chain_that_was_cleared_before_gives_the_answers_of_a_fresh_one(
    appended: list[str], calls: list[Call]
) -> None:
    """From the second time on it asks what says the same only once."""
    token = mint(*TEAM).attenuate(*appended)
    known = chain_of(token)
    for attempt in calls:
        fresh = clear(chain_of(token), attempt)
        assert clear(known, attempt) == fresh


@settings(max_examples=200)
@given(st.lists(st.sampled_from(APPENDED), max_size=8), st.sampled_from(CALLS), st.data())
def test_a_call_that_was_allowed_is_allowed_until_the_chain_ends(
    appended: list[str], attempt: Call, data: st.DataObject
) -> None:
    """So a plan needs to know no more than that instant to say of the same call whether it is allowed."""
    chain = chain_of(mint(*TEAM).attenuate(*appended))
    if isinstance(clear(chain, attempt), Refusal):
        return
    ends = ends_of(chain)
    assert ends is not None
    moments = st.integers(0, 2 * ends) | st.sampled_from((ends - 1, ends))
    for now in data.draw(st.lists(moments, min_size=1)):
        outcome = clear(chain, attempt._replace(now=now))
        assert isinstance(outcome, Refusal) == (now >= ends)


def test_a_chain_without_an_end_has_none() -> None:
    assert ends_of(chain_of(mint("budget = 1 USD"))) is None


def test_what_says_the_same_is_asked_once() -> None:
    token = mint(*TEAM).attenuate(
        "label = a n", *TEAM[1:3], "label = b n", *TEAM[1:3], "expires = 2026-05-01T00:00:00Z"
    )
    chain = chain_of(token)
    assert conditions_of(chain) is None, "a token that is shown once is not worth it"
    known = conditions_of(chain)
    assert known is not None
    assert known is conditions_of(chain)
    assert [type(each).__name__ for each in known.conditions] == ["Expires", "Scope"]
    end = known.conditions[0]
    assert isinstance(end, Expires)
    assert format_time(end.at) == "2026-05-01T00:00:00Z"
    assert known.allow(call()._replace(now=end.at - 1))
    assert not known.allow(call()._replace(now=end.at))
