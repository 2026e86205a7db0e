"""Tags: a caller may say what a call is for where the minter lets it, and what holders append only restricts that."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.tokens import chain_of, mint
from tolsey.errors import CaveatInvalid, Refusal
from tolsey.token.caveats import parse_caveat
from tolsey.token.tags import MAX_HEADER, Tags, tags_of, write_tags

BUDGET = "budget = 10 USD"


def told(header: str, *caveats: str, appended: tuple[str, ...] = ()) -> str:
    """The tags that count, or the code and the text of the refusal."""
    found = tags_of(chain_of(mint(BUDGET, *caveats).attenuate(*appended)), header)
    return f"{found.code}: {found.detail}" if isinstance(found, Refusal) else write_tags(found)


@pytest.mark.parametrize(
    ("caveats", "header", "tags"),
    [
        ((), "team=research", ""),
        ((), "not a tag at all", ""),
        (("tag = team=research",), "", "team=research"),
        (("tag = team=research",), "team=research", "team=research"),
        (("tag = team=research team=search",), "", ""),
        (("tag = team=research team=search",), "team=search", "team=search"),
        (("tag = team=res*",), "", ""),
        (("tag = team=res*",), "team=research", "team=research"),
        (("tag = team=a project=*",), "project=apollo", "project=apollo team=a"),
        (("tag = team=a project=*",), "project=apollo, other=x", "project=apollo team=a"),
        (("tag = team=a", "tag = project=*"), " project=p ,", "project=p team=a"),
    ],
)
def test_the_minter_says_which_tags_count(caveats: tuple[str, ...], header: str, tags: str) -> None:
    assert told(header, *caveats) == tags


@pytest.mark.parametrize(
    ("appended", "header", "outcome"),
    [
        (("label = a n", "tag = team=x"), "", "caveat_refused: the tag team=research is not allowed"),
        (("label = a n", "tag = project=x"), "project=y", "caveat_refused: the tag project=y is not allowed"),
        (("label = a n", "tag = project=x"), "project=x", "project=x team=research"),
        (("label = a n", "tag = color=red"), "color=red", "team=research"),
        (("label = a n", "tag = project=x*", "tag = project=*y"), "project=xzy", "project=xzy team=research"),
        (("label = a n", "tag = project=x*"), "project=y", "caveat_refused: the tag project=y is not allowed"),
    ],
)  # fmt: skip
def test_a_holder_only_restricts(appended: tuple[str, ...], header: str, outcome: str) -> None:
    assert told(header, "tag = team=research project=*", appended=appended) == outcome


@pytest.mark.parametrize(
    "header", ["team", "team=", "=x", "Team=x", "team=a b", "team=a,team=b", "team=" + "x" * 65, "x" * (MAX_HEADER + 1)]
)
def test_a_header_that_is_not_understood_is_refused(header: str) -> None:
    assert told(header, "tag = team=*").startswith("request_invalid: Tolsey-Tag is written")


def test_eight_tags_are_read_and_not_nine() -> None:
    names = [f"t{n}=x" for n in range(9)]
    assert told(", ".join(names[:8]), "tag = t0=*") == "t0=x"
    assert told(", ".join(names), "tag = t0=*").startswith("request_invalid")


@pytest.mark.parametrize("value", ["team", "=x", "team=", "Team=x", "team=a b", "te_am=x"])
def test_a_caveat_that_is_not_understood_is_refused(value: str) -> None:
    with pytest.raises(CaveatInvalid, match="tag: "):
        parse_caveat(f"tag = {value}".encode())


@given(st.text(max_size=80))
def test_any_header_gives_tags_that_are_allowed_or_a_refusal(header: str) -> None:
    found: Tags | Refusal = tags_of(chain_of(mint(BUDGET, "tag = team=a* team=b")), header)
    assert isinstance(found, Refusal) or all(n == "team" and (v[0] == "a" or v == "b") for n, v in found)
