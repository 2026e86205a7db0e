"""How callers without a verified token are told apart, and that no secret of theirs is shown."""

import base64
import json
from hashlib import sha256

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tolsey.gateway.agents import agent_of
from tolsey.ledger.tallies import MAX_TEXT

ALL = ("header:x-agent", "certificate", "jwt:sub", "api-key", "user-agent", "address")


def jwt(claims: object) -> bytes:
    body = base64.urlsafe_b64encode(json.dumps(claims).encode()).rstrip(b"=")
    return b"Bearer e30." + body + b".c2ln"


@pytest.mark.parametrize(
    ("headers", "agent"),
    [
        ([], "address 10.0.0.9"),
        ([(b"user-agent", b"curl/8.0")], "user-agent curl/8.0"),
        ([(b"user-agent", b"curl/8.0"), (b"x-agent", b"crawler")], "x-agent crawler"),
        ([(b"x-agent", b" ")], "address 10.0.0.9"),
        ([(b"x-agent", b"a\x1b[31m\x00b")], "x-agent a[31mb"),
        ([(b"authorization", jwt({"sub": "svc-7"}))], "sub svc-7"),
        ([(b"authorization", jwt({"sub": 7}))], "api-key " + sha256(jwt({"sub": 7})[7:]).hexdigest()[:12]),
        ([(b"x-api-key", b"secret")], "api-key 2bb80d537b1d"),
        ([(b"authorization", b"Bearer secret")], "api-key 2bb80d537b1d"),
        ([(b"authorization", b"Basic dTpw")], "address 10.0.0.9"),
        ([(b"x-forwarded-client-cert", b"Hash=abc")], "address 10.0.0.9"),
    ],
)
def test_the_first_that_is_there_counts(headers: list[tuple[bytes, bytes]], agent: str) -> None:
    assert agent_of(headers, "10.0.0.9", ALL, trusted=False) == agent


def test_a_certificate_is_believed_of_a_trusted_proxy() -> None:
    assert agent_of([(b"ssl-client-cert", b"pem")], "::1", ALL, trusted=True).startswith("certificate ")


def test_without_any_it_is_unknown() -> None:
    assert agent_of([], "10.0.0.9", ("user-agent",), trusted=False) == "unknown"


@given(st.binary(max_size=300))
def test_any_credential_is_bounded_and_printable(value: bytes) -> None:
    found = agent_of([(b"authorization", b"Bearer " + value), (b"x-agent", value)], "::1", ALL[1:], trusted=True)
    assert found.isprintable()
    assert len(found) <= MAX_TEXT
