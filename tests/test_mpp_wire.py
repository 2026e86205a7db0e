"""The `Payment` scheme on the wire: as Aperture and pympp write it, and nothing is read two ways (RULES.md T8, T10)."""

import base64
import json
import subprocess
from pathlib import Path
from typing import Any, Final

import mpp as pympp
import pytest
import rfc8785
from hypothesis import example, given
from hypothesis import strategies as st

from tolsey.errors import TokenError, TokenForged, TokenMalformed
from tolsey.token import mpp
from tolsey.token.l402 import Echo, Presented
from tolsey.token.mpp import Charge

FOLDER: Final = Path(__file__).parent
VECTORS: Final = json.loads((FOLDER / "vectors/mpp.json").read_text())
SECRET: Final = bytes.fromhex(VECTORS["secret"])
KEY: Final = bytes(range(32))
PREIMAGE: Final = "ab" * 32
CHARGE: Final = Charge("AgECAwQ=", "lnbcrt320n1pjtest", "cd" * 32, 32, "regtest", "2026-03-15T12:05:00Z")


def b64(document: object) -> str:
    return base64.urlsafe_b64encode(json.dumps(document).encode()).rstrip(b"=").decode()


def answer(**changes: Any) -> dict[str, Any]:  # noqa: ANN401 - any JSON
    """What a client sends for CHARGE, with changes to the challenge that it sends back; None leaves a member out."""
    parsed = pympp.Challenge.from_www_authenticate(mpp.write_challenge(KEY, CHARGE))
    echo = parsed.to_echo()
    challenge = {name: getattr(echo, name) for name in ("id", "realm", "method", "intent", "request", "expires")}
    challenge |= {"opaque": echo.opaque, **changes}
    challenge = {name: value for name, value in challenge.items() if value is not None}
    return {"challenge": challenge, "payload": {"preimage": PREIMAGE}}


# --- the same as others write


@pytest.mark.parametrize("vector", VECTORS["ids"], ids=lambda vector: vector["name"])
def test_an_id_is_apertures(vector: dict[str, Any]) -> None:
    assert mpp.challenge_id(SECRET, mpp.bind(vector["parameters"])) == vector["id"]


@pytest.mark.parametrize("vector", VECTORS["charges"], ids=lambda vector: vector["network"])
def test_a_challenge_is_apertures_byte_for_byte(vector: dict[str, Any]) -> None:
    members = {name: value for name, value in vector.items() if name not in ("header", "sat")}
    assert mpp.write_challenge(SECRET, Charge(**members, sat=int(vector["sat"]))) == vector["header"]


@pytest.mark.parametrize("vector", VECTORS["texts"], ids=lambda vector: vector["text"])
def test_base64url_is_apertures(vector: dict[str, Any]) -> None:
    assert mpp.encode(bytes.fromhex(vector["decoded"])) == vector["text"]
    padded = vector["text"] + "=" * (-len(vector["text"]) % 4)
    assert mpp.decode(vector["text"]).hex() == mpp.decode(padded).hex() == vector["decoded"]


@pytest.mark.lightning
def test_the_vectors_are_what_aperture_says() -> None:
    run = subprocess.run(
        ["go", "run", "../vectors/mpp.go"], cwd=FOLDER / "lightning", capture_output=True, check=True, timeout=600
    )
    assert json.loads(run.stdout) == VECTORS


def test_pympp_reads_a_challenge_and_finds_the_same_id() -> None:
    secret = "a secret of pympp's is text"
    header = mpp.write_challenge(secret.encode(), CHARGE)
    found = pympp.Challenge.from_www_authenticate(header)
    assert found.verify(secret, "tolsey")
    assert (found.method, found.intent, found.expires) == ("lightning", "charge", CHARGE.expires)
    assert found.opaque == {"macaroon": CHARGE.macaroon}
    assert found.request == {
        "amount": "32",
        "currency": "sat",
        "methodDetails": {"invoice": CHARGE.invoice, "network": "regtest", "paymentHash": CHARGE.payment_hash},
    }
    assert mpp.decode(found.request_b64) == rfc8785.dumps(found.request)


def test_what_pympp_answers_is_read() -> None:
    parsed = pympp.Challenge.from_www_authenticate(mpp.write_challenge(KEY, CHARGE))
    written = pympp.Credential(parsed.to_echo(), {"preimage": PREIMAGE}, source="did:key:z6Mk").to_authorization()
    scheme, _, rest = written.partition(" ")
    found = mpp.read_credential(rest)
    assert scheme == "Payment"
    assert (found.token, found.preimage.hex()) == (CHARGE.macaroon, PREIMAGE)
    assert found.echo is not None
    mpp.check_echo(KEY, found.echo)
    assert PREIMAGE not in repr(found)


def test_a_receipt_is_read_by_pympp() -> None:
    written = mpp.write_receipt("cd" * 32, "an-id", "2026-03-15T12:05:00Z")
    found = pympp.Receipt.from_payment_receipt(written)
    assert (found.status, found.method, found.reference) == ("success", "lightning", "cd" * 32)
    assert json.loads(mpp.decode(written))["challengeId"] == "an-id"


# --- what is bound, and what is malformed


@pytest.mark.parametrize(
    "changes",
    [
        {"id": "x"},
        {"id": ""},
        {"id": "é"},
        {"id": "\ud800"},
        {"request": b64({"amount": "1"})},
        {"request": ""},
        {"expires": "2036-03-15T12:05:00Z"},
        {"expires": None},
        {"digest": "sha-256=:abc=:"},
        {"header": "Payment-Authorization"},
        {"header": ""},
        {"opaque": b64({"macaroon": "AgECAwU="})},
        {"opaque": b64({"macaroon": CHARGE.macaroon, "more": ""})},
        {"request": "a|b", "expires": "c"},
    ],
    ids=str,
)
def test_a_challenge_that_was_changed_is_forged(changes: dict[str, Any]) -> None:
    found = mpp.read_credential(b64(answer(**changes)))
    assert found.echo is not None
    with pytest.raises(TokenForged):
        mpp.check_echo(KEY, found.echo)


def test_what_nothing_rests_on_may_differ() -> None:
    document = answer(description="another", unknown={"x": 1})
    found = mpp.read_credential(b64({**document, "source": 5, "more": []}))
    assert found.echo is not None
    mpp.check_echo(KEY, found.echo)


def test_another_key_wrote_it() -> None:
    found = mpp.read_credential(b64(answer()))
    assert found.echo is not None
    with pytest.raises(TokenForged):
        mpp.check_echo(bytes(32), found.echo)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "!",
        "AB",
        "aGVs bG8",
        b64(answer()) + "===",
        b64(answer()).replace("e", "+", 1),
        b64([]),
        b64("text"),
        b64(None),
        b64({}),
        b64({"challenge": {}}),
        b64({"challenge": [], "payload": {}}),
        b64({**answer(), "payload": None}),
        b64({**answer(), "payload": {}}),
        b64({**answer(), "payload": {"preimage": 5}}),
        b64({**answer(), "payload": {"preimage": "ab"}}),
        b64({**answer(), "payload": {"preimage": "ab" * 32 + "\n"}}),
        *(b64(answer(**{name: None})) for name in ("id", "realm", "method", "intent", "opaque")),
        *(b64(answer(**{name: 5})) for name in ("id", "realm", "method", "intent", "request", "expires", "opaque")),
        b64(answer(realm="api.example.com")),
        b64(answer(realm="tolsey|lightning")),
        b64(answer(method="tempo")),
        b64(answer(intent="session")),
        b64(answer(opaque="")),
        b64(answer(opaque="!")),
        b64(answer(opaque=b64([]))),
        b64(answer(opaque=b64({"macaroon": 5}))),
        mpp.encode(b'{"challenge":{},"challenge":{},"payload":{}}'),
        mpp.encode(b"\xff"),
        mpp.encode(b"[" * 10_000),
        "A" * (mpp.MAX_CREDENTIAL + 1),
    ],
)
def test_what_is_malformed(text: str) -> None:
    with pytest.raises(TokenMalformed):
        mpp.read_credential(text)


def test_a_credential_may_just_be_so_long() -> None:
    document = json.dumps({**answer(), "source": ""})
    room = mpp.MAX_CREDENTIAL // 4 * 3 - len(document)
    text = base64.urlsafe_b64encode(json.dumps({**answer(), "source": "x" * room}).encode()).decode()
    assert len(text) == mpp.MAX_CREDENTIAL
    assert mpp.read_credential(text).token == CHARGE.macaroon


@given(st.text(max_size=200) | st.binary(max_size=300).map(mpp.encode))
@example("e30")
def test_whatever_comes_is_read_or_malformed(text: str) -> None:
    try:
        found = mpp.read_credential(text)
    except TokenError:
        return
    assert isinstance(found, Presented)


JSON: Final = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)


@given(st.sampled_from(["id", "realm", "method", "intent", "request", "expires", "digest", "opaque", "header"]), JSON)
def test_no_change_of_any_member_passes(name: str, value: Any) -> None:  # noqa: ANN401 - any JSON
    original = answer()["challenge"]
    if value is None or value == original.get(name):
        return
    try:
        found = mpp.read_credential(b64(answer(**{name: value})))
    except TokenMalformed:
        return
    assert found.echo is not None
    if found.echo == Echo(original["id"], mpp.bind(original)):
        # A digest of "" is as good as none.
        assert (name, value) == ("digest", "")
        return
    with pytest.raises(TokenForged):
        mpp.check_echo(KEY, found.echo)


# --- what a client says that it takes


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([], False),
        ([""], False),
        (["lightning/charge"], True),
        (["tempo/charge, lightning/charge;q=0.5"], True),
        (["tempo/charge", "lightning/*"], True),
        (["*/charge"], True),
        (["*/*;q=0.1"], True),
        (["lightning/charge;q=0"], False),
        (["lightning/charge ; q=0.000"], False),
        (["*/*, lightning/charge;q=0"], False),
        (["lightning/charge, */*;q=0"], True),
        (["lightning/*;q=0, */charge"], False),
        (["lightning/session"], False),
        (["tempo/charge"], False),
        (["lightning"], False),
        ([",,;,/"], False),
        (["lightning/charge;q=nonsense"], True),
    ],
)
def test_who_prefers_a_charge(values: list[str], expected: bool) -> None:
    assert mpp.prefers_charge(values) is expected
