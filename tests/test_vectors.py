"""Tokens as files: what every library computes (macaroons.json), our own tokens byte for byte (tolsey.json), and what
handing on writes and refuses (delegations.json).

tolsey.json is written by vectors/generate.py from verdicts that were written by hand; vectors/verify.mjs checks its
bytes in JavaScript, over npm's `macaroon`, without a line of ours.
"""

import base64
import json
from pathlib import Path
from typing import Any

import pytest

from tests.foreign import run_node
from tests.tokens import decide, verdict
from tests.vectors import delegations
from tests.vectors.generate import build
from tolsey import Macaroon, TolseyError, attenuate
from tolsey.call import Call
from tolsey.errors import Refusal
from tolsey.token.caveats import parse_expiry
from tolsey.token.chain import CAPABILITY, Charge
from tolsey.token.macaroon import derive_key, verify
from tolsey.token.verifier import Verifier
from tolsey.units import parse_amount

HERE = Path(__file__).parent / "vectors"
FOREIGN: dict[str, Any] = json.loads((HERE / "macaroons.json").read_text("utf-8"))
OURS: dict[str, Any] = json.loads((HERE / "tolsey.json").read_text("utf-8"))
HANDED_ON: dict[str, Any] = json.loads((HERE / "delegations.json").read_text("utf-8"))
CALLS = [(token, number) for token in OURS["tokens"] for number in range(len(token["calls"]))]


def name_of(vector: dict[str, Any]) -> str:
    return str(vector["name"])


def build_foreign(vector: dict[str, Any]) -> Macaroon:
    made = Macaroon.mint(
        root_key=vector["root_key"].encode(), identifier=vector["identifier"].encode(), location=vector["location"]
    )
    for caveat in vector["caveats"]:
        if isinstance(caveat, str):
            made = made.attenuate(caveat)
        else:
            made = made.attenuate_third_party(
                location=caveat["location"],
                key=caveat["key"].encode(),
                identifier=caveat["identifier"].encode(),
                nonce=bytes.fromhex(caveat["nonce"]),
            )
            assert made.caveats[-1].vid == base64.urlsafe_b64decode(caveat["vid"])
    return made


@pytest.mark.parametrize("vector", FOREIGN["macaroons"], ids=name_of)
def test_a_macaroon_has_the_signature_that_every_library_computes(vector: dict[str, Any]) -> None:
    assert build_foreign(vector).signature.hex() == vector["signature"]


@pytest.mark.parametrize("vector", [v for v in FOREIGN["macaroons"] if "v2" in v], ids=name_of)
def test_a_macaroon_has_the_bytes_that_every_library_writes(vector: dict[str, Any]) -> None:
    made = build_foreign(vector)
    assert made.to_text() == "tolsey_" + vector["v2"]
    for form in ("v1", "v2"):
        read = Macaroon.deserialize(str(vector[form]))
        assert (read, read.location) == (made, made.location)
        assert read.serialize() == made.serialize()


def test_the_discharge_answers_the_third_party_caveat() -> None:
    vector = FOREIGN["discharge"]
    root_vector = next(v for v in FOREIGN["macaroons"] if v["name"] == vector["answers"])
    root, discharge = build_foreign(root_vector), build_foreign(vector)
    bound = root.bind(discharge)
    assert discharge.signature.hex() == vector["signature"]
    assert bound.signature.hex() == vector["bound_signature"]
    verify(root, root_vector["root_key"].encode(), [bound])


def verifier() -> Verifier:
    key = derive_key(OURS["root_key"].encode())
    return Verifier(CAPABILITY, lambda key_id: key if key_id == OURS["key_id"] else None)


@pytest.mark.parametrize("token", OURS["tokens"], ids=name_of)
def test_our_token_has_its_prefix_ids(token: dict[str, Any]) -> None:
    if token["calls"][0]["verdict"].startswith("discharge_"):
        assert verdict(token["text"], by=verifier()) == token["calls"][0]["verdict"]
    else:
        assert list(verifier().verify(token["text"]).prefix_ids) == token["prefix_ids"]


@pytest.mark.parametrize(("token", "number"), CALLS, ids=[f"{token['name']}: {n}" for token, n in CALLS])
def test_our_token_clears_and_refuses(token: dict[str, Any], number: int) -> None:
    wanted = token["calls"][number]
    call = Call(**(wanted["call"] | {"now": parse_expiry(wanted["call"]["now"])}))
    decision = decide(token["text"], call, parse_amount(wanted["price"]), by=verifier())
    if wanted["verdict"] == "cleared":
        assert isinstance(decision, Charge), decision
        assert [account.id for account in decision.accounts] == [token["prefix_ids"][n] for n in wanted["charged"]]
    else:
        assert not isinstance(decision, Charge)
        assert decision.code == wanted["verdict"]
    if "caveat" in wanted:
        assert isinstance(decision, Refusal)
        assert decision.caveat == (token["minted"] + token["appended"])[wanted["caveat"] - 1]


@pytest.mark.parametrize("token", OURS["tokens"], ids=name_of)
def test_token_and_discharges_may_be_separated_by_commas(token: dict[str, Any]) -> None:
    together, apart = verifier(), verifier()
    call = Call(**(token["calls"][0]["call"] | {"now": parse_expiry(token["calls"][0]["call"]["now"])}))
    apart_text = ",".join(token["parts"])
    assert verdict(apart_text, call, by=apart) == verdict(token["text"], call, by=together)


def test_the_file_is_what_the_generator_writes() -> None:
    assert (HERE / "tolsey.json").read_text("utf-8") == build()


def test_javascript_agrees_with_every_token() -> None:
    assert run_node(HERE / "verify.mjs", "") == f"{len(OURS['tokens'])} tokens\n"


def test_the_file_of_delegations_is_the_one_that_is_generated() -> None:
    assert (HERE / "delegations.json").read_text("utf-8") == delegations.build()


@pytest.mark.parametrize("case", HANDED_ON["delegations"], ids=lambda case: json.dumps(case["options"])[:60])
def test_what_is_handed_on_is_as_in_every_language(case: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """js/tolsey.test.js asks the same of the JavaScript module."""
    monkeypatch.setattr("secrets.token_urlsafe", lambda _: HANDED_ON["nonce"])
    if "code" in case:
        with pytest.raises(TolseyError) as refused:
            attenuate(case["parent"], **case["options"])
        assert refused.value.code == case["code"]
    else:
        child = attenuate(case["parent"], **case["options"])
        assert child == case["child"]
        assert [str(caveat) for caveat in Macaroon.deserialize(child).caveats][-len(case["caveats"]) :] == case[
            "caveats"
        ]
