"""Our macaroons are everybody's: same bytes, same signatures, and the same verdicts, in both directions.

Four foreign writers (pymacaroons in v2 and v1, npm `macaroon`, Debian's libmacaroons) mint and we verify; we mint and
they attenuate, verify and bind; third-party caveats and discharges pass either way.
"""

import pytest

from tests.foreign import LIBRARIES, Library, library
from tests.tokens import (
    KEY_ID,
    NONCE,
    ORACLE,
    ROOT_KEY,
    SUBTASK,
    TEAM,
    THIRD_KEY,
    WORKER,
    answer,
    ask,
    call,
    chain_of,
    mint,
    text_of,
    v1,
    verdict,
    verifier,
)
from tolsey.errors import DischargeInvalid, DischargeMissing, TokenForged
from tolsey.token.chain import CAPABILITY, write_identifier
from tolsey.token.macaroon import Macaroon, verify
from tolsey.token.wire import bytes_to_text

SAMPLES = {
    "no caveat": (),
    "one caveat": ("account = 3735928559",),
    "the article's chain": (*TEAM, *SUBTASK, *WORKER),
    "not ASCII": ("purpose = Übergrößenprüfung für 語",),
    "127 bytes": ("x" * 127,),
    "128 bytes": ("x" * 128,),
    "1 KiB": ("x" * 1024,),
    "64 caveats": tuple(f"purpose = {n}" for n in range(64)),
}


@pytest.fixture(params=LIBRARIES)
def foreign(request: pytest.FixtureRequest) -> Library:
    return library(request.param)


def encoded(*caveats: str) -> list[bytes]:
    return [caveat.encode() for caveat in caveats]


def identifier(minted: int) -> bytes:
    return write_identifier(CAPABILITY, KEY_ID, NONCE, minted)


def writes_v1(library: Library) -> bool:
    return library.mint(b"k", b"i", "l")[:1] != b"\x02"


@pytest.mark.parametrize("sample", SAMPLES)
def test_bytes_and_signatures_are_equal(foreign: Library, sample: str) -> None:
    ours = mint(*SAMPLES[sample], location="https://gateway.example/")
    theirs = foreign.mint(ROOT_KEY, ours.identifier, "https://gateway.example/", encoded(*SAMPLES[sample]))
    assert theirs == (v1(ours) if writes_v1(foreign) else ours.serialize())
    assert Macaroon.deserialize(theirs).signature == ours.signature


@pytest.mark.parametrize("sample", SAMPLES)
def test_they_read_ours_and_append_to_it(foreign: Library, sample: str) -> None:
    more = ("purpose = handed on", "x" * 300)
    ours = mint(*SAMPLES[sample][:60], location="https://gateway.example/")
    theirs = Macaroon.deserialize(foreign.attenuate(ours.serialize(), encoded(*more)))
    assert theirs == ours.attenuate(*more)
    assert theirs.location == ours.location


def test_they_mint_we_verify(foreign: Library) -> None:
    token = foreign.mint(ROOT_KEY, identifier(4), "", encoded(*TEAM))
    assert verifier().verify(bytes_to_text(token)) == chain_of(mint(*TEAM))


def test_they_mint_with_another_key_we_refuse(foreign: Library) -> None:
    token = foreign.mint(ROOT_KEY + b"!", identifier(4), "", encoded(*TEAM))
    with pytest.raises(TokenForged):
        verifier().verify(bytes_to_text(token))


def test_we_mint_they_attenuate_we_clear(foreign: Library) -> None:
    """The article's chain, where the sub-agents use any library: cleared inside their scope, refused outside it."""
    child = foreign.attenuate(mint(*TEAM).serialize(), encoded(*SUBTASK))
    worker = bytes_to_text(foreign.attenuate(child, encoded(*WORKER)))
    assert verdict(worker) == "cleared"
    assert verdict(worker, call(query="source=pubmed")) == "caveat_refused"
    assert verdict(bytes_to_text(child), call(query="source=pubmed")) == "cleared"
    assert verdict(bytes_to_text(child), call(path="/api/v1/ingest")) == "caveat_refused"


def test_we_mint_they_verify(foreign: Library) -> None:
    ours = mint(*TEAM).attenuate(*SUBTASK).serialize()
    assert foreign.verify(ours, ROOT_KEY)
    assert not foreign.verify(ours, ROOT_KEY + b"!")


def test_they_ask_and_discharge_we_verify(foreign: Library) -> None:
    """A third-party caveat and its discharge, made and bound by them."""
    root = foreign.ask(mint(*TEAM).serialize(), ORACLE, THIRD_KEY, b"approval 1")
    discharge = foreign.mint(THIRD_KEY, b"approval 1", ORACLE, encoded("method = GET"))
    bound = foreign.bind(root, discharge)
    token = ",".join(map(bytes_to_text, (root, bound)))
    assert verdict(token) == "cleared"
    assert verdict(token, call(method="POST")) == "caveat_refused"
    assert verdict(bytes_to_text(root)) == DischargeMissing.code
    assert verdict(",".join(map(bytes_to_text, (root, discharge)))) == DischargeInvalid.code


def test_we_ask_and_discharge_they_verify(foreign: Library) -> None:
    root, discharge = ask(mint(*TEAM)), answer("method = GET")
    bound = root.bind(discharge).serialize()
    assert foreign.verify(root.serialize(), ROOT_KEY, [bound])
    assert not foreign.verify(root.serialize(), ROOT_KEY, [discharge.serialize()])
    assert not foreign.verify(root.serialize(), ROOT_KEY, [root.bind(answer(key=b"another")).serialize()])


def test_binding_gives_the_same_signature(foreign: Library) -> None:
    root, discharge = ask(mint(*TEAM)), answer("method = GET")
    theirs = foreign.bind(root.serialize(), discharge.serialize())
    assert Macaroon.deserialize(theirs) == root.bind(discharge)


@pytest.mark.parametrize("name", ["pymacaroons v1", "libmacaroons"])
def test_v1_is_read_as_the_v2_it_stands_for(name: str) -> None:
    """With a third-party caveat, so that every kind of v1 packet occurs; we write v2 of it that they read again."""
    foreign = library(name)
    old = foreign.ask(v1(mint(*TEAM, location="https://gateway.example/")), ORACLE, THIRD_KEY, b"approval 1")
    read = Macaroon.deserialize(old)
    verify(read, ROOT_KEY, [read.bind(answer())])
    assert read.serialize()[:1] == b"\x02"
    assert foreign.verify(read.serialize(), ROOT_KEY, [read.bind(answer()).serialize()])
    assert verdict(text_of(read, answer())) == "cleared"
