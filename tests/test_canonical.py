"""JSON that is hashed and signed: one form for each value (RFC 8785), and no other is read."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tolsey.audit.canonical import MAX_INTEGER, NotCanonical, Value, canonical, parse

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-MAX_INTEGER, MAX_INTEGER) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)


@given(value=VALUES)
def test_canonical_json_is_read_back_and_a_second_opinion_agrees(value: Value) -> None:
    import rfc8785

    data = canonical(value)
    assert data == rfc8785.dumps(value)
    assert parse(data) == value


@pytest.mark.parametrize(
    "data",
    [
        *(b"", b"{", b"1.0", b"1e3", b"NaN", b'{"b":1,"a":2}', b'{"a":1,"a":1}', b' {"a":1}', b'"\\u0041"', b"[1,]"),
        *(b"9007199254740992", b"-0", b"01", b"\xff", b"[" * 99 + b"]" * 99, b'"\\u001F"', b'"\\/"', b'"\\ud800"'),
    ],
)
def test_what_is_not_canonical_is_refused(data: bytes) -> None:
    with pytest.raises(NotCanonical):
        parse(data)
